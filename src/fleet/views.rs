//! What others read of the fleet: the facts that `compile` needs, what is applied, and what people see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::member::Member;
use super::{Delivery, Fleet};
use crate::domain::applied::DeviceApplied;
use crate::domain::enforcement::SourceKind;
use crate::domain::names::DeviceId;
use crate::domain::world::Device;
use crate::local::types::{DeviceView, RuleCount};

impl Fleet {
    /// The device table as `compile` reads it.
    pub fn devices(&self) -> BTreeMap<DeviceId, Device> {
        let roster = self.roster();
        let members = roster.members.iter();
        members
            .map(|(id, member)| {
                let record = &member.record;
                let device = Device {
                    tenant: record.tenant.clone(),
                    tags: record.tags.clone(),
                    trust: record.trust,
                    addresses: record.standing.addresses.clone(),
                    addresses_left_out: record.standing.facts.addresses_left_out,
                    connects_from: record.standing.connects_from,
                    node: record.node.clone(),
                };
                (id.clone(), device)
            })
            .collect()
    }

    /// What each device acknowledged.
    pub fn applied(&self) -> BTreeMap<DeviceId, DeviceApplied> {
        let roster = self.roster();
        let members = roster.members.iter();
        members
            .map(|(id, member)| (id.clone(), member.applied()))
            .collect()
    }

    /// What one device acknowledged.
    pub fn applied_of(&self, device: &DeviceId) -> Option<DeviceApplied> {
        self.roster().members.get(device).map(Member::applied)
    }

    /// How an Isolation of this generation came into force on the device, if that was lately and in this
    /// leadership.
    pub fn delivery(&self, device: &DeviceId, uid: &str, generation: i64) -> Option<Arc<Delivery>> {
        let roster = self.roster();
        let member = roster.members.get(device)?;
        member.deliveries.of(uid, generation)
    }

    /// The devices of a tenant, or of all. `isolated_by` is left for those who know the Isolations: a
    /// peer's state names them too.
    pub fn view(&self, tenant: Option<&str>) -> Vec<DeviceView> {
        let roster = self.roster();
        let members = roster.members.values();
        members
            .filter(|member| tenant.is_none_or(|tenant| member.record.tenant == tenant))
            .map(view)
            .collect()
    }

    /// One device, whatever its tenant.
    pub fn view_of(&self, device: &DeviceId) -> Option<DeviceView> {
        self.roster().members.get(device).map(view)
    }

    /// What the rules of a device counted, as of its last heartbeat.
    pub fn counts(&self, device: &DeviceId) -> Vec<RuleCount> {
        let roster = self.roster();
        let member = roster.members.get(device);
        member
            .map(|member| member.counts.clone())
            .unwrap_or_default()
    }
}

fn view(member: &Member) -> DeviceView {
    let record = &member.record;
    let standing = &record.standing;
    let facts = &standing.facts;
    DeviceView {
        id: record.id.clone(),
        tenant: record.tenant.clone(),
        tags: record.tags.clone(),
        node: record.node.clone(),
        trust: record.trust,
        connected: member.is_connected(),
        up_to_date: member.is_up_to_date(),
        addresses: standing.addresses.keys().map(ToString::to_string).collect(),
        addresses_left_out: facts.addresses_left_out,
        connects_from: standing.connects_from.map(|from| from.to_string()),
        host_name: facts.host_name.clone(),
        os: facts.os.clone(),
        kernel: facts.kernel.clone(),
        agent_version: facts.agent_version.clone(),
        enrolled_at: record.enrolled_at,
        last_seen: standing.last_seen,
        isolated_by: Vec::new(),
        held: Vec::new(),
        policies: policies(member),
    }
}

fn policies(member: &Member) -> Vec<String> {
    let Some(desired) = &member.desired else {
        return Vec::new();
    };
    let sources = desired.state.sources.iter();
    let policies: BTreeSet<String> = sources
        .filter(|source| source.kind == SourceKind::Policy)
        .map(|source| source.name.clone())
        .collect();
    policies.into_iter().collect()
}
