//! The fleet's TLS: a server certificate that is made at start and again before it ends, client
//! certificates of our authority where a client has one, and handshakes that can't hold each other up.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustls::RootCertStore;
use rustls::server::{ClientHello, ResolvesServerCert, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::keys::{OperatorKeys, SERVER_NAME};

const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// A certificate is used for this long, so that none is near its end.
const CERTIFICATE_USE: Duration = Duration::from_secs(24 * 60 * 60);
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);
const MOST_HANDSHAKES: usize = 1024;

/// Clients may come without a certificate, to enrol; one that they show has to be ours.
pub fn config(keys: Arc<OperatorKeys>) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(keys.authority.certificate().clone())?;
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let serving = Serving::begin(keys)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(serving));
    // A resumed session would bring its certificate along unchecked; agents keep one connection anyway.
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The present server certificate.
struct Serving {
    keys: Arc<OperatorKeys>,
    current: Mutex<(Arc<CertifiedKey>, Instant)>,
}

impl Serving {
    fn begin(keys: Arc<OperatorKeys>) -> anyhow::Result<Self> {
        let first = certify(&keys)?;
        Ok(Self {
            keys,
            current: Mutex::new((first, Instant::now())),
        })
    }
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Serving")
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.1.elapsed() > CERTIFICATE_USE {
            match certify(&self.keys) {
                Ok(next) => *current = (next, Instant::now()),
                Err(error) => tracing::error!(%error, "no new certificate for the fleet's server"),
            }
        }
        Some(current.0.clone())
    }
}

fn certify(keys: &OperatorKeys) -> anyhow::Result<Arc<CertifiedKey>> {
    let made = keys
        .authority
        .serving_certificate(&[SERVER_NAME], &[], CERTIFICATE_LIFETIME)?;
    let key = rustls::crypto::ring::sign::any_supported_type(&made.key)?;
    Ok(Arc::new(CertifiedKey::new(made.chain, key)))
}

/// Accepts connections until `stop`, and hands over those whose handshake is done.
pub async fn accept(
    listener: TcpListener,
    config: ServerConfig,
    ready: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept(), if handshakes.len() < MOST_HANDSHAKES => match accepted {
                Ok((tcp, _)) => {
                    handshakes.spawn(handshake(acceptor.clone(), tcp));
                }
                Err(error) => {
                    // Such as too many open files: others have to end first.
                    tracing::warn!(%error, "a connection to the fleet's server was not accepted");
                    sleep(Duration::from_millis(50)).await;
                }
            },
            Some(done) = handshakes.join_next() => {
                if let Some(tls) = done.context("a TLS handshake panicked")?
                    && ready.send(Ok(tls)).await.is_err()
                {
                    return Ok(());
                }
            }
        }
    }
}

async fn handshake(acceptor: TlsAcceptor, tcp: TcpStream) -> Option<TlsStream<TcpStream>> {
    let from = tcp.peer_addr();
    // Without it each small message waits for the one before to be acknowledged.
    tcp.set_nodelay(true).ok()?;
    match timeout(HANDSHAKE_PATIENCE, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => Some(tls),
        Ok(Err(error)) => {
            tracing::debug!(?from, %error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(?from, "a TLS handshake took too long");
            None
        }
    }
}
