//! `isolate_workload`.

use std::collections::BTreeMap;

use kube::ResourceExt;
use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use super::isolating::{self, Isolated, Wanted};
use super::settle::{self, InForce};
use super::stages::{Laps, Stages};
use super::workload::{self, Chosen};
use crate::access::decide::Lasts;
use crate::access::{Intent, Tool};
use crate::api::{IsolationSpec, ManagementPath, Probes, Target};
use crate::local::pods::{PodStanding, PodsStanding};
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::arguments;
use crate::mcp::call::Call;
use crate::mcp::text::clean;

/// Pods that the text of an answer names.
const MOST_IN_TEXT: usize = 5;
/// Characters of why a pod is not covered.
const MOST_WHY: usize = 300;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The pod to isolate: its name, such as list_workloads gives. Either this or labels.
    pod: Option<String>,
    /// All pods with these labels, those to come included; the labels of the targets of this key's scope,
    /// neither more nor fewer. Either this or pod.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Why, for the people who read this later: what was seen, and how certain it is.
    reason: String,
    /// How long, such as 30m or 24h; until it is released when left out.
    ttl: Option<String>,
    /// Networks that may still connect to the pods, such as a forensics host: cidr, and ports to
    /// narrow it.
    #[serde(default)]
    management: Vec<ManagementPath>,
    /// The incident this belongs to: inc_ and its id.
    incident: Option<String>,
    /// Cut (default): the kubelet's probes fail too, so that Services leave the pods, and a liveness probe
    /// has their containers restarted. Keep: probes pass, and nothing else.
    #[serde(default)]
    probes: Probes,
    /// True: say what would happen and whether it would be allowed, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    /// Such as workload/web-0.
    target: String,
    /// The Isolation's name; release_workload takes the pod or the labels.
    isolation: String,
    dry_run: bool,
    /// It was there already, written by this agent, with the management and probes that it has.
    already_isolated: bool,
    in_force: InForce,
    pods: Pods,
    /// Pods whose container the kubelet restarts, because its liveness probe is cut: what is in memory is lost.
    evidence_at_risk: Vec<String>,
    connections_cut: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// From the call to the answer.
    milliseconds: u64,
    /// Each part of the way, in order.
    #[schemars(with = "BTreeMap<String, f64>")]
    stages_ms: Stages,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

/// The pods that are chosen now.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct Pods {
    chosen: usize,
    /// Cut off, read back; in a dry run, those that would be.
    covered: usize,
    /// Covered by a NetworkPolicy alone, for no agent runs on their node.
    by_network_policy: usize,
    /// Not covered ones first.
    each: Vec<Pod>,
    /// Not in `each`.
    left_out: usize,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Pod {
    name: String,
    covered: bool,
    /// What is missing, or to be known beside it.
    #[serde(skip_serializing_if = "String::is_empty")]
    why: String,
    /// Without an agent: the Deployment that replaces it; its labels go, and release_workload deletes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_by: Option<String>,
}

impl From<&PodsStanding> for Pods {
    fn from(standing: &PodsStanding) -> Self {
        let each = standing.pods.iter().map(|pod| {
            let PodStanding {
                pod,
                covered,
                why,
                replaced_by,
            } = pod;
            Pod {
                name: clean(pod, 253),
                covered: *covered,
                why: clean(why, MOST_WHY),
                replaced_by: replaced_by.as_ref().map(|name| clean(name, 253)),
            }
        });
        Self {
            chosen: standing.chosen,
            covered: standing.covered,
            by_network_policy: standing.by_policy,
            each: each.collect(),
            left_out: standing.left_out,
        }
    }
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::IsolateWorkload,
        "Isolate a workload",
        "Puts a pod, or the pods with the labels of this key's targets, in quarantine: all connections, open \
         ones too, are cut in both directions by the agent of each pod's node, except for the given \
         management networks. Lasts until release_workload or the end of ttl. The answer tells for \
         each pod whether it is cut off, and if not, why. Where no agent runs, a pod of a Deployment loses its \
         labels and gets a NetworkPolicy of its own instead: the Deployment replaces it, and releasing it deletes \
         it (replaced_by in the answer; dry_run tells before).",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let laps = Laps::authenticated(call.arrived);
    let input: Input = call.arguments()?;
    let reason = arguments::reason(&input.reason)?;
    let end = settle::end_of(input.ttl.as_deref())?;
    let chosen = workload::chosen(input.pod, input.labels)?;
    call.about(&chosen.summary());
    let intent = Intent {
        target: chosen.target(),
        lasts: end.map_or(Lasts::UntilDeleted, |(length, _)| Lasts::For(length)),
        dry_run: input.dry_run,
        ..Intent::of(call.tool)
    };
    call.permit(&intent).await?;
    let wanted = Wanted {
        name: chosen.isolation_name(&call.principal.user),
        spec: IsolationSpec {
            target: Target {
                workload: Some(chosen.as_written(call.principal.target_pods.as_ref())),
                ..Target::default()
            },
            user_names: None,
            reason,
            management: input.management,
            incident: input.incident,
            probes: input.probes,
            expires_at: end.map(|(_, end)| end),
        },
        dry_run: input.dry_run,
    };
    isolating::isolate(call, laps, wanted, |isolated| {
        let output = output(call, &chosen, isolated);
        Reply::new(&output, output.text())
    })
    .await
}

fn output(call: &Call, chosen: &Chosen, isolated: &Isolated) -> Output {
    let Isolated {
        isolation,
        already,
        standing,
        previewed,
        dry_run,
    } = isolated;
    let standing = standing.as_ref();
    let pods = match dry_run {
        true => previewed.pods.as_ref(),
        false => standing.and_then(|standing| standing.pods.as_ref()),
    };
    let at_risk = pods.into_iter().flat_map(|pods| &pods.evidence_at_risk);
    Output {
        target: chosen.summary(),
        isolation: isolation.name_any(),
        dry_run: *dry_run,
        already_isolated: *already,
        in_force: isolated.in_force(),
        evidence_at_risk: at_risk.map(|pod| clean(pod, 253)).collect(),
        pods: pods.map(Pods::from).unwrap_or_default(),
        connections_cut: standing.map_or(0, |standing| standing.connections_cut),
        expires_at: isolation.spec.expires_at.map(|end| end.to_string()),
        milliseconds: call.milliseconds(),
        // Set when the last of them has ended.
        stages_ms: Stages::default(),
        message: isolated.message(),
    }
}

impl Output {
    fn text(&self) -> String {
        let end = match &self.expires_at {
            Some(end) => format!("until {end}"),
            None => "until it is released".into(),
        };
        let (target, name) = (&self.target, &self.isolation);
        let Pods {
            chosen, covered, ..
        } = self.pods;
        let mut text = match self.in_force {
            InForce::NotWritten => format!(
                "Dry run: {target} would be isolated {end}, {covered} of {chosen} pods{}. Nothing was changed.",
                self.by_whom("")
            ),
            InForce::NotAccepted => {
                format!("{name} is written but not in force: {}.", self.message)
            }
            InForce::NotEnforceable => format!(
                "{name} is written, and nothing is cut: no agent can enforce it now. {}.",
                self.message
            ),
            InForce::Unknown => format!(
                "{name} is written; whether {target} is cut off could not be read back yet: \
                 list_isolations shows it."
            ),
            InForce::Everywhere => format!(
                "{target} is isolated {end}: {covered} of {chosen} pods are cut off{}; {} open connections were \
                 cut; {} ms.",
                self.by_whom(", read back"),
                self.connections_cut,
                self.milliseconds
            ),
            InForce::Unseen => format!(
                "{name} is in force {end} as far as the API server tells: {covered} of {chosen} pods are cut off{}; {} \
                 ms.",
                self.by_whom(", read back"),
                self.milliseconds
            ),
            InForce::Pending | InForce::Partial => format!(
                "{name} is written, and not in force everywhere yet: {covered} of {chosen} pods are cut off. \
                 list_isolations shows how it goes on."
            ),
        };
        text.push_str(&self.replaced());
        text.push_str(&self.uncovered());
        text.push_str(&self.warning());
        text
    }

    fn by_whom(&self, how: &str) -> String {
        let Pods {
            covered,
            by_network_policy,
            ..
        } = self.pods;
        match by_network_policy {
            0 => format!("{how} by the agents of their nodes"),
            all if all >= covered => {
                " by NetworkPolicies, for no agent runs on their nodes".to_owned()
            }
            some => format!(
                ", {some} of them by NetworkPolicies, for no agent runs on their nodes, the others{how} by the agents of theirs"
            ),
        }
    }

    /// What becomes of pods without an agent.
    fn replaced(&self) -> String {
        let replaced = self.pods.each.iter().filter(|pod| pod.covered);
        let mut replaced = replaced.filter_map(|pod| Some((&pod.name, pod.replaced_by.as_ref()?)));
        let named: Vec<String> = replaced
            .by_ref()
            .take(MOST_IN_TEXT)
            .map(|(pod, deployment)| format!("{pod} by Deployment {deployment}"))
            .collect();
        if named.is_empty() {
            return String::new();
        }
        let more = match replaced.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let is = if self.dry_run { "would be" } else { "is" };
        format!(
            " Without an agent, a pod's labels are taken away, so that it {is} replaced ({}{more}), and releasing it \
             deletes it. Nobody sees whether the network plugin enforces NetworkPolicies; it may let open \
             connections and ICMP pass.",
            named.join(", ")
        )
    }

    fn uncovered(&self) -> String {
        let uncovered: Vec<&Pod> = self.pods.each.iter().filter(|pod| !pod.covered).collect();
        let named = uncovered.iter().take(MOST_IN_TEXT);
        let mut words: String = named
            .map(|pod| format!(" Not cut off: {}: {}.", pod.name, pod.why))
            .collect();
        let all = self.pods.chosen.saturating_sub(self.pods.covered);
        if all > MOST_IN_TEXT {
            words.push_str(&format!(" And {} more are not.", all - MOST_IN_TEXT));
        }
        words
    }

    fn warning(&self) -> String {
        match &self.evidence_at_risk[..] {
            [] => String::new(),
            pods => {
                let named: Vec<&str> = pods.iter().take(MOST_IN_TEXT).map(String::as_str).collect();
                format!(
                    " Warning: the liveness probe of {} pods is cut ({}), so that the kubelet restarts their \
                     containers, and what is in memory is lost; probes Keep avoids that.",
                    pods.len(),
                    named.join(", ")
                )
            }
        }
    }
}
