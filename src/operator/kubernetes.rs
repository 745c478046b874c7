//! The client for the API server, with the limits that every call needs.

use std::time::Duration;

use anyhow::{Context, Result};
use kube::{Client, Config};

use crate::user_agent::{self, Part};

/// Longer than a quiet watch, so that only dead connections end by it.
const READ_TIMEOUT: Duration = Duration::from_secs(45);

/// Every call that is not a watch answers within this or counts as failed.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// From `KUBECONFIG`, `~/.kube/config`, or the pod's own ServiceAccount.
pub async fn client(part: Part) -> Result<Client> {
    let mut config = Config::infer().await.context(
        "finding the API server: set KUBECONFIG, or run in a pod with a ServiceAccount token",
    )?;
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    user_agent::tell(&mut config, part);
    Client::try_from(config).context("making a client for the API server")
}

/// The call's answer, or an error that says that there was none.
pub async fn within<T>(what: &str, call: impl Future<Output = kube::Result<T>>) -> Result<T> {
    tokio::time::timeout(CALL_TIMEOUT, call)
        .await
        .map_err(|_| anyhow::anyhow!("the API server did not answer within 10 s"))
        .and_then(|answer| answer.map_err(anyhow::Error::from))
        .with_context(|| what.to_owned())
}
