//! The agent on a node of the cluster: it enrols with the token of its own pod, and finds the operator
//! by what the operator published. It needs no person; so it also enrols anew by itself, when its
//! certificate nears its end, or when the operator knows it no more.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use rcgen::KeyPair;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::enroll::{EnrollError, Invitation, Proof, enroll};
use super::identity::{Credentials, Identity};
use super::state_directory::StateDirectory;
use crate::backoff::Backoff;

/// Entries of the ConfigMap, and files of the directory where it is mounted.
pub const AUTHORITY: &str = "ca.crt";
pub const ADDRESSES: &str = "addresses";

/// A certificate is renewed when no more than this is left of it.
const RENEW_BEFORE: Duration = Duration::from_secs(120 * 24 * 60 * 60);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60 * 60);

/// How a node enrols.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// On a node of the cluster: enrol with the ServiceAccount token in this file, which is mounted into
    /// the agent's pod with the audience seawall-fleet.
    #[arg(long, value_name = "FILE", requires = "operator_dir")]
    node_token_file: Option<PathBuf>,
    /// Where the ConfigMap seawall-fleet is mounted, by which nodes find the operator.
    #[arg(long, value_name = "DIRECTORY", requires = "node_token_file")]
    operator_dir: Option<PathBuf>,
}

impl NodeArgs {
    /// None where the device is no node.
    pub fn node(self) -> Option<Node> {
        Some(Node {
            token_file: self.node_token_file?,
            operator: self.operator_dir?,
        })
    }
}

/// Where a node finds what it enrols with. Both are read anew each time: the kubelet renews them.
#[derive(Clone, Debug)]
pub struct Node {
    pub token_file: PathBuf,
    pub operator: PathBuf,
}

impl Node {
    /// What to enrol with, as of now.
    pub fn invitation(&self) -> anyhow::Result<Invitation> {
        let authority = self.authority()?;
        let token = read(&self.token_file)?;
        Ok(Invitation {
            addresses: self.addresses()?,
            authority,
            proof: Proof::Node(token.trim().to_owned()),
        })
    }

    fn authority(&self) -> anyhow::Result<String> {
        let file = self.operator.join(AUTHORITY);
        let pem = read(&file)?;
        x509_parser::pem::parse_x509_pem(pem.as_bytes())
            .with_context(|| format!("{} is no certificate in PEM", file.display()))?;
        Ok(pem)
    }

    /// `host:port` each, in the order in which they are tried.
    fn addresses(&self) -> anyhow::Result<Vec<String>> {
        let file = self.operator.join(ADDRESSES);
        let lines = read(&file)?;
        let addresses: Vec<String> = lines.split_whitespace().map(str::to_owned).collect();
        ensure!(!addresses.is_empty(), "{} names no address", file.display());
        Ok(addresses)
    }

    /// The identity that is there, at the addresses that the operator has by now.
    pub fn moved(
        &self,
        identity: Identity,
        directory: &StateDirectory,
    ) -> anyhow::Result<Identity> {
        ensure!(
            identity.node,
            "{} is the identity of {}, a device that enrolled with a join token: stop its agent and remove it, or give the node's agent another --state-dir",
            directory.path("identity.json").display(),
            identity.device
        );
        match self.addresses() {
            Ok(operator) if operator != identity.operator => {
                let identity = Identity {
                    operator,
                    ..identity
                };
                identity.save_alone(directory)?;
                Ok(identity)
            }
            _ => Ok(identity),
        }
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| {
        format!(
            "cannot read {}: mount the token and the ConfigMap seawall-fleet as the chart does, and wait for the operator to fill that",
            file.display()
        )
    })
}

/// Watches over a node's certificate.
pub struct Renewal {
    pub node: Node,
    pub directory: StateDirectory,
    pub credentials: Credentials,
    /// The operator does not know the certificate.
    pub unknown: Arc<Notify>,
    /// Set when there is a new identity to go on with.
    pub renewed: Arc<AtomicBool>,
}

impl Renewal {
    /// Ends when the node has enrolled anew, which stops the agent's other parts, or at `stop`.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(300));
        let mut wanted = false;
        loop {
            wanted |= self.is_due(jiff::Timestamp::now());
            let pause = match wanted {
                true => match self.enrol().await {
                    Ok(()) => {
                        self.renewed.store(true, Ordering::Relaxed);
                        stop.cancel();
                        return Ok(());
                    }
                    Err(error) => {
                        tracing::warn!("the node could not enrol anew: {error}");
                        backoff.spread_pause()
                    }
                },
                false => LOOK_EVERY,
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(pause) => {}
                () = self.unknown.notified(), if !wanted => wanted = true,
            }
        }
    }

    async fn enrol(&self) -> Result<(), EnrollError> {
        let invitation = self.node.invitation()?;
        let identity = enroll(&self.directory, &invitation).await?;
        tracing::info!(device = %identity.device, "enrolled anew");
        Ok(())
    }

    /// The certificate nears its end, or the operator has another authority than the one that made it.
    fn is_due(&self, now: jiff::Timestamp) -> bool {
        let published = self.node.authority();
        let moved = published.is_ok_and(|pem| pem.trim() != self.credentials.authority.trim());
        moved || left(&self.credentials, now).is_none_or(|left| left < RENEW_BEFORE)
    }
}

/// How long the certificate is good for; None when it is over, can't be read, or is of another key: a
/// power cut came between the two files.
fn left(credentials: &Credentials, now: jiff::Timestamp) -> Option<Duration> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(credentials.certificate.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let key = KeyPair::from_pem(&credentials.key).ok()?;
    if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return None;
    }
    let end = certificate.validity().not_after.timestamp();
    let seconds = end.checked_sub(now.as_second())?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
