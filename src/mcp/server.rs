//! The HTTP server: `/mcp` behind the layer that authenticates, and `/live`, `/ready`, `/metrics` for
//! the kubelet and Prometheus. Everything it starts ends with its cancellation token.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::RustlsAcceptor;
use futures::FutureExt;
use futures::future::BoxFuture;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::timeout::RequestBodyTimeoutLayer;

use super::call::Shared;
use super::cluster::Cluster;
use super::front::{Front, authenticate, explain_body};
use super::handler::Handler;
use super::metrics::Metrics;
use super::sessions::Sessions;
use crate::access::decide::{Decide, decide};
use crate::access::rates::Rates;
use crate::local::client::Client;
use crate::local::types::AgentRecord;
use crate::tls_pair::{Gauges, Served};

/// A policy of the largest size takes less.
const LARGEST_BODY: usize = 1024 * 1024;
/// A client that takes longer to send a request is not waited for.
const BODY_IN: Duration = Duration::from_secs(10);
const SESSIONS_OF_A_KEY: usize = 64;
const SESSIONS: usize = 4096;
/// Reads that wait to be entered in the audit log.
const READS_WAITING: usize = 1024;
/// What is spoken over TLS. Each request of HTTP/1.1 says in a header which host it is for, as is checked.
pub const PROTOCOLS: [&[u8]; 1] = [b"http/1.1"];
/// For calls that are running when the server stops.
const GRACE: Duration = Duration::from_secs(10);

/// Which requests are taken, by the headers that a browser sets.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Names, beside loopback's, by which clients reach this server.
    pub hosts: Vec<String>,
    /// Origins, beside loopback's, of pages that may use this server.
    pub origins: Vec<String>,
}

pub struct Server {
    router: Router,
    shared: Arc<Shared>,
    reads: mpsc::Receiver<(String, AgentRecord)>,
    calls: TaskTracker,
    cancel: CancellationToken,
}

impl Server {
    /// Ends when `cancel` is cancelled.
    pub fn new(
        settings: Settings,
        operator: Client,
        cluster: Cluster,
        cancel: CancellationToken,
    ) -> Self {
        Self::deciding_by(decide, settings, operator, cluster, cancel)
    }

    /// With another decision than the product's, to see what the API server says without it.
    pub fn deciding_by(
        decide: Decide,
        settings: Settings,
        operator: Client,
        cluster: Cluster,
        cancel: CancellationToken,
    ) -> Self {
        let metrics = Metrics::new();
        let sessions = Arc::new(Sessions::new(SESSIONS_OF_A_KEY, SESSIONS));
        let (sender, reads) = mpsc::channel(READS_WAITING);
        let shared = Arc::new(Shared {
            operator: operator.clone(),
            cluster,
            decide,
            rates: Rates::default(),
            metrics: metrics.clone(),
            reads: sender,
        });
        let calls = TaskTracker::new();
        let handler = Handler {
            shared: shared.clone(),
            calls: calls.clone(),
        };
        let protocol = StreamableHttpService::new(
            move || Ok(handler.clone()),
            sessions.clone(),
            protocol_config(settings, cancel.child_token()),
        );
        let front = Arc::new(Front::new(operator, sessions.clone(), metrics));
        let router = Router::new()
            .route_service("/mcp", protocol)
            .layer(middleware::from_fn(explain_body))
            .layer(RequestBodyTimeoutLayer::new(BODY_IN))
            .layer(middleware::from_fn_with_state(front, authenticate))
            .route("/live", get(|| async { "live\n" }))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics_page))
            .with_state(Probes {
                shared: shared.clone(),
                sessions,
            });
        Self {
            router,
            shared,
            reads,
            calls,
            cancel,
        }
    }

    /// Serves until cancelled, then lets running calls end. Without `tls` in plain text.
    pub async fn serve(self, listener: TcpListener, tls: Option<Served>) -> anyhow::Result<()> {
        let Self {
            router,
            shared,
            reads,
            calls,
            cancel,
        } = self;
        let mut audit = tokio::spawn(enter_reads(shared.clone(), reads));
        let certificate = shared.metrics.certificate.clone();
        drop(shared);
        let stop = cancel.clone();
        let served: BoxFuture<anyhow::Result<()>> = match tls {
            Some(tls) => over_tls(listener, router, tls, certificate, stop).boxed(),
            None => in_plain(listener, router, stop).boxed(),
        };
        let late = async {
            cancel.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            served = served => served.context("cannot serve MCP")?,
            ended = &mut audit => anyhow::bail!("the task that enters reads ended: {ended:?}"),
            () = late => tracing::warn!("clients were still connected when the server stopped"),
        }
        calls.close();
        if tokio::time::timeout(GRACE, calls.wait()).await.is_err() {
            tracing::warn!("calls were still running when the server stopped");
        }
        // The queue's senders are gone with the router, so this ends once all reads are entered.
        match tokio::time::timeout(GRACE, audit).await {
            Ok(joined) => joined.context("the task that enters reads died"),
            Err(_) => {
                tracing::warn!("some reads are not in the audit log");
                Ok(())
            }
        }
    }
}

async fn in_plain(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // Without it each answer waits 40 ms for an acknowledgement.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
    });
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    Ok(served.await?)
}

/// With whatever certificate is in the files at the time of a connection.
async fn over_tls(
    listener: TcpListener,
    router: Router,
    tls: Served,
    gauges: Gauges,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let handle = axum_server::Handle::new();
    let acceptor = RustlsAcceptor::new(tls.config.clone()).acceptor(NoDelayAcceptor::new());
    let server = axum_server::from_tcp(listener.into_std()?)?
        .acceptor(acceptor)
        .handle(handle.clone())
        .serve(router.into_make_service());
    let following = async {
        tls.follow(&gauges, &stop).await;
        handle.graceful_shutdown(Some(GRACE));
    };
    let (served, ()) = tokio::join!(server, following);
    Ok(served?)
}

fn protocol_config(settings: Settings, cancel: CancellationToken) -> StreamableHttpServerConfig {
    let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(Into::into).to_vec();
    hosts.extend(settings.hosts);
    let mut config = StreamableHttpServerConfig::default()
        .with_allowed_hosts(hosts)
        .with_json_response(true)
        .with_max_request_body_bytes(LARGEST_BODY)
        .with_cancellation_token(cancel)
        .enforce_origin_validation();
    config.allowed_origins = ["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*"]
        .map(Into::into)
        .to_vec();
    config.allowed_origins.extend(settings.origins);
    config
}

#[derive(Clone)]
struct Probes {
    shared: Arc<Shared>,
    sessions: Arc<Sessions>,
}

async fn ready(State(probes): State<Probes>) -> Response {
    match probes.shared.operator.ready().await {
        Ok(_) => "ready\n".into_response(),
        Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem.message).into_response(),
    }
}

async fn metrics_page(State(probes): State<Probes>) -> Response {
    let page = probes.shared.metrics.render(probes.sessions.count());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], page).into_response()
}

/// Enters reads one after the other. While the operator is away it waits a little for each, so a long
/// absence loses reads, which is counted; it never holds up a call.
async fn enter_reads(shared: Arc<Shared>, mut reads: mpsc::Receiver<(String, AgentRecord)>) {
    let (operator, metrics) = (shared.operator.clone(), shared.metrics.clone());
    drop(shared);
    while let Some((tenant, record)) = reads.recv().await {
        if operator.append(&tenant, &record).await.is_ok() {
            continue;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        if operator.append(&tenant, &record).await.is_err() {
            metrics.reads_not_audited(1);
        }
    }
}
