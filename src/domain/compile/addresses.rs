//! Whose address is whose. What a device's interfaces hold is a claim; of several claims in one tenant the
//! oldest counts, so that a device can't have another's traffic dropped by taking its address. Which
//! addresses stand for a device decides what its peers drop and what rules about devices mean.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;

use super::protected::protected_address;
use super::question::Question;
use crate::domain::names::DeviceId;
use crate::domain::words::a_few;
use crate::domain::world::{Device, World};

/// By tenant and address, who claims it and since when.
type Claims<'w> = BTreeMap<(&'w str, IpAddr), BTreeSet<(Timestamp, &'w DeviceId)>>;

pub struct Addresses<'w> {
    world: &'w World,
    claims: Claims<'w>,
    used: BTreeMap<&'w DeviceId, BTreeSet<IpAddr>>,
    notes: BTreeMap<&'w DeviceId, Vec<String>>,
}

impl<'w> Addresses<'w> {
    pub fn of(world: &'w World) -> Self {
        Self::in_question(world, Question::Everybody)
    }

    pub(super) fn in_question(world: &'w World, question: Question<'_>) -> Self {
        let mut this = Self {
            world,
            claims: Claims::new(),
            used: BTreeMap::new(),
            notes: BTreeMap::new(),
        };
        for (id, device) in question.devices(world) {
            this.claim(id, device);
        }
        for ((_, address), claims) in &this.claims {
            let mut claims = claims.iter().map(|(_, id)| *id);
            let Some(owner) = claims.next() else { continue };
            this.used.entry(owner).or_default().insert(*address);
            let others: Vec<&DeviceId> = claims.collect();
            for other in &others {
                let note =
                    format!("AddressReassigned: {address} is not used, {owner} claimed it first");
                this.notes.entry(other).or_default().push(note);
            }
            if !others.is_empty() {
                let note = format!(
                    "{address} is claimed by {} as well, and not dropped there",
                    a_few(others)
                );
                this.notes.entry(owner).or_default().push(note);
            }
        }
        this
    }

    /// Takes note of what the device claims. An address of the operator, or one that is protected, counts
    /// only if the device connects from it: else claiming it would keep the device from being isolated.
    fn claim(&mut self, id: &'w DeviceId, device: &'w Device) {
        for (address, since) in &device.addresses {
            let address = address.to_canonical();
            if !is_usable(address) {
                continue;
            }
            if let Some(what) = protected_address(&self.world.settings, address)
                && !connects_from(device, address)
            {
                let note = format!(
                    "{address} is not used: it belongs to {what}, and the device's connection to the operator does not come from it"
                );
                self.notes.entry(id).or_default().push(note);
                continue;
            }
            let claims = self.claims.entry((&device.tenant, address)).or_default();
            claims.insert((*since, id));
        }
    }

    /// The addresses that stand for the device.
    pub fn of_device(&self, id: &DeviceId) -> BTreeSet<IpAddr> {
        self.used.get(id).cloned().unwrap_or_default()
    }

    /// Whether a claim of the device is shown to be true: its connection to the operator comes from there.
    pub fn is_shown(&self, id: &DeviceId, address: IpAddr) -> bool {
        let device = self.world.devices.get(id);
        device.is_some_and(|device| connects_from(device, address))
    }

    /// The addresses that `peer` may drop when `target` is isolated: none that it claims itself, and none
    /// that a device of its own tenant holds.
    pub fn dropped_by(&self, peer: &DeviceId, target: &DeviceId) -> BTreeSet<IpAddr> {
        let tenant = &self.world.devices[peer].tenant;
        let mut addresses = self.of_device(target);
        addresses.retain(|address| {
            let claims = self.claims.get(&(tenant.as_str(), *address));
            claims.is_none_or(|claims| {
                let owner = claims.first().map(|(_, id)| *id);
                owner == Some(target) && claims.iter().all(|(_, id)| *id != peer)
            })
        });
        addresses
    }

    /// Claims to the device's addresses, and of the device, that do not count, in words. `everywhere` for
    /// an isolation that the devices of all tenants keep.
    pub fn notes(&self, id: &DeviceId, everywhere: bool) -> Vec<String> {
        let mut notes = self.notes.get(id).cloned().unwrap_or_default();
        let used = self.of_device(id);
        if everywhere {
            let own = &self.world.devices[id].tenant;
            let elsewhere = self
                .claims
                .iter()
                .filter(|((tenant, address), _)| tenant != own && used.contains(address));
            for ((tenant, address), claims) in elsewhere {
                let holders = a_few(claims.iter().map(|(_, id)| *id).take(1));
                notes.push(format!(
                    "{address} is not dropped by the devices of {tenant}: there it is {holders}"
                ));
            }
        }
        let left_out = self.world.devices[id].addresses_left_out;
        if left_out > 0 {
            notes.push(format!(
                "the device holds {left_out} more addresses, which are not known and not dropped"
            ));
        }
        if used.is_empty() {
            notes.push("no address stands for the device: its peers have nothing to drop".into());
        }
        notes
    }

    /// What the device holds that no isolation may cut, in words.
    pub fn protected(&self, id: &DeviceId) -> Option<String> {
        let held = self.used.get(id)?;
        held.iter().find_map(|address| {
            let what = protected_address(&self.world.settings, *address)?;
            Some(format!("{address} belongs to {what}"))
        })
    }
}

/// An address that one host can have on a network.
fn is_usable(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || broadcast)
}

fn connects_from(device: &Device, address: IpAddr) -> bool {
    let from = device.connects_from.map(|from| from.to_canonical());
    from == Some(address)
}
