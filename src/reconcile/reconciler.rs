//! One turn of the loop after another: wait for something, take in all that is there, act once.

use std::sync::Arc;

use anyhow::{Result, bail};
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, ClusterChange};
use super::custody::Custody;
use super::inputs::{Inputs, Outputs, send_if_new};
use super::leading::Leading;
use super::tracked::Tracked;
use crate::access::{Directory, Tool};
use crate::api::policy::PolicyStatus;
use crate::api::{ApiKeyScopeSpec, ApiKeyScopeStatus, IsolationSpec, IsolationStatus, PolicySpec};
use crate::domain::compile::{Compiled, Compiler};
use crate::domain::world::{Settings, World};
use crate::enforce::access::{role_bindings, service_accounts};
use crate::metrics::{KindLabel, Metrics};
use crate::reconcile::view::View;
use crate::watch::{Change, Kind, Watched};

/// The loop says that it turns at least this often.
const TICK: std::time::Duration = std::time::Duration::from_secs(10);

pub struct Reconciler {
    pub(super) inputs: Inputs,
    pub(super) outputs: Outputs,
    pub(super) metrics: Metrics,
    pub(super) hold_threshold: usize,
    pub(super) world: World,
    pub(super) policies: Tracked<PolicyStatus>,
    pub(super) isolations: Tracked<IsolationStatus>,
    pub(super) scopes: Tracked<ApiKeyScopeStatus>,
    pub(super) cluster: Cluster,
    pub(super) custody: Custody,
    pub(super) leading: Leading,
    /// It was heard what is protected: what can't be found out is not waited for.
    pub(super) protected_known: bool,
    /// Facts changed since the last compile.
    pub(super) dirty: bool,
    compiler: Compiler,
    pub(super) compiled: Option<Arc<Compiled>>,
    turned: Instant,
}

/// Why the loop wakes.
enum Wake {
    Policy(Option<Change<Watched<PolicySpec, PolicyStatus>>>),
    Isolation(Option<Change<Watched<IsolationSpec, IsolationStatus>>>),
    Scope(Option<Change<Watched<ApiKeyScopeSpec, ApiKeyScopeStatus>>>),
    Cluster(Result<ClusterChange>),
    Fleet,
    Mandate,
    Protected,
    Stripping,
    Confirmed(String),
    Asked(oneshot::Sender<World>),
    /// Whether the kind Isolation is being removed, and why we think so.
    KindChecked(Option<String>),
    Time,
    Stop,
}

impl Reconciler {
    pub fn new(
        settings: Settings,
        hold_threshold: usize,
        inputs: Inputs,
        outputs: Outputs,
        metrics: Metrics,
    ) -> Self {
        let mut world = World::new(settings);
        world.devices = inputs.fleet.devices().into();
        let cluster = Cluster::of(&inputs.cluster);
        Self {
            inputs,
            outputs,
            metrics,
            hold_threshold,
            world,
            policies: Tracked::default(),
            isolations: Tracked::default(),
            scopes: Tracked::default(),
            cluster,
            custody: Custody::default(),
            leading: Leading::default(),
            protected_known: false,
            dirty: true,
            compiler: Compiler::default(),
            compiled: None,
            turned: Instant::now(),
        }
    }

    /// Turns until `stop`; then agents' streams are ended in order.
    pub async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let mut fleet_changes = self.inputs.fleet.facts_changes();
        loop {
            let wake = self.next(&mut fleet_changes, &stop).await;
            // Asked to stop, a watch may have ended between two looks: that is no failure then.
            if matches!(wake, Wake::Stop) || stop.is_cancelled() {
                self.stop_leading();
                return Ok(());
            }
            let news = self.take_in(wake)?;
            let more_news = self.take_in_the_rest()?;
            self.count_cluster();
            if !news && !more_news {
                continue;
            }
            self.turn().await?;
            self.turned = Instant::now();
            self.outputs
                .health
                .send_modify(|health| health.turned = Some(Timestamp::now()));
        }
    }

    async fn next(
        &mut self,
        fleet_changes: &mut tokio::sync::watch::Receiver<u64>,
        stop: &CancellationToken,
    ) -> Wake {
        let time = self.next_time();
        let inputs = &mut self.inputs;
        tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            changed = inputs.mandate.changed() => match changed {
                Ok(()) => Wake::Mandate,
                Err(_) => Wake::Stop,
            },
            change = inputs.isolations.recv() => Wake::Isolation(change),
            change = inputs.policies.recv() => Wake::Policy(change),
            change = inputs.scopes.recv() => Wake::Scope(change),
            _ = fleet_changes.changed() => Wake::Fleet,
            changed = inputs.protected.changed() => match changed {
                Ok(()) => Wake::Protected,
                Err(_) => Wake::Stop,
            },
            changed = inputs.stripping.changed() => match changed {
                Ok(()) => Wake::Stripping,
                Err(_) => Wake::Stop,
            },
            Some(confirmed) = inputs.confirmations.recv() => Wake::Confirmed(confirmed),
            Some(asked) = inputs.questions.recv() => Wake::Asked(asked),
            checked = self.leading.kind_check() => Wake::KindChecked(checked),
            () = sleep_until(time) => Wake::Time,
            // Last, for what changes all the time must not keep the rest waiting.
            change = inputs.cluster.next() => Wake::Cluster(change),
        }
    }

    /// When the loop has to turn although nothing happened.
    fn next_time(&self) -> Instant {
        let tick = self.turned + TICK;
        let wake = self
            .compiled
            .as_ref()
            .and_then(|compiled| compiled.wake_at)
            .map(|at| {
                let left = at.duration_since(Timestamp::now());
                // A moment late rather than early: compiled too early, nothing would have changed.
                let left = std::time::Duration::try_from(left).unwrap_or_default();
                Instant::now() + left + std::time::Duration::from_millis(1)
            });
        [Some(tick), wake, self.settle_at()]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(tick)
    }

    /// Everything that is there already belongs to the same turn. Whether there was anything to turn for.
    fn take_in_the_rest(&mut self) -> Result<bool> {
        let mut news = false;
        while let Ok(change) = self.inputs.isolations.try_recv() {
            news |= self.take_in(Wake::Isolation(Some(change)))?;
        }
        while let Ok(change) = self.inputs.policies.try_recv() {
            news |= self.take_in(Wake::Policy(Some(change)))?;
        }
        while let Ok(change) = self.inputs.scopes.try_recv() {
            news |= self.take_in(Wake::Scope(Some(change)))?;
        }
        while let Some(change) = self.inputs.cluster.try_next() {
            news |= self.take_in(Wake::Cluster(Ok(change)))?;
        }
        Ok(news)
    }

    /// Whether it is a reason for a turn.
    fn take_in(&mut self, wake: Wake) -> Result<bool> {
        match wake {
            Wake::Isolation(Some(change)) => self.take_isolation(change),
            Wake::Policy(Some(change)) => {
                self.dirty |= self.policies.take(&mut self.world.policies, change).facts;
            }
            Wake::Scope(Some(change)) => {
                self.dirty |= self.scopes.take(&mut self.world.scopes, change).facts;
            }
            Wake::Cluster(change) => {
                let news = self.cluster.take(&mut self.world, change?);
                self.dirty |= news;
                return Ok(news);
            }
            Wake::Fleet => self.take_devices(),
            Wake::Protected => self.take_protected(),
            Wake::Stripping => self.take_stripping(),
            Wake::Confirmed(id) => self.confirm(&id),
            Wake::Asked(answer) => {
                // Who asked may have given up; that is no matter.
                let _ = answer.send(self.world.clone());
            }
            Wake::KindChecked(removed) => self.settle(removed.as_deref()),
            Wake::Mandate | Wake::Time | Wake::Stop => {}
            Wake::Isolation(None) | Wake::Policy(None) | Wake::Scope(None) => {
                bail!("a watch ended")
            }
        }
        Ok(true)
    }

    fn count_cluster(&self) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (kind, malformed, known) in self.cluster.counts(&self.world) {
            let kind = KindLabel {
                kind: kind.as_str(),
            };
            let metrics = &self.metrics;
            metrics.malformed.get_or_create(&kind).set(gauge(malformed));
            metrics.world_objects.get_or_create(&kind).set(gauge(known));
        }
    }

    fn take_isolation(&mut self, change: Change<Watched<IsolationSpec, IsolationStatus>>) {
        let always_hold = self.leading.loss_of_the_kind(&change);
        let taken = self.isolations.take(&mut self.world.isolations, change);
        self.dirty |= taken.facts;
        for (key, isolation) in taken.gone {
            self.custody.gone(
                &mut self.world,
                key,
                isolation,
                always_hold.clone(),
                Instant::now(),
            );
        }
        self.custody.returned(&mut self.world);
    }

    fn take_devices(&mut self) {
        let devices = self.inputs.fleet.devices();
        self.dirty |= self.world.devices.replace(devices);
    }

    fn take_protected(&mut self) {
        let protected = self.inputs.protected.borrow_and_update().clone();
        let Some(protected) = protected else { return };
        self.protected_known = true;
        if protected != self.world.settings.protected {
            self.world.settings.protected = protected;
            self.dirty = true;
        }
    }

    fn take_stripping(&mut self) {
        let stripping = self.inputs.stripping.borrow_and_update().clone();
        let Some(stripping) = stripping else { return };
        if stripping != self.world.stripping {
            self.world.stripping = stripping;
            self.dirty = true;
        }
    }

    /// Whether every list has been read once. A list that is lost later stays as it was last known.
    pub(super) fn known(&self) -> bool {
        self.policies.was_read()
            && self.isolations.was_read()
            && self.scopes.was_read()
            && self.cluster.was_read()
            && self.protected_known
            && self.inputs.stripping.borrow().is_some()
    }

    async fn turn(&mut self) -> Result<()> {
        self.follow_role().await?;
        if !self.known() {
            return Ok(());
        }
        self.begin_settling();
        let now = Timestamp::now();
        let late = self
            .compiled
            .as_ref()
            .is_none_or(|compiled| compiled.wake_at.is_some_and(|at| at <= now));
        if self.dirty || late {
            self.compile(now);
            self.show();
        } else if self.beside_changed() {
            self.show();
        }
        Ok(())
    }

    fn compile(&mut self, now: Timestamp) {
        let began = Instant::now();
        let before = self.compiled.take();
        let compiled = self.compiler.compile(&mut self.world, now);
        self.dirty = false;
        if self.leading.is_ready() {
            // First what is fast: everything else can wait for it.
            self.inputs
                .fleet
                .set_desired(compiled.waves(before.as_deref()));
            // With those whose Isolations are held, which are known by now.
            let users = &compiled.enforcement.suspended_users;
            self.outputs.suspended_users.send_if_modified(|known| {
                let differs = known.as_ref() != Some(users);
                if differs {
                    *known = Some(users.clone());
                }
                differs
            });
            // What is held stays so, and nothing is deleted before it is known what is.
            let stripped = &compiled.enforcement.stripped;
            send_if_new(&self.outputs.stripped, stripped.clone());
        }
        self.metrics.compiles.inc();
        self.metrics
            .compile_seconds
            .observe(began.elapsed().as_secs_f64());
        let access = &compiled.enforcement.access;
        let policies = &compiled.enforcement.network_policies;
        send_if_new(&self.outputs.network_policies, policies.clone());
        send_if_new(&self.outputs.service_accounts, service_accounts(access));
        send_if_new(&self.outputs.role_bindings, role_bindings(access));
        self.after_compile(before.as_deref(), &compiled);
        self.compiled = Some(compiled);
    }

    fn beside_changed(&mut self) -> bool {
        let policies = self.policies.take_changed();
        let isolations = self.isolations.take_changed();
        let scopes = self.scopes.take_changed();
        policies || isolations || scopes
    }

    /// Publishes the view.
    fn show(&mut self) {
        self.beside_changed();
        let Some(compiled) = &self.compiled else {
            return;
        };
        let malformed = [
            (Kind::Policy, &self.policies.malformed),
            (Kind::Isolation, &self.isolations.malformed),
            (Kind::ApiKeyScope, &self.scopes.malformed),
        ];
        for (kind, objects) in malformed {
            let kind = kind.as_str();
            let count = i64::try_from(objects.len()).unwrap_or(i64::MAX);
            self.metrics
                .malformed
                .get_or_create(&KindLabel { kind })
                .set(count);
        }
        let malformed = malformed
            .into_iter()
            .flat_map(|(kind, objects)| objects.values().map(move |object| (kind, object.clone())))
            .collect();
        let tools = self.world.scopes.iter().map(|(key, scope)| {
            let tools = Tool::names_in(scope.spec.access, &scope.spec.tools);
            (key.clone(), tools)
        });
        let directory = Directory::new(&self.world.scopes, &compiled.verdicts.scopes);
        self.outputs.view.send_replace(Some(Arc::new(View {
            compiled: Arc::clone(compiled),
            directory: Arc::new(directory),
            policies: Arc::clone(&self.policies.objects),
            isolations: Arc::clone(&self.isolations.objects),
            scopes: Arc::clone(&self.scopes.objects),
            tools: Arc::new(tools.collect()),
            malformed: Arc::new(malformed),
            holds: Arc::new(self.custody.held_by()),
            pending_release: Arc::new(self.custody.pending(&self.world)),
        })));
    }
}
