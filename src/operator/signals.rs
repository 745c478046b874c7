//! SIGTERM and SIGINT become the process's one stop.

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Cancels `stop` at the first signal; ends when `stop` is cancelled, whoever did.
pub async fn wait(stop: CancellationToken) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: ending in order"),
        _ = interrupt.recv() => info!("SIGINT: ending in order"),
        () = stop.cancelled() => {}
    }
    stop.cancel();
    Ok(())
}
