//! From an object's JSON to what the core needs of it.

use jiff::Timestamp;
use serde::de::DeserializeOwned;

use super::Raw;
use crate::api::stamps;
use crate::domain::world::Resource;

/// One of our resources, with what the status writer needs beside what the World does.
#[derive(Clone, Debug, PartialEq)]
pub struct Watched<Spec, Status> {
    pub resource: Resource<Spec>,
    /// As it is stored, if it can be read: what is unreadable is written anew.
    pub status: Option<Status>,
    pub resource_version: String,
    /// The API server's clock when the object was made.
    pub created: Option<Timestamp>,
    /// When the process saw this state of it.
    pub seen: Timestamp,
    /// Annotations with a meaning: why and by which intent an agent wrote it.
    pub reason: Option<String>,
    pub intent: Option<String>,
}

/// Reads one of our resources.
pub fn narrow<Spec, Status>(mut raw: Raw) -> Result<Watched<Spec, Status>, String>
where
    Spec: DeserializeOwned,
    Status: DeserializeOwned,
{
    let spec = raw
        .data
        .get_mut("spec")
        .map(serde_json::Value::take)
        .ok_or("it has no spec")?;
    let spec = serde_json::from_value(spec).map_err(|error| {
        format!("its spec is not what this version understands ({error}): correct it or delete it")
    })?;
    let status = raw
        .data
        .get_mut("status")
        .map(serde_json::Value::take)
        .and_then(|status| serde_json::from_value(status).ok());
    let annotation = |name: &str| {
        raw.metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(name).cloned())
    };
    Ok(Watched {
        resource: Resource {
            uid: raw.metadata.uid.clone().ok_or("it has no uid")?,
            generation: raw.metadata.generation.unwrap_or_default(),
            written_by: annotation(stamps::WRITTEN_BY),
            created: raw.metadata.creation_timestamp.as_ref().map(|time| time.0),
            spec,
        },
        status,
        resource_version: raw.metadata.resource_version.clone().unwrap_or_default(),
        created: raw.metadata.creation_timestamp.as_ref().map(|time| time.0),
        seen: Timestamp::now(),
        reason: annotation(stamps::REASON),
        intent: annotation(stamps::INTENT),
    })
}
