//! `ApiKeyScope`: what an agent's key may do. The agent's name is the resource's.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::selectors::{WorkloadSelector, tags_schema};

/// What the keys of one AI agent may do, in the scope's own namespace.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "seawall.dev",
    version = "v1alpha1",
    kind = "ApiKeyScope",
    plural = "apikeyscopes",
    namespaced,
    shortname = "swk",
    category = "seawall",
    status = "ApiKeyScopeStatus",
    derive = "PartialEq",
    doc = "Says what the API keys of one AI agent may do. The agent's name is the resource's.",
    validation = ("self.metadata.name.size() <= 63", "the scope's name is the agent's name and must be at most 63 characters"),
    printcolumn(name = "Access", type_ = "string", json_path = ".spec.access"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Disabled", type_ = "boolean", json_path = ".spec.disabled"),
    printcolumn(name = "Last-Used", type_ = "string", json_path = ".status.lastUsedOn"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("(self.access == 'Custom') == (size(self.tools) > 0)", "tools is the list of a Custom scope: give it with access: Custom, and leave it out otherwise")
)]
pub struct ApiKeyScopeSpec {
    pub access: Access,
    /// For `Custom`: the tools by name.
    #[serde(default)]
    #[schemars(
        length(max = 64),
        inner(length(max = 64), regex(pattern = r"^[a-z][a-z0-9_]{1,63}$"))
    )]
    #[x_kube(validation = ("self.all(x, self.exists_one(y, x == y))", "a tool is named twice"))]
    pub tools: Vec<String>,
    #[serde(default)]
    pub credentials: Credentials,
    /// What may be acted on; absent means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// A disabled scope refuses every key at once.
    #[serde(default)]
    pub disabled: bool,
    /// When the keys stop working.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What kind of tools the agent has.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema,
)]
pub enum Access {
    /// Reads.
    Investigate,
    /// Reads, tightens (isolate, Deny, Audit), and undoes what it wrote itself.
    Contain,
    /// Also writes policies that allow.
    Manage,
    /// The tools that `tools` names.
    Custom,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credentials {
    /// `sha256:` and the hex SHA-256 of each key. `seawall keys create` prints a key once, with its hash.
    #[serde(default)]
    #[schemars(length(max = 16), inner(length(max = 128)))]
    #[x_kube(
        validation = ("self.all(h, h.matches('^sha256:[0-9a-f]{64}$'))", "a hash is sha256: and 64 hexadecimal digits, as `seawall keys create` prints it beside the key; the key itself does not belong here"),
        validation = ("self.all(x, self.exists_one(y, x == y))", "a hash is given twice")
    )]
    pub key_hashes: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("has(self.devices) || has(self.workloads) || has(self.users)", "empty targets are refused: name devices, workloads or users, or leave targets out for a scope that acts on nothing")
)]
pub struct Targets {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<DeviceTargets>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadSelector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<UserTargets>,
}

/// Devices of the scope's namespace that the agent may act on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("self.all != (size(self.ids) + size(self.tags) > 0)", "give ids or tags, or all: true for every device of this namespace")
)]
pub struct DeviceTargets {
    #[serde(default)]
    #[schemars(
        length(max = 1000),
        inner(length(max = 30), regex(pattern = r"^dev_[0-9a-z]{26}$"))
    )]
    pub ids: Vec<String>,
    /// Every tag must be on the device, with this value.
    #[serde(default)]
    #[schemars(schema_with = "tags_schema")]
    pub tags: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    pub all: bool,
}

/// Users that the agent may suspend, in the scope's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("self.all != (size(self.ids) > 0)", "give ids, or all: true for every user")
)]
pub struct UserTargets {
    /// Names of users. Each name that the agent gives has to be one of these: the user's id, and the names on
    /// devices, in Kubernetes and of agents of Seawall.
    #[serde(default)]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 253)))]
    #[x_kube(
        validation = ("self.all(n, !n.startsWith('system:'))", "system: users are Kubernetes' own and cannot be suspended"),
        validation = ("self.all(n, n != 'root')", "root is no person and cannot be suspended: name the person")
    )]
    pub ids: Vec<String>,
    /// Every user, also other agents of the namespace by the names of their scopes.
    #[serde(default)]
    pub all: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Calls of any tool a minute; checked by the MCP server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000))]
    pub calls_per_minute: Option<i32>,
    /// Actions an hour; checked by the MCP server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000))]
    pub actions_per_hour: Option<i32>,
    /// Longest isolation, such as `24h` or `90m`; checked by the API server. An isolation without an end is refused then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    #[x_kube(validation = ("self.matches('^[1-9][0-9]{0,5}(s|m|h)$')", "write a duration such as 24h, 90m or 30s"))]
    pub max_isolation: Option<String>,
}

/// Tools whose calls wait for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Approval {
    #[schemars(
        length(min = 1, max = 64),
        inner(length(max = 64), regex(pattern = r"^[a-z][a-z0-9_]{1,63}$"))
    )]
    pub tools: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiKeyScopeStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::conditions::schema")]
    pub conditions: Vec<Condition>,
    /// The tools that the agent sees.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// The targets, resolved; the API server checks writes against this list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<ResolvedTargets>,
    /// The Kubernetes user that the agent acts as.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub agent: String,
    /// The day of the last call, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_on: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedTargets {
    #[schemars(length(max = 20000), inner(length(max = 30)))]
    pub devices: Vec<String>,
    /// Names of pods of the scope's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5000), inner(length(max = 253)))]
    pub pods: Vec<String>,
}
