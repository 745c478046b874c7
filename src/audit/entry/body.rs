//! The kinds of entries and what each says.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The kind and its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "data", rename_all = "snake_case")]
pub enum Body {
    /// Somebody is about to act. The action begins only when this is durable.
    Intent(Intent),
    /// What became of an intent.
    Outcome(Outcome),
    /// An action that was refused.
    Refusal(Refusal),
    /// Something was read.
    Read(Read),
    /// Somebody asked for a write or a deletion, as the webhook was told. It may still be refused.
    ChangeRequest(ChangeRequest),
    /// A resource was written or deleted as somebody had asked, as the watch saw it.
    ResourceChange(ResourceChange),
    /// What somebody asked for was not seen to happen.
    ChangeNotSeen(ChangeNotSeen),
    /// Changes whose author nobody recorded.
    Gap(Gap),
    /// What an enforcement point has in force changed.
    Enforcement(Enforcement),
    /// A device enrolled, was tampered with, …
    Device(Device),
    /// Releases are held for a person, or a person decided.
    Hold(Hold),
    /// The operator itself.
    Service(Service),
}

/// The kind of an entry, by which it is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Intent,
    Outcome,
    Refusal,
    Read,
    ChangeRequest,
    ResourceChange,
    ChangeNotSeen,
    Gap,
    Enforcement,
    Device,
    Hold,
    Service,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Outcome => "outcome",
            Self::Refusal => "refusal",
            Self::Read => "read",
            Self::ChangeRequest => "change_request",
            Self::ResourceChange => "resource_change",
            Self::ChangeNotSeen => "change_not_seen",
            Self::Gap => "gap",
            Self::Enforcement => "enforcement",
            Self::Device => "device",
            Self::Hold => "hold",
            Self::Service => "service",
        }
    }
}

/// A resource, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    pub kind: String,
    pub namespace: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    pub tool: String,
    /// As they were given, in full.
    pub parameters: Value,
    pub reason: String,
    pub dry_run: bool,
    /// What it is about: a device's id, a network, a resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Tells two calls of one agent apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The id of the intent's entry.
    pub intent: String,
    pub tool: String,
    pub result: ActionResult,
    pub dry_run: bool,
    /// What was written or deleted.
    pub objects: Vec<ObjectRef>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    pub milliseconds: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionResult {
    Done,
    /// The API server refused it.
    Refused,
    Failed,
}

impl ActionResult {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    pub tool: String,
    pub parameters: Value,
    pub by: RefusedBy,
    /// Such as `outside_targets`.
    pub code: String,
    pub why: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedBy {
    Us,
    ApiServer,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Read {
    pub tool: String,
    /// See [`super::keyed_hash`].
    pub arguments_hash: String,
    pub result: ActionResult,
    pub milliseconds: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeRequest {
    pub user: String,
    pub groups: Vec<String>,
    /// `create`, `update`, `delete`.
    pub verb: String,
    /// With the generation that it would have.
    pub object: ObjectRef,
    /// It leaves the spec as it is: labels, annotations, finalizers. Nothing is watched of these.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub metadata_only: bool,
    /// The new spec; for a delete there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<SpecBody>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceChange {
    /// Who asked; where several asked for the same at once, all of them.
    pub user: String,
    /// `create`, `update`, `delete`.
    pub verb: String,
    pub object: ObjectRef,
    /// The ids of the entries of the requests that it can come from; more than one is rare.
    pub requests: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeNotSeen {
    pub user: String,
    /// `create`, `update`, `delete`.
    pub verb: String,
    pub object: ObjectRef,
    /// The id of the request's entry.
    pub request: String,
    pub why: String,
}

/// A spec, or the hash of its canonical JSON where it is too long for an entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SpecBody {
    Spec(Value),
    Hash { sha256: String, bytes: usize },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    pub from: Timestamp,
    pub to: Timestamp,
    /// Why nobody recorded, such as `webhook was away`.
    pub why: String,
    /// What is known to have changed meanwhile.
    pub objects: Vec<ObjectRef>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enforcement {
    /// Such as `isolated`, `suspended`, `peers_complete`, `released`, `expired`.
    pub action: String,
    /// The device, or another enforcement point.
    pub device: String,
    /// The resources behind it.
    pub objects: Vec<ObjectRef>,
    /// From the change to the read-back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Such as `enrolled`, `tampered`, `repaired`, `refused_bundle`.
    pub event: String,
    pub device: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    pub hold: String,
    /// Such as `opened`, `confirmed`.
    pub event: String,
    /// What stays in force until a person confirms.
    pub objects: Vec<ObjectRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Such as `start`, `stop`, `leader`.
    pub event: String,
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Value>,
}

impl Body {
    /// The kind as it is written.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Intent(_) => Kind::Intent,
            Self::Outcome(_) => Kind::Outcome,
            Self::Refusal(_) => Kind::Refusal,
            Self::Read(_) => Kind::Read,
            Self::ChangeRequest(_) => Kind::ChangeRequest,
            Self::ResourceChange(_) => Kind::ResourceChange,
            Self::ChangeNotSeen(_) => Kind::ChangeNotSeen,
            Self::Gap(_) => Kind::Gap,
            Self::Enforcement(_) => Kind::Enforcement,
            Self::Device(_) => Kind::Device,
            Self::Hold(_) => Kind::Hold,
            Self::Service(_) => Kind::Service,
        }
    }

    pub fn tool(&self) -> Option<&str> {
        match self {
            Self::Intent(Intent { tool, .. })
            | Self::Outcome(Outcome { tool, .. })
            | Self::Refusal(Refusal { tool, .. })
            | Self::Read(Read { tool, .. }) => Some(tool),
            _ => None,
        }
    }

    /// What it is about, if that is one thing.
    pub fn target(&self) -> Option<String> {
        match self {
            Self::Intent(Intent { target, .. })
            | Self::Outcome(Outcome { target, .. })
            | Self::Refusal(Refusal { target, .. }) => target.clone(),
            Self::ChangeRequest(ChangeRequest { object, .. })
            | Self::ResourceChange(ResourceChange { object, .. })
            | Self::ChangeNotSeen(ChangeNotSeen { object, .. }) => Some(object.to_string()),
            Self::Enforcement(Enforcement { device, .. }) | Self::Device(Device { device, .. }) => {
                Some(device.clone())
            }
            Self::Hold(hold) => Some(hold.hold.clone()),
            Self::Read(_) | Self::Gap(_) | Self::Service(_) => None,
        }
    }

    /// `done`, `refused`, `failed`, where there is one.
    pub fn result(&self) -> Option<&'static str> {
        match self {
            Self::Outcome(Outcome { result, .. }) | Self::Read(Read { result, .. }) => {
                Some(result.as_str())
            }
            Self::Refusal(_) => Some(ActionResult::Refused.as_str()),
            _ => None,
        }
    }
}
