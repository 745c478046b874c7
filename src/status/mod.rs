//! A verdict and what was acknowledged, to the status that people read. Pure: the same facts give the same
//! status, so a quiet minute writes nothing. Only `task` and `writer`, the one writer of statuses, have
//! a client and a clock.

mod chronicle;
mod conditions;
#[cfg(test)]
mod golden;
mod isolation;
mod policy;
mod scope;
mod stages;
mod task;
pub mod user;
mod wanted;
pub mod wards;
mod workload;
mod writer;

pub use isolation::isolation;
pub use policy::policy;
pub use scope::scope;
pub use task::StatusTask;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::domain::applied::{Applied, DeviceApplied};
use crate::domain::enforcement::{Source, SourceKind};
use crate::domain::names::{DeviceId, ObjectKey};

/// Whether two statuses say different things. The order of conditions and their times don't count, nor do
/// conditions of others, which only the stored one has.
pub fn differs<S: Serialize>(old: Option<&S>, new: &S) -> bool {
    old.is_none_or(|old| {
        let new = meaning(new);
        let mut old = meaning(old);
        let ours: Vec<String> = new.conditions.keys().cloned().collect();
        old.conditions.retain(|type_, _| ours.contains(type_));
        (old.rest, old.conditions) != (new.rest, new.conditions)
    })
}

/// A status taken apart: its conditions by type, without their times, and the rest.
struct Meaning {
    conditions: BTreeMap<String, Value>,
    rest: Value,
}

fn meaning<S: Serialize>(status: &S) -> Meaning {
    let mut rest = serde_json::to_value(status).unwrap_or_default();
    let conditions = rest.get_mut("conditions").map(Value::take);
    let conditions = match conditions {
        Some(Value::Array(conditions)) => conditions,
        _ => Vec::new(),
    };
    let conditions = conditions.into_iter().map(|mut condition| {
        if let Some(fields) = condition.as_object_mut() {
            fields.remove("lastTransitionTime");
        }
        (condition["type"].to_string(), condition)
    });
    let conditions = conditions.collect();
    if let Some(fields) = rest.as_object_mut() {
        fields.remove("conditions");
    }
    Meaning { conditions, rest }
}

/// How enforcement points stand to one resource; each list in the order of ids.
#[derive(Debug, Default)]
struct Points<'a> {
    all: Vec<&'a DeviceId>,
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
            points.all.push(id);
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

    /// Without it, whether connected or not.
    fn missing(&self) -> impl Iterator<Item = &'a DeviceId> {
        let all = self.all.iter().copied();
        all.filter(|id| self.programmed.binary_search(id).is_err())
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

    use super::*;
    use crate::api::conditions::PROGRAMMED;
    use crate::api::{IsolationStatus, Phase, PolicyStatus};
    use crate::domain::verdict::{IsolationVerdict, PolicyVerdict};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    fn key() -> ObjectKey {
        ObjectKey::new("plant", "one")
    }

    fn id(n: u128) -> DeviceId {
        DeviceId::from_ulid(ulid::Ulid::from_parts(0, n))
    }

    fn verdict() -> PolicyVerdict {
        PolicyVerdict {
            uid: "u".into(),
            generation: 3,
            devices: [id(1)].into(),
            ..PolicyVerdict::default()
        }
    }

    /// What the device has read back: the resource at this generation.
    fn applied(kind: SourceKind, generation: i64, connected: bool) -> Applied {
        let device = DeviceApplied {
            connected,
            sources: Arc::new([source(kind, &key(), "u", generation)].into()),
            at: Some(at(5)),
            ..DeviceApplied::default()
        };
        Applied {
            devices: [(id(1), device)].into(),
            ..Applied::default()
        }
    }

    fn programmed(status: &PolicyStatus) -> &Condition {
        let mut conditions = status.conditions.iter();
        let found = conditions.find(|condition| condition.type_ == PROGRAMMED);
        found.expect("the condition")
    }

    #[test]
    fn the_time_of_a_condition_moves_only_when_its_status_does() {
        let has = |generation| applied(SourceKind::Policy, generation, true);
        let first = policy(&key(), &verdict(), &has(2), None, at(10));
        assert_eq!(programmed(&first).status, "False");
        let same = policy(&key(), &verdict(), &has(1), Some(&first), at(20));
        assert_eq!(programmed(&same).last_transition_time.0, at(10));
        let done = policy(&key(), &verdict(), &has(3), Some(&same), at(30));
        assert_eq!(programmed(&done).status, "True");
        assert_eq!(programmed(&done).last_transition_time.0, at(30));
        assert_eq!(programmed(&done).observed_generation, Some(3));
    }

    #[test]
    fn the_order_and_times_of_conditions_and_those_of_others_are_no_difference() {
        let has = applied(SourceKind::Policy, 3, true);
        let new = policy(&key(), &verdict(), &has, None, at(10));
        let mut stored = policy(&key(), &verdict(), &has, None, at(99));
        stored.conditions.reverse();
        stored.conditions.push(Condition {
            type_: "example.org/Reviewed".into(),
            ..stored.conditions[0].clone()
        });
        assert!(!differs(Some(&stored), &new));
        assert!(differs(None, &new));
    }

    #[test]
    fn a_word_or_a_number_that_changed_is_a_difference() {
        let has = applied(SourceKind::Policy, 3, true);
        let new = policy(&key(), &verdict(), &has, None, at(10));
        let mut words = new.clone();
        words.conditions[2].message.push('!');
        let mut numbers = new.clone();
        numbers.coverage.as_mut().expect("coverage").offline = 7;
        let mut missing = new.clone();
        missing.conditions.pop();
        for stored in [words, numbers, missing] {
            assert!(differs(Some(&stored), &new));
        }
    }

    #[test]
    fn when_it_was_isolated_and_how_much_was_cut_outlive_the_operators_memory() {
        let verdict = IsolationVerdict {
            uid: "u".into(),
            generation: 1,
            device: Some(id(1)),
            ..IsolationVerdict::default()
        };
        let mut has = applied(SourceKind::Isolation, 1, true);
        let cut = &mut has
            .devices
            .get_mut(&id(1))
            .expect("the device")
            .connections_cut;
        cut.insert("u".into(), 4);
        let first: IsolationStatus = isolation(&key(), &verdict, &has, None, at(10));
        assert_eq!(
            (first.phase, first.isolated_at),
            (Phase::Isolated, Some(at(5)))
        );
        let forgotten = Applied::default();
        let later = isolation(&key(), &verdict, &forgotten, Some(&first), at(20));
        assert_eq!(
            (later.isolated_at, later.connections_cut),
            (Some(at(5)), Some(4))
        );
    }
}
