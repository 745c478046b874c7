//! A verdict and what was acknowledged, to the status that people read. Pure: the same facts give the same
//! status, so a quiet minute writes nothing. Only `task` and `writer`, the one writer of statuses, have
//! a client and a clock.

mod chronicle;
mod conditions;
mod isolation;
mod policy;
mod scope;
mod task;
mod wanted;
mod writer;

pub use isolation::isolation;
pub use policy::policy;
pub use scope::scope;
pub use task::StatusTask;

use serde::Serialize;
use serde_json::Value;

use crate::domain::applied::{Applied, DeviceApplied};
use crate::domain::enforcement::{Source, SourceKind};
use crate::domain::names::{DeviceId, ObjectKey};

/// Whether two statuses say different things: the order of conditions and their times don't count.
pub fn differs<S: Serialize>(old: Option<&S>, new: &S) -> bool {
    old.is_none_or(|old| meaning(old) != meaning(new))
}

fn meaning<S: Serialize>(status: &S) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Some(conditions) = value.get_mut("conditions").and_then(Value::as_array_mut) {
        for condition in conditions.iter_mut() {
            if let Some(fields) = condition.as_object_mut() {
                fields.remove("lastTransitionTime");
            }
        }
        conditions.sort_by_key(|condition| condition["type"].to_string());
    }
    value
}

/// How enforcement points stand to one resource.
#[derive(Debug, Default)]
struct Points<'a> {
    /// Have read it back.
    programmed: Vec<&'a DeviceId>,
    /// Are connected and have not.
    waiting: Vec<&'a DeviceId>,
    /// Are not connected; those of them that had read it back before are in `programmed` as well.
    offline: Vec<&'a DeviceId>,
    /// Refused what they were sent, with their words.
    refused: Vec<String>,
}

impl<'a> Points<'a> {
    fn of(
        devices: impl IntoIterator<Item = &'a DeviceId>,
        applied: &Applied,
        source: &Source,
    ) -> Self {
        let unknown = DeviceApplied::default();
        let mut points = Self::default();
        for id in devices {
            let device = applied.devices.get(id).unwrap_or(&unknown);
            let programmed = device.sources.contains(source);
            if programmed {
                points.programmed.push(id);
            } else if device.connected {
                points.waiting.push(id);
                let refused = device.refused.as_ref();
                points
                    .refused
                    .extend(refused.map(|why| format!("{id} refused it: {why}")));
            }
            if !device.connected {
                points.offline.push(id);
            }
        }
        points
    }
}

fn source(kind: SourceKind, key: &ObjectKey, uid: &str, generation: i64) -> Source {
    Source {
        kind,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        uid: uid.to_owned(),
        generation,
    }
}

fn count<T>(items: &[T]) -> i32 {
    i32::try_from(items.len()).unwrap_or(i32::MAX)
}
