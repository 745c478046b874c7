//! What should be in force on each device, and how it gets there: compared, signed once, sent in waves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Fleet, proto, records};
use crate::domain::applied::WardApplied;
use crate::domain::enforcement::{Bundle, DeviceState, Source, SourceKind};
use crate::domain::names::DeviceId;

/// A state and its hash, computed once.
#[derive(Debug)]
pub struct Desired {
    pub state: Arc<DeviceState>,
    pub hash: String,
    /// The resources in it, to be handed out without a copy.
    pub sources: Arc<BTreeSet<Source>>,
    pub wards: Arc<BTreeMap<String, WardApplied>>,
    /// When it was first wanted.
    pub since: Instant,
}

impl Desired {
    pub fn new(state: impl Into<Arc<DeviceState>>) -> Self {
        let state = state.into();
        Self {
            since: Instant::now(),
            hash: state.hash(),
            sources: Arc::new(state.sources.clone()),
            wards: Arc::new(WardApplied::all(&state)),
            state,
        }
    }

    /// The uids of the Isolations in it.
    pub(super) fn isolations(&self) -> BTreeSet<String> {
        let sources = self.state.every_source();
        sources
            .filter(|source| source.kind == SourceKind::Isolation)
            .map(|source| source.uid.clone())
            .collect()
    }
}

/// A bundle that is signed, kept for sending again.
#[derive(Clone)]
pub struct Signed {
    pub revision: u64,
    pub hash: String,
    /// When it was first.
    pub sent: Instant,
    pub bundle: proto::SignedBundle,
}

impl Fleet {
    /// The whole of what should be in force, in the order of its waves: the first is sent at once, each
    /// later one when those before it have answered, or 100 ms later. A device that has a state
    /// already, or was told to apply it, is not told again. A device in no wave keeps what it has.
    pub fn set_desired(&self, waves: Vec<BTreeMap<DeviceId, Arc<DeviceState>>>) {
        let known = self.known_states();
        let mut named = BTreeSet::new();
        let mut first = BTreeSet::new();
        let mut later = Vec::new();
        for wave in waves {
            named.extend(wave.keys().cloned());
            // A wave is sent before the next is so much as hashed: states can be large.
            let behind = self.set_wave(wave, &known, first.is_empty());
            match first.is_empty() {
                true => first = behind,
                false => later.push(behind),
            }
        }
        let mut roster = self.roster();
        for (device, member) in &mut roster.members {
            if !named.contains(device) {
                member.set_desired(None);
            }
        }
        self.waves().plan(first, later, Instant::now());
        drop(roster);
        self.0.planned.notify_one();
    }

    /// Makes these states the wanted ones and answers with who has to be told. `now`: they are.
    fn set_wave(
        &self,
        wave: BTreeMap<DeviceId, Arc<DeviceState>>,
        known: &BTreeMap<DeviceId, Arc<Desired>>,
        now: bool,
    ) -> BTreeSet<DeviceId> {
        let wave = wave.into_iter().map(|(device, state)| {
            // An unchanged state keeps its hash: most are, most of the time.
            let same = known.get(&device).filter(|known| known.state == state);
            let desired = same.cloned();
            let desired = desired.unwrap_or_else(|| Arc::new(Desired::new(state)));
            (device, desired)
        });
        let wave: Vec<_> = wave.collect();
        let at = Instant::now();
        let mut behind = BTreeSet::new();
        let mut moved = false;
        let mut roster = self.roster();
        for (device, desired) in wave {
            let Some(member) = roster.members.get_mut(&device) else {
                continue;
            };
            let is_behind = member.set_desired(Some(desired));
            moved |= member.settle_claims();
            if is_behind {
                if now {
                    member.promise(at);
                }
                behind.insert(device);
            }
        }
        drop(roster);
        if moved {
            self.facts_changed();
        }
        behind
    }

    fn known_states(&self) -> BTreeMap<DeviceId, Arc<Desired>> {
        let roster = self.roster();
        let members = roster.members.iter();
        members
            .filter_map(|(id, member)| Some((id.clone(), member.desired.clone()?)))
            .collect()
    }

    /// Sends later waves when their time has come, until `stop`.
    pub(super) async fn send_waves(&self, stop: CancellationToken) {
        let mut changes = self.changes();
        loop {
            let next = self.waves().next();
            let timer = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.planned.notified() => {}
                // The sender lives in `self`, so this never fails.
                _ = changes.changed(), if next.is_some() => {}
                () = timer => {}
            }
            self.send_due(Instant::now());
        }
    }

    fn send_due(&self, now: Instant) {
        let mut roster = self.roster();
        let settled = |device: &DeviceId| {
            let member = roster.members.get(device);
            member.is_none_or(|member| !member.is_awaited())
        };
        let due = self.waves().due(now, settled);
        for device in due {
            if let Some(member) = roster.members.get_mut(&device) {
                member.promise(now);
            }
        }
    }

    /// The newest bundle of a device, for its stream to send. Signed once for each state.
    pub(super) fn bundle(&self, device: &DeviceId, session: u64) -> Option<proto::SignedBundle> {
        let (desired, epoch, revision) = {
            let mut roster = self.roster();
            let member = roster.in_session(device, session)?;
            let desired = member.desired.clone()?;
            member.taken(&desired);
            if let Some(signed) = &member.signed
                && signed.hash == desired.hash
            {
                return Some(signed.bundle.clone());
            }
            let (epoch, revision) = roster.next_revision()?;
            (desired, epoch, revision)
        };
        let bundle = self.sign(device, &desired, epoch, revision);
        let mut roster = self.roster();
        if let Some(member) = roster.in_session(device, session) {
            member.signed = Some(Signed {
                revision,
                hash: desired.hash.clone(),
                sent: Instant::now(),
                bundle: bundle.clone(),
            });
        }
        Some(bundle)
    }

    fn sign(
        &self,
        device: &DeviceId,
        desired: &Desired,
        epoch: u64,
        revision: u64,
    ) -> proto::SignedBundle {
        let bundle = Bundle {
            device: device.clone(),
            epoch,
            revision,
            state_hash: desired.hash.clone(),
            issued_at: records::now(),
            state: DeviceState::clone(&desired.state),
        };
        let payload = serde_json::to_vec(&bundle).expect("a bundle is always JSON");
        let signature = self.0.keys.bundles.sign(&payload).to_vec();
        proto::SignedBundle { payload, signature }
    }
}
