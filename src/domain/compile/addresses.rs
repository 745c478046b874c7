//! Whose address is whose. What a device's interfaces hold is a claim; of several claims in one tenant the
//! oldest counts, so that a device can't have another's traffic dropped by taking its address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use crate::domain::names::DeviceId;
use crate::domain::world::World;

#[derive(Debug, Default)]
pub struct Addresses {
    used: BTreeMap<DeviceId, BTreeSet<IpAddr>>,
    notes: BTreeMap<DeviceId, Vec<String>>,
}

impl Addresses {
    pub fn of(world: &World) -> Self {
        let mut owners: BTreeMap<(&str, IpAddr), (Timestamp, &DeviceId)> = BTreeMap::new();
        for (id, device) in &world.devices {
            for (address, since) in &device.addresses {
                let claim = (*since, id);
                owners
                    .entry((&device.tenant, *address))
                    .and_modify(|owner| *owner = claim.min(*owner))
                    .or_insert(claim);
            }
        }
        let mut this = Self::default();
        for (id, device) in &world.devices {
            let used = this.used.entry(id.clone()).or_default();
            let notes = this.notes.entry(id.clone()).or_default();
            for address in device.addresses.keys() {
                let owner = owners[&(device.tenant.as_str(), *address)].1;
                if !is_usable(*address) {
                    continue;
                }
                if owner == id {
                    used.insert(*address);
                } else {
                    notes.push(format!(
                        "AddressReassigned: {address} is not used, {owner} claimed it first"
                    ));
                }
            }
        }
        this
    }

    /// The addresses that stand for the device.
    pub fn of_device(&self, id: &DeviceId) -> BTreeSet<IpAddr> {
        self.used.get(id).cloned().unwrap_or_default()
    }

    /// Claims of the device that do not count, in words.
    pub fn notes(&self, id: &DeviceId) -> Vec<String> {
        self.notes.get(id).cloned().unwrap_or_default()
    }
}

/// An address that one host can have on a network.
fn is_usable(address: IpAddr) -> bool {
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
}
