//! What would become of a resource that nobody has written yet: compile with it, and write nothing.

use jiff::Timestamp;

use super::{pods, users};
use crate::api::{IsolationSpec, PolicySpec};
use crate::domain::applied::Applied;
use crate::domain::compile::compile;
use crate::domain::names::ObjectKey;
use crate::domain::verdict::Acceptance;
use crate::domain::world::{Resource, World};
use crate::local::types::{Preview, Previewed, Unwritten};

pub fn with(world: World, applied: &Applied, tenant: &str, preview: Preview) -> Previewed {
    let Preview {
        written_by,
        name,
        resource,
    } = preview;
    let key = ObjectKey::new(tenant, name);
    match resource {
        Unwritten::Isolation(spec) => isolation(world, applied, key, unwritten(spec, written_by)),
        Unwritten::Policy(spec) => policy(world, key, unwritten(spec, written_by)),
    }
}

fn isolation(
    mut world: World,
    applied: &Applied,
    key: ObjectKey,
    unwritten: Resource<IsolationSpec>,
) -> Previewed {
    world.isolations.insert(key.clone(), unwritten);
    let verdict = compile(&world, Timestamp::now())
        .verdicts
        .isolations
        .remove(&key);
    let verdict = verdict.unwrap_or_default();
    let wards = verdict.workloads.as_ref().map_or(0, |it| it.wards.len());
    let accounts = verdict.user.as_ref().map_or(0, |it| it.devices.len());
    let targets = usize::from(verdict.device.is_some()) + wards + accounts;
    Previewed {
        devices: verdict.peers.len() + targets,
        pods: pods::would_stand(&verdict, applied),
        user: users::would_stand(&verdict, applied),
        ..previewed(&verdict.acceptance, verdict.not_enforceable.as_deref())
    }
}

fn policy(mut world: World, key: ObjectKey, unwritten: Resource<PolicySpec>) -> Previewed {
    world.policies.insert(key.clone(), unwritten);
    let verdict = compile(&world, Timestamp::now())
        .verdicts
        .policies
        .remove(&key);
    let verdict = verdict.unwrap_or_default();
    let obstacle = verdict.not_enforceable.first().map(String::as_str);
    Previewed {
        devices: verdict.devices.len() + verdict.workloads.wards.len(),
        ..previewed(&verdict.acceptance, obstacle)
    }
}

fn unwritten<Spec>(spec: Spec, written_by: String) -> Resource<Spec> {
    Resource {
        uid: "preview".to_owned(),
        generation: 1,
        written_by: Some(written_by),
        created: None,
        spec,
    }
}

fn previewed(acceptance: &Acceptance, obstacle: Option<&str>) -> Previewed {
    let (accepted, reason, message) = match acceptance {
        Acceptance::Accepted => (true, String::new(), obstacle.unwrap_or_default().to_owned()),
        Acceptance::Waiting { reason, message } | Acceptance::Refused { reason, message } => {
            (false, reason.as_str().to_owned(), message.clone())
        }
    };
    Previewed {
        accepted,
        reason,
        message,
        devices: 0,
        pods: None,
        user: None,
    }
}
