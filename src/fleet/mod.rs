//! The operator's side of the fleet: enrolment, the streams of bundles, and what devices acknowledged.
//!
//! Owns who is enrolled, their sessions, and the order in which they are told. It does not decide what
//! should be in force: the operator's loop hands that over with [`Fleet::set_desired`] and reads from
//! [`Fleet::devices`] and [`Fleet::applied`] what `compile` and `status` need; [`Fleet::changes`] and
//! [`Fleet::facts_changes`] say when to look again. What is kept goes through [`records::DeviceStore`] to the store, and what the
//! audit log has to know through [`witness::Witness`].
//!
//! Only the leader serves agents: a [`Fleet`] that does not lead refuses them, and bundles carry the
//! epoch of the leadership they were made in.

pub mod admin;
pub mod administration;
mod allowance;
mod claims;
mod clean;
pub mod cli;
mod covered;
mod delivery;
mod desired;
mod enrol;
pub mod join_token;
mod keeper;
pub mod keys;
mod member;
pub mod nodes;
mod outbox;
mod read_back;
pub mod records;
mod reports;
mod roster;
mod server;
mod session;
mod sightings;
pub mod tables;
mod tls;
mod views;
mod waves;
pub mod witness;

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore, watch};
use tonic::Status;

use allowance::{Allowance, AllowancePerAddress};
use keys::OperatorKeys;
use nodes::Nodes;
use records::DeviceStore;
use roster::Roster;
use waves::Waves;
use witness::{FleetEvent, Happening, Witness};

pub use clean::DeviceFacts;
pub use delivery::{Delivery, OnDevice};

/// The generated types of `proto/fleet.proto`.
pub mod proto {
    #![allow(clippy::all, clippy::pedantic, missing_docs)]
    tonic::include_proto!("seawall.fleet.v1");
}

/// Enrolments that are worked on at once.
const MOST_ENROLMENTS: usize = 16;
/// Enrolments of the whole fleet: in a burst, and a second.
const ENROLMENTS: (u32, f64) = (500, 100.0);
/// Enrolments from one address that were refused: in a burst, and a second.
const REFUSED_ENROLMENTS: (u32, f64) = (10, 1.0 / 6.0);
/// Sessions refused to one address that the witness hears of: in a burst, and a second.
const STRANGERS: (u32, f64) = (3, 1.0 / 300.0);

/// The handle of everybody who has to do with the fleet; clones are the same fleet.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    keys: Arc<OperatorKeys>,
    store: Arc<dyn DeviceStore>,
    witness: Arc<dyn Witness>,
    /// `host:port` of the operator, for join tokens.
    advertised: Vec<String>,
    /// None where nodes do not enrol.
    nodes: Option<Nodes>,
    roster: Mutex<Roster>,
    /// Numbers sessions, across leaderships.
    sessions: AtomicU64,
    waves: Mutex<Waves>,
    /// There are new waves.
    planned: Notify,
    changes: watch::Sender<u64>,
    facts_changes: watch::Sender<u64>,
    enrolling: Semaphore,
    /// Held while a device's tags are read, changed and stored.
    tagging: tokio::sync::Mutex<()>,
    enrolments: Mutex<EnrolmentLimits>,
    /// How often the witness is told of strangers at the door.
    strangers: Mutex<AllowancePerAddress>,
}

struct EnrolmentLimits {
    all: Allowance,
    refused: AllowancePerAddress,
}

impl Fleet {
    /// A fleet that serves nobody until it [leads](Fleet::lead). Devices are known at once.
    pub async fn open(
        keys: Arc<OperatorKeys>,
        store: Arc<dyn DeviceStore>,
        witness: Arc<dyn Witness>,
        advertised: Vec<String>,
        nodes: Option<Nodes>,
    ) -> anyhow::Result<Self> {
        let roster = Roster::new(store.devices().await?);
        let (burst, per_second) = ENROLMENTS;
        let limits = EnrolmentLimits {
            all: Allowance::new(burst, per_second, tokio::time::Instant::now()),
            refused: AllowancePerAddress::new(REFUSED_ENROLMENTS.0, REFUSED_ENROLMENTS.1),
        };
        Ok(Self(Arc::new(Inner {
            keys,
            store,
            witness,
            advertised,
            nodes,
            roster: Mutex::new(roster),
            sessions: AtomicU64::new(1),
            waves: Mutex::default(),
            planned: Notify::new(),
            changes: watch::Sender::new(0),
            facts_changes: watch::Sender::new(0),
            enrolling: Semaphore::new(MOST_ENROLMENTS),
            tagging: tokio::sync::Mutex::default(),
            enrolments: Mutex::new(limits),
            strangers: Mutex::new(AllowancePerAddress::new(STRANGERS.0, STRANGERS.1)),
        })))
    }

    /// Begins a leadership: a new epoch, and the device table as the store has it now. From here on
    /// agents are served. Answers with the epoch.
    pub async fn lead(&self) -> anyhow::Result<u64> {
        self.save().await?;
        let epoch = self.0.store.next_epoch(0).await?;
        let mut roster = Roster::new(self.0.store.devices().await?);
        roster.lead(epoch);
        let mut before = std::mem::replace(&mut *self.roster(), roster);
        before.close_all(&not_leading());
        self.waves().clear();
        self.facts_changed();
        Ok(epoch)
    }

    /// Ends a leadership: every stream is ended, and nobody is served. Agents keep what they have.
    pub fn pause(&self) {
        self.end_sessions(&not_leading());
    }

    fn end_sessions(&self, why: &Status) {
        let mut roster = self.roster();
        roster.stop_leading();
        roster.close_all(why);
        drop(roster);
        self.waves().clear();
        self.changed();
    }

    /// Whether agents are served.
    pub fn is_leading(&self) -> bool {
        self.roster().epoch().is_some()
    }

    /// Counts up whenever [`Fleet::devices`] or [`Fleet::applied`] would answer differently.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Counts up whenever [`Fleet::devices`] would answer differently: not for each of two hundred
    /// acknowledgements.
    pub fn facts_changes(&self) -> watch::Receiver<u64> {
        self.0.facts_changes.subscribe()
    }

    fn changed(&self) {
        self.0.changes.send_modify(|count| *count += 1);
    }

    fn facts_changed(&self) {
        self.0.facts_changes.send_modify(|count| *count += 1);
        self.changed();
    }

    /// Held for moments only, never across an await.
    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.0.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waves(&self) -> MutexGuard<'_, Waves> {
        self.0.waves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enrolment_limits(&self) -> MutexGuard<'_, EnrolmentLimits> {
        let limits = self.0.enrolments.lock();
        limits.unwrap_or_else(PoisonError::into_inner)
    }

    fn strangers(&self) -> MutexGuard<'_, AllowancePerAddress> {
        let strangers = self.0.strangers.lock();
        strangers.unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, who: String, tenant: Option<String>, what: Happening) {
        self.0.witness.saw(FleetEvent {
            at: records::now(),
            who,
            tenant,
            what,
        });
    }
}

fn not_leading() -> Status {
    Status::unavailable(
        "this replica of the operator does not lead; try again, and the one that leads will answer",
    )
}

/// `remote:ADDRESS`, for somebody who is not known otherwise.
fn remote(address: Option<IpAddr>) -> String {
    match address {
        Some(address) => format!("remote:{}", address.to_canonical()),
        None => "remote:unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests;
