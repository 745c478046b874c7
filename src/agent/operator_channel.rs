//! The connection to the operator: TLS against the one authority that the join token named, with the
//! client certificate once there is one.

use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::identity::Credentials;
use super::words::printable;

/// In the operator's server certificate, whatever address it is reached at.
const SERVER_NAME: &str = "seawall-fleet";
const CONNECT: Duration = Duration::from_secs(10);
/// A stream that died without a word is found after the two together.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_ANSWER: Duration = Duration::from_secs(8);

/// With the device's certificate.
pub async fn connect(address: &str, credentials: &Credentials) -> anyhow::Result<Channel> {
    let tls = tls(&credentials.authority).identity(Identity::from_pem(
        &credentials.certificate,
        &credentials.key,
    ));
    open(address, tls).await
}

/// Before enrolment, without one.
pub async fn connect_to_enroll(address: &str, authority: &str) -> anyhow::Result<Channel> {
    open(address, tls(authority)).await
}

fn tls(authority: &str) -> ClientTlsConfig {
    ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority))
        .domain_name(SERVER_NAME)
}

async fn open(address: &str, tls: ClientTlsConfig) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .with_context(|| format!("{address:?} is no host:port"))?
        .tls_config(tls)
        .context("the certificates in the state directory are not usable")?
        .tcp_nodelay(true)
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER)
        .keep_alive_while_idle(true);
    let connecting = tokio::time::timeout(CONNECT, endpoint.connect());
    match connecting.await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => anyhow::bail!("{address}: {}", innermost(&error)),
        Err(_) => anyhow::bail!("{address}: no answer within {} s", CONNECT.as_secs()),
    }
}

/// The cause at the bottom, which is the one that says something.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    printable(&cause.to_string(), 300)
}

/// DER to PEM.
pub fn certificate_pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_survives_the_way_to_pem_and_back() {
        let der: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let pem = certificate_pem(&der);
        assert!(pem.lines().all(|line| line.len() <= 64));
        let (_, parsed) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
        assert_eq!(parsed.contents, der);
    }
}
