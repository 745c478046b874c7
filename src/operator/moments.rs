//! How an Isolation came into force, told backwards from now: for the answer of the tool call that
//! wrote it.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::domain::names::ObjectKey;
use crate::fleet::{Fleet, OnDevice};
use crate::local::types::{DeviceSteps, Moments, Standing};
use crate::reconcile::view::View;

/// `None` unless its target has acknowledged this generation, lately and to this leader.
pub fn of(fleet: &Fleet, view: &View, isolation: &ObjectKey, stands: &Standing) -> Option<Moments> {
    let verdict = view.compiled.verdicts.isolations.get(isolation)?;
    let beside = view.isolations.get(isolation)?;
    let of = |device| fleet.delivery(device, &stands.uid, stands.generation);
    // Of several devices the last one: pods and users are isolated when all of them have it.
    let target = match (&verdict.workloads, &verdict.user) {
        (Some(pods), _) => {
            let nodes = pods.wards.values().filter_map(|ward| of(&ward.device));
            nodes.max_by_key(|delivery| delivery.acknowledged)?
        }
        (None, Some(user)) => {
            let devices = user.devices.iter().filter_map(of);
            devices.max_by_key(|delivery| delivery.acknowledged)?
        }
        (None, None) => of(verdict.device.as_ref()?)?,
    };
    let peers = verdict.peers.iter().filter_map(of);
    let last = peers.map(|delivery| delivery.acknowledged).max();
    let now = Instant::now();
    let ago = |at: Instant| milliseconds(now.saturating_duration_since(at));
    let seen = Timestamp::now().duration_since(beside.seen);
    Some(Moments {
        // The clock of the day may have been set back meanwhile.
        seen: milliseconds(Duration::try_from(seen).unwrap_or_default()),
        compiled: ago(target.compiled),
        sent: ago(target.sent),
        acknowledged: ago(target.acknowledged),
        peers: last.map(ago),
        on_device: on_device(&target.on_device),
    })
}

fn on_device(steps: &OnDevice) -> DeviceSteps {
    DeviceSteps {
        verify: milliseconds(steps.verify),
        persist: milliseconds(steps.persist),
        apply: milliseconds(steps.apply),
        cut: milliseconds(steps.cut),
        read_back: milliseconds(steps.read_back),
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
