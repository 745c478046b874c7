//! Keeps the table as the last bundle says. One task owns the table, the bundle on disk and what the
//! kernel last held ([`actor`]); everything that changes or reads them asks it.
//!
//! A bundle goes: verify → write to disk → nft transaction → cut connections → read back → acknowledge.
//! Each step can be the last before a crash: what is on disk by then is what the next start brings about
//! before anybody is contacted, and the transaction is all or nothing. So the device has the state it
//! acknowledged last, or the next one. A power cut takes the rules along, so what has to outlast only
//! that, the name of the file in its directory, is synced while the rules change, and before the
//! acknowledgement.

mod accounts;
mod actor;
mod cutting;
mod host;
mod probing;
mod steps;
mod stored;
mod table;

pub use accounts::Lookup;
pub use actor::{Beat, Handle, Request, Standing, spawn};
pub use steps::{Step, Steps};
pub use stored::BUNDLE;

use stored::Stored;
use table::{Table, counts};

use std::time::{Duration, Instant};

use super::bundle::{Order, Position, Refusal, SignedBundle, Verifier, order};
use super::datapath::Probe;
use super::nft::difference::{first_difference, first_difference_outside_sets};
use super::nft::{Found, Nft, NftError, Rendered, Situation, render};
use super::state_directory::StateDirectory;
use crate::domain::enforcement::{Bundle, DeviceState};
use crate::fleet::proto::RuleCount;

pub struct Enforcer {
    table: Table,
    verifier: Verifier,
    situation: Situation,
    lookup: accounts::Lookup,
    stored: Stored,
    steps: Steps,
    wanted: Wanted,
    /// Whether the table was what is wanted when it was last read.
    matches: bool,
    /// When this agent had found none of its rules in the kernel, and had brought them about.
    restored: Option<Instant>,
    probe: Probe,
}

/// What the table has to hold.
enum Wanted {
    /// What it holds: an earlier agent's rules, of a bundle that can't be read any more.
    AsFound,
    /// No bundle came yet: connections are tracked, nothing is dropped.
    Nothing(Rendered),
    Bundle(Box<InForce>),
}

struct InForce {
    position: Position,
    state: DeviceState,
    rendered: Rendered,
    signed: SignedBundle,
    /// The disk has it too.
    persisted: bool,
}

/// How long each step took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stages {
    pub verify: Duration,
    pub persist: Duration,
    pub apply: Duration,
    pub cut: Duration,
    pub read_back: Duration,
}

/// In force, read back.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub position: Position,
    pub connections_cut: u32,
    pub stages: Stages,
}

/// Somebody else changed the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tampering {
    /// The first difference, in words.
    pub what: String,
    pub repaired: bool,
    pub took: Duration,
}

/// What the kernel holds, asked now.
#[derive(Clone, Debug, Default)]
pub struct ReadBack {
    pub applied: Option<Position>,
    pub matches: bool,
    pub detail: String,
    pub counts: Vec<RuleCount>,
}

impl Enforcer {
    pub fn new(
        nft: Nft,
        verifier: Verifier,
        situation: Situation,
        directory: StateDirectory,
        steps: Steps,
    ) -> Self {
        Self {
            table: Table::new(nft),
            verifier,
            situation,
            lookup: accounts::Lookup::default(),
            stored: Stored::new(directory),
            steps,
            wanted: Wanted::AsFound,
            matches: false,
            restored: None,
            probe: Probe::default(),
        }
    }

    /// Brings about what is on disk, before anybody is contacted. A bundle that can't be believed is left
    /// aside, and so is what the kernel holds then.
    pub async fn start(&mut self) -> Result<(), NftError> {
        let nothing = self.render(&DeviceState::default());
        let found = self.table.read().await?;
        let no_table = found.inet.is_none();
        let empty = first_difference(&nothing, found).is_none();
        let stored = match self.stored.load(&self.verifier) {
            Ok(stored) => stored,
            Err(words) => {
                tracing::error!(
                    "the bundle on disk is not believed and not applied: {words:#}. What the kernel holds stays until the operator sends the next bundle"
                );
                None
            }
        };
        self.steps.reached(Step::Loaded);
        self.wanted = match stored {
            Some((signed, bundle)) => Wanted::Bundle(Box::new(InForce {
                position: Position::of(&bundle),
                rendered: self.render_as_things_are(&bundle.state).await,
                state: bundle.state,
                signed,
                persisted: true,
            })),
            None if no_table || empty => Wanted::Nothing(nothing),
            None => {
                tracing::warn!("the kernel holds rules of an earlier bundle; they stay in force");
                Wanted::AsFound
            }
        };
        match self.check().await? {
            Some(Tampering {
                repaired: false,
                what,
                ..
            }) => tracing::error!("the rules could not be brought in force: {what}"),
            Some(_) if !no_table => tracing::warn!("the table had changed while no agent ran"),
            _ => {}
        }
        if no_table && self.position().is_some() {
            self.restored = Some(Instant::now());
        }
        Ok(())
    }

    /// The way of one bundle, from the wire to the acknowledgement.
    pub async fn accept(&mut self, signed: SignedBundle) -> Result<Acknowledged, Refusal> {
        let mut stages = Stages::default();
        let started = Instant::now();
        let bundle = self.verifier.verify(&signed)?;
        let order = order(&bundle, self.position())?;
        stages.verify = started.elapsed();
        self.steps.reached(Step::Verified);
        match order {
            Order::Newer => self.advance(signed, bundle, stages).await,
            Order::Same => self.acknowledge_again(stages).await,
        }
    }

    async fn advance(
        &mut self,
        signed: SignedBundle,
        bundle: Bundle,
        mut stages: Stages,
    ) -> Result<Acknowledged, Refusal> {
        let started = Instant::now();
        let syncing = self.stored.replace(&signed, &self.steps).await;
        stages.persist = started.elapsed();

        let started = Instant::now();
        let suspended = self.accounts();
        let mut next = InForce {
            position: Position::of(&bundle),
            rendered: self.render_as_things_are(&bundle.state).await,
            state: bundle.state,
            signed,
            persisted: false,
        };
        if let Err(error) = self.table.bring_about(&next.rendered).await {
            self.step_back().await;
            return Err(Refusal::new("apply_failed", error.to_string()));
        }
        stages.apply = started.elapsed();
        self.steps.reached(Step::Applied);

        let started = Instant::now();
        let mut connections_cut = self.cut(self.state(), &next.state).await;
        connections_cut += self.end_sockets(&suspended, &next.state).await;
        stages.cut = started.elapsed();
        self.steps.reached(Step::Cut);

        let started = Instant::now();
        if let Some(difference) = self.table.settle(&next.rendered).await {
            self.step_back().await;
            return Err(Refusal::new("read_back_differs", difference));
        }
        stages.read_back = started.elapsed();
        self.steps.reached(Step::ReadBack);

        let started = Instant::now();
        let persisted = stored::synced(syncing).await;
        stages.persist += started.elapsed();
        next.persisted = persisted.is_ok();
        let position = next.position.clone();
        self.wanted = Wanted::Bundle(Box::new(next));
        self.matches = true;
        // Enforced all the same: a full disk must not keep a host from being isolated.
        persisted.map_err(|error| {
            Refusal::new(
                "not_persisted",
                format!("it is in force, but a restart would forget it: {error:#}"),
            )
        })?;
        Ok(Acknowledged {
            position,
            connections_cut,
            stages,
        })
    }

    /// The operator sent again what is in force: it is looked at again, and put on disk if it wasn't.
    async fn acknowledge_again(&mut self, mut stages: Stages) -> Result<Acknowledged, Refusal> {
        let started = Instant::now();
        if let Wanted::Bundle(in_force) = &self.wanted
            && !in_force.persisted
        {
            let signed = in_force.signed.clone();
            let replaced = self.stored.replace(&signed, &self.steps).await;
            let persisted = stored::synced(replaced).await;
            persisted.map_err(|error| Refusal::new("not_persisted", format!("{error:#}")))?;
            if let Wanted::Bundle(in_force) = &mut self.wanted {
                in_force.persisted = true;
            }
        }
        stages.persist = started.elapsed();
        let started = Instant::now();
        let tampering = self
            .check()
            .await
            .map_err(|error| Refusal::new("apply_failed", error.to_string()))?;
        stages.read_back = started.elapsed();
        match (tampering, self.position()) {
            (Some(left), _) if !left.repaired => Err(Refusal::new("read_back_differs", left.what)),
            (_, Some(position)) => Ok(Acknowledged {
                position: position.clone(),
                connections_cut: 0,
                stages,
            }),
            (_, None) => Err(Refusal::new("not_newer", "no bundle is in force")),
        }
    }

    /// Compares the kernel with what is wanted and repairs a difference at once.
    pub async fn check(&mut self) -> Result<Option<Tampering>, NftError> {
        let started = Instant::now();
        self.follow_the_host().await;
        let Some(rendered) = self.rendered().cloned() else {
            self.table.read().await?;
            return Ok(None);
        };
        let difference = first_difference(&rendered, self.table.read().await?);
        self.matches = difference.is_none();
        let Some(what) = difference else {
            return Ok(None);
        };
        self.matches = self.repair(&rendered).await;
        Ok(Some(Tampering {
            what,
            repaired: self.matches,
            took: started.elapsed(),
        }))
    }

    /// What passed while the rules were gone is cut again.
    async fn repair(&mut self, rendered: &Rendered) -> bool {
        if let Err(error) = self.table.bring_about(rendered).await {
            tracing::error!("the table was changed and could not be repaired: {error}");
            return false;
        }
        let state = self.state().clone();
        self.cut(&DeviceState::default(), &state).await;
        self.end_sockets(&accounts::nobody(), &state).await;
        self.table.settle(rendered).await.is_none()
    }

    /// Counters and, without reading long sets, whether the rules are the ones that are wanted.
    pub async fn look(&mut self) -> Result<ReadBack, NftError> {
        let found = self.table.glance().await?;
        self.probe_datapath(&found).await;
        Ok(self.compare(&found, first_difference_outside_sets))
    }

    /// The whole table, asked now.
    pub async fn read_back(&mut self) -> Result<ReadBack, NftError> {
        let found = self.table.read().await?.clone();
        Ok(self.compare(&found, first_difference))
    }

    fn compare(
        &self,
        found: &Found,
        difference: fn(&Rendered, &Found) -> Option<String>,
    ) -> ReadBack {
        let Some(rendered) = self.rendered() else {
            return ReadBack {
                detail: "no bundle was applied since the agent started".to_owned(),
                ..ReadBack::default()
            };
        };
        let difference = difference(rendered, found);
        ReadBack {
            applied: self.position().cloned(),
            matches: difference.is_none(),
            detail: difference.unwrap_or_default(),
            counts: counts(rendered, found),
        }
    }

    /// Position of the bundle whose rules are in force, read back.
    pub fn applied(&self) -> Option<&Position> {
        self.position().filter(|_| self.matches)
    }

    /// When the kernel had none of the rules at this agent's start, since when it has them.
    pub fn restored(&self) -> Option<Instant> {
        self.restored
    }

    pub fn matches(&self) -> bool {
        self.matches
    }

    pub fn is_isolated(&self) -> bool {
        self.state().isolation.is_some()
    }

    /// Where else the operator can be reached, from the last bundle.
    pub fn operator(&self) -> Vec<std::net::SocketAddr> {
        self.state().operator.iter().copied().collect()
    }

    fn render(&self, state: &DeviceState) -> Rendered {
        render(state, &self.situation)
    }

    fn position(&self) -> Option<&Position> {
        match &self.wanted {
            Wanted::Bundle(in_force) => Some(&in_force.position),
            Wanted::Nothing(_) | Wanted::AsFound => None,
        }
    }

    fn state(&self) -> &DeviceState {
        static NOTHING: std::sync::LazyLock<DeviceState> =
            std::sync::LazyLock::new(DeviceState::default);
        match &self.wanted {
            Wanted::Bundle(in_force) => &in_force.state,
            Wanted::Nothing(_) | Wanted::AsFound => &NOTHING,
        }
    }

    fn rendered(&self) -> Option<&Rendered> {
        match &self.wanted {
            Wanted::Bundle(in_force) => Some(&in_force.rendered),
            Wanted::Nothing(rendered) => Some(rendered),
            Wanted::AsFound => None,
        }
    }

    /// After a bundle failed: disk and kernel have again what was in force before.
    async fn step_back(&mut self) {
        let before = match &self.wanted {
            Wanted::Bundle(in_force) => Some(&in_force.signed),
            Wanted::Nothing(_) | Wanted::AsFound => None,
        };
        if let Err(error) = self.stored.put_back(before) {
            tracing::error!("the bundle that failed is still on disk: {error:#}");
        }
        if let Err(error) = self.check().await {
            tracing::error!("what was in force could not be read back: {error}");
        }
    }
}
