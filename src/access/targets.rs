//! Whether what would be acted on is among the targets of the agent's scope.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::Principal;
use super::decide::{Refusal, RefusalCode, Scope, Target, refusal};
use crate::api::stamps;
use crate::domain::labels::are_alike;
use crate::domain::names::DeviceId;

/// Names in a refusal.
const MOST_NAMED: usize = 5;

pub fn refusal_of(principal: &Principal, target: &Target) -> Option<Refusal> {
    match target {
        Target::Unresolved => None,
        Target::Written { name, by } => written(principal, name, by.as_deref()),
        Target::Pods(pods) => outside_pods(principal, pods),
        Target::Workloads(selector) => selected(principal, selector),
        Target::User { names, agents } => {
            protected(principal, names, agents).or_else(|| outside_users(principal, names))
        }
        _ if principal.all_devices => None,
        _ if principal.devices.is_empty() && principal.target_tags.is_empty() => refusal(
            RefusalCode::NoTargets,
            format!(
                "{} names no device that it may act on: ask a person to give it targets",
                Scope(principal)
            ),
        ),
        Target::Fleet => refusal(
            RefusalCode::OutsideTargets,
            format!(
                "{} may not act on every device: name devices of its targets, by id or by all the tags of its targets; a trust level or users alone choose from every device",
                Scope(principal)
            ),
        ),
        Target::Devices(devices) => outside(principal, devices),
        Target::Tagged { tags, devices } => {
            let narrow = |(name, value): (&String, &String)| tags.get(name) == Some(value);
            let scope_tags = &principal.target_tags;
            // A device that carries these tags carries the scope's as well.
            if !scope_tags.is_empty() && scope_tags.iter().all(narrow) {
                return outside(principal, devices);
            }
            refusal(
                RefusalCode::OutsideTargets,
                format!(
                    "{} may not act on all devices with these tags: select by the tags of its \
                     targets, or name devices by id",
                    Scope(principal)
                ),
            )
        }
    }
}

fn written(principal: &Principal, name: &str, by: Option<&str>) -> Option<Refusal> {
    if by == Some(&principal.user) {
        return None;
    }
    let author = match by.map(|user| (user, stamps::scope_of_user(user))) {
        Some((_, Some((tenant, agent)))) => format!("the agent {agent} of {tenant}"),
        Some((user, None)) => user.to_owned(),
        None => "a person or a GitOps controller".into(),
    };
    refusal(
        RefusalCode::NotItsOwn,
        format!(
            "{name} was written by {author}, and an agent changes only what it wrote itself: ask \
             them, or a person with kubectl"
        ),
    )
}

fn outside(principal: &Principal, devices: &BTreeSet<DeviceId>) -> Option<Refusal> {
    let outside: Vec<&str> = devices
        .iter()
        .filter(|device| !principal.devices.contains(device))
        .map(DeviceId::as_str)
        .take(MOST_NAMED)
        .collect();
    if outside.is_empty() {
        return None;
    }
    refusal(
        RefusalCode::OutsideTargets,
        format!(
            "{} may not act on {}: ask a person to do it or to widen its targets",
            Scope(principal),
            outside.join(", ")
        ),
    )
}

fn outside_pods(principal: &Principal, pods: &BTreeSet<String>) -> Option<Refusal> {
    if principal.target_pods.is_none() {
        return no_pods(principal);
    }
    let outside = pods.iter().filter(|pod| !principal.pods.contains(pod));
    let outside: Vec<&str> = outside.map(String::as_str).take(MOST_NAMED).collect();
    if outside.is_empty() {
        return None;
    }
    refusal(
        RefusalCode::OutsideTargets,
        format!(
            "{} may not act on pod {}, which does not run or is none of its targets: list_workloads shows \
             which pods there are and which are targets; ask a person to act on it or to widen the targets",
            Scope(principal),
            outside.join(", ")
        ),
    )
}

/// One selector is compared with the other: what other labels choose may be other pods tomorrow.
fn selected(principal: &Principal, selector: &LabelSelector) -> Option<Refusal> {
    let Some(own) = &principal.target_pods else {
        return no_pods(principal);
    };
    if are_alike(own, selector) {
        return None;
    }
    let expressions = own.match_expressions.as_ref();
    let how = match (
        &own.match_labels,
        expressions.is_some_and(|it| !it.is_empty()),
    ) {
        (Some(labels), false) if !labels.is_empty() => {
            let labels = labels.iter().map(|(name, value)| format!("{name}={value}"));
            let labels: Vec<String> = labels.collect();
            format!(
                "give exactly the labels of its targets, {}",
                labels.join(" ")
            )
        }
        _ => "its targets are chosen by matchExpressions".to_owned(),
    };
    refusal(
        RefusalCode::OutsideTargets,
        format!(
            "{} may not act on all pods with these labels: {how}, or name pods; list_workloads shows them",
            Scope(principal)
        ),
    )
}

/// Users that nobody suspends: the cluster's own parts, root, and the agent that would do it, which could not
/// undo it afterwards.
fn protected(
    principal: &Principal,
    names: &BTreeSet<String>,
    agents: &BTreeSet<String>,
) -> Option<Refusal> {
    let own = agents.contains(&principal.agent);
    let system = names.iter().find(|name| name.starts_with("system:"));
    let why = match system {
        Some(name) => {
            format!("{name} is Kubernetes' own, and nobody suspends it: name the person's user")
        }
        None if names.contains("root") => {
            "root is no person, and nobody suspends it: name the person's account, or isolate the device"
                .to_owned()
        }
        None if own => format!(
            "that would refuse the keys of {} itself, which could not undo it: give seawall without {}",
            Scope(principal),
            principal.agent
        ),
        None => return None,
    };
    refusal(RefusalCode::ProtectedUser, why)
}

/// Each name is compared: another name is another person's.
fn outside_users(principal: &Principal, names: &BTreeSet<String>) -> Option<Refusal> {
    let Some(users) = &principal.users else {
        return refusal(
            RefusalCode::NoTargets,
            format!(
                "{} names no user that it may suspend: ask a person to give it targets.users",
                Scope(principal)
            ),
        );
    };
    let outside = names.iter().filter(|name| !users.ids.contains(name));
    let outside: Vec<String> = outside.map(|name| clean(name)).take(MOST_NAMED).collect();
    if users.all || outside.is_empty() {
        return None;
    }
    refusal(
        RefusalCode::OutsideTargets,
        format!(
            "{} may not suspend {}: each name has to be among its targets.users, and a list that is left out \
             stands for the user's id; ask a person to do it or to widen the targets",
            Scope(principal),
            outside.join(", ")
        ),
    )
}

/// As an agent gave it, for people.
fn clean(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

fn no_pods(principal: &Principal) -> Option<Refusal> {
    refusal(
        RefusalCode::NoTargets,
        format!(
            "{} names no pod that it may act on: ask a person to give it targets.workloads",
            Scope(principal)
        ),
    )
}
