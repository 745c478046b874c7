//! What an entry of the audit log says: an envelope that all kinds share, and a body for each.
//!
//! Pure. An entry becomes one line of JSON with sorted keys, so that the same entry always gives
//! the same bytes. Where text stands in a name's place (actor, tool, host) it is stripped of
//! control characters and cut; parameters are kept in full.

mod body;
mod canonical;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use body::*;
pub use canonical::{canonical_json, keyed_hash};

use super::text::{NAME, clean};

/// The longest entry, in bytes. A bundle could hold 65,535.
pub const MAX_BYTES: usize = 60_000;

/// One entry. Its place in the log is not in it: that comes with appending.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// `aud_` and a lower-case ULID.
    pub id: String,
    pub time: Timestamp,
    /// The tenant, which is a namespace; the system namespace for what concerns all.
    pub tenant: String,
    pub actor: Actor,
    /// The program that the actor used, as it told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Client>,
    #[serde(flatten)]
    pub body: Body,
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    pub kind: ActorKind,
    /// An agent's `namespace/name`, a person's user name, a device's id.
    pub name: String,
    /// The way in, such as `mcp`, `kubectl`, `fleet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// The user that the API server knows, where the name is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActorKind {
    Agent,
    Person,
    Gitops,
    Operator,
    Device,
    /// Another ServiceAccount, or a part of Kubernetes itself.
    Component,
    Unknown,
}

impl ActorKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Person => "person",
            Self::Gitops => "gitops",
            Self::Operator => "operator",
            Self::Device => "device",
            Self::Component => "component",
            Self::Unknown => "unknown",
        }
    }
}

impl Actor {
    pub fn new(kind: ActorKind, name: &str) -> Self {
        Self {
            kind,
            name: clean(name, NAME),
            via: None,
            user: None,
        }
    }

    /// The operator itself.
    pub fn operator() -> Self {
        Self::new(ActorKind::Operator, "seawall")
    }

    pub fn via(mut self, via: &str) -> Self {
        self.via = Some(clean(via, NAME));
        self
    }

    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(clean(user, NAME));
        self
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Client {
    pub fn new(name: &str, version: Option<&str>) -> Self {
        Self {
            name: clean(name, NAME),
            version: version.map(|version| clean(version, NAME)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error(
        "it has {bytes} bytes, more than the {MAX_BYTES} that an entry of the audit log may have: \
         send shorter parameters, or do it in several steps"
    )]
    TooLong { bytes: usize },
    #[error("it can't be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Entry {
    /// An entry with a fresh id, of this moment.
    pub fn new(tenant: &str, actor: Actor, body: Body) -> Self {
        Self {
            id: format!("aud_{}", ulid::Ulid::generate().to_string().to_lowercase()),
            time: Timestamp::now(),
            tenant: clean(tenant, NAME),
            actor,
            client: None,
            body,
        }
    }

    pub fn with_client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// The bytes that are logged. Only the spec of a request is left out for its length,
    /// with its hash in its place; any other entry that is too long is refused.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let bytes = canonical_json(&serde_json::to_value(self)?);
        if bytes.len() <= MAX_BYTES {
            return Ok(bytes);
        }
        if let Some(shorter) = self.with_spec_hashed() {
            return shorter.encode();
        }
        Err(EncodeError::TooLong { bytes: bytes.len() })
    }

    fn with_spec_hashed(&self) -> Option<Self> {
        let Body::ChangeRequest(request) = &self.body else {
            return None;
        };
        let Some(SpecBody::Spec(spec)) = &request.spec else {
            return None;
        };
        let bytes = canonical_json(spec);
        let mut shorter = self.clone();
        shorter.body = Body::ChangeRequest(ChangeRequest {
            spec: Some(SpecBody::Hash {
                sha256: hex::encode(Sha256::digest(&bytes)),
                bytes: bytes.len(),
            }),
            ..request.clone()
        });
        Some(shorter)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
