//! Notices when an Isolation first stands: on the target itself, and on every connected peer. These are
//! moments for the audit log; what stood before this process looked is not news.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::domain::applied::Applied;
use crate::domain::names::DeviceId;
use crate::domain::verdict::{Acceptance, IsolationVerdict};
use crate::metrics::Metrics;
use crate::reconcile::happening::{Happening, Isolated, Named, What};
use crate::reconcile::view::View;

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
    pub fn see(&mut self, view: &View, applied: &Applied, metrics: &Metrics) -> Vec<Happening> {
        let verdicts = &view.compiled.verdicts.isolations;
        let uids: BTreeSet<&String> = verdicts.values().map(|verdict| &verdict.uid).collect();
        self.seen.retain(|uid, _| uids.contains(uid));
        let now = Timestamp::now();
        let mut news = Vec::new();
        for (key, verdict) in verdicts {
            if verdict.acceptance != Acceptance::Accepted {
                continue;
            }
            let Some(device) = &verdict.device else {
                continue;
            };
            let beside = view.isolations.get(key).filter(|b| b.uid == verdict.uid);
            let Some(beside) = beside else {
                continue;
            };
            let seen = self.seen.entry(verdict.uid.clone()).or_insert_with(|| {
                let stood = beside
                    .status
                    .as_ref()
                    .is_some_and(|s| s.isolated_at.is_some());
                Seen {
                    itself: stood,
                    peers: stood,
                }
            });
            let elapsed = now.duration_since(beside.seen);
            let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or_default();
            let isolation = || Named {
                key: key.clone(),
                uid: verdict.uid.clone(),
                generation: verdict.generation,
                written_by: beside.written_by.clone(),
            };
            if !seen.itself && has(applied, device, verdict) {
                seen.itself = true;
                metrics.isolation_seconds.observe(elapsed.as_secs_f64());
                news.push(What::Isolated(Isolated {
                    isolation: isolation(),
                    device: device.clone(),
                    milliseconds,
                    connections_cut: cut(applied, verdict),
                }));
            }
            if !seen.peers && peers_have(applied, verdict) {
                seen.peers = true;
                news.push(What::PeersComplete {
                    isolation: isolation(),
                    device: device.clone(),
                    peers: verdict.peers.len(),
                    milliseconds,
                });
            }
        }
        news.into_iter()
            .map(|what| Happening { at: now, what })
            .collect()
    }
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
