//! Which devices a selector means. A resource speaks for its own namespace; one of the system namespace for
//! every tenant.

use std::collections::{BTreeMap, BTreeSet};

use super::Draft;
use super::question::Question;
use crate::api::{DeviceSelector, TrustLevel};
use crate::domain::names::DeviceId;
use crate::domain::world::{Device, World};

/// What a list of ids and tags comes to.
#[derive(Debug, Default)]
pub struct Chosen {
    pub devices: BTreeSet<DeviceId>,
    /// Ids that no enrolled device has.
    pub unknown: BTreeSet<String>,
    /// Ids of devices that the resource must not speak for.
    pub foreign: BTreeSet<DeviceId>,
}

/// The devices of each tenant: a resource looks through its own alone, so that many tenants cost no more
/// than their sum.
pub struct Tenants<'w> {
    devices: BTreeMap<&'w str, Vec<(&'w DeviceId, &'w Device)>>,
}

impl<'w> Tenants<'w> {
    pub fn of(world: &'w World, question: Question<'_>) -> Self {
        let mut devices: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, device) in question.devices(world) {
            devices
                .entry(&*device.tenant)
                .or_default()
                .push((id, device));
        }
        Self { devices }
    }

    fn devices_of(&self, tenant: &str) -> impl Iterator<Item = (&'w DeviceId, &'w Device)> {
        self.devices.get(tenant).into_iter().flatten().copied()
    }
}

/// Whose devices a resource may speak for.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    namespace: &'a str,
    every_tenant: bool,
}

impl<'a> Reach<'a> {
    /// The devices of the namespace and no other.
    pub fn tenant(namespace: &'a str) -> Self {
        Self {
            namespace,
            every_tenant: false,
        }
    }

    pub(super) fn is_every_tenant(self) -> bool {
        self.every_tenant
    }

    pub(super) fn covers(self, device: &Device) -> bool {
        self.every_tenant || device.tenant == self.namespace
    }
}

impl<'w> Draft<'w> {
    pub(super) fn is_system(&self, namespace: &str) -> bool {
        namespace == self.world.settings.system_namespace
    }

    /// The reach of a resource of the namespace. An agent's scope is for the devices of its own namespace,
    /// so what an agent writes reaches no others, in the system namespace either.
    pub(super) fn reach<'a>(&self, namespace: &'a str, written_by: Option<&str>) -> Reach<'a> {
        Reach {
            namespace,
            every_tenant: written_by.is_none() && self.is_system(namespace),
        }
    }

    /// Those within reach for which it holds.
    fn devices_where(
        &self,
        reach: Reach<'_>,
        matches: impl Fn(&'w Device) -> bool,
    ) -> BTreeSet<DeviceId> {
        let within_reach: Box<dyn Iterator<Item = (&'w DeviceId, &'w Device)>> =
            match reach.every_tenant {
                true => Box::new(self.world.devices.iter()),
                false => Box::new(self.tenants.devices_of(reach.namespace)),
            };
        within_reach
            .filter(|(_, device)| matches(device))
            .map(|(id, _)| id.clone())
            .collect()
    }

    pub(super) fn all_devices(&self, reach: Reach<'_>) -> BTreeSet<DeviceId> {
        self.devices_where(reach, |_| true)
    }

    /// What `all: true` means. The nodes of the cluster are chosen by id or tag only: a default of Deny for
    /// all devices must not cut the cluster itself.
    pub(super) fn all_but_nodes(&self, reach: Reach<'_>) -> BTreeSet<DeviceId> {
        self.devices_where(reach, |device| device.node.is_none())
    }

    pub(super) fn select(&self, reach: Reach<'_>, selector: &DeviceSelector) -> Chosen {
        let DeviceSelector {
            ids,
            tags,
            trust_levels,
        } = selector;
        let mut chosen = self.named(reach, ids);
        let tagged = self.tagged(reach, tags, trust_levels);
        chosen.devices.extend(tagged);
        chosen
    }

    pub(super) fn named(&self, reach: Reach<'_>, ids: &[String]) -> Chosen {
        let mut chosen = Chosen::default();
        for text in ids {
            let id = text.parse::<DeviceId>().ok();
            match id.and_then(|id| self.world.devices.get_key_value(&id)) {
                None => {
                    chosen.unknown.insert(text.clone());
                }
                Some((id, device)) if reach.covers(device) => {
                    chosen.devices.insert(id.clone());
                }
                Some((id, _)) => {
                    chosen.foreign.insert(id.clone());
                }
            }
        }
        chosen
    }

    /// Devices that carry every tag and are trusted as far as one of the levels says. Neither of the two
    /// chooses nobody.
    pub(super) fn tagged(
        &self,
        reach: Reach<'_>,
        tags: &BTreeMap<String, String>,
        trust_levels: &[TrustLevel],
    ) -> BTreeSet<DeviceId> {
        if tags.is_empty() && trust_levels.is_empty() {
            return BTreeSet::new();
        }
        self.devices_where(reach, |device| {
            let trusted = trust_levels.is_empty() || trust_levels.contains(&device.trust);
            let mut tags = tags.iter();
            let tagged = tags.all(|(tag, value)| device.tags.get(tag) == Some(value));
            trusted && tagged
        })
    }
}
