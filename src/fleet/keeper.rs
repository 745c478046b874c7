//! What the fleet does by the clock: standings are written to the store in batches, and sessions that
//! fell silent are ended.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::member::Member;
use super::records::DeviceStanding;
use super::{Fleet, records};
use crate::domain::names::DeviceId;

const TICK: Duration = Duration::from_secs(1);
/// `last_seen` alone is written this often.
const SEEN_INTERVAL: SignedDuration = SignedDuration::from_secs(60);
/// An agent that says nothing for this long has no session any more.
const SILENCE: Duration = Duration::from_secs(90);
const STORE_PATIENCE: Duration = Duration::from_secs(10);
/// Standings in one transaction: a whole large fleet's would take a server longer than that.
const AT_ONCE: usize = 500;

impl Fleet {
    pub(super) async fn keep(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            self.end_silent(Instant::now());
            if let Err(error) = self.save().await {
                // They stay unsaved and are tried again with the next tick.
                tracing::error!(%error, "standings of devices could not be stored");
            }
        }
    }

    fn end_silent(&self, now: Instant) {
        let mut roster = self.roster();
        let mut ended = 0;
        for member in roster.members.values_mut() {
            let silent = |heard: Instant| now.saturating_duration_since(heard) > SILENCE;
            if member.session.as_ref().is_some_and(|s| silent(s.heard))
                && let Some(session) = member.session.take()
            {
                session.outbox.close(Status::deadline_exceeded(
                    "nothing was heard from the agent for 90 seconds",
                ));
                ended += 1;
            }
        }
        drop(roster);
        if ended > 0 {
            self.changed();
        }
    }

    /// Writes what is not in the store yet.
    pub(super) async fn save(&self) -> anyhow::Result<()> {
        let standings = self.take_unsaved(records::now());
        let mut saved = Ok(());
        for some in standings.chunks(AT_ONCE) {
            if saved.is_ok() {
                let saving = self.0.store.save_standings(some);
                saved = timeout(STORE_PATIENCE, saving)
                    .await
                    .map_err(anyhow::Error::from)
                    .flatten();
            }
            self.note_saved(some, saved.is_ok());
        }
        saved
    }

    fn note_saved(&self, standings: &[(DeviceId, DeviceStanding)], saved: bool) {
        let mut roster = self.roster();
        for (device, standing) in standings {
            let Some(member) = roster.members.get_mut(device) else {
                continue;
            };
            match saved {
                true => member.saved_last_seen = standing.last_seen,
                false => member.unsaved = true,
            }
        }
    }

    fn take_unsaved(&self, now: Timestamp) -> Vec<(DeviceId, DeviceStanding)> {
        let mut roster = self.roster();
        let members = roster.members.iter_mut();
        members
            .filter_map(|(id, member)| {
                let due = std::mem::take(&mut member.unsaved) || is_seen_long_after(member, now);
                due.then(|| (id.clone(), member.record.standing.clone()))
            })
            .collect()
    }
}

/// It was seen since the store was last told, and that is a while ago.
fn is_seen_long_after(member: &Member, now: Timestamp) -> bool {
    let seen = member.record.standing.last_seen;
    let stored = member.saved_last_seen;
    seen != stored && stored.is_none_or(|stored| now.duration_since(stored) >= SEEN_INTERVAL)
}
