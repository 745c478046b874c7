//! Runs the `nft` program: the one way in which the agent reads and writes its table.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::TABLE;
use super::listing::{Found, Listing};
use crate::agent::words::printable;

/// A transaction of a hundred thousand networks takes 3 s; this is for a program that hangs.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Everything in numbers: names of protocols depend on files of the host.
const IN_NUMBERS: [&str; 4] = ["-j", "-n", "-y", "-p"];

/// How long a notice of a transaction may come after its program ended.
const NOTICE_DELAY: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct Nft {
    program: PathBuf,
    writers: Writers,
}

/// The processes that changed the table for the agent just now: notices of their changes are no news.
#[derive(Clone, Debug, Default)]
pub struct Writers(Arc<Mutex<VecDeque<(u32, Instant)>>>);

impl Writers {
    fn add(&self, pid: u32) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((pid, Instant::now()));
        while recent.len() > 16 {
            recent.pop_front();
        }
    }

    /// Whether the netlink port is one of theirs: nft takes its process id for it.
    pub fn wrote(&self, port: u32) -> bool {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent
            .iter()
            .any(|(pid, at)| *pid == port && at.elapsed() < NOTICE_DELAY)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error(
        "the nft program was not found in PATH, /usr/sbin or /sbin: install nftables (Debian, Ubuntu, Fedora: package nftables)"
    )]
    Missing,
    #[error(
        "not permitted to change nftables: run the agent as root, or give it CAP_NET_ADMIN (systemd: AmbientCapabilities=CAP_NET_ADMIN)"
    )]
    NotPermitted,
    #[error(
        "the kernel refused nf_tables: Linux 5.10 or later with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET is needed ({0})"
    )]
    NotSupported(String),
    #[error("nft refused the transaction: {0}")]
    Refused(String),
    #[error("nft did not end within {} s and was stopped", TIMEOUT.as_secs())]
    TimedOut,
    #[error("cannot run nft: {0}")]
    Run(#[from] std::io::Error),
}

impl Nft {
    /// Looks for the program where administrators' programs are, PATH first.
    pub fn find() -> Result<Self, NftError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .map(|directory| directory.join("nft"))
            .find(|candidate| candidate.is_file())
            .map(Self::at)
            .ok_or(NftError::Missing)
    }

    /// This program and no other.
    pub fn at(program: PathBuf) -> Self {
        Self {
            program,
            writers: Writers::default(),
        }
    }

    /// Tries what the agent needs, changing nothing: a transaction is checked and not committed.
    pub async fn check(&self) -> Result<(), NftError> {
        let probe = serde_json::json!({"nftables": [{"add": {"table": {"family": "inet", "name": TABLE}}}]});
        self.try_out(&probe).await
    }

    /// Whether the kernel would take the transaction; it doesn't.
    pub async fn try_out(&self, transaction: &Value) -> Result<(), NftError> {
        self.run(&["-j", "-c", "-f", "-"], Some(transaction))
            .await?;
        Ok(())
    }

    pub async fn apply(&self, transaction: &Value) -> Result<(), NftError> {
        self.run(&["-j", "-f", "-"], Some(transaction)).await?;
        Ok(())
    }

    pub fn writers(&self) -> Writers {
        self.writers.clone()
    }

    /// The agent's tables; the one for bridges only where it is asked for.
    pub async fn list(&self, bridge: bool) -> Result<Found, NftError> {
        self.list_with(&[], bridge).await
    }

    /// With sets by name only: cheap, whatever they hold.
    pub async fn list_without_elements(&self, bridge: bool) -> Result<Found, NftError> {
        self.list_with(&["-t"], bridge).await
    }

    async fn list_with(&self, more: &[&str], bridge: bool) -> Result<Found, NftError> {
        let of_bridge = async {
            match bridge {
                true => self.list_table("bridge", more).await,
                false => Ok(None),
            }
        };
        let (inet, bridge) = tokio::try_join!(self.list_table("inet", more), of_bridge)?;
        Ok(Found { inet, bridge })
    }

    /// None when the kernel has no such table.
    async fn list_table(&self, family: &str, more: &[&str]) -> Result<Option<Listing>, NftError> {
        let mut arguments = IN_NUMBERS.to_vec();
        arguments.extend(more);
        arguments.extend(["list", "table", family, TABLE]);
        match self.run(&arguments, None).await {
            Ok(output) => Ok(Some(Listing::parse_or_foreign(&output))),
            Err(NftError::Refused(words)) if words.contains("No such file or directory") => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn run(&self, arguments: &[&str], input: Option<&Value>) -> Result<Vec<u8>, NftError> {
        let mut child = Command::new(&self.program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(match input {
                Some(_) => Stdio::piped(),
                None => Stdio::null(),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let (Some(pid), Some(_)) = (child.id(), input) {
            self.writers.add(pid);
        }
        let stdin = child.stdin.take();
        let text = input.map(|input| input.to_string()).unwrap_or_default();
        let write = async move {
            if let Some(mut stdin) = stdin {
                // nft that ends early says why on its standard error.
                let _ = stdin.write_all(text.as_bytes()).await;
            }
        };
        let finished = async { tokio::join!(write, child.wait_with_output()).1 };
        let output = tokio::time::timeout(TIMEOUT, finished)
            .await
            .map_err(|_| NftError::TimedOut)??;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(refusal(&String::from_utf8_lossy(&output.stderr))),
        }
    }
}

/// nft's words to what a person can do about them.
fn refusal(stderr: &str) -> NftError {
    let words = printable(&stderr.replace('\n', " "), 400);
    if stderr.contains("Operation not permitted") {
        NftError::NotPermitted
    } else if stderr.contains("Operation not supported")
        || stderr.contains("Protocol not supported")
    {
        NftError::NotSupported(words)
    } else {
        NftError::Refused(words)
    }
}
