//! The webhook over HTTP. It answers at once, and always yes.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use axum_server::tls_rustls::RustlsConfig;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionResponse, AdmissionReview};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutLayer;

use super::certificate::Identity;
use super::recorder::Recorder;
use super::review::Request;
use crate::tls_pair::{Gauges, Served};

/// Two objects of the API server's largest size, and some.
const LARGEST: usize = 8 << 20;
/// The API server has given up by then.
const PATIENCE: Duration = Duration::from_secs(3);
const GRACE: Duration = Duration::from_secs(3);

/// Serves AdmissionReview v1 at the secret path.
pub fn router(recorder: Recorder, path: String) -> Router {
    Router::new()
        .route("/admission/{secret}", post(review))
        .layer(DefaultBodyLimit::max(LARGEST))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            PATIENCE,
        ))
        .with_state(Serving {
            recorder,
            path: path.into(),
        })
}

#[derive(Clone)]
struct Serving {
    recorder: Recorder,
    path: Arc<str>,
}

async fn review(
    State(serving): State<Serving>,
    Path(secret): Path<String>,
    body: Bytes,
) -> Response {
    let called = format!("/admission/{secret}");
    if !bool::from(called.as_bytes().ct_eq(serving.path.as_bytes())) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let review = serde_json::from_slice::<AdmissionReview<DynamicObject>>(&body).ok();
    let request: Option<Request> = review.and_then(|review| review.try_into().ok());
    let Some(request) = request else {
        serving.recorder.unreadable();
        let words = "this is no AdmissionReview of admission.k8s.io/v1 with a request";
        return (StatusCode::BAD_REQUEST, words).into_response();
    };
    serving.recorder.record(&request);
    Json(AdmissionResponse::from(&request).into_review()).into_response()
}

/// The certificate that the webhook shows.
pub enum Certificate {
    /// The operator's authority makes it.
    Own(Identity),
    /// Others make it.
    Files(Served),
}

/// Serves until `stop`, with a certificate that is renewed in time.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    certificate: Certificate,
    gauges: Gauges,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let tls = match &certificate {
        Certificate::Own(identity) => {
            let (config, validity) = identity.tls()?;
            gauges.shows(validity);
            RustlsConfig::from_config(config)
        }
        Certificate::Files(files) => files.config.clone(),
    };
    let handle = axum_server::Handle::<SocketAddr>::new();
    let server = axum_server::from_tcp_rustls(listener, tls.clone())
        .context("listening for the API server's calls of the webhook")?
        .handle(handle.clone())
        .serve(router.into_make_service());
    let keeping = async {
        match certificate {
            Certificate::Own(identity) => identity.renew(&tls, &gauges, &stop).await,
            Certificate::Files(files) => files.follow(&gauges, &stop).await,
        }
        handle.graceful_shutdown(Some(GRACE));
    };
    let (served, ()) = tokio::join!(server, keeping);
    served.context("serving the webhook")
}
