//! What the ledger found, as entries of the audit log.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tracing::info;

use super::finding::{Cause, Finding, Happened, NotSeen, Unexplained};
use super::records::{ObjectId, Wants};
use crate::audit::entry::{
    Actor, ActorKind, Body, ChangeNotSeen, Entry, Gap, ObjectRef, ResourceChange,
};

/// Objects that one gap names; an entry has 60,000 bytes.
const NAMED: usize = 100;

/// An entry on its way to the audit log, and what it tells.
pub struct Telling {
    pub entry: Entry,
    pub findings: Vec<Finding>,
}

/// One entry for each request that happened or did not; one gap for each namespace, cause, span, and whether
/// things were written or deleted, in pieces that fit.
pub fn tellings(found: Vec<Finding>) -> Vec<Telling> {
    let mut tellings = Vec::new();
    let mut groups: BTreeMap<_, Vec<Unexplained>> = BTreeMap::new();
    for finding in found {
        let entry = match &finding {
            Finding::Unexplained(change) => {
                let namespace = change.object.key.namespace.clone();
                let place = (namespace, change.cause, change.deleted, change.from);
                groups.entry(place).or_default().push(change.clone());
                continue;
            }
            Finding::Happened(happened) => changed(happened),
            Finding::NotSeen(request) => not_seen(request),
        };
        tellings.push(Telling {
            entry,
            findings: vec![finding],
        });
    }
    for ((namespace, cause, deleted, from), changes) in groups {
        let why = why(cause, deleted);
        info!(
            namespace,
            changes = changes.len(),
            why,
            "nobody was recorded"
        );
        for changes in changes.chunks(NAMED) {
            let to = changes.iter().map(|change| change.to).max();
            let objects = changes.iter().map(object).collect();
            tellings.push(Telling {
                entry: gap(&namespace, from, to.unwrap_or(from), why, objects),
                findings: changes.iter().cloned().map(Finding::Unexplained).collect(),
            });
        }
    }
    tellings
}

fn changed(happened: &Happened) -> Entry {
    let asked = &happened.requests;
    let mut users: Vec<&str> = asked.iter().map(|request| &*request.user).collect();
    users.sort_unstable();
    users.dedup();
    let users = users.join(", ");
    let actor = match &asked[..] {
        [first, rest @ ..] if rest.iter().all(|other| other.actor == first.actor) => {
            first.actor.clone()
        }
        _ => Actor::new(ActorKind::Unknown, &format!("one of {users}")),
    };
    let body = Body::ResourceChange(ResourceChange {
        user: users,
        verb: asked.first().map_or_else(String::new, |it| it.verb.clone()),
        object: reference(&happened.object, happened.generation),
        requests: asked.iter().map(|request| request.id.clone()).collect(),
    });
    let mut entry = Entry::new(&happened.object.key.namespace, actor, body);
    entry.time = happened.at;
    entry
}

fn not_seen(found: &NotSeen) -> Entry {
    let request = &found.request;
    let generation = match request.wants {
        Wants::Written { generation, .. } => Some(generation),
        Wants::Deleted { .. } => None,
    };
    let body = Body::ChangeNotSeen(ChangeNotSeen {
        user: request.user.clone(),
        verb: request.verb.clone(),
        object: reference(&found.object, generation),
        request: request.id.clone(),
        why: found.why.to_owned(),
    });
    let tenant = &found.object.key.namespace;
    Entry::new(tenant, request.actor.clone(), body)
}

pub fn gap(
    tenant: &str,
    from: Timestamp,
    to: Timestamp,
    why: &str,
    objects: Vec<ObjectRef>,
) -> Entry {
    let gap = Gap {
        from,
        to,
        why: why.to_owned(),
        objects,
    };
    let nobody = Actor::new(ActorKind::Unknown, "unknown");
    Entry::new(tenant, nobody, Body::Gap(gap))
}

fn object(change: &Unexplained) -> ObjectRef {
    // None: it is gone.
    let generation = (!change.deleted).then_some(change.generation);
    reference(&change.object, generation)
}

fn reference(object: &ObjectId, generation: Option<i64>) -> ObjectRef {
    ObjectRef {
        kind: object.kind.as_str().to_owned(),
        namespace: object.key.namespace.clone(),
        name: object.key.name.clone(),
        uid: Some(object.uid.clone()),
        generation,
    }
}

fn why(cause: Cause, deleted: bool) -> &'static str {
    match (cause, deleted) {
        (Cause::BeforeTheRecord, _) => "written before the record began",
        (Cause::Away, false) => "written while no operator was running",
        (Cause::Away, true) => "deleted while no operator was running",
        (Cause::NotTold, false) => "written, and the webhook was not told by whom",
        (Cause::NotTold, true) => "deleted, and the webhook was not told by whom",
    }
}
