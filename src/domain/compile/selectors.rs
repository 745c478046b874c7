//! Which devices a selector means. A resource speaks for its own namespace; one of the system namespace for
//! every tenant.

use std::collections::BTreeSet;

use super::Draft;
use crate::api::DeviceSelector;
use crate::domain::names::DeviceId;
use crate::domain::world::Device;

impl Draft<'_> {
    /// Devices that a resource of the namespace may speak for.
    pub(super) fn devices_of(&self, namespace: &str) -> impl Iterator<Item = (&DeviceId, &Device)> {
        let everybody = self.is_system(namespace);
        self.world
            .devices
            .iter()
            .filter(move |(_, device)| everybody || device.tenant == namespace)
    }

    pub(super) fn all_devices(&self, namespace: &str) -> BTreeSet<DeviceId> {
        let devices = self.devices_of(namespace);
        devices.map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn select(&self, namespace: &str, selector: &DeviceSelector) -> BTreeSet<DeviceId> {
        let chosen = self
            .devices_of(namespace)
            .filter(|(id, device)| matches(selector, id, device));
        chosen.map(|(id, _)| id.clone()).collect()
    }
}

/// Ids are added to what tags and trust levels choose together.
fn matches(selector: &DeviceSelector, id: &DeviceId, device: &Device) -> bool {
    if selector.ids.iter().any(|named| named == id.as_str()) {
        return true;
    }
    if selector.tags.is_empty() && selector.trust_levels.is_empty() {
        return false;
    }
    let trusted = selector.trust_levels.is_empty() || selector.trust_levels.contains(&device.trust);
    let tagged = selector
        .tags
        .iter()
        .all(|(key, value)| device.tags.get(key) == Some(value));
    trusted && tagged
}
