//! How a resource chooses devices and workloads. An empty selector is refused, never guessed.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far a device is trusted; `Standard` unless a person says otherwise.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Deserialize,
    Serialize,
    JsonSchema,
)]
pub enum TrustLevel {
    Untrusted,
    Restricted,
    #[default]
    Standard,
    Verified,
}

/// Devices by id, or by tags and trust level. Ids are added to what tags and trust levels choose; a
/// device matches tags when it carries all of them, and `trustLevels` narrows what tags chose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("size(self.ids) + size(self.tags) + size(self.trustLevels) > 0", "an empty device selector selects nothing and is refused: give ids, tags or trustLevels, or write all: true (subjects) or any: true (peers)")
)]
pub struct DeviceSelector {
    /// Device ids as `seawall fleet list` shows them.
    #[serde(default)]
    #[schemars(
        length(max = 1000),
        inner(length(max = 30), regex(pattern = r"^dev_[0-9a-z]{26}$"))
    )]
    pub ids: Vec<String>,
    /// Every tag must be on the device, with this value.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub tags: BTreeMap<String, String>,
    #[serde(default)]
    #[schemars(length(max = 4))]
    pub trust_levels: Vec<TrustLevel>,
}

/// Pods of the resource's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("(has(self.podSelector.matchLabels) && size(self.podSelector.matchLabels) > 0) || (has(self.podSelector.matchExpressions) && size(self.podSelector.matchExpressions) > 0)", "an empty podSelector is refused: give matchLabels or matchExpressions")
)]
pub struct WorkloadSelector {
    pub pod_selector: LabelSelector,
}
