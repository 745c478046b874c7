//! One enrolled device as the leader knows it: its record, what should be in force on it, what is, and
//! its session. Pure bookkeeping; no clock, no network, no store.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::allowance::Allowance;
use super::clean;
use super::covered::Covered;
use super::delivery::Deliveries;
use super::desired::{Desired, Signed};
use super::outbox::Outbox;
use super::proto;
use super::records::{AppliedState, DeviceRecord, DeviceStanding};
use crate::domain::applied::{Accounts, Datapath, DeviceApplied};
use crate::domain::enforcement::DeviceState;
use crate::local::types::RuleCount;

/// States that were sent and may still be acknowledged.
const MOST_SENT: usize = 8;
/// A bundle that was neither acknowledged nor refused is sent again after this, then half as often.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Refusals and tampering of one device that are told: in a burst, and a second. A device whose root is
/// lost could fill the audit log with them.
const TELLINGS: (u32, f64) = (30, 1.0 / 30.0);

/// A device's open stream.
pub struct Session {
    pub id: u64,
    pub outbox: Arc<Outbox>,
    /// When it last said anything.
    pub heard: Instant,
    /// Read-backs that were asked for, by nonce.
    pub questions: HashMap<String, oneshot::Sender<proto::ReadBack>>,
    /// What it was last told to apply, until it has.
    promised: Option<Promise>,
    retry: Retry,
}

struct Promise {
    hash: String,
    /// It refused; that is an answer too.
    answered: bool,
}

impl Promise {
    fn of(desired: &Desired) -> Option<Self> {
        Some(Self {
            hash: desired.hash.clone(),
            answered: false,
        })
    }
}

#[derive(Clone, Copy)]
struct Retry {
    at: Instant,
    wait: Duration,
}

pub struct Member {
    pub record: DeviceRecord,
    pub desired: Option<Arc<Desired>>,
    pub session: Option<Session>,
    /// The addresses of its last report, since this operator started.
    pub(super) reported: Option<BTreeSet<IpAddr>>,
    /// Where its last stream came from, since this operator started.
    pub(super) came_from: Option<IpAddr>,
    /// The newest bundle made for it in this epoch.
    pub signed: Option<Signed>,
    /// Newest last.
    sent: VecDeque<Arc<Desired>>,
    /// The state behind `record.standing.applied`, where it is known.
    pub(super) in_force: Option<Arc<Desired>>,
    covered: Covered,
    refused: Option<String>,
    /// What it last said of the accounts of suspended users, since this operator started.
    accounts: Accounts,
    pub deliveries: Deliveries,
    pub counts: Vec<RuleCount>,
    /// As its last heartbeat said.
    pub datapath: Datapath,
    /// How often the audit log hears of what this device says of itself.
    tellings: Allowance,
    /// The store does not have this standing yet.
    pub unsaved: bool,
    /// `last_seen` as the store has it.
    pub saved_last_seen: Option<Timestamp>,
}

impl Member {
    pub fn new(record: DeviceRecord) -> Self {
        Self {
            saved_last_seen: record.standing.last_seen,
            record,
            desired: None,
            session: None,
            reported: None,
            came_from: None,
            signed: None,
            sent: VecDeque::new(),
            in_force: None,
            covered: Covered::default(),
            refused: None,
            accounts: Accounts::default(),
            deliveries: Deliveries::default(),
            counts: Vec::new(),
            datapath: Datapath::default(),
            tellings: Allowance::new(TELLINGS.0, TELLINGS.1, Instant::now()),
            unsaved: false,
        }
    }

    /// Whether the witness hears of what this device says now.
    pub fn may_be_told(&mut self, now: Instant) -> bool {
        self.tellings.take(now).is_ok()
    }

    pub fn standing(&mut self) -> &mut DeviceStanding {
        self.unsaved = true;
        &mut self.record.standing
    }

    pub fn is_connected(&self) -> bool {
        self.session.is_some()
    }

    /// What was wanted of it is what it read back.
    pub fn is_up_to_date(&self) -> bool {
        let applied = self.applied_hash();
        let desired = self.desired.as_ref().map(|desired| &desired.hash);
        desired.is_some_and(|desired| applied == Some(desired))
    }

    fn applied_hash(&self) -> Option<&String> {
        let applied = self.record.standing.applied.as_ref();
        applied.map(|applied| &applied.state_hash)
    }

    /// Makes `desired` the state that should be in force. Says whether something has to be sent.
    pub fn set_desired(&mut self, desired: Option<Arc<Desired>>) -> bool {
        self.desired = desired;
        self.recognise();
        self.needs_sending()
    }

    /// Its session is open and neither has what is wanted nor was it promised.
    pub fn needs_sending(&self) -> bool {
        let (Some(session), Some(desired)) = (&self.session, &self.desired) else {
            return false;
        };
        let promised = session.promised.as_ref().map(|promise| &promise.hash);
        promised.or(self.applied_hash()) != Some(&desired.hash)
    }

    /// Has its stream send the newest bundle.
    pub fn promise(&mut self, now: Instant) {
        let (Some(session), Some(desired)) = (&mut self.session, &self.desired) else {
            return;
        };
        session.promised = Promise::of(desired);
        session.retry = Retry::first(now);
        session.outbox.want_bundle();
    }

    /// Connected, and an answer to what it was promised is outstanding.
    pub fn is_awaited(&self) -> bool {
        let session = self.session.as_ref();
        let promise = session.and_then(|session| session.promised.as_ref());
        promise.is_some_and(|promise| !promise.answered)
    }

    /// The stream takes the newest state to send it.
    pub fn taken(&mut self, desired: &Arc<Desired>) {
        if let Some(session) = &mut self.session {
            session.promised = Promise::of(desired);
        }
        self.sent.retain(|sent| sent.hash != desired.hash);
        self.sent.push_back(desired.clone());
        if self.sent.len() > MOST_SENT {
            self.sent.pop_front();
        }
    }

    /// A new stream takes the place of the one before, which is returned.
    pub fn attach(&mut self, id: u64, outbox: Arc<Outbox>, now: Instant) -> Option<Session> {
        self.session.replace(Session {
            id,
            outbox,
            heard: now,
            questions: HashMap::new(),
            promised: None,
            retry: Retry::first(now),
        })
    }

    /// The device says, at the start of a session or in passing, what is in force. Answers whether
    /// that is news.
    pub fn reported(&mut self, applied: Option<&proto::Applied>, at: Timestamp) -> bool {
        let Some(applied) = applied else {
            let news = self.record.standing.applied.is_some();
            if news {
                self.standing().applied = None;
                self.in_force = None;
            }
            return news;
        };
        let restored = self.covered.restored(applied, at);
        if self.applied_hash() == Some(&applied.state_hash) {
            return self.note_accounts(applied) | restored;
        }
        self.note_applied(applied, 0, at);
        true
    }

    /// The device acknowledged a state. The connections that it cut belong to the Isolations that came
    /// with that state; where several did, each is told the number of the one transaction.
    pub fn acknowledged(&mut self, applied: &proto::Applied, cut: u32, at: Timestamp) {
        let before = match &self.record.standing.applied {
            Some(_) => self.in_force.clone(),
            // It had nothing in force ever before.
            None => Some(Arc::new(Desired::new(DeviceState::default()))),
        };
        self.note_applied(applied, cut, at);
        if let (Some(before), Some(now)) = (before, &self.in_force) {
            self.covered.moved(&before, now, at);
        }
        self.refused = None;
        if let Some(session) = &mut self.session
            && let Some(promise) = &session.promised
            && promise.hash == applied.state_hash
        {
            session.promised = None;
        }
    }

    /// Whether that is news.
    fn note_accounts(&mut self, applied: &proto::Applied) -> bool {
        let accounts = Accounts {
            dropped: clean::accounts(&applied.suspended_accounts),
            spared: clean::accounts(&applied.spared_accounts),
        };
        let news = self.accounts != accounts;
        self.accounts = accounts;
        news
    }

    /// What it said of the accounts that its state suspends, and of no others.
    fn accounts(&self) -> Accounts {
        let Some(in_force) = &self.in_force else {
            return Accounts::default();
        };
        let suspended = &in_force.state.suspended_users;
        Accounts {
            dropped: self
                .accounts
                .dropped
                .intersection(suspended)
                .cloned()
                .collect(),
            spared: self
                .accounts
                .spared
                .intersection(suspended)
                .cloned()
                .collect(),
        }
    }

    fn note_applied(&mut self, applied: &proto::Applied, cut: u32, at: Timestamp) {
        self.note_accounts(applied);
        let before = self.record.standing.applied.take();
        let before = before.map(|applied| applied.isolations).unwrap_or_default();
        self.in_force = self.known(&applied.state_hash);
        let isolations = match &self.in_force {
            Some(state) => state.isolations(),
            None => before.clone(),
        };
        let cuts = &mut self.standing().connections_cut;
        if cut > 0 {
            for uid in isolations.difference(&before) {
                let count = cuts.entry(uid.clone()).or_default();
                *count = count.saturating_add(cut.into());
            }
        }
        cuts.retain(|uid, _| isolations.contains(uid));
        self.standing().applied = Some(AppliedState {
            epoch: applied.epoch,
            revision: applied.revision,
            state_hash: applied.state_hash.clone(),
            at,
            isolations,
        });
    }

    /// The state with this hash, if it is one that was wanted or sent.
    fn known(&self, hash: &str) -> Option<Arc<Desired>> {
        let candidates = self.desired.iter().chain(&self.sent).chain(&self.in_force);
        candidates.into_iter().find(|d| d.hash == hash).cloned()
    }

    /// After a restart the state behind an acknowledged hash is learned from the wanted one.
    fn recognise(&mut self) {
        let Some(applied) = &self.record.standing.applied else {
            return;
        };
        let known = self.in_force.as_ref();
        if known.is_some_and(|state| state.hash == applied.state_hash) {
            return;
        }
        self.in_force = self.known(&applied.state_hash);
        if let (Some(state), Some(applied)) = (&self.in_force, &mut self.record.standing.applied) {
            applied.isolations = state.isolations();
        }
    }

    /// The device could not apply what it was sent.
    pub fn refused(&mut self, why: String, revision: u64) {
        self.refused = Some(why);
        let newest = self.signed.as_ref().map(|signed| signed.revision);
        if let Some(session) = &mut self.session
            && let Some(promise) = &mut session.promised
            && newest == Some(revision)
        {
            promise.answered = true;
        }
    }

    /// Sends again what was not acknowledged, when it is time to. Each time the next is further off.
    pub fn retry_if_due(&mut self, now: Instant) -> bool {
        if self.is_up_to_date() || self.desired.is_none() {
            return false;
        }
        let Some(session) = &mut self.session else {
            return false;
        };
        if now < session.retry.at {
            return false;
        }
        session.retry = session.retry.next(now);
        if let Some(desired) = &self.desired {
            session.promised = Promise::of(desired);
        }
        session.outbox.want_bundle();
        true
    }

    pub fn applied(&self) -> DeviceApplied {
        let standing = &self.record.standing;
        let in_force = self.in_force.as_ref();
        DeviceApplied {
            connected: self.is_connected(),
            sources: in_force
                .map(|state| Arc::clone(&state.sources))
                .unwrap_or_default(),
            state_hash: self.applied_hash().cloned().unwrap_or_default(),
            at: standing.applied.as_ref().map(|applied| applied.at),
            refused: self.refused.clone(),
            connections_cut: standing.connections_cut.clone(),
            wards: in_force
                .map(|state| Arc::clone(&state.wards))
                .unwrap_or_default(),
            covered_at: self.covered.at(),
            restored_at: self.covered.restored_at(),
            seen: self.seen(),
            datapath: self.datapath,
            accounts: self.accounts(),
        }
    }
}

impl Retry {
    fn first(now: Instant) -> Self {
        let wait = FIRST_RETRY;
        Self {
            at: now + wait,
            wait,
        }
    }

    fn next(self, now: Instant) -> Self {
        let wait = (self.wait * 2).min(LONGEST_RETRY);
        let jitter = wait.mul_f64(rand::random_range(0.0..0.25));
        Self {
            at: now + wait + jitter,
            wait,
        }
    }
}

#[cfg(test)]
#[path = "member_tests.rs"]
pub(super) mod tests;
