//! Whether the kernels of nodes hold what should be in force for pods of a tenant. A node's agent reads back
//! all that it has; of that, a tenant is told about its own pods alone.

use std::collections::{BTreeMap, BTreeSet};

use super::pods::NO_ADDRESS;
use crate::domain::applied::{Applied, WardApplied};
use crate::domain::compile::{Compiled, NodeAgents};
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::world::World;
use crate::local::pods::PodReadBack;
use crate::local::types::{DeviceReadBack, Problem};

/// What should be found for each pod.
#[derive(Default)]
pub struct Wards(BTreeMap<ObjectKey, Wanted>);

enum Wanted {
    /// This, on the device that is its node; none for a pod that nothing chooses.
    On(DeviceId, Option<WardApplied>),
    /// No agent can say.
    Nowhere(String),
}

impl Wards {
    /// All pods of the tenant that something is in force for.
    pub fn of_tenant(compiled: &Compiled, tenant: &str) -> Self {
        let mut wards = BTreeMap::new();
        for (device, state) in &compiled.enforcement.devices {
            for (ward, wanted) in WardApplied::all(state) {
                if let Some((namespace, name)) = ward.split_once('/')
                    && namespace == tenant
                {
                    let pod = ObjectKey::new(namespace, name);
                    wards.insert(pod, Wanted::On(device.clone(), Some(wanted)));
                }
            }
        }
        Self(wards)
    }

    pub fn named(
        compiled: &Compiled,
        world: &World,
        tenant: &str,
        names: &[String],
    ) -> Result<Self, Problem> {
        let mut of_tenant = Self::of_tenant(compiled, tenant).0;
        let agents = NodeAgents::of(world);
        let mut wards = BTreeMap::new();
        for name in names {
            let key = ObjectKey::new(tenant, name);
            let wanted = match of_tenant.remove(&key) {
                Some(wanted) => wanted,
                None if wards.contains_key(&key) => continue,
                None => unchosen(world, &agents, &key)?,
            };
            wards.insert(key, wanted);
        }
        Ok(Self(wards))
    }

    /// Whom to ask.
    pub fn devices(&self) -> BTreeSet<DeviceId> {
        let wanted = self.0.values().filter_map(|wanted| match wanted {
            Wanted::On(device, _) => Some(device.clone()),
            Wanted::Nowhere(_) => None,
        });
        wanted.collect()
    }

    /// Ordered by name.
    pub fn judged(&self, answers: &[DeviceReadBack], applied: &Applied) -> Vec<PodReadBack> {
        let answers: BTreeMap<&DeviceId, &DeviceReadBack> =
            answers.iter().map(|it| (&it.device, it)).collect();
        let judged = self.0.iter().map(|(pod, wanted)| {
            let found = match wanted {
                Wanted::Nowhere(why) => Err(why.clone()),
                Wanted::On(device, wanted) => {
                    let has = applied.devices.get(device);
                    let has = has.and_then(|device| device.wards.get(&pod.to_string()));
                    read_back(answers.get(device).copied())
                        .and_then(|()| compared(wanted.as_ref(), has))
                }
            };
            PodReadBack {
                pod: pod.name.clone(),
                matches: found.is_ok(),
                detail: found.unwrap_or_else(|why| why),
            }
        });
        judged.collect()
    }
}

/// A pod that nothing in force chooses.
fn unchosen(world: &World, agents: &NodeAgents<'_>, key: &ObjectKey) -> Result<Wanted, Problem> {
    let Some(found) = world.pods.get_key_value(key) else {
        return Err(Problem::not_found(format!(
            "no pod {} runs in {}",
            key.name, key.namespace
        )));
    };
    let mut standing = agents.standing([found], None);
    if let Some(ward) = standing.wards.remove(key) {
        return Ok(Wanted::On(ward.device, None));
    }
    let why = standing.without_agent.remove(key);
    Ok(Wanted::Nowhere(
        why.unwrap_or_else(|| NO_ADDRESS.to_owned()),
    ))
}

/// Whether the kernel of the node holds what its agent applied. The agent's own words may be about the pods
/// of others.
fn read_back(answer: Option<&DeviceReadBack>) -> Result<(), String> {
    let Some(answer) = answer else {
        return Err("the agent of its node is not enrolled any more".to_owned());
    };
    match answer.kernel {
        Some(true) => Ok(()),
        Some(false) => {
            Err("its node's kernel does not hold what the agent there applied".to_owned())
        }
        // Not asked, or no answer: these words are the operator's.
        None => Err(format!(
            "the agent of its node did not say: {}",
            answer.detail
        )),
    }
}

fn compared(wanted: Option<&WardApplied>, has: Option<&WardApplied>) -> Result<String, String> {
    match (wanted, has) {
        (None, None) => Ok("nothing is to be in force for it, and nothing is".to_owned()),
        (None, Some(_)) => {
            Err("its node's agent still holds what is not wanted any more".to_owned())
        }
        (Some(wanted), Some(has)) if wanted == has => Ok(String::new()),
        (Some(_), _) => {
            Err("its node's agent holds an earlier state than the one that is wanted".to_owned())
        }
    }
}

#[cfg(test)]
#[path = "wards_read_back_tests.rs"]
mod tests;
