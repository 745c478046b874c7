//! `seawall release`: a person looks at the releases that are held, and confirms one. It speaks to the
//! API server with the person's own kubeconfig, so Kubernetes decides who may.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::kubernetes::{client, within};
use crate::api::stamps;
use crate::reconcile::holds::{CONFIG_MAP, FILE, HoldList, ListedHold};
use crate::user_agent::Part;

/// How long the operator may take to act on a confirmation.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// The namespace that the operator runs in.
    #[arg(
        long,
        env = "SEAWALL_SYSTEM_NAMESPACE",
        default_value = "seawall-system",
        global = true
    )]
    system_namespace: String,
    #[command(subcommand)]
    command: ReleaseCommand,
}

#[derive(Debug, Subcommand)]
enum ReleaseCommand {
    /// List the isolations that are gone from the API server and still in force.
    Holds,
    /// Release what one hold keeps in force.
    Confirm {
        /// The hold's id, as `seawall release holds` shows it.
        id: String,
    },
}

pub fn run(args: &ReleaseArgs) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        let maps: Api<ConfigMap> =
            Api::namespaced(client(Part::Command).await?, &args.system_namespace);
        match &args.command {
            ReleaseCommand::Holds => print(&read(&maps).await?),
            ReleaseCommand::Confirm { id } => confirm(&maps, id).await?,
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn read(maps: &Api<ConfigMap>) -> Result<HoldList> {
    let map = within(
        "reading the ConfigMap seawall-holds: you need `get` on it, as the role `edit` in its namespace gives",
        maps.get_opt(CONFIG_MAP),
    )
    .await?;
    let text = map.and_then(|map| map.data?.remove(FILE));
    match text {
        None => Ok(HoldList::default()),
        Some(text) => crate::yaml::from_str(&text)
            .with_context(|| format!("{FILE} in the ConfigMap {CONFIG_MAP} was edited by hand")),
    }
}

fn print(list: &HoldList) {
    if list.holds.is_empty() {
        println!("Nothing is held.");
    }
    for hold in &list.holds {
        println!("{}  since {}  {}", hold.id, hold.since, hold.why);
        for held in &hold.isolations {
            println!("  {}  {}  {}", held.isolation, held.target, held.reason);
        }
        if hold.count > hold.isolations.len() {
            println!("  … and {} more", hold.count - hold.isolations.len());
        }
        println!("  to release: {}", hold.to_release);
        println!("  to keep:    {}", hold.to_keep);
    }
}

async fn confirm(maps: &Api<ConfigMap>, id: &str) -> Result<()> {
    let list = read(maps).await?;
    let Some(hold) = list.holds.into_iter().find(|hold| hold.id == id) else {
        bail!("no hold {id} is open: `seawall release holds` lists those that are");
    };
    let annotate = json!({"metadata": {"annotations": {(stamps::CONFIRM): id}}});
    within(
        "annotating the ConfigMap seawall-holds: you need `patch` on it, as the role `edit` in its namespace gives",
        maps.patch(
            CONFIG_MAP,
            &PatchParams {
                field_manager: Some("seawall-release".to_owned()),
                ..PatchParams::default()
            },
            &Patch::Merge(annotate),
        ),
    )
    .await?;
    wait_until_gone(maps, &hold).await?;
    println!("{}: {} isolations are released", hold.id, hold.count);
    Ok(())
}

async fn wait_until_gone(maps: &Api<ConfigMap>, hold: &ListedHold) -> Result<()> {
    let deadline = Instant::now() + ANSWERED_WITHIN;
    while read(maps)
        .await?
        .holds
        .iter()
        .any(|open| open.id == hold.id)
    {
        if Instant::now() > deadline {
            bail!(
                "the confirmation is written, and the operator has not acted on it within {} s: see whether it runs; it acts on it as soon as it does",
                ANSWERED_WITHIN.as_secs()
            );
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}
