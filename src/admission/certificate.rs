//! What the webhook shows the API server, and what the API server shows the webhook.
//!
//! The webhook's certificate is made by the operator's own authority, which the API server is told to trust.
//! The API server shows nothing by itself, so the path it is told to call is a secret: whoever could call
//! the webhook without it could write any name into the audit log.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::server::ServerConfig;
use sha2::{Digest, Sha256};

use crate::fleet::keys::{CA_KEY, OperatorKeys};

const LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The webhook's names and keys.
#[derive(Clone)]
pub struct Identity {
    keys: Arc<OperatorKeys>,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
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
        }
    }

    /// A TLS configuration with a fresh certificate, good for a month.
    pub fn tls(&self) -> anyhow::Result<ServerConfig> {
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let made = self
            .keys
            .authority
            .serving_certificate(&names, &self.addresses, LIFETIME)
            .context("a certificate for the webhook: check --webhook-name")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(made.chain, made.key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// The certificate of the authority, PEM.
    pub fn authority(&self) -> &str {
        self.keys.authority.certificate_pem()
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
        identity.tls().expect("a configuration");
    }
}
