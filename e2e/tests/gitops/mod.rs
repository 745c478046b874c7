//! Flux, real, with git: what it applies, what it must not undo, and that nobody fights it. And what Argo CD is told
//! of our resources' health.

mod argo_health;
mod flux_agents;
mod flux_applies;
mod flux_quiet;

use anyhow::Context;
use libtest_mimic::Trial;

use crate::cluster::toolset::Toolset;
use crate::gitops::GitOps;
use crate::shared::{Held, Shared};

pub fn all() -> Vec<Trial> {
    let trials = [flux_applies::all(), flux_agents::all(), flux_quiet::all()];
    let trials = trials.into_iter().flatten();
    let mut all = argo_health::all();
    all.extend(unless_missing(trials.collect()));
    all
}

/// The trials, marked as skipped with the reason where there is no Flux.
fn unless_missing(trials: Vec<Trial>) -> Vec<Trial> {
    let Err(why) = has_flux() else {
        return trials;
    };
    trials
        .into_iter()
        .map(|trial| {
            let kind = format!("skipped: {why:#}");
            trial.with_kind(kind).with_ignored_flag(true)
        })
        .collect()
}

/// Why there is no Flux here, if so.
fn has_flux() -> anyhow::Result<()> {
    // Outside the sandbox, where tests are only listed, nobody has looked for it yet.
    let Ok(tools) = Toolset::from_env() else {
        return Ok(());
    };
    for program in ["source-controller", "kustomize-controller"] {
        let found = tools.command(program);
        found.with_context(|| format!("needs Flux's {program}, which could not be built"))?;
    }
    Ok(())
}

/// A device that no test of the shared site turns on.
const OFF: &str = "ws-off";

/// A site that tests share, each with a folder in git and names of its own.
async fn shared() -> anyhow::Result<Held<GitOps>> {
    static SHARED: Shared<GitOps> = Shared::new();
    SHARED.get(start).await
}

/// With devices of which one is off.
async fn start() -> anyhow::Result<GitOps> {
    let mut all = GitOps::start().await?;
    for name in ["ws-1", "ws-2", "ws-3", OFF] {
        all.site.enroll(name, "workstation").await?;
    }
    let off = all.site.devices.iter_mut();
    off.filter(|device| device.host.name() == OFF)
        .for_each(|device| device.kill_agent());
    Ok(all)
}
