//! The MCP server's token: minted by TokenRequest for one ServiceAccount, written to a file that only
//! the sidecar mounts, and renewed at two thirds of its life. A pod has one ServiceAccount; so the
//! sidecar has the operator's pod and not its rights.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::kubernetes::within;
use crate::backoff::Backoff;

/// The API server's shortest is ten minutes.
const LIFETIME: i64 = 1800;

pub struct McpToken {
    pub accounts: Api<ServiceAccount>,
    pub account: String,
    pub file: PathBuf,
}

impl McpToken {
    /// Keeps the file fresh until `stop`, then removes it.
    pub async fn keep(self, stop: CancellationToken) -> Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        loop {
            let pause = match self.renew().await {
                Ok(pause) => {
                    backoff.reset();
                    pause
                }
                Err(error) => {
                    warn!(
                        error = format!("{error:#}"),
                        "the MCP server's token was not renewed; trying again"
                    );
                    backoff.pause()
                }
            };
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                let _ = std::fs::remove_file(&self.file);
                return Ok(());
            }
        }
    }

    /// Mints and writes one token; how long until the next is due.
    async fn renew(&self) -> Result<Duration> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(LIFETIME),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = within(
            "minting a token: the operator needs `create` on serviceaccounts/token of this account",
            self.accounts
                .create_token_request(&self.account, &PostParams::default(), &request),
        )
        .await?;
        let status = answer.status.unwrap_or_default();
        let (Some(token), Some(expires)) = (status.token, status.expiration_timestamp) else {
            anyhow::bail!("the API server answered without a token");
        };
        write_private(&self.file, &token)
            .with_context(|| format!("writing {}", self.file.display()))?;
        debug!("the MCP server's token is renewed");
        Ok(renew_after(Timestamp::now(), expires.0))
    }
}

/// Two thirds of what is left, but never a busy loop.
fn renew_after(now: Timestamp, expires: Timestamp) -> Duration {
    let left = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
    (left * 2 / 3).max(Duration::from_secs(5))
}

/// A reader sees the old content or the new, never a part, and nobody else may read it.
fn write_private(file: &Path, content: &str) -> std::io::Result<()> {
    let fresh = file.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let mut handle = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    handle.write_all(content.as_bytes())?;
    handle.sync_all()?;
    std::fs::rename(fresh, file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_token_is_renewed_at_two_thirds_of_its_life_and_not_in_a_busy_loop() {
        let now = Timestamp::UNIX_EPOCH;
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(renew_after(now, at(1800)), Duration::from_secs(1200));
        assert_eq!(renew_after(at(10), now), Duration::from_secs(5));
    }

    #[test]
    fn the_file_is_private_and_replaced_whole() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let file = scratch.path().join("token");
        write_private(&file, "a longer first token").expect("written");
        write_private(&file, "second").expect("replaced");
        assert_eq!(std::fs::read_to_string(&file).expect("there"), "second");
        let mode = std::fs::metadata(&file)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
