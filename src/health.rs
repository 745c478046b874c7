//! `/live`, `/ready` and `/metrics` over plain HTTP, for the kubelet and Prometheus.
//!
//! Ready means that every list has been read and every task lives (a task that ends, ends the process);
//! a replica that does not lead is ready too, for it is warm. Live means that the loop turns.

use std::collections::BTreeMap;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// A loop that has not turned for this long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// How long answers under way may take after `stop`.
const GOODBYE: Duration = Duration::from_secs(1);

/// What the loop says of itself.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// What has to be known before anything is done, and why it is not, if it is not.
    pub waiting_for: BTreeMap<&'static str, String>,
    /// What is not as it should be and keeps nobody from serving.
    pub notes: BTreeMap<&'static str, String>,
    /// When the loop last turned; `None` before the first time.
    pub turned: Option<Timestamp>,
}

#[derive(Clone)]
struct Served {
    health: watch::Receiver<Health>,
    metrics: Metrics,
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    health: watch::Receiver<Health>,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<()> {
    let server = axum::serve(listener, router(health, metrics))
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    tokio::pin!(server);
    let served = tokio::select! {
        served = &mut server => served,
        // A scraper that keeps its connection open must not keep the process.
        () = stop.cancelled() => timeout(GOODBYE, server).await.unwrap_or(Ok(())),
    };
    served.context("serving health and metrics")
}

fn router(health: watch::Receiver<Health>, metrics: Metrics) -> Router {
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(exposition))
        .with_state(Arc::new(Served { health, metrics }))
}

async fn live(State(served): State<Arc<Served>>) -> (StatusCode, String) {
    let turned = served.health.borrow().turned;
    let age = turned.map(|turned| Timestamp::now().duration_since(turned).unsigned_abs());
    match age {
        Some(age) if age > HANGS_AFTER => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the loop has not turned for {} s\n", age.as_secs()),
        ),
        _ => (StatusCode::OK, "live\n".to_owned()),
    }
}

async fn ready(State(served): State<Arc<Served>>) -> (StatusCode, String) {
    let health = served.health.borrow().clone();
    if health.turned.is_none() && health.waiting_for.is_empty() {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: the loop has not begun\n".to_owned(),
        );
    }
    if health.waiting_for.is_empty() {
        return (StatusCode::OK, lines("ready", &health.notes));
    }
    let text = lines("not ready:", &health.waiting_for);
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

fn lines(first: &str, more: &BTreeMap<&str, String>) -> String {
    let mut text = format!("{first}\n");
    for (what, why) in more {
        text.push_str(&format!("  {what}: {why}\n"));
    }
    text
}

async fn exposition(
    State(served): State<Arc<Served>>,
) -> ([(&'static str, &'static str); 1], String) {
    (
        [(
            "content-type",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        served.metrics.text(),
    )
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    use super::*;

    async fn answer(health: Health, path: &str) -> (StatusCode, String) {
        let (_keep, health) = watch::channel(health);
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = router(health, Metrics::new())
            .oneshot(request)
            .await
            .expect("infallible");
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("body");
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn not_ready_names_everything_that_is_waited_for() {
        let waiting_for = [
            ("Policy", "no such kind".to_owned()),
            ("devices", "not read yet".to_owned()),
        ];
        let health = Health {
            waiting_for: waiting_for.into(),
            turned: Some(Timestamp::now()),
            ..Health::default()
        };
        let (status, text) = answer(health, "/ready").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            text.contains("Policy: no such kind") && text.contains("devices: not read yet"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn what_is_waited_for_before_the_loop_begins_is_said_too() {
        let health = Health {
            waiting_for: [("database", "not there".to_owned())].into(),
            ..Health::default()
        };
        let (status, text) = answer(health.clone(), "/ready").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("database: not there"), "{text}");
        assert_eq!(answer(health, "/live").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn ready_and_live_once_everything_is_known() {
        let notes = [("database", "it is away".to_owned())];
        let health = Health {
            waiting_for: BTreeMap::new(),
            notes: notes.into(),
            turned: Some(Timestamp::now()),
        };
        let (_, text) = answer(health.clone(), "/ready").await;
        assert_eq!(text, "ready\n  database: it is away\n");
        assert_eq!(answer(health.clone(), "/ready").await.0, StatusCode::OK);
        assert_eq!(answer(health, "/live").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_loop_that_hangs_is_not_live() {
        let health = Health {
            turned: Some(Timestamp::now() - Duration::from_secs(61)),
            ..Health::default()
        };
        let (status, _) = answer(health, "/live").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
}
