//! The task behind every status: at each change of what was compiled or acknowledged, joins the two and
//! has the writer store what differs. Bursts of acknowledgements are taken together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::chronicle::Chronicle;
use super::wanted::{self, Address};
use super::writer::StatusWriter;
use crate::domain::applied::Applied;
use crate::domain::names::ObjectKey;
use crate::enforce::access::{account_key, binding_key};
use crate::enforce::owned::Placed;
use crate::enforce::stripped::Obstacles;
use crate::enforce::suspended::Kept;
use crate::fleet::Fleet;
use crate::leadership::Mandate;
use crate::metrics::Metrics;
use crate::reconcile::happening::Happening;
use crate::reconcile::view::View;
use crate::watch::Kind;

/// Changes within this belong together: two hundred peers acknowledge one Isolation.
const TOGETHER: Duration = Duration::from_millis(15);

/// A new leader's agents come back within this. Until then one that had read everything back is not
/// reported as off: a restart of the operator is no news of any device.
const RETURNING: Duration = Duration::from_secs(10);

pub struct StatusTask {
    pub client: Client,
    pub metrics: Metrics,
    pub fleet: Fleet,
    pub views: watch::Receiver<Option<Arc<View>>>,
    pub mandate: Mandate,
    pub network_policies: watch::Receiver<Placed>,
    pub service_accounts: watch::Receiver<Placed>,
    pub role_bindings: watch::Receiver<Placed>,
    pub suspended_users: watch::Receiver<Kept>,
    pub stripped: watch::Receiver<Obstacles>,
    /// The day on which each scope was last used.
    pub used: watch::Receiver<BTreeMap<ObjectKey, String>>,
    pub happenings: mpsc::Sender<Happening>,
}

impl StatusTask {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let mut writer = StatusWriter::new(self.client.clone(), self.metrics.clone());
        let mut chronicle = Chronicle::default();
        let mut fleet_changes = self.fleet.changes();
        let mut again: Option<Instant> = None;
        let mut leads_since: Option<Instant> = None;
        loop {
            let at = again.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                changed = self.views.changed() => if changed.is_err() { return Ok(()) },
                changed = fleet_changes.changed() => if changed.is_err() { return Ok(()) },
                changed = self.mandate.changed() => if changed.is_err() { return Ok(()) },
                changed = self.network_policies.changed() => if changed.is_err() { return Ok(()) },
                changed = self.service_accounts.changed() => if changed.is_err() { return Ok(()) },
                changed = self.role_bindings.changed() => if changed.is_err() { return Ok(()) },
                changed = self.suspended_users.changed() => if changed.is_err() { return Ok(()) },
                changed = self.stripped.changed() => if changed.is_err() { return Ok(()) },
                changed = self.used.changed() => if changed.is_err() { return Ok(()) },
                () = sleep_until(at), if again.is_some() => {}
            }
            if stop.run_until_cancelled(sleep(TOGETHER)).await.is_none() {
                return Ok(());
            }
            fleet_changes.mark_unchanged();
            again = self
                .pass(&mut writer, &mut chronicle, &mut leads_since)
                .await;
        }
    }

    /// One join, and the writes that follow from it; when the next is due at the latest.
    async fn pass(
        &mut self,
        writer: &mut StatusWriter,
        chronicle: &mut Chronicle,
        leads_since: &mut Option<Instant>,
    ) -> Option<Instant> {
        let view = self.views.borrow_and_update().clone()?;
        if !self.mandate.leads() {
            *leads_since = None;
            return None;
        }
        let now = Instant::now();
        let returned = *leads_since.get_or_insert(now) + RETURNING;
        let applied = self.applied(&view);
        for happening in chronicle.see(&view, &applied, &self.fleet, &self.metrics) {
            if self.happenings.try_send(happening).is_err() {
                self.metrics.audit_failures.inc();
            }
        }
        let applied = if now < returned {
            awaiting_returns(applied)
        } else {
            applied
        };
        let used = self.used.borrow_and_update().clone();
        let wanted = wanted::wanted(&view, &applied, &used, Timestamp::now());
        writer.retain(|address| exists(&view, address));
        let mandate = self.mandate.clone();
        let again = writer.write(&wanted, || mandate.leads()).await;
        let returned = (now < returned).then_some(returned);
        again.into_iter().chain(returned).min()
    }

    fn applied(&mut self, view: &View) -> Applied {
        let accounts = self.service_accounts.borrow_and_update().clone();
        let bindings = self.role_bindings.borrow_and_update().clone();
        let policies = self.network_policies.borrow_and_update().clone();
        let users = self.suspended_users.borrow_and_update().clone();
        let mut applied = Applied {
            devices: self.fleet.applied(),
            network_policies: policies.in_place,
            network_policy_obstacles: policies.obstacles,
            suspended_users: users.users,
            suspended_users_obstacle: users.obstacle,
            stripped_obstacles: self.stripped.borrow_and_update().clone(),
            ..Applied::default()
        };
        for (scope, grant) in &view.compiled.enforcement.access {
            let account = account_key(grant);
            let binding = binding_key(scope, grant);
            let bound = binding
                .as_ref()
                .is_none_or(|key| bindings.in_place.contains(key));
            if bound && accounts.in_place.contains(&account) {
                applied.access.insert(scope.clone());
            }
            let obstacle = accounts.obstacles.get(&account);
            let obstacle = obstacle.or_else(|| bindings.obstacles.get(binding.as_ref()?));
            if let Some(obstacle) = obstacle {
                applied
                    .access_obstacles
                    .insert(scope.clone(), obstacle.clone());
            }
        }
        applied
    }
}

/// As if every device that has what it should have were connected.
fn awaiting_returns(mut applied: Applied) -> Applied {
    for device in applied.devices.values_mut() {
        device.connected |= !device.sources.is_empty();
    }
    applied
}

fn exists(view: &View, (kind, key): &Address) -> bool {
    match kind {
        Kind::Policy => view.policies.contains_key(key),
        Kind::Isolation => view.isolations.contains_key(key),
        Kind::ApiKeyScope => view.scopes.contains_key(key),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::applied::DeviceApplied;
    use crate::domain::enforcement::{Source, SourceKind};
    use crate::domain::names::DeviceId;

    #[test]
    fn a_device_that_had_everything_is_not_off_because_the_operator_was() {
        let source = Source {
            kind: SourceKind::Policy,
            namespace: "plant".into(),
            name: "one".into(),
            uid: "u".into(),
            generation: 1,
        };
        let had = DeviceApplied {
            sources: Arc::new([source].into()),
            ..DeviceApplied::default()
        };
        let id = |n| DeviceId::from_ulid(ulid::Ulid::from_parts(0, n));
        let devices = [(id(1), had), (id(2), DeviceApplied::default())].into();
        let applied = awaiting_returns(Applied {
            devices,
            ..Applied::default()
        });
        assert!(applied.devices[&id(1)].connected);
        assert!(!applied.devices[&id(2)].connected);
    }
}
