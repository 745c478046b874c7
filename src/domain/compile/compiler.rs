//! What changed costs what it concerns: a tenant's facts are compiled again, and the rest stays as it was. The
//! answer is the same as that of [`compile`] for the whole.
//!
//! Resources of the system namespace reach every tenant, so where there are any, or one of its devices changed,
//! everything is compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::question::{Question, in_namespace};
use super::{Compiled, compile, compile_for};
use crate::api::DeviceSelector;
use crate::domain::enforcement::{DeviceState, Enforcement, SuspendedUsers};
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::verdict::Verdicts;
use crate::domain::world::{Settings, Stripping, World};

/// Knows what followed the last time.
#[derive(Debug, Default)]
pub struct Compiler {
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    settings: Settings,
    stripping: Stripping,
    at: Timestamp,
    compiled: Arc<Compiled>,
}

impl Compiler {
    /// As [`compile`], of a World that nobody else asks what was touched in it.
    pub fn compile(&mut self, world: &mut World, now: Timestamp) -> Arc<Compiled> {
        let touched = touched(world);
        let last = self.last.take();
        let known = last.as_ref().filter(|last| last.counts(world, now));
        let mut compiled = match (known, touched) {
            (Some(last), Some(tenants)) => {
                let part = compile_for(world, now, Question::Tenants(&tenants));
                merge(&last.compiled, part, &tenants, world)
            }
            _ => compile(world, now),
        };
        if let Some(last) = &last {
            keep_what_is_the_same(&mut compiled, &last.compiled);
        }
        let compiled = Arc::new(compiled);
        self.last = Some(Last {
            settings: world.settings.clone(),
            stripping: world.stripping.clone(),
            at: now,
            compiled: Arc::clone(&compiled),
        });
        compiled
    }
}

impl Last {
    /// Whether what was not touched since is as it was.
    fn counts(&self, world: &World, now: Timestamp) -> bool {
        let woken = self.compiled.wake_at.is_some_and(|at| at <= now);
        // A clock that was set back brings back what had expired.
        !woken
            && self.at <= now
            && self.settings == world.settings
            && self.stripping == world.stripping
    }
}

/// The tenants that are concerned by what was touched; none when that is everybody.
fn touched(world: &mut World) -> Option<BTreeSet<String>> {
    let World {
        settings,
        policies,
        isolations,
        scopes,
        devices,
        held,
        pods,
        namespaces,
        nodes,
        others_policies,
        replica_sets,
        stripping: _,
    } = world;
    let of_devices = devices.take_touched();
    let of_scopes = scopes.take_touched();
    let mut everything = of_devices.everything || of_scopes.everything;
    // A key that two scopes hold is nobody's, in whatever namespaces they are.
    everything |= !of_scopes.tenants.is_empty();
    everything |= namespaces.take_touched().everything | nodes.take_touched().everything;
    let mut tenants = of_devices.tenants;
    let held = held.take_touched();
    everything |= held.everything;
    tenants.extend(held.tenants);
    for touched in [
        policies.take_touched(),
        isolations.take_touched(),
        pods.take_touched(),
        others_policies.take_touched(),
        replica_sets.take_touched(),
    ] {
        everything |= touched.everything;
        tenants.extend(touched.tenants);
    }
    let system = settings.system_namespace.clone();
    if everything || reaches_everybody(world, &system) {
        return None;
    }
    tenants.extend(naming(world, &of_devices.came_or_went));
    // Its devices are the nodes, which enforce for every tenant's pods.
    (!tenants.contains(&system)).then_some(tenants)
}

fn reaches_everybody(world: &World, system: &str) -> bool {
    in_namespace(&world.policies, system).next().is_some()
        || in_namespace(&world.isolations, system).next().is_some()
        || world.held.values().any(|held| held.key.namespace == system)
}

/// The tenants whose resources name one of these devices, which may be another tenant's.
fn naming(world: &World, devices: &BTreeSet<DeviceId>) -> BTreeSet<String> {
    if devices.is_empty() {
        return BTreeSet::new();
    }
    let is_named = |ids: &[String]| {
        let mut ids = ids.iter().filter_map(|id| id.parse::<DeviceId>().ok());
        ids.any(|id| devices.contains(&id))
    };
    let selects = |selector: &Option<DeviceSelector>| {
        let ids = selector.as_ref().map(|selector| &selector.ids[..]);
        is_named(ids.unwrap_or_default())
    };
    let policies = world.policies.iter().filter(|(_, policy)| {
        let mut rules = policy.spec.rules.iter();
        selects(&policy.spec.subjects.devices) || rules.any(|rule| selects(&rule.peers.devices))
    });
    let held = world.held.values().map(|held| (&held.key, &held.isolation));
    let isolations = world.isolations.iter().chain(held);
    let isolations =
        isolations.filter(|(_, isolation)| is_named(isolation.spec.target.device.as_slice()));
    let scopes = world.scopes.iter().filter(|(_, scope)| {
        let targets = scope.spec.targets.as_ref();
        let devices = targets.and_then(|targets| targets.devices.as_ref());
        devices.is_some_and(|devices| is_named(&devices.ids))
    });
    let keys = policies.map(|(key, _)| key);
    let keys = keys.chain(isolations.map(|(key, _)| key));
    let keys = keys.chain(scopes.map(|(key, _)| key));
    keys.map(|key| key.namespace.clone()).collect()
}

/// What follows for everybody, of what did the last time and what does for these tenants now.
fn merge(last: &Compiled, part: Compiled, tenants: &BTreeSet<String>, world: &World) -> Compiled {
    let Compiled {
        enforcement,
        verdicts,
        wake_at,
    } = part;
    let Enforcement {
        devices,
        network_policies,
        access,
        suspended_users,
        stripped,
    } = enforcement;
    let before = &last.enforcement;
    let put_in = Put { tenants };
    Compiled {
        enforcement: Enforcement {
            devices: states(&before.devices, devices, tenants, world),
            network_policies: put_in.objects(&before.network_policies, network_policies),
            access: put_in.objects(&before.access, access),
            suspended_users: put_in.users(&before.suspended_users, suspended_users),
            stripped: put_in.objects(&before.stripped, stripped),
        },
        verdicts: Verdicts {
            policies: put_in.objects(&last.verdicts.policies, verdicts.policies),
            isolations: put_in.objects(&last.verdicts.isolations, verdicts.isolations),
            scopes: put_in.objects(&last.verdicts.scopes, verdicts.scopes),
        },
        // Of a time that was these tenants' and is no more, nothing comes but one look too many.
        wake_at: last.wake_at.into_iter().chain(wake_at).min(),
    }
}

/// Puts what is these tenants' into what is everybody's.
struct Put<'t> {
    tenants: &'t BTreeSet<String>,
}

impl Put<'_> {
    fn objects<T: Clone>(
        &self,
        last: &BTreeMap<ObjectKey, T>,
        part: BTreeMap<ObjectKey, T>,
    ) -> BTreeMap<ObjectKey, T> {
        let others = last
            .iter()
            .filter(|(key, _)| !self.tenants.contains(&key.namespace));
        let others = others.map(|(key, object)| (key.clone(), object.clone()));
        others.chain(part).collect()
    }

    fn users(&self, last: &SuspendedUsers, part: SuspendedUsers) -> SuspendedUsers {
        let others = last.in_namespace.iter();
        let others = others.filter(|(namespace, _)| !self.tenants.contains(*namespace));
        let others = others.map(|(namespace, users)| (namespace.clone(), users.clone()));
        SuspendedUsers {
            // By resources of the system namespace alone, of which there are none.
            everywhere: BTreeSet::new(),
            in_namespace: others.chain(part.in_namespace).collect(),
        }
    }
}

type States = BTreeMap<DeviceId, Arc<DeviceState>>;

fn states(last: &States, mut part: States, tenants: &BTreeSet<String>, world: &World) -> States {
    let states = world.devices.iter().filter_map(|(id, device)| {
        let now = part.remove(id);
        let state = match (last.get(id), now) {
            (Some(before), now) if device.node.is_some() => of_node(before, now, tenants),
            (_, now) if tenants.contains(&device.tenant) => now?,
            (before, _) => Arc::clone(before?),
        };
        Some((id.clone(), state))
    });
    states.collect()
}

/// Each group of wards is one namespace's: that of the resources that they are under.
fn of_node(
    before: &Arc<DeviceState>,
    now: Option<Arc<DeviceState>>,
    tenants: &BTreeSet<String>,
) -> Arc<DeviceState> {
    let concerned = |ward: &String| {
        let namespace = ward.split_once('/').map(|(namespace, _)| namespace);
        namespace.is_some_and(|namespace| tenants.contains(namespace))
    };
    let mut groups = before.wards.values();
    let was = groups.any(|group| group.members.keys().next().is_some_and(concerned));
    if !was && now.is_none() {
        return Arc::clone(before);
    }
    let mut state = DeviceState::clone(before);
    state
        .wards
        .retain(|_, group| !group.members.keys().next().is_some_and(concerned));
    if let Some(now) = now {
        state.wards.extend(Arc::unwrap_or_clone(now).wards);
    }
    Arc::new(state)
}

/// Who reads it sees then, without comparing, that nothing changed.
fn keep_what_is_the_same(compiled: &mut Compiled, last: &Compiled) {
    for (id, state) in &mut compiled.enforcement.devices {
        if let Some(before) = last.enforcement.devices.get(id)
            && before == state
        {
            *state = Arc::clone(before);
        }
    }
}

#[cfg(test)]
#[path = "compiler_tests.rs"]
mod tests;
