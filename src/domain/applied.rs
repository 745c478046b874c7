//! What enforcement points have acknowledged: the other half of every status.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::enforcement::{DeviceState, Source, SuspendedUsers};
use super::names::{DeviceId, ObjectKey};
use super::verdict::Ward;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    pub devices: BTreeMap<DeviceId, DeviceApplied>,
    /// NetworkPolicies that are stored in the API server as compiled.
    pub network_policies: BTreeSet<ObjectKey>,
    /// Scopes whose ServiceAccount and binding are as compiled.
    pub access: BTreeSet<ObjectKey>,
    /// What the API server holds of the users whose writes it is to refuse.
    pub suspended_users: SuspendedUsers,
    /// Why that is not what is compiled.
    pub suspended_users_obstacle: Option<Obstacle>,
    /// Why a NetworkPolicy is not stored, by its key.
    pub network_policy_obstacles: BTreeMap<ObjectKey, Obstacle>,
    /// Why a pod's labels are not taken away, or why it is not deleted.
    pub stripped_obstacles: BTreeMap<ObjectKey, Obstacle>,
    /// Why a scope's access is not bound, by the scope's key.
    pub access_obstacles: BTreeMap<ObjectKey, Obstacle>,
}

/// What stands in the way of an object in the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub kind: ObstacleKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObstacleKind {
    /// Somebody else's object has the name.
    Conflict,
    /// The API server refused it, or did not answer; it is tried again.
    Failed,
}

impl ObstacleKind {
    /// The reason of a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "Conflict",
            Self::Failed => "WriteFailed",
        }
    }
}

/// One device, as far as the operator knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceApplied {
    /// Its stream is open.
    pub connected: bool,
    /// The resources of the state that it last read back.
    pub sources: Arc<BTreeSet<Source>>,
    /// The hash of that state; empty before the first.
    pub state_hash: String,
    pub at: Option<Timestamp>,
    /// Why it refused what it was last sent, until it accepts something.
    pub refused: Option<String>,
    /// Connections it cut, by the UID of the Isolation that made it.
    pub connections_cut: BTreeMap<String, u64>,
    /// The wards of the state that it last read back, by `namespace/pod`.
    pub wards: Arc<BTreeMap<String, WardApplied>>,
    /// When each of them came under its rules at the addresses that it has, where that was seen.
    pub covered_at: Arc<BTreeMap<String, Timestamp>>,
    /// When its agent had brought all rules about again that it had found gone, after a reboot say.
    pub restored_at: Option<Timestamp>,
    /// Packets that its rules met, to and from the wards of each group, since they were loaded.
    pub seen: BTreeMap<String, u64>,
    pub datapath: Datapath,
    pub accounts: Accounts,
}

/// What a device said of the accounts of suspended users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// Those that exist there, and whose traffic is dropped.
    pub dropped: BTreeSet<String>,
    /// Those that exist and are left alone, being root or the agent's own.
    pub spared: BTreeSet<String>,
}

impl DeviceApplied {
    /// Whether it enforces the resource for the ward, at the addresses that the ward has now.
    pub fn covers(&self, pod: &ObjectKey, ward: &Ward, uid: &str, generation: i64) -> bool {
        self.wards.get(&pod.to_string()).is_some_and(|applied| {
            let mut sources = applied.sources.iter();
            ward.addresses.is_subset(&applied.addresses)
                && sources.any(|source| source.uid == uid && source.generation == generation)
        })
    }

    /// For how long the ward ran before the rules were there, where that was seen.
    pub fn gap(&self, pod: &ObjectKey, ward: &Ward) -> Option<SignedDuration> {
        let started = ward.started?;
        let seen = self.covered_at.get(&pod.to_string()).copied();
        // Rules that were there before it started may have been gone when it did.
        let covered = match seen.is_some_and(|seen| seen >= started) {
            true => seen,
            false => seen.max(self.restored_at),
        };
        let gap = covered?.duration_since(started);
        Some(gap.max(SignedDuration::ZERO))
    }

    /// Whether its rules met packets to or from the ward.
    pub fn has_seen(&self, pod: &ObjectKey) -> bool {
        let applied = self.wards.get(&pod.to_string());
        let packets = applied.and_then(|applied| self.seen.get(&applied.group));
        packets.is_some_and(|packets| *packets > 0)
    }
}

/// A ward as its device enforces for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WardApplied {
    /// Its group in the device's state.
    pub group: String,
    pub addresses: BTreeSet<IpAddr>,
    /// The resources that it is under.
    pub sources: Arc<BTreeSet<Source>>,
}

impl WardApplied {
    /// Those of a state, by `namespace/pod`.
    pub fn all(state: &DeviceState) -> BTreeMap<String, Self> {
        let groups = state.wards.iter().map(|(name, group)| {
            let sources = Arc::new(group.sources.clone());
            group.members.iter().map(move |(ward, addresses)| {
                let applied = Self {
                    group: name.clone(),
                    addresses: addresses.clone(),
                    sources: Arc::clone(&sources),
                };
                (ward.clone(), applied)
            })
        });
        groups.flatten().collect()
    }
}

/// Whether the packets of a device's wards pass netfilter, where its rules are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Datapath {
    /// Too few packets were seen to tell.
    #[default]
    Unknown,
    Passes,
    /// Packets were seen at the wards' interfaces and none by the rules: the datapath goes around them, as
    /// an eBPF one does.
    Bypasses,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The gap of a pod that started then, in seconds.
    fn gap(started: i64, covered: Option<i64>, restored: Option<i64>) -> Option<i64> {
        let at = |second| Timestamp::from_second(second).expect("a small number");
        let covered = covered.map(|second| ("plant/web".to_owned(), at(second)));
        let device = DeviceApplied {
            covered_at: Arc::new(covered.into_iter().collect()),
            restored_at: restored.map(at),
            ..DeviceApplied::default()
        };
        let ward = Ward {
            device: DeviceId::from_ulid(ulid::Ulid::from_parts(0, 1)),
            addresses: BTreeSet::new(),
            started: Some(at(started)),
        };
        let gap = device.gap(&ObjectKey::new("plant", "web"), &ward);
        gap.map(|gap| gap.as_secs())
    }

    #[test]
    fn a_gap_is_from_the_start_until_the_rules_were_there() {
        assert_eq!(gap(10, Some(13), None), Some(3));
        assert_eq!(gap(10, Some(9), None), Some(0));
        assert_eq!(gap(10, None, None), None);
    }

    #[test]
    fn a_pod_that_starts_after_a_reboot_is_uncovered_until_the_rules_are_back() {
        assert_eq!(gap(100, Some(13), Some(104)), Some(4));
        assert_eq!(gap(100, None, Some(104)), Some(4));
        assert_eq!(gap(100, Some(13), Some(98)), Some(0));
    }

    #[test]
    fn a_pod_that_was_covered_since_it_started_ran_no_longer_uncovered_because_rules_came_back() {
        assert_eq!(gap(10, Some(13), Some(500)), Some(3));
    }
}
