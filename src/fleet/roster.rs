//! The device table in memory, and the leadership in which it is served.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use jiff::Timestamp;
use tonic::Status;

use super::member::{Member, Session};
use super::records::{DeviceRecord, Fingerprint};
use crate::domain::names::DeviceId;

#[derive(Default)]
pub struct Roster {
    /// Enrolled and not revoked.
    pub members: BTreeMap<DeviceId, Member>,
    fingerprints: HashMap<Fingerprint, DeviceId>,
    revoked: HashMap<Fingerprint, DeviceId>,
    /// By name; a node stays out until somebody readmits it.
    revoked_nodes: HashMap<String, DeviceRecord>,
    leading: Option<Leading>,
}

struct Leading {
    epoch: u64,
    revision: u64,
}

/// Whose certificate it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Identity {
    Device(DeviceId),
    Revoked(DeviceId),
    Unknown,
}

/// What is known of a node's device.
#[derive(Debug, PartialEq, Eq)]
pub enum KnownNode {
    Member(DeviceId),
    Revoked,
}

impl Roster {
    pub fn new(records: Vec<DeviceRecord>) -> Self {
        let mut roster = Self::default();
        for record in records {
            roster.insert(record);
        }
        roster
    }

    pub fn insert(&mut self, record: DeviceRecord) {
        if record.revoked_at.is_some() {
            self.revoked.insert(record.fingerprint, record.id.clone());
            if let Some(node) = record.node.clone() {
                self.revoked_nodes.insert(node, record);
            }
            return;
        }
        self.fingerprints
            .insert(record.fingerprint, record.id.clone());
        self.members.insert(record.id.clone(), Member::new(record));
    }

    /// Bundles are of this epoch from here on; those made before are not sent again.
    pub fn lead(&mut self, epoch: u64) {
        self.leading = Some(Leading { epoch, revision: 0 });
        for member in self.members.values_mut() {
            member.signed = None;
        }
    }

    pub fn stop_leading(&mut self) {
        self.leading = None;
    }

    /// The epoch of the present leadership.
    pub fn epoch(&self) -> Option<u64> {
        self.leading.as_ref().map(|leading| leading.epoch)
    }

    /// The next point of the order of bundles.
    pub fn next_revision(&mut self) -> Option<(u64, u64)> {
        let leading = self.leading.as_mut()?;
        leading.revision += 1;
        Some((leading.epoch, leading.revision))
    }

    pub fn identify(&self, fingerprint: &Fingerprint) -> Identity {
        if let Some(device) = self.fingerprints.get(fingerprint) {
            return Identity::Device(device.clone());
        }
        match self.revoked.get(fingerprint) {
            Some(device) => Identity::Revoked(device.clone()),
            None => Identity::Unknown,
        }
    }

    /// Takes the device out of the fleet and ends its stream.
    pub fn revoke(&mut self, device: &DeviceId, why: Status) -> Option<Member> {
        let member = self.members.remove(device)?;
        let fingerprint = member.record.fingerprint;
        self.fingerprints.remove(&fingerprint);
        self.revoked.insert(fingerprint, device.clone());
        if let Some(node) = member.record.node.clone() {
            self.revoked_nodes.insert(node, member.record.clone());
        }
        if let Some(session) = &member.session {
            session.outbox.close(why);
        }
        Some(member)
    }

    /// The device of the node, if there ever was one.
    pub fn node(&self, name: &str) -> Option<KnownNode> {
        if self.revoked_nodes.contains_key(name) {
            return Some(KnownNode::Revoked);
        }
        let mut members = self.members.values();
        let member = members.find(|member| member.record.node.as_deref() == Some(name))?;
        Some(KnownNode::Member(member.record.id.clone()))
    }

    pub fn revoked_node(&self, name: &str) -> Option<DeviceRecord> {
        self.revoked_nodes.get(name).cloned()
    }

    /// The device shows another certificate from here on.
    pub fn renew(
        &mut self,
        device: &DeviceId,
        fingerprint: Fingerprint,
        at: Timestamp,
        why: Status,
    ) {
        let Some(member) = self.members.get_mut(device) else {
            return;
        };
        self.fingerprints.remove(&member.record.fingerprint);
        self.fingerprints.insert(fingerprint, device.clone());
        member.record.fingerprint = fingerprint;
        member.record.enrolled_at = at;
        if let Some(Session { outbox, .. }) = member.session.take() {
            outbox.close(why);
        }
    }

    /// The node's device is of the fleet again, and waits for it to enrol.
    pub fn readmit(&mut self, node: &str, fingerprint: Fingerprint) {
        if let Some(record) = self.revoked_nodes.remove(node) {
            self.revoked.remove(&record.fingerprint);
            self.insert(DeviceRecord {
                fingerprint,
                revoked_at: None,
                ..record
            });
        }
    }

    /// The member, if this is still its session.
    pub fn in_session(&mut self, device: &DeviceId, session: u64) -> Option<&mut Member> {
        let member = self.members.get_mut(device)?;
        let current = member.session.as_ref().map(|current| current.id);
        (current == Some(session)).then_some(member)
    }

    /// A device reports these addresses: others of its tenant that hold them no more give them up.
    /// Answers whether one did.
    pub fn reassign(&mut self, device: &DeviceId, addresses: &BTreeSet<IpAddr>) -> bool {
        let Some(tenant) = self.members.get(device).map(|m| m.record.tenant.clone()) else {
            return false;
        };
        let mut news = false;
        for (id, member) in &mut self.members {
            if id != device && member.record.tenant == tenant {
                news |= member.yield_claims(addresses);
            }
        }
        news
    }

    /// Ends every stream.
    pub fn close_all(&mut self, why: &Status) {
        for member in self.members.values_mut() {
            if let Some(Session { outbox, .. }) = member.session.take() {
                outbox.close(why.clone());
            }
        }
    }
}
