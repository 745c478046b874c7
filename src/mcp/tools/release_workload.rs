//! `release_workload`.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use super::get_device::HeldIsolation;
use super::releasing::{Found, Remaining};
use super::workload::{self, Chosen};
use crate::access::Tool;
use crate::api::Isolation;
use crate::local::pods::WorkloadView;
use crate::local::types::Held;
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::{Call, Done};
use crate::mcp::text::clean;
use crate::mcp::{arguments, resources};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The pod to release: the name that it was isolated by. Either this or labels.
    pod: Option<String>,
    /// The labels that pods were isolated by. Either this or pod.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Why, for the people who read this later.
    reason: String,
    /// True: say what would happen and whether it would be allowed, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    /// Such as workload/web-0.
    target: String,
    dry_run: bool,
    /// Isolations of this agent that were deleted.
    released: Vec<String>,
    /// Pods without an agent, which a Deployment has replaced.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deleted_pods: Vec<String>,
    /// No connected agent enforces them any more, and none of these pods' isolations is held.
    lifted_everywhere: bool,
    /// Other Isolations, which keep some of these pods isolated.
    still_isolated_by: Vec<Remaining>,
    /// Isolations of these pods that were deleted before, and stay in force until a person confirms.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    held: Vec<HeldIsolation>,
    /// From the call to the answer.
    milliseconds: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::ReleaseWorkload,
        "Release a workload",
        "Deletes this agent's own Isolation of a pod, or of the pods with these labels, so that their other \
         policies hold again. Pods that were isolated without an agent on their node are deleted: a Deployment \
         has replaced them. Isolations that people or other agents wrote stay, and are named with who \
         wrote them.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let reason = arguments::reason(&input.reason)?;
    let chosen = workload::chosen(input.pod, input.labels)?;
    call.about(&chosen.summary());
    let pods = call.shared.operator.workloads(&call.principal.tenant);
    let mut pods = pods.await?;
    pods.retain(|pod| chosen.chooses(pod));
    let (found, beside) = found(call, &chosen, &pods).await?;
    if let (Chosen::Pod(pod), []) = (&chosen, &pods[..])
        && found.own.is_empty()
        && found.others.is_empty()
    {
        return Err(Failure::not_found(format!(
            "no pod {pod} runs in {}, and no Isolation names it: list_workloads gives the pods, and \
             list_isolations what isolates",
            call.principal.tenant
        )));
    }
    found.permit(call, input.dry_run).await?;
    let action = call.begin(&reason, input.dry_run).await?;
    let remaining = Remains {
        still: found
            .others
            .iter()
            .chain(&beside)
            .map(Remaining::from)
            .collect(),
        held: held(&pods),
        deleted: deleted(&pods, &found.own),
    };
    let done = release(call, &chosen, found, remaining, input.dry_run).await;
    call.end(action, done).await
}

/// The Isolations that name the target, and this agent's own that choose its pods by another name.
async fn found(
    call: &Call,
    chosen: &Chosen,
    pods: &[WorkloadView],
) -> Result<(Found, Vec<Isolation>), Failure> {
    let isolating = pods.iter().flat_map(|pod| &pod.isolated_by);
    let isolating: BTreeSet<&String> = isolating.collect();
    let names = |isolation: &Isolation| {
        let target = isolation.spec.target.workload.as_ref();
        target.is_some_and(|target| chosen.is_target(target))
    };
    let mut found = Found::of(call, |isolation| {
        let of_pods = isolation.spec.target.workload.is_some();
        names(isolation) || (of_pods && isolating.contains(&isolation.name_any()))
    })
    .await?;
    let (own, beside) = found.own.into_iter().partition(names);
    found.own = own;
    Ok((found, beside))
}

/// Pods that nothing isolates any more once these are gone, and that were replaced.
fn deleted(pods: &[WorkloadView], released: &[Isolation]) -> Vec<String> {
    let names: BTreeSet<String> = released.iter().map(ResourceExt::name_any).collect();
    let replaced = pods.iter().filter(|pod| pod.replaced_by.is_some());
    let free = replaced.filter(|pod| {
        let mut isolating = pod.isolated_by.iter();
        !pod.isolated_by.is_empty() && isolating.all(|name| names.contains(name))
    });
    free.map(|pod| clean(&pod.name, 253)).collect()
}

struct Remains {
    deleted: Vec<String>,
    still: Vec<Remaining>,
    held: Vec<HeldIsolation>,
}

/// Each once, though it may be of many pods.
fn held(pods: &[WorkloadView]) -> Vec<HeldIsolation> {
    let held = pods.iter().flat_map(|pod| &pod.held);
    let once: BTreeMap<&String, &Held> = held.map(|held| (&held.isolation, held)).collect();
    let once: Vec<Held> = once.into_values().cloned().collect();
    HeldIsolation::all(&once)
}

async fn release(
    call: &Call,
    chosen: &Chosen,
    found: Found,
    remains: Remains,
    dry_run: bool,
) -> Result<Done, Failure> {
    let released = found.release(call, dry_run).await?;
    let Remains {
        deleted,
        still,
        held,
    } = remains;
    let output = Output {
        target: chosen.summary(),
        dry_run,
        lifted_everywhere: released.lifted && held.is_empty(),
        deleted_pods: deleted,
        still_isolated_by: still,
        held,
        milliseconds: call.milliseconds(),
        message: released.message,
        released: released.names,
    };
    let own = resources::agent_name(&call.principal);
    Ok(Done {
        reply: Reply::new(&output, output.text(&own)),
        resources: released.resources,
    })
}

impl Output {
    fn text(&self, own: &str) -> String {
        let target = &self.target;
        let mut text = match (&self.released[..], self.dry_run) {
            ([], _) => {
                format!("No Isolation of this agent names {target}; nothing was changed.")
            }
            (names, true) => format!(
                "Dry run: {} would be deleted. Nothing was changed.",
                names.join(", ")
            ),
            (names, false) if self.lifted_everywhere => format!(
                "{} is deleted, and no connected agent enforces it any more; {} ms.",
                names.join(", "),
                self.milliseconds
            ),
            (names, false) => format!(
                "{} is deleted, and not lifted everywhere yet: list_workloads shows how it goes on. {}",
                names.join(", "),
                self.message
            ),
        };
        if !self.deleted_pods.is_empty() {
            let named: Vec<&str> = self
                .deleted_pods
                .iter()
                .take(5)
                .map(String::as_str)
                .collect();
            let more = match self.deleted_pods.len().saturating_sub(5) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let are = if self.dry_run { "would be" } else { "are" };
            text.push_str(&format!(
                " Pods that were isolated without an agent {are} deleted, their replacements run: {}{more}.",
                named.join(", ")
            ));
        }
        for other in &self.still_isolated_by {
            let how = match other.written_by == own {
                true => "list_isolations shows what to release it by".to_owned(),
                false => format!("ask {} to delete it", other.written_by),
            };
            let name = &other.name;
            text.push_str(&format!(
                " Pods of {target} stay isolated by {name}: {how}."
            ));
        }
        text.extend(self.held.iter().map(HeldIsolation::sentence));
        text
    }
}
