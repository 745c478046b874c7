//! `seawall agent status`: what the running agent last said of itself (`status.json`), what is on disk,
//! and what the kernel holds now.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::bundle::{Position, SignedBundle, Verifier};
use super::enforcer;
use super::identity::Identity;
use super::nft::difference::first_difference;
use super::nft::{Bridges, Nft, NftError, Situation, render};
use super::state_directory::{Secrecy, StateDirectory};
use crate::domain::enforcement::{Bundle, DeviceState};

const STATUS: &str = "status.json";

/// What the running agent says of its stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    pub pid: u32,
    /// The agent's user, which its rules name.
    pub uid: u32,
    pub version: String,
    pub connected: bool,
    pub since: Timestamp,
    /// The address that answered last.
    pub operator: Option<String>,
    /// Why there is no stream.
    pub reason: Option<String>,
}

/// Written whenever the stream opens or breaks.
pub struct StatusFile {
    directory: StateDirectory,
    running: Running,
}

impl StatusFile {
    pub fn new(directory: StateDirectory, uid: u32) -> Self {
        Self {
            directory,
            running: Running {
                pid: std::process::id(),
                uid,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                connected: false,
                since: Timestamp::now(),
                operator: None,
                reason: None,
            },
        }
    }

    pub async fn connected(&mut self, operator: &str) {
        self.running.connected = true;
        self.running.operator = Some(operator.to_owned());
        self.running.reason = None;
        self.write().await;
    }

    pub async fn disconnected(&mut self, reason: &str) {
        self.running.connected = false;
        self.running.reason = Some(reason.to_owned());
        self.write().await;
    }

    async fn write(&mut self) {
        self.running.since = Timestamp::now();
        let json = serde_json::to_vec(&self.running).expect("a status is always JSON");
        let directory = self.directory.clone();
        let write = move || directory.replace(STATUS, &json, Secrecy::Readable);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
            tracing::debug!("the status was not written: {error:#}");
        }
    }
}

/// Everything that is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub device: String,
    pub tenant: String,
    /// An agent runs on this directory.
    pub running: bool,
    pub connected: bool,
    pub operator: Option<String>,
    pub reason: Option<String>,
    /// Of the bundle on disk.
    pub applied: Option<Position>,
    pub isolated: bool,
    pub quarantined_peers: usize,
    pub rules: usize,
    pub wards: Wards,
    /// None where the kernel could not be asked.
    pub kernel_matches: Option<bool>,
    /// The first difference, or why the kernel could not be asked.
    pub kernel: String,
}

/// Those that the device enforces for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wards {
    pub pods: usize,
    pub groups: usize,
    pub isolated: Vec<String>,
    /// What can't be judged here.
    pub shortcoming: Option<String>,
}

impl Wards {
    fn of(state: &DeviceState, bridges: &Bridges) -> Self {
        let groups = state.wards.values();
        let isolated = groups.clone().filter(|group| group.isolation.is_some());
        Self {
            pods: groups.clone().map(|group| group.members.len()).sum(),
            groups: groups.len(),
            isolated: isolated.flat_map(|g| g.members.keys().cloned()).collect(),
            shortcoming: bridges.shortcoming(state),
        }
    }

    fn text(&self) -> String {
        let isolated = match self.isolated.as_slice() {
            [] => String::new(),
            pods => format!("; ISOLATED: {}", pods.join(", ")),
        };
        let shortcoming = self.shortcoming.as_ref();
        let shortcoming = shortcoming.map(|words| format!("\n            {words}"));
        let Self { pods, groups, .. } = self;
        format!(
            "{pods} pods in {groups} groups{isolated}{}",
            shortcoming.unwrap_or_default()
        )
    }
}

/// Exit code 0 when an agent runs, is connected, and the kernel holds what the bundle says; else 1.
pub async fn print(path: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let status = gather(&StateDirectory::existing(path)).await?;
    match json {
        true => println!("{}", serde_json::to_string_pretty(&status)?),
        false => println!("{}", text(&status)),
    }
    let well = status.running && status.connected && status.kernel_matches == Some(true);
    Ok(match well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

async fn gather(directory: &StateDirectory) -> anyhow::Result<Status> {
    let identity = Identity::load(directory)?.with_context(|| {
        format!(
            "this device has not enrolled ({} is missing): run `seawall agent enroll` with a join token, or name the state directory with --state-dir",
            directory.path("identity.json").display()
        )
    })?;
    let running: Option<Running> = directory
        .read(STATUS)?
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let locked = directory.is_locked();
    let verifier = Verifier {
        device: identity.device.clone(),
        keys: identity.verifying_keys()?,
    };
    let bundle = bundle(directory, &verifier);
    let state = match &bundle {
        Ok(bundle) => bundle.as_ref().map(|b| b.state.clone()),
        Err(_) => None,
    };
    let state = state.unwrap_or_default();
    let nft = Nft::find();
    let bridges = match &nft {
        Ok(nft) if !state.wards.is_empty() => Bridges::look(nft).await,
        _ => Bridges::default(),
    };
    let mut accounts = BTreeMap::new();
    let mut lookup = enforcer::Lookup::default();
    lookup.refresh(&mut accounts, &state.suspended_users).await;
    let situation = Situation {
        uid: running
            .as_ref()
            .map_or_else(|| nix::unistd::geteuid().as_raw(), |running| running.uid),
        pinned: identity.pinned(),
        bridges,
        accounts,
    };
    let (kernel_matches, mut kernel) = kernel(nft, &state, &situation).await;
    if let Err(words) = &bundle {
        kernel = format!("{words:#}; {kernel}");
    }
    let connected = locked && running.as_ref().is_some_and(|r| r.connected);
    Ok(Status {
        device: identity.device.to_string(),
        tenant: identity.tenant,
        running: locked,
        connected,
        operator: running.as_ref().and_then(|r| r.operator.clone()),
        reason: match locked {
            true => running.and_then(|r| r.reason),
            false => Some("no agent runs".to_owned()),
        },
        kernel_matches: kernel_matches.map(|matches| matches && bundle.is_ok()),
        applied: bundle.ok().flatten().as_ref().map(Position::of),
        isolated: state.isolation.is_some(),
        quarantined_peers: state.quarantined.len(),
        rules: state.rules.len(),
        wards: Wards::of(&state, &situation.bridges),
        kernel,
    })
}

fn bundle(directory: &StateDirectory, verifier: &Verifier) -> anyhow::Result<Option<Bundle>> {
    let Some(bytes) = directory.read(enforcer::BUNDLE)? else {
        return Ok(None);
    };
    let signed = SignedBundle::from_file(&bytes).context("the bundle on disk is damaged")?;
    let bundle = verifier
        .verify(&signed)
        .context("the bundle on disk is not believed")?;
    Ok(Some(bundle))
}

async fn kernel(
    nft: Result<Nft, NftError>,
    state: &DeviceState,
    situation: &Situation,
) -> (Option<bool>, String) {
    let found = match nft {
        Ok(nft) => nft.list(true).await,
        Err(error) => Err(error),
    };
    match found {
        Err(error) => (None, error.to_string()),
        Ok(found) => match first_difference(&render(state, situation), &found) {
            None => (Some(true), "holds what the bundle says".to_owned()),
            Some(difference) => (Some(false), difference),
        },
    }
}

fn text(status: &Status) -> String {
    let stream = match (status.running, status.connected) {
        (false, _) => "no agent runs; the rules stay in force without it".to_owned(),
        (true, true) => format!("connected to {}", status.operator.as_deref().unwrap_or("?")),
        (true, false) => format!(
            "not connected ({})",
            status.reason.as_deref().unwrap_or("not yet")
        ),
    };
    let applied = match &status.applied {
        Some(p) => format!("epoch {} revision {}", p.epoch, p.revision),
        None => "no bundle yet".to_owned(),
    };
    let isolated = match status.isolated {
        true => "ISOLATED: only the operator and management pass",
        false => "no",
    };
    let kernel = match status.kernel_matches {
        Some(true) => status.kernel.clone(),
        Some(false) => format!("DIFFERS: {}", status.kernel),
        None => format!("unknown: {}", status.kernel),
    };
    format!(
        "Device      {}\nTenant      {}\nOperator    {stream}\nBundle      {applied}\nIsolated    {isolated}\nQuarantine  {} addresses of peers\nRules       {}\nWards       {}\nKernel      {kernel}",
        status.device,
        status.tenant,
        status.quarantined_peers,
        status.rules,
        status.wards.text()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::nft::{BridgeTable, Family};

    fn status() -> Status {
        Status {
            device: "dev_01".into(),
            tenant: "acme".into(),
            running: true,
            connected: true,
            operator: Some("10.0.0.1:8443".into()),
            reason: None,
            applied: None,
            isolated: true,
            quarantined_peers: 0,
            rules: 3,
            wards: Wards::default(),
            kernel_matches: Some(false),
            kernel: "chain input is gone".into(),
        }
    }

    #[test]
    fn isolation_and_a_kernel_that_differs_are_not_overlooked() {
        let text = text(&status());
        assert!(text.contains("ISOLATED"), "{text}");
        assert!(text.contains("DIFFERS: chain input is gone"), "{text}");
    }

    #[test]
    fn isolated_pods_are_named_and_what_is_not_judged_is_said() {
        let state: DeviceState = serde_json::from_value(serde_json::json!({
            "sources": [], "operator": [], "wards": {
                "free": {"sources": [], "members": {"shop/web": ["10.244.0.7"], "shop/db": ["10.244.0.8"]}},
                "cut": {"sources": [], "members": {"shop/bad": ["10.244.0.9"]}, "isolation": {}}}}))
        .expect("a state");
        let bridges = Bridges {
            around: [Family::V4].into(),
            table: BridgeTable::Untracked,
        };
        let text = text(&Status {
            wards: Wards::of(&state, &bridges),
            ..status()
        });
        for words in [
            "3 pods in 2 groups; ISOLATED: shop/bad",
            "bridge-nf-call-iptables=1",
        ] {
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn a_status_without_an_agent_says_that_the_rules_stay() {
        let text = text(&Status {
            running: false,
            ..status()
        });
        assert!(text.contains("no agent runs; the rules stay"), "{text}");
    }

    #[tokio::test]
    async fn a_device_that_has_not_enrolled_is_told_how() {
        let root = tempfile::tempdir().expect("a directory");
        let error = gather(&StateDirectory::existing(root.path()))
            .await
            .expect_err("not enrolled");
        assert!(
            error.to_string().contains("seawall agent enroll"),
            "{error}"
        );
    }
}
