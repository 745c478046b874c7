//! How a resource chooses devices and workloads. An empty selector is refused, never guessed.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
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
    #[schemars(schema_with = "tags_schema")]
    pub tags: BTreeMap<String, String>,
    #[serde(default)]
    #[schemars(length(max = 4))]
    #[x_kube(validation = ("self.all(x, self.exists_one(y, x == y))", "a trust level is named twice"))]
    pub trust_levels: Vec<TrustLevel>,
}

/// Pods of the resource's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSelector {
    #[schemars(schema_with = "pod_selector_schema")]
    pub pod_selector: LabelSelector,
}

/// What a label's value and a tag's value look like.
const LABEL_VALUE: &str = "^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";

/// Tags: as many as a person keeps in mind, written as labels are.
pub(super) fn tags_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "default": {},
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE},
        "x-kubernetes-validations": [{
            "rule": "self.all(k, size(k) <= 63 && k.matches('^[a-z0-9]([-a-z0-9_.]*[a-z0-9])?$'))",
            "message": "the name of a tag has at most 63 lower-case letters, digits, '-', '_' and '.', and begins and ends with a letter or digit, such as kind",
        }],
    })
}

/// The schema of a pod selector. The one that comes with the type has no bounds, and takes any operator.
pub(super) fn pod_selector_schema(_: &mut SchemaGenerator) -> Schema {
    let value = json_schema!({"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"});
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "type": "object",
                "maxProperties": 16,
                "additionalProperties": value,
                "x-kubernetes-validations": [{
                    "rule": "self.all(k, size(k) <= 317 && k.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$'))",
                    "message": "matchLabels has a key that no label can have: write it as on the pods, such as app.kubernetes.io/name",
                }],
            },
            "matchExpressions": {
                "type": "array",
                "maxItems": 16,
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "type": "string",
                            "maxLength": 317,
                            "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
                        },
                        "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                        "values": {"type": "array", "maxItems": 64, "items": value},
                    },
                    "x-kubernetes-validations": [{
                        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
                        "message": "the operators In and NotIn need values, Exists and DoesNotExist take none",
                    }],
                },
            },
        },
        "x-kubernetes-validations": [{
            "rule": "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",
            "message": "an empty podSelector is refused: give matchLabels or matchExpressions",
        }],
    })
}
