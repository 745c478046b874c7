//! `Policy`: who may talk to what.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::network::PortRange;
use super::selectors::{DeviceSelector, WorkloadSelector};

/// Rules for the traffic of the subjects, in the Policy's own namespace.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "seawall.dev",
    version = "v1alpha1",
    kind = "Policy",
    plural = "policies",
    namespaced,
    shortname = "swp",
    category = "seawall",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "Says who may talk to what, for devices and workloads of its namespace.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.coverage.summary"
    ),
    printcolumn(
        name = "Disabled",
        type_ = "boolean",
        json_path = ".spec.disabled",
        priority = 1
    ),
    printcolumn(
        name = "Expires",
        type_ = "string",
        json_path = ".spec.expiresAt",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("size(self.rules) > 0 || has(self.default)", "a policy with neither rules nor default does nothing: give at least one of them")
)]
pub struct PolicySpec {
    /// What the policy is for, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    #[x_kube(validation = (r"!self.matches(r'[\x00-\x08\x0b-\x1f\x7f]')", "description must be plain text: no control characters but tab and newline"))]
    pub description: String,
    /// `Observe` reports what would have happened and changes nothing.
    #[serde(default)]
    pub mode: Mode,
    /// A disabled policy is kept and does nothing.
    #[serde(default)]
    pub disabled: bool,
    /// A lower number is evaluated first.
    #[serde(default = "default_priority")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: i32,
    /// Whose traffic this is about.
    pub subjects: Subjects,
    /// The first rule that matches decides, over all policies of the tier, by priority.
    #[serde(default)]
    #[schemars(length(max = 100))]
    #[x_kube(validation = ("self.all(r, self.exists_one(o, o.name == r.name))", "rule names must differ within a policy: reports name the rule that decided"))]
    pub rules: Vec<PolicyRule>,
    /// What happens to traffic that no rule of any policy matches; absent directions are left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Defaults>,
    /// When the policy stops by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

fn default_priority() -> i32 {
    100
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Mode {
    #[default]
    Enforce,
    Observe,
}

/// `devices`, `workloads` and `all` choose where, as a union; `users` and `applications` narrow it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("has(self.devices) || has(self.workloads) || has(self.users) || has(self.applications) || self.all", "empty subjects are refused: name devices, workloads, users or applications, or write all: true for every device of this namespace"),
    validation = ("!self.all || !has(self.devices)", "all: true already means every device: leave devices out")
)]
pub struct Subjects {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<DeviceSelector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadSelector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<UserSelector>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = ("size(self) > 0", "an empty list of applications is refused: leave applications out for every application"))]
    pub applications: Vec<Application>,
    /// Every device of the tenant.
    #[serde(default)]
    pub all: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("size(self.ids) + size(self.groups) > 0", "an empty user selector is refused: give ids or groups")
)]
pub struct UserSelector {
    #[serde(default)]
    #[schemars(
        length(max = 256),
        inner(length(max = 253), regex(pattern = r"^\S(.*\S)?$"))
    )]
    pub ids: Vec<String>,
    #[serde(default)]
    #[schemars(
        length(max = 256),
        inner(length(max = 253), regex(pattern = r"^\S(.*\S)?$"))
    )]
    pub groups: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("has(self.executable) != has(self.unit)", "name either executable or unit")
)]
pub struct Application {
    /// Absolute path of the executable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    #[x_kube(validation = ("self.startsWith('/') && size(self) > 1 && !self.endsWith('/')", "executable is an absolute path, such as /usr/bin/ssh"))]
    pub executable: Option<String>,
    /// Name of the systemd unit, with its suffix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    #[x_kube(validation = (r"self.matches(r'^[^/\s]+\.(service|scope|slice)$')", "unit is the name of a systemd unit with its suffix, such as nginx.service"))]
    pub unit: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyRule {
    /// Names the rule in reports; unique within the policy.
    #[schemars(length(max = 63))]
    #[x_kube(validation = ("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')", "a rule's name is lower-case letters, digits and '-', such as to-recorder"))]
    pub name: String,
    /// Of the connection, as the subject sees it: `Egress` is opened by the subject, `Ingress` to it.
    pub direction: Direction,
    pub action: Action,
    /// The other side. The kinds in it are a union.
    pub peers: Peers,
    /// The remote ports of Egress, the local ports of Ingress; absent means every port and protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = ("size(self) > 0", "an empty list of ports is refused: leave ports out for every port"))]
    pub ports: Vec<PortRange>,
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema,
)]
pub enum Direction {
    Egress,
    Ingress,
}

/// `Audit` reports and goes on to the next rule.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema,
)]
pub enum Action {
    Allow,
    Deny,
    Audit,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("size(self.cidrs) > 0 || size(self.domains) > 0 || has(self.devices) || has(self.workloads) || size(self.countries) > 0 || size(self.feeds) > 0 || self.any", "empty peers are refused: name who is on the other side, or write any: true"),
    validation = ("!self.any || (size(self.cidrs) == 0 && size(self.domains) == 0 && !has(self.devices) && !has(self.workloads) && size(self.countries) == 0 && size(self.feeds) == 0)", "any: true already means everybody: leave the other peers out")
)]
pub struct Peers {
    /// Networks, IPv4 or IPv6.
    #[serde(default)]
    #[schemars(length(max = 1000), inner(length(max = 43)))]
    #[x_kube(validation = ("self.all(c, isCIDR(c) && cidr(c) == cidr(c).masked())", "cidrs must be networks such as 10.0.9.0/24 or 2001:db8::/64, with no host bits set; a single address is written 10.0.9.7/32; IPv4 is written as IPv4, not as ::ffff:10.0.9.0/120"))]
    pub cidrs: Vec<String>,
    #[serde(default)]
    #[schemars(
        length(max = 256),
        inner(
            length(max = 253),
            regex(
                pattern = r"^(\*\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)+[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"
            )
        )
    )]
    pub domains: Vec<String>,
    /// Other devices, by the addresses they hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<DeviceSelector>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workloads: Option<WorkloadSelector>,
    /// ISO 3166-1 alpha-2 codes.
    #[serde(default)]
    #[schemars(
        length(max = 250),
        inner(length(max = 2), regex(pattern = r"^[A-Z]{2}$"))
    )]
    pub countries: Vec<String>,
    /// Names of feeds that the operator loads.
    #[serde(default)]
    #[schemars(
        length(max = 16),
        inner(length(max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))
    )]
    pub feeds: Vec<String>,
    /// Everybody.
    #[serde(default)]
    pub any: bool,
}

/// What a direction does with what no rule matched.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema,
)]
pub enum DefaultAction {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("has(self.egress) || has(self.ingress)", "an empty default is refused: give egress or ingress, or leave default out")
)]
pub struct Defaults {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<DefaultAction>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<DefaultAction>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "super::conditions::schema")]
    pub conditions: Vec<Condition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
}

/// How many enforcement points have the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Coverage {
    /// Enforcement points that the subjects choose.
    pub matched: i32,
    /// Of these, how many have read the rules back at this generation.
    pub programmed: i32,
    /// Of these, how many are not connected now.
    pub offline: i32,
    /// Of these, how many can't enforce it.
    pub not_enforceable: i32,
    /// `programmed/matched`, for `kubectl get`.
    pub summary: String,
    /// The longest that one of its pods ran before the agent of its node had read the rules back, in seconds,
    /// of pods that came after this generation; absent while none was seen to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_gap_seconds: Option<i32>,
}
