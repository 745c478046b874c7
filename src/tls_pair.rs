//! A server's certificate that others make: the chain and its key in two PEM files, such as those of a mounted
//! Secret of the type kubernetes.io/tls.
//!
//! The files are looked at again and again, for the kubelet swaps them under a running server. A pair that can't
//! be used never takes the place of one that works, and connections that are open stay as they are. Whoever serves
//! a certificate tells by [`Gauges`] how long it is good for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use axum_server::tls_rustls::RustlsConfig;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustls::server::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The kubelet takes up to a minute itself.
const LOOK: Duration = Duration::from_secs(2);
/// A pair that is swapped between the reading of its files seems not to match.
const SETTLED: Duration = Duration::from_millis(250);

/// Where the pair is.
#[derive(Clone, Debug)]
pub struct TlsPair {
    certificate: PathBuf,
    key: PathBuf,
}

/// What was read.
struct Read {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    validity: Validity,
    /// Of both files, to see whether they changed.
    hash: [u8; 32],
}

/// A pair that is served, and followed from here on.
pub struct Served {
    pair: TlsPair,
    protocols: Vec<Vec<u8>>,
    validity: Validity,
    hash: [u8; 32],
    pub config: RustlsConfig,
}

impl TlsPair {
    /// None where neither flag is given; clap sees to it that both are.
    pub fn given(certificate: Option<&PathBuf>, key: Option<&PathBuf>) -> Option<Self> {
        Some(Self {
            certificate: certificate?.clone(),
            key: key?.clone(),
        })
    }

    /// Reads it for a server that begins. `protocols` are for ALPN, the best first.
    pub async fn serve(&self, protocols: &[&[u8]]) -> anyhow::Result<Served> {
        let read = self.read().await?;
        let protocols: Vec<Vec<u8>> = protocols.iter().map(|it| it.to_vec()).collect();
        let (hash, validity) = (read.hash, read.validity);
        if validity.has_ended() {
            let file = self.certificate.display();
            warn!("the certificate in {file} has ended: clients refuse it until it is renewed");
        }
        Ok(Served {
            pair: self.clone(),
            config: RustlsConfig::from_config(self.config(read, &protocols)?),
            protocols,
            validity,
            hash,
        })
    }

    async fn read(&self) -> anyhow::Result<Read> {
        let certificates = contents(&self.certificate).await?;
        let key = contents(&self.key).await?;
        let hash = Sha256::new()
            .chain_update(Sha256::digest(&certificates))
            .chain_update(Sha256::digest(&key))
            .finalize();
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificates).collect();
        let file = self.certificate.display();
        let chain = chain.with_context(|| format!("{file} is not whole, or no PEM"))?;
        let first = chain.first();
        let first = first.with_context(|| format!("{file} holds no certificate in PEM"))?;
        Ok(Read {
            validity: Validity::of(first).with_context(|| format!("the first of {file}"))?,
            key: PrivateKeyDer::from_pem_slice(&key)
                .with_context(|| format!("{} holds no private key in PEM", self.key.display()))?,
            chain,
            hash: hash.into(),
        })
    }

    fn config(&self, read: Read, protocols: &[Vec<u8>]) -> anyhow::Result<Arc<ServerConfig>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certified = CertifiedKey::from_der(read.chain, read.key, &provider);
        let certified = certified.with_context(|| {
            let (key, certificate) = (self.key.display(), self.certificate.display());
            format!("{key} is not the key of the first certificate in {certificate}")
        })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = protocols.to_vec();
        Ok(Arc::new(config))
    }
}

async fn contents(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = tokio::fs::read(path).await;
    read.with_context(|| format!("cannot read {}", path.display()))
}

impl Served {
    /// Takes each new pair that can be used, until `stop`.
    pub async fn follow(mut self, gauges: &Gauges, stop: &CancellationToken) {
        let mut said = None;
        gauges.shows(self.validity);
        while stop
            .run_until_cancelled(tokio::time::sleep(LOOK))
            .await
            .is_some()
        {
            let mut looked = self.look().await;
            if looked.is_err() {
                tokio::time::sleep(SETTLED).await;
                looked = self.look().await;
            }
            gauges.shows(self.validity);
            gauges.refused.set(i64::from(looked.is_err()));
            let error = looked.err().map(|error| format!("{error:#}"));
            if let Some(error) = &error
                && said.as_ref() != Some(error)
            {
                warn!(%error, "the new certificate can't be used: the one before is still served");
            }
            said = error;
        }
    }

    /// Takes the pair if it is another than is served.
    async fn look(&mut self) -> anyhow::Result<()> {
        let read = self.pair.read().await?;
        let (hash, validity) = (read.hash, read.validity);
        if hash == self.hash {
            return Ok(());
        }
        let file = self.pair.certificate.display();
        ensure!(
            !validity.has_ended(),
            "the certificate in {file} has ended already"
        );
        ensure!(
            validity.has_begun(),
            "the certificate in {file} is not valid yet"
        );
        let config = self.pair.config(read, &self.protocols)?;
        self.config.reload_from_config(config);
        (self.hash, self.validity) = (hash, validity);
        info!("a new certificate is served, from {file}");
        Ok(())
    }
}

/// From when to when a certificate is good, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: i64,
    pub not_after: i64,
}

impl Validity {
    pub fn of(certificate: &CertificateDer<'_>) -> anyhow::Result<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .context("it is no X.509 certificate")?;
        Ok(Self {
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
        })
    }

    fn has_ended(self) -> bool {
        now().is_some_and(|now| now > self.not_after)
    }

    fn has_begun(self) -> bool {
        now().is_some_and(|now| now >= self.not_before)
    }
}

fn now() -> Option<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(now.as_secs()).ok()
}

/// What a server tells of its certificate.
#[derive(Clone, Debug, Default)]
pub struct Gauges {
    not_before: Gauge,
    not_after: Gauge,
    refused: Gauge,
}

impl Gauges {
    /// `of` goes before each name, such as `webhook_`.
    pub fn registered(registry: &mut Registry, of: &str) -> Self {
        let gauges = Self::default();
        registry.register(
            format!("{of}certificate_not_before_seconds"),
            "Since when the certificate that is served is good, in seconds since 1970; 0: there is none",
            gauges.not_before.clone(),
        );
        registry.register(
            format!("{of}certificate_not_after_seconds"),
            "Until when the certificate that is served is good, in seconds since 1970; 0: there is none",
            gauges.not_after.clone(),
        );
        registry.register(
            format!("{of}certificate_refused"),
            "1 while the certificate's files can't be used and the one before is still served",
            gauges.refused.clone(),
        );
        gauges
    }

    pub fn shows(&self, validity: Validity) {
        self.not_before.set(validity.not_before);
        self.not_after.set(validity.not_after);
    }
}

#[cfg(test)]
#[path = "tls_pair_tests.rs"]
mod tests;
