//! Keeps the table as the last bundle says. One task owns the table, the bundle on disk and what the
//! kernel last held ([`actor`]); everything that changes or reads them asks it.
//!
//! A bundle goes: verify → write to disk → nft transaction → cut connections → read back → acknowledge.
//! Each step can be the last before a crash: what is on disk by then is what the next start brings about
//! before anybody is contacted, and the transaction is all or nothing. So the device has the state it
//! acknowledged last, or the next one.

mod actor;
mod steps;

pub use actor::{Beat, Handle, Request, Standing, spawn};
pub use steps::{Step, Steps};

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::bundle::{Order, Position, Refusal, SignedBundle, Verifier, order};
use super::conntrack::{self, Containment};
use super::facts;
use super::nft::difference::{first_difference, first_difference_outside_sets};
use super::nft::transaction::transaction;
use super::nft::{Listing, Nft, NftError, Rendered, Situation, render};
use super::state_directory::{Secrecy, StateDirectory};
use crate::domain::enforcement::{Bundle, DeviceState};
use crate::fleet::proto::RuleCount;

pub(super) const BUNDLE: &str = "bundle.json";
/// Reports of counters name at most as many rules.
const MOST_COUNTS: usize = 1000;

pub struct Enforcer {
    nft: Nft,
    verifier: Verifier,
    situation: Situation,
    directory: StateDirectory,
    steps: Steps,
    wanted: Wanted,
    /// What the table held when it was last read; `None` when that is out of date.
    found: Option<Option<Listing>>,
    /// Whether it was what is wanted.
    matches: bool,
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
            nft,
            verifier,
            situation,
            directory,
            steps,
            wanted: Wanted::AsFound,
            found: None,
            matches: false,
        }
    }

    /// Brings about what is on disk, before anybody is contacted. A bundle that can't be believed is left
    /// aside, and so is what the kernel holds then.
    pub async fn start(&mut self) -> Result<(), NftError> {
        let table = self.nft.list().await?;
        let nothing = self.render(&DeviceState::default());
        let stored = match self.load() {
            Ok(stored) => stored,
            Err(words) => {
                tracing::error!(
                    "the bundle on disk is not believed and not applied: {words:#}. What the kernel holds stays until the operator sends the next bundle"
                );
                None
            }
        };
        self.steps.reached(Step::Loaded);
        let no_table = table.is_none();
        let empty = first_difference(&nothing.ruleset, table.as_ref()).is_none();
        self.found = Some(table);
        self.wanted = match stored {
            Some((signed, bundle)) => Wanted::Bundle(Box::new(InForce {
                position: Position::of(&bundle),
                rendered: self.render(&bundle.state),
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
        let persisted = self.persist(&signed).await;
        stages.persist = started.elapsed();

        let started = Instant::now();
        let next = InForce {
            position: Position::of(&bundle),
            rendered: self.render(&bundle.state),
            state: bundle.state,
            signed,
            persisted: persisted.is_ok(),
        };
        if let Err(error) = self.bring_about(&next.rendered).await {
            self.step_back().await;
            return Err(Refusal::new("apply_failed", error.to_string()));
        }
        stages.apply = started.elapsed();
        self.steps.reached(Step::Applied);

        let started = Instant::now();
        let connections_cut = self.cut(self.state(), &next.state).await;
        stages.cut = started.elapsed();
        self.steps.reached(Step::Cut);

        let started = Instant::now();
        if let Some(difference) = self.settle(&next.rendered).await {
            self.step_back().await;
            return Err(Refusal::new("read_back_differs", difference));
        }
        stages.read_back = started.elapsed();
        self.steps.reached(Step::ReadBack);

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
            self.persist(&signed)
                .await
                .map_err(|error| Refusal::new("not_persisted", format!("{error:#}")))?;
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
        let listing = self.nft.list().await?;
        let Some(rendered) = self.rendered() else {
            self.found = Some(listing);
            return Ok(None);
        };
        let difference = first_difference(&rendered.ruleset, listing.as_ref());
        let rendered = rendered.clone();
        self.found = Some(listing);
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
        if let Err(error) = self.bring_about(rendered).await {
            tracing::error!("the table was changed and could not be repaired: {error}");
            return false;
        }
        let state = self.state().clone();
        self.cut(&DeviceState::default(), &state).await;
        self.settle(rendered).await.is_none()
    }

    /// Counters and, without reading long sets, whether the rules are the ones that are wanted.
    pub async fn look(&mut self) -> Result<ReadBack, NftError> {
        let listing = self.nft.list_without_elements().await?;
        Ok(self.compare(listing.as_ref(), first_difference_outside_sets))
    }

    /// The whole table, asked now.
    pub async fn read_back(&mut self) -> Result<ReadBack, NftError> {
        let listing = self.nft.list().await?;
        Ok(self.compare(listing.as_ref(), first_difference))
    }

    fn compare(
        &self,
        listing: Option<&Listing>,
        difference: fn(&super::nft::Ruleset, Option<&Listing>) -> Option<String>,
    ) -> ReadBack {
        let Some(rendered) = self.rendered() else {
            return ReadBack {
                detail: "no bundle was applied since the agent started".to_owned(),
                ..ReadBack::default()
            };
        };
        let difference = difference(&rendered.ruleset, listing);
        ReadBack {
            applied: self.position().cloned(),
            matches: difference.is_none(),
            detail: difference.unwrap_or_default(),
            counts: listing.map_or_else(Vec::new, |listing| counts(rendered, listing)),
        }
    }

    /// Position of the bundle whose rules are in force, read back.
    pub fn applied(&self) -> Option<&Position> {
        self.position().filter(|_| self.matches)
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

    fn load(&self) -> anyhow::Result<Option<(SignedBundle, Bundle)>> {
        let Some(bytes) = self.directory.read(BUNDLE)? else {
            return Ok(None);
        };
        let signed = SignedBundle::from_file(&bytes)
            .with_context(|| format!("{} is damaged", self.directory.path(BUNDLE).display()))?;
        let bundle = self
            .verifier
            .verify(&signed)
            .with_context(|| self.directory.path(BUNDLE).display().to_string())?;
        Ok(Some((signed, bundle)))
    }

    async fn persist(&self, signed: &SignedBundle) -> anyhow::Result<()> {
        let (directory, bytes) = (self.directory.clone(), signed.to_file());
        let prepare = move || directory.prepare(BUNDLE, &bytes, Secrecy::OwnerOnly);
        let prepared = tokio::task::spawn_blocking(prepare).await??;
        self.steps.reached(Step::Written);
        tokio::task::spawn_blocking(move || prepared.commit()).await??;
        self.steps.reached(Step::Persisted);
        Ok(())
    }

    /// After a bundle failed: disk and kernel have again what was in force before.
    async fn step_back(&mut self) {
        let kept = match &self.wanted {
            Wanted::Bundle(in_force) => {
                let bytes = in_force.signed.to_file();
                self.directory.replace(BUNDLE, &bytes, Secrecy::OwnerOnly)
            }
            Wanted::Nothing(_) | Wanted::AsFound => self.directory.remove(BUNDLE),
        };
        if let Err(error) = kept {
            tracing::error!("the bundle that failed is still on disk: {error:#}");
        }
        match self.check().await {
            Ok(_) => {}
            Err(error) => tracing::error!("what was in force could not be read back: {error}"),
        }
    }

    /// From what the table held when last read; once more from what it holds now, when that was out of
    /// date.
    async fn bring_about(&mut self, wanted: &Rendered) -> Result<(), NftError> {
        let fresh = match self.found.take() {
            Some(found) => match self.change(found, wanted).await {
                Ok(()) => return Ok(()),
                Err(NftError::Refused(_)) => self.nft.list().await?,
                Err(error) => return Err(error),
            },
            None => self.nft.list().await?,
        };
        self.change(fresh, wanted).await
    }

    async fn change(&self, found: Option<Listing>, wanted: &Rendered) -> Result<(), NftError> {
        match transaction(found.as_ref(), &wanted.ruleset) {
            Some(transaction) => self.nft.apply(&transaction).await,
            None => Ok(()),
        }
    }

    /// Reads back, and where it differs tries once more: somebody may have changed the table between.
    /// The difference that stays, in words.
    async fn settle(&mut self, wanted: &Rendered) -> Option<String> {
        for last in [false, true] {
            let listing = match self.nft.list().await {
                Ok(listing) => listing,
                Err(error) => return Some(error.to_string()),
            };
            let difference = first_difference(&wanted.ruleset, listing.as_ref());
            self.found = Some(listing);
            match difference {
                None => return None,
                Some(difference) if last => return Some(difference),
                Some(_) => {
                    if let Err(error) = self.bring_about(wanted).await {
                        return Some(error.to_string());
                    }
                }
            }
        }
        None
    }

    /// Ends connections that `after` doesn't let pass. The rules drop their packets whether or not this
    /// succeeds, so a failure is told and holds up nothing.
    async fn cut(&self, before: &DeviceState, after: &DeviceState) -> u32 {
        let local = facts::addresses();
        let pinned = self.situation.pinned.iter().copied();
        let before = Containment::new(before, pinned.clone(), local.iter().copied());
        let after = Containment::new(after, pinned, local);
        if before == after {
            return 0;
        }
        match tokio::task::spawn_blocking(move || conntrack::cut(&before, &after)).await {
            Ok(Ok(cut)) => cut.connections,
            Ok(Err(error)) => {
                tracing::error!(
                    "open connections are dropped by the rules, but not ended: {error}"
                );
                0
            }
            Err(error) => {
                tracing::error!("open connections were not ended: {error}");
                0
            }
        }
    }
}

/// What the counters say, by rule. Rules that nothing has met are left out.
fn counts(rendered: &Rendered, listing: &Listing) -> Vec<RuleCount> {
    let mut by_rule: BTreeMap<(&str, bool), (u64, u64)> = BTreeMap::new();
    for (comment, counts) in &listing.counts {
        if let Some(counted) = rendered.counted.get(comment) {
            let sum = by_rule.entry((&counted.id, counted.observing)).or_default();
            sum.0 += counts.packets;
            sum.1 += counts.bytes;
        }
    }
    by_rule
        .into_iter()
        .filter(|(_, (packets, _))| *packets > 0)
        .take(MOST_COUNTS)
        .map(|((rule, observing), (packets, bytes))| RuleCount {
            rule: rule.to_owned(),
            packets,
            bytes,
            observing,
        })
        .collect()
}
