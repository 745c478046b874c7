//! Which statuses differ from what is stored: the join of what was compiled, what was acknowledged and
//! what is there. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;
use serde_json::{Value, json};

use super::conditions::{Finding, list};
use super::{differs, isolation, policy, scope};
use crate::api::conditions::{ACCEPTED, READY, STALLED};
use crate::domain::applied::Applied;
use crate::domain::names::ObjectKey;
use crate::domain::verdict::Reason;
use crate::reconcile::tracked::Beside;
use crate::reconcile::view::View;
use crate::watch::{Kind, Malformed};

/// One status that should be stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub uid: String,
    /// The version of the object that the status was made from.
    pub resource_version: String,
    pub status: Value,
    /// More than a number differs from what is stored.
    pub urgent: bool,
}

pub type Address = (Kind, ObjectKey);

/// Every status that differs from what is stored. `used` is the day of each scope's last call.
pub fn wanted(
    view: &View,
    applied: &Applied,
    used: &BTreeMap<ObjectKey, String>,
    now: Timestamp,
) -> BTreeMap<Address, Wanted> {
    let mut wanted = BTreeMap::new();
    let verdicts = &view.compiled.verdicts;
    for (key, verdict) in &verdicts.isolations {
        let Some(beside) = beside(&view.isolations, key, &verdict.uid) else {
            continue;
        };
        let new = isolation(key, verdict, applied, beside.status.as_ref(), now);
        add(&mut wanted, Kind::Isolation, key, beside, &new);
    }
    for (key, verdict) in &verdicts.policies {
        let Some(beside) = beside(&view.policies, key, &verdict.uid) else {
            continue;
        };
        let new = policy(key, verdict, applied, beside.status.as_ref(), now);
        add(&mut wanted, Kind::Policy, key, beside, &new);
    }
    for (key, verdict) in &verdicts.scopes {
        let Some(beside) = beside(&view.scopes, key, &verdict.uid) else {
            continue;
        };
        let tools = view.tools.get(key).cloned().unwrap_or_default();
        let used = used.get(key).cloned();
        let new = scope(
            key,
            verdict,
            applied,
            tools,
            used,
            beside.status.as_ref(),
            now,
        );
        add(&mut wanted, Kind::ApiKeyScope, key, beside, &new);
    }
    for (kind, object) in view.malformed.iter() {
        add_malformed(&mut wanted, *kind, object, now);
    }
    wanted
}

/// What is stored under the name, if it is still the object that was compiled.
fn beside<'a, Status>(
    objects: &'a BTreeMap<ObjectKey, Beside<Status>>,
    key: &ObjectKey,
    uid: &str,
) -> Option<&'a Beside<Status>> {
    objects.get(key).filter(|beside| beside.uid == uid)
}

fn add<Status: Serialize>(
    wanted: &mut BTreeMap<Address, Wanted>,
    kind: Kind,
    key: &ObjectKey,
    beside: &Beside<Status>,
    new: &Status,
) {
    let old = beside.status.as_ref();
    if !differs(old, new) {
        return;
    }
    let new = serde_json::to_value(new).unwrap_or_default();
    let old = serde_json::to_value(old).unwrap_or_default();
    let wanted_status = Wanted {
        uid: beside.uid.clone(),
        resource_version: beside.resource_version.clone(),
        urgent: says_more(&old, &new),
        status: new,
    };
    wanted.insert((kind, key.clone()), wanted_status);
}

/// Whether anything but numbers and words in messages differs.
fn says_more(old: &Value, new: &Value) -> bool {
    const SLOW: [&str; 7] = [
        "accounts",
        "coverage",
        "peers",
        "workloads",
        "connectionsCut",
        "lastUsedOn",
        "conditions",
    ];
    // By type: the stored list may be in another order.
    let conditions = |status: &Value| -> BTreeMap<String, [Value; 3]> {
        let all = status["conditions"].as_array().cloned().unwrap_or_default();
        let says = |field: &Value| {
            ["status", "reason", "observedGeneration"].map(|name| field[name].clone())
        };
        all.iter()
            .map(|condition| (condition["type"].to_string(), says(condition)))
            .collect()
    };
    let (old_conditions, new_conditions) = (conditions(old), conditions(new));
    let mut ours = new_conditions.iter();
    let conditions_differ = ours.any(|(type_, says)| old_conditions.get(type_) != Some(says));
    let rest = |status: &Value| {
        let mut rest = status.as_object().cloned().unwrap_or_default();
        for name in SLOW {
            rest.remove(name);
        }
        rest
    };
    conditions_differ || rest(old) != rest(new)
}

/// An object that can't be read says so itself; what was known of it stays in force.
fn add_malformed(
    wanted: &mut BTreeMap<Address, Wanted>,
    kind: Kind,
    object: &Malformed,
    now: Timestamp,
) {
    let address = (kind, object.key.clone());
    let old = object.status.clone().unwrap_or_default();
    let before: Vec<Condition> =
        serde_json::from_value(old["conditions"].clone()).unwrap_or_default();
    let why = Finding::no(Reason::Malformed.as_str(), &object.why);
    let findings = [
        (READY, why.clone()),
        (ACCEPTED, why),
        (
            STALLED,
            Finding::yes(Reason::Malformed.as_str(), &object.why),
        ),
    ];
    let mut new = old.as_object().cloned().unwrap_or_default();
    let conditions = list(findings, object.generation, &before, now);
    new.insert("observedGeneration".to_owned(), object.generation.into());
    new.insert("conditions".to_owned(), json!(conditions));
    let new = Value::Object(new);
    if !differs(Some(&old), &new) {
        wanted.remove(&address);
        return;
    }
    let wanted_status = Wanted {
        uid: object.uid.clone(),
        resource_version: object.resource_version.clone(),
        urgent: true,
        status: new,
    };
    wanted.insert(address, wanted_status);
}
