//! Notices when an Isolation first stands: on the target itself, and on every connected peer. These are
//! moments for the audit log; what stood before this process looked is not news.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::api::{IsolationStatus, Phase};
use crate::domain::applied::Applied;
use crate::domain::enforcement::SourceKind;
use crate::domain::names::DeviceId;
use crate::domain::verdict::{Acceptance, IsolationVerdict, SuspendedUser, Workloads};
use crate::fleet::{Delivery, Fleet};
use crate::metrics::Metrics;
use crate::reconcile::happening::{Happening, Isolated, Named, What};
use crate::reconcile::tracked::Beside;
use crate::reconcile::view::View;

use super::user::UserFacts;
use super::{source, stages};

/// An entry names no more pods than this.
const MOST_PODS: usize = 100;

#[derive(Default)]
pub struct Chronicle {
    /// By UID, of Isolations that exist.
    seen: BTreeMap<String, Seen>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    itself: bool,
    peers: bool,
}

impl Chronicle {
    /// What is news since the last look.
    pub fn see(
        &mut self,
        view: &View,
        applied: &Applied,
        fleet: &Fleet,
        metrics: &Metrics,
    ) -> Vec<Happening> {
        let verdicts = &view.compiled.verdicts.isolations;
        let uids: BTreeSet<&String> = verdicts.values().map(|verdict| &verdict.uid).collect();
        self.seen.retain(|uid, _| uids.contains(uid));
        let now = Timestamp::now();
        let mut news = Vec::new();
        for (key, verdict) in verdicts {
            let beside = view.isolations.get(key).filter(|b| b.uid == verdict.uid);
            let accepted = verdict.acceptance == Acceptance::Accepted;
            let target = Target::of(verdict);
            let (true, Some(target), Some(beside)) = (accepted, target, beside) else {
                continue;
            };
            let stands = Stands {
                isolation: Named {
                    key: key.clone(),
                    uid: verdict.uid.clone(),
                    generation: verdict.generation,
                    written_by: beside.written_by.clone(),
                },
                target,
                verdict,
                since: beside.seen,
                applied,
                fleet,
                metrics,
            };
            let seen = self.seen.entry(verdict.uid.clone());
            let seen = seen.or_insert_with(|| Seen::before(beside));
            news.extend(stands.itself(seen));
            news.extend(stands.peers(seen));
        }
        let happening = |what| Happening { at: now, what };
        news.into_iter().map(happening).collect()
    }
}

impl Seen {
    /// What stood when this process looked first.
    fn before(beside: &Beside<IsolationStatus>) -> Self {
        let status = beside.status.as_ref();
        let stood = status.is_some_and(|status| status.isolated_at.is_some());
        Self {
            itself: stood,
            peers: stood,
        }
    }
}

/// What is cut off.
#[derive(Clone, Copy)]
enum Target<'a> {
    Device(&'a DeviceId),
    Pods(&'a Workloads),
    User(&'a SuspendedUser),
}

impl<'a> Target<'a> {
    /// None while there is nothing to cut off, or nobody who could.
    fn of(verdict: &'a IsolationVerdict) -> Option<Self> {
        let pods = verdict.workloads.as_ref();
        let pods = pods.filter(|pods| !pods.wards.is_empty()).map(Self::Pods);
        let user = verdict.user.as_ref().map(Self::User);
        verdict.device.as_ref().map(Self::Device).or(pods).or(user)
    }

    /// Whose agents cut it off.
    fn points(self) -> BTreeSet<&'a DeviceId> {
        match self {
            Self::Device(device) => [device].into(),
            Self::Pods(pods) => pods.wards.values().map(|ward| &ward.device).collect(),
            Self::User(user) => user.devices.iter().collect(),
        }
    }
}

/// One Isolation that is accepted, of what is known.
struct Stands<'a> {
    isolation: Named,
    target: Target<'a>,
    verdict: &'a IsolationVerdict,
    /// When the process saw it first.
    since: Timestamp,
    applied: &'a Applied,
    fleet: &'a Fleet,
    metrics: &'a Metrics,
}

impl Stands<'_> {
    fn itself(&self, seen: &mut Seen) -> Option<What> {
        if seen.itself || !self.target_has() {
            return None;
        }
        seen.itself = true;
        let points = self.target.points();
        let took = self.until(points.iter().copied());
        self.metrics.isolation_seconds.observe(took.as_secs_f64());
        for device in points {
            if let Some(delivery) = self.delivery(device) {
                stages::of_target(self.metrics, &delivery, self.since);
            }
        }
        let (device, pods) = match self.target {
            Target::Device(device) => (Some(device.clone()), Vec::new()),
            Target::Pods(pods) => (None, pods.wards.keys().take(MOST_PODS).cloned().collect()),
            Target::User(_) => (None, Vec::new()),
        };
        let user = matches!(self.target, Target::User(_)).then(|| self.verdict.target.clone());
        Some(What::Isolated(Isolated {
            isolation: self.isolation.clone(),
            device,
            pods,
            user,
            milliseconds: milliseconds(took),
            connections_cut: cut(self.applied, self.verdict),
        }))
    }

    fn target_has(&self) -> bool {
        match self.target {
            Target::Device(device) => has(self.applied, device, self.verdict),
            Target::Pods(pods) => pods.wards.iter().all(|(pod, ward)| {
                let device = self.applied.devices.get(&ward.device);
                let IsolationVerdict {
                    uid, generation, ..
                } = self.verdict;
                device.is_some_and(|device| device.covers(pod, ward, uid, *generation))
            }),
            Target::User(user) => {
                let IsolationVerdict {
                    uid, generation, ..
                } = self.verdict;
                let source = source(SourceKind::Isolation, &self.isolation.key, uid, *generation);
                UserFacts::of(user, self.applied, &source).phase() == Phase::Suspended
            }
        }
    }

    fn peers(&self, seen: &mut Seen) -> Option<What> {
        let Target::Device(device) = self.target else {
            return None;
        };
        if seen.peers || !peers_have(self.applied, self.verdict) {
            return None;
        }
        seen.peers = true;
        for peer in &self.verdict.peers {
            if let Some(delivery) = self.delivery(peer) {
                stages::of_peer(self.metrics, &delivery);
            }
        }
        Some(What::PeersComplete {
            isolation: self.isolation.clone(),
            device: device.clone(),
            peers: self.verdict.peers.len(),
            milliseconds: milliseconds(self.until(&self.verdict.peers)),
        })
    }

    fn delivery(&self, device: &DeviceId) -> Option<Arc<Delivery>> {
        let IsolationVerdict {
            uid, generation, ..
        } = self.verdict;
        self.fleet.delivery(device, uid, *generation)
    }

    /// From the watch event to the last acknowledgement of these devices.
    fn until<'d>(&self, devices: impl IntoIterator<Item = &'d DeviceId>) -> SignedDuration {
        let acknowledged = devices
            .into_iter()
            .filter_map(|device| self.applied.devices.get(device)?.at)
            .max();
        acknowledged
            .map(|at| at.duration_since(self.since))
            .unwrap_or_default()
            .max(SignedDuration::ZERO)
    }
}

fn milliseconds(duration: SignedDuration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or_default()
}

fn has(applied: &Applied, device: &DeviceId, verdict: &IsolationVerdict) -> bool {
    applied.devices.get(device).is_some_and(|device| {
        device
            .sources
            .iter()
            .any(|source| source.uid == verdict.uid && source.generation == verdict.generation)
    })
}

fn peers_have(applied: &Applied, verdict: &IsolationVerdict) -> bool {
    let connected = |peer: &&DeviceId| {
        let peer = applied.devices.get(*peer);
        peer.is_some_and(|peer| peer.connected)
    };
    let mut peers = verdict.peers.iter().filter(connected);
    peers.all(|peer| has(applied, peer, verdict))
}

fn cut(applied: &Applied, verdict: &IsolationVerdict) -> u64 {
    let devices = applied.devices.values();
    devices
        .filter_map(|device| device.connections_cut.get(&verdict.uid))
        .sum()
}
