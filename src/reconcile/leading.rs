//! What only the leader does: serve agents, settle releases, hold them, write down what is in force.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::custody::Custody;
use super::happening::{Happening, Named, What};
use super::holds::{HoldList, ListedHold};
use super::reconciler::Reconciler;
use crate::api::{IsolationSpec, IsolationStatus};
use crate::domain::compile::Compiled;
use crate::domain::verdict::{Acceptance, Reason};
use crate::domain::words::confirm_release;
use crate::domain::world::HeldIsolation;
use crate::watch::{Change, Watched};

/// The store answers within this, or the process ends and another replica tries.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks whether the kind Isolation itself is being removed, and says how that is known.
pub type KindCheck =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Option<String>> + Send>> + Send + Sync>;

#[derive(Default)]
pub struct Leading {
    /// Set while this replica leads: agents are served.
    epoch: Option<u64>,
    /// What the last leader wrote down is in the World.
    restored: bool,
    /// A settlement waits for this answer.
    check: Option<Pin<Box<dyn Future<Output = Option<String>> + Send>>>,
    /// The list of Isolations could not be had since it was last read.
    lost: Option<String>,
}

impl Leading {
    /// Whether what is compiled now may be handed on.
    pub fn is_ready(&self) -> bool {
        self.epoch.is_some() && self.restored
    }

    /// The answer of the check that was begun; for ever none if there is none.
    pub async fn kind_check(&mut self) -> Option<String> {
        let Some(check) = &mut self.check else {
            return pending().await;
        };
        let answer = check.await;
        self.check = None;
        answer
    }

    /// Isolations that are missing when their kind comes back were not released by anybody.
    pub fn loss_of_the_kind(
        &mut self,
        change: &Change<Watched<IsolationSpec, IsolationStatus>>,
    ) -> Option<String> {
        match change {
            Change::Lost { why } => {
                self.lost = Some(why.clone());
                None
            }
            Change::Reset { .. } => self.lost.take().map(|_| {
                "they were missing when the list of Isolations came back after it could not be read"
                    .to_owned()
            }),
            _ => None,
        }
    }
}

impl Reconciler {
    /// Begins or ends leading as the lease says.
    pub(super) async fn follow_role(&mut self) -> Result<()> {
        let leads = self.inputs.mandate.leads();
        if !leads {
            self.stop_leading();
            return Ok(());
        }
        if self.leading.epoch.is_none() {
            let epoch = timeout(STORE_TIMEOUT, self.inputs.fleet.lead())
                .await
                .context("the store did not answer within 10 s")?
                .context("beginning a leadership in the store")?;
            info!(epoch, "serving agents");
            self.leading.epoch = Some(epoch);
            self.metrics.leading.set(1);
            self.tell(What::LeadershipGained { epoch });
            self.dirty = true;
        }
        if !self.leading.restored && self.known() {
            let stored = timeout(STORE_TIMEOUT, self.inputs.store.in_force())
                .await
                .context("the store did not answer within 10 s")?
                .context("reading what is in force from the store")?;
            let malformed = &self.isolations.malformed;
            self.custody
                .restore(&mut self.world, stored, malformed, Instant::now());
            self.leading.restored = true;
            self.dirty = true;
        }
        Ok(())
    }

    /// Ends every agent's stream; agents keep what is in force.
    pub(super) fn stop_leading(&mut self) {
        if self.leading.epoch.take().is_none() {
            return;
        }
        self.inputs.fleet.pause();
        self.outputs.in_force.send_replace(None);
        self.outputs.stripped.send_replace(None);
        self.leading.restored = false;
        self.leading.check = None;
        // The next leader may release what this one saw vanish: it is read again from the store.
        self.custody = Custody::default();
        self.metrics.leading.set(0);
        self.tell(What::LeadershipLost);
    }

    /// When vanished Isolations are due to be settled; not while their list can't be had.
    pub(super) fn settle_at(&self) -> Option<Instant> {
        let may = self.leading.is_ready()
            && self.leading.check.is_none()
            && self.isolations.waiting_for().is_none();
        may.then(|| self.custody.due()).flatten()
    }

    /// Before anything is released, asks whether the kind is being removed; the loop goes on meanwhile.
    pub(super) fn begin_settling(&mut self) {
        if self.settle_at().is_some_and(|at| at <= Instant::now()) {
            self.leading.check = Some((self.inputs.kind_check)());
        }
    }

    /// The check is answered: releases or holds what vanished.
    pub(super) fn settle(&mut self, kind_is_removed: Option<&str>) {
        if !self.leading.is_ready() {
            return;
        }
        let now = (Instant::now(), Timestamp::now());
        let settlement =
            self.custody
                .settle(&mut self.world, self.hold_threshold, kind_is_removed, now);
        for held in &settlement.released {
            info!(isolation = %held.key, "released");
            self.tell_released(held);
        }
        self.dirty |= !settlement.released.is_empty();
        if let Some((hold, isolations)) = settlement.held {
            warn!(
                hold = hold.id,
                isolations = isolations.len(),
                "a release is held and everything stays in force until a person runs `{}`: {}",
                confirm_release(&hold.id),
                hold.why
            );
            self.dirty = true;
            self.tell(What::HoldOpened { hold, isolations });
        }
    }

    /// A person confirmed a hold.
    pub(super) fn confirm(&mut self, id: &str) {
        if !self.leading.is_ready() {
            return;
        }
        let Some((hold, isolations)) = self.custody.confirm(&mut self.world, id) else {
            warn!(
                hold = id,
                "a hold that is not open was confirmed; nothing is released"
            );
            return;
        };
        info!(
            hold = hold.id,
            isolations = isolations.len(),
            "confirmed and released"
        );
        for held in &isolations {
            self.tell_released(held);
        }
        self.dirty = true;
        self.tell(What::HoldConfirmed { hold, isolations });
    }

    /// Writes down what is in force, and shows what is held.
    pub(super) fn after_compile(&mut self, before: Option<&Compiled>, compiled: &Compiled) {
        if !self.leading.is_ready() {
            return;
        }
        self.tell_expired(before, compiled);
        let changed = self
            .custody
            .note(&self.world, &compiled.verdicts.isolations);
        if changed || before.is_none() {
            let in_force = Arc::new(self.custody.in_force().clone());
            self.outputs.in_force.send_replace(Some(in_force));
        }
        let holds = self.custody.holds();
        let held: usize = holds.iter().map(|(_, isolations)| isolations.len()).sum();
        let held = i64::try_from(held).unwrap_or(i64::MAX);
        self.metrics.held_isolations.set(held);
        let list = HoldList {
            holds: holds
                .iter()
                .map(|(hold, isolations)| ListedHold::new(hold, isolations))
                .collect(),
        };
        self.outputs.holds.send_if_modified(|known| {
            let differs = known.as_ref() != Some(&list);
            if differs {
                *known = Some(list);
            }
            differs
        });
    }

    fn tell_expired(&self, before: Option<&Compiled>, compiled: &Compiled) {
        let Some(before) = before else { return };
        for (key, verdict) in &compiled.verdicts.isolations {
            let expired = matches!(
                verdict.acceptance,
                Acceptance::Waiting {
                    reason: Reason::Expired,
                    ..
                }
            );
            let was = before
                .verdicts
                .isolations
                .get(key)
                .filter(|was| was.uid == verdict.uid && was.acceptance == Acceptance::Accepted);
            if let (true, Some(was)) = (expired, was) {
                let isolation = self.world.isolations.get(key);
                self.tell(What::Expired {
                    isolation: Named {
                        key: key.clone(),
                        uid: verdict.uid.clone(),
                        generation: verdict.generation,
                        written_by: isolation.and_then(|i| i.written_by.clone()),
                    },
                    device: was.device.clone(),
                });
            }
        }
    }

    fn tell_released(&self, held: &HeldIsolation) {
        let device = held.isolation.spec.target.device.as_deref();
        self.tell(What::Released {
            isolation: Named::of(held),
            device: device.and_then(|device| device.parse().ok()),
        });
    }

    pub(super) fn tell(&self, what: What) {
        let happening = Happening {
            at: Timestamp::now(),
            what,
        };
        if self.outputs.happenings.try_send(happening).is_err() {
            self.metrics.audit_failures.inc();
            warn!("the audit log does not keep up; an entry about enforcement is lost");
        }
    }
}
