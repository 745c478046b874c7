//! What the webhook shows the API server, and what the API server shows the webhook.
//!
//! The webhook's certificate is made by the operator's own authority, which the API server is told to trust, or
//! is in files, and whoever made it tells the API server.
//! The API server shows nothing by itself, so the path it is told to call is a secret: whoever could call
//! the webhook without it could write any name into the audit log.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum_server::tls_rustls::RustlsConfig;
use rustls::server::ServerConfig;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::registration::Told;
use crate::fleet::keys::{CA_KEY, OperatorKeys};
use crate::tls_pair::{Gauges, Validity};

/// What the webhook speaks, for ALPN.
pub const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

const LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The webhook's names and keys.
#[derive(Clone)]
pub struct Identity {
    keys: Arc<OperatorKeys>,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    lifetime: Duration,
}

impl Identity {
    /// `others`: names and addresses by which the API server calls it, beside the chart's Service.
    pub fn new(keys: Arc<OperatorKeys>, system_namespace: &str, others: &[String]) -> Self {
        let mut names = vec![format!("seawall-webhook.{system_namespace}.svc")];
        let mut addresses = Vec::new();
        for other in others {
            match other.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => names.push(other.clone()),
            }
        }
        Self {
            keys,
            names,
            addresses,
            lifetime: LIFETIME,
        }
    }

    /// With certificates that are good for as long.
    pub fn lasting(self, lifetime: Duration) -> Self {
        Self { lifetime, ..self }
    }

    /// A TLS configuration with a fresh certificate, and from when to when that is good.
    pub fn tls(&self) -> anyhow::Result<(Arc<ServerConfig>, Validity)> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let made = self
            .keys
            .authority
            .serving_certificate(&names, &self.addresses, self.lifetime)
            .context("a certificate for the webhook: check --webhook-name")?;
        let validity = Validity::of(made.chain.first().context("a chain begins")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(made.chain, made.key)?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok((Arc::new(config), validity))
    }

    /// Makes a new certificate well before the present one ends, until `stop`.
    pub async fn renew(&self, served: &RustlsConfig, gauges: &Gauges, stop: &CancellationToken) {
        let mut pause = self.lifetime / 3;
        while stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_some()
        {
            match self.tls() {
                Ok((fresh, validity)) => {
                    served.reload_from_config(fresh);
                    gauges.shows(validity);
                    pause = self.lifetime / 3;
                }
                Err(error) => {
                    warn!(error = format!("{error:#}"), "no new certificate");
                    pause = self.lifetime / 30;
                }
            }
        }
    }

    /// What the API server has to be told.
    pub fn told(&self) -> Told {
        Told {
            path: self.path(),
            authority: Some(self.keys.authority.certificate_pem().to_owned()),
        }
    }

    /// The path that only the API server is told. The same at every start, and for every replica.
    pub fn path(&self) -> String {
        let entries = self.keys.to_map();
        let key = entries.get(CA_KEY).map(String::as_str).unwrap_or_default();
        let secret = Sha256::new()
            .chain_update(b"seawall-webhook-path-v1\0")
            .chain_update(key)
            .finalize();
        format!("/admission/{}", hex::encode(&secret[..16]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let keys = OperatorKeys::generate().expect("keys");
        let others = ["127.0.0.1".to_owned(), "webhook.example.com".to_owned()];
        Identity::new(Arc::new(keys), "seawall-system", &others)
    }

    #[test]
    fn the_path_is_the_same_for_the_same_keys_and_no_other() {
        let (one, other) = (identity(), identity());
        assert_eq!(one.path(), one.clone().path());
        assert_ne!(one.path(), other.path());
        assert_eq!(one.path().len(), "/admission/".len() + 32);
    }

    #[test]
    fn names_and_addresses_are_told_apart() {
        let identity = identity();
        assert_eq!(
            identity.names,
            ["seawall-webhook.seawall-system.svc", "webhook.example.com"]
        );
        assert_eq!(identity.addresses.len(), 1);
        let (_, validity) = identity.tls().expect("a configuration");
        assert!(validity.not_before < validity.not_after);
    }
}
