//! Holds as people see them: the ConfigMap `seawall-holds`, in YAML that says what to do. `seawall
//! release` reads it, and the operator writes it; both use the types here.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::words::confirm_release;
use crate::domain::world::HeldIsolation;

/// The ConfigMap, in the system namespace.
pub const CONFIG_MAP: &str = "seawall-holds";
/// Its one key.
pub const FILE: &str = "holds.yaml";
/// The field manager of that key.
pub const FIELD_MANAGER: &str = "seawall/holds";
/// Isolations that are listed of one hold; a ConfigMap ends at 1 MiB.
const LISTED: usize = 500;

/// Releases that wait for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub id: String,
    pub since: Timestamp,
    pub why: String,
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldList {
    pub holds: Vec<ListedHold>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedHold {
    pub id: String,
    pub since: Timestamp,
    pub why: String,
    pub to_release: String,
    pub to_keep: String,
    pub count: usize,
    pub isolations: Vec<ListedIsolation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedIsolation {
    /// `namespace/name`.
    pub isolation: String,
    pub target: String,
    pub reason: String,
}

impl ListedHold {
    pub fn new(hold: &Hold, isolations: &[&HeldIsolation]) -> Self {
        Self {
            id: hold.id.clone(),
            since: hold.since,
            why: hold.why.clone(),
            to_release: confirm_release(&hold.id),
            to_keep: "create these Isolations again, then confirm: what exists stays in force"
                .to_owned(),
            count: isolations.len(),
            isolations: isolations
                .iter()
                .take(LISTED)
                .map(|held| ListedIsolation {
                    isolation: held.key.to_string(),
                    target: target(held),
                    reason: held.isolation.spec.reason.clone(),
                })
                .collect(),
        }
    }
}

fn target(held: &HeldIsolation) -> String {
    let target = &held.isolation.spec.target;
    if let Some(device) = &target.device {
        return format!("device/{device}");
    }
    if let Some(user) = &target.user {
        return format!("user/{user}");
    }
    if let Some(node) = &target.node {
        return format!("node/{node}");
    }
    let pod = target
        .workload
        .as_ref()
        .and_then(|workload| workload.pod.as_deref());
    format!("workload/{}", pod.unwrap_or("by podSelector"))
}
