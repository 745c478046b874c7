//! Wires `seawall operator` together: opens what it needs, starts every task, and joins them. Which
//! part does what is in the parts; here is only who talks to whom.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admission;
use crate::api::{ApiKeyScope, Isolation, Policy, stamps};
use crate::audit::index;
use crate::domain::names::ObjectKey;
use crate::domain::world::{Protected, Settings, World};
use crate::enforce::access::{RoleBindings, ServiceAccounts};
use crate::enforce::holds::{HoldKeeper, stored as stored_holds};
use crate::enforce::netpol::NetworkPolicies;
use crate::enforce::owned::{Applier, Owned, Placed, Wanted, stored};
use crate::fleet;
use crate::health::{self, Health};
use crate::leadership::{self, Role, Timing};
use crate::local::{self, AuditTrail, Sources};
use crate::metrics::{KindLabel, Metrics};
use crate::operator::args::OperatorArgs;
use crate::operator::auditing::Auditing;
use crate::operator::base::{Base, Sockets};
use crate::operator::local_sources::{self, LocalDevices, LocalScopes, LocalStandings, Views};
use crate::operator::mcp_token::McpToken;
use crate::operator::tasks::Tasks;
use crate::operator::{kind_check, logging, protected, recorder, signals};
use crate::reconcile::holds::{CONFIG_MAP, HoldList};
use crate::reconcile::{Inputs, Outputs, Reconciler, in_force};
use crate::status::StatusTask;

use crate::watch::{Change, Kind, Raw, Watch, Watched, narrow};

/// After a signal, everything ends within this.
const GRACE: Duration = Duration::from_secs(8);
/// Changes of one kind that wait for their reader.
const CHANGES: usize = 256;

/// Runs the operator until a signal or a failure.
pub fn run(args: OperatorArgs) -> Result<ExitCode> {
    logging::start(args.log_format);
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?
        .block_on(operate(args))?;
    Ok(ExitCode::SUCCESS)
}

async fn operate(args: OperatorArgs) -> Result<()> {
    info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let stop = CancellationToken::new();
    let sockets = Sockets::bind(&args).await?;
    let mut base = Base::open(&args).await?;
    let mut operator = Operator {
        tasks: Tasks::new(stop.clone()),
        client: base.client.clone(),
        metrics: Metrics::new(),
        health: watch::Sender::default(),
        role: watch::Sender::new(Role::Follower),
        stop,
        args,
    };
    base.enter("start").await?;
    let started = operator.spawn_all(&mut base, sockets).await;
    let ended = match started {
        Ok(()) => operator.tasks.join(GRACE).await,
        Err(error) => Err(error),
    };
    base.close().await;
    info!("ended");
    ended
}

/// What every part needs, while they are started.
struct Operator {
    args: OperatorArgs,
    client: Client,
    metrics: Metrics,
    health: watch::Sender<Health>,
    role: watch::Sender<Role>,
    tasks: Tasks,
    stop: CancellationToken,
}

impl Operator {
    async fn spawn_all(&mut self, base: &mut Base, sockets: Sockets) -> Result<()> {
        let stop = self.stop.clone();
        self.tasks.spawn("the signals", signals::wait(stop.clone()));
        let health = health::serve(
            sockets.health,
            self.health.subscribe(),
            self.metrics.clone(),
            stop.clone(),
        );
        self.tasks.spawn("health and metrics", health);
        let fleet = base.fleet.clone();
        let serving = stop.clone();
        self.tasks.spawn("the fleet's server", async move {
            fleet.serve(sockets.fleet, serving).await
        });
        let admin = fleet::admin::router(base.fleet.clone());
        let (socket, serving) = (self.args.admin_socket.clone(), stop.clone());
        self.tasks.spawn("the admin socket", async move {
            fleet::admin::socket::serve(&socket, admin, serving).await
        });
        self.spawn_mcp_token();
        self.spawn_audit(base);
        let observer = sockets
            .webhook
            .map(|listener| self.spawn_admission(base, listener));
        self.spawn_reconciler(base, observer).await?;
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.args.system_namespace);
        let lease = leadership::run(
            leases,
            base.candidate(),
            Timing::default(),
            self.role.clone(),
            stop,
        );
        self.tasks.spawn("the lease", lease);
        Ok(())
    }

    /// The log itself is `base`'s, for it outlives the others; here is what follows it.
    fn spawn_audit(&mut self, base: &Base) {
        let (reader, published) = (base.audit.reader(), base.audit.published());
        let (index, stop) = (base.store.clone(), self.stop.clone());
        self.tasks.spawn("the audit log's index", async move {
            index::follow(reader, published, &index, stop).await;
            Ok(())
        });
        let (mut published, stop) = (base.audit.published(), self.stop.clone());
        self.tasks.spawn("the audit log", async move {
            let failed = async { while published.changed().await.is_ok() {} };
            match stop.run_until_cancelled(failed).await {
                Some(()) => bail!("it can't be written any more; see the line above"),
                None => Ok(()),
            }
        });
    }

    fn spawn_mcp_token(&mut self) {
        let Some(file) = self.args.mcp_token_file.clone() else {
            return;
        };
        let token = McpToken {
            accounts: Api::namespaced(self.client.clone(), &self.args.system_namespace),
            account: self.args.mcp_service_account.clone(),
            file,
        };
        self.tasks
            .spawn("the MCP server's token", token.keep(self.stop.clone()));
    }

    /// The loop, and the tasks that read from it and write for it.
    async fn spawn_reconciler(
        &mut self,
        base: &mut Base,
        observer: Option<admission::Observer>,
    ) -> Result<()> {
        let (confirm, confirmations) = mpsc::channel(8);
        let (ask, questions) = mpsc::channel(8);
        let (tell, happenings) = mpsc::channel(4096);
        let inputs = Inputs {
            policies: self.watch_observed::<Policy, _, _>(Kind::Policy, observer.as_ref()),
            isolations: self.watch_observed::<Isolation, _, _>(Kind::Isolation, observer.as_ref()),
            scopes: self.watch_observed::<ApiKeyScope, _, _>(Kind::ApiKeyScope, observer.as_ref()),
            fleet: base.fleet.clone(),
            role: self.role.subscribe(),
            confirmations,
            questions,
            store: Arc::clone(&base.in_force),
            kind_check: kind_check::of(self.client.clone()),
        };
        let (view, views) = watch::channel(None);
        let (in_force, in_force_latest) = watch::channel(None);
        let (holds, holds_wanted) = watch::channel(None);
        let (network_policies, placed_policies) =
            self.applier::<NetworkPolicies>("the NetworkPolicies", None);
        let (service_accounts, placed_accounts) = self.applier::<ServiceAccounts>(
            "the agents' ServiceAccounts",
            Some(stamps::AGENTS_NAMESPACE),
        );
        let (role_bindings, placed_bindings) =
            self.applier::<RoleBindings>("the agents' RoleBindings", None);
        let outputs = Outputs {
            view,
            network_policies,
            service_accounts,
            role_bindings,
            in_force,
            holds,
            health: self.health.clone(),
            happenings: tell.clone(),
        };
        self.spawn_hold_keeper(holds_wanted, confirm);
        let auditing = Auditing {
            log: base.audit.clone(),
            metrics: self.metrics.clone(),
            system_namespace: self.args.system_namespace.clone(),
            happenings,
            fleet_events: base.fleet_events.take().context("wired once")?,
        };
        self.tasks
            .spawn("entering in the audit log", auditing.run(self.stop.clone()));
        let (used, used_days) = watch::channel(BTreeMap::new());
        self.spawn_local_api(base, views.clone(), used, ask);
        let statuses = StatusTask {
            client: self.client.clone(),
            metrics: self.metrics.clone(),
            fleet: base.fleet.clone(),
            views,
            role: self.role.subscribe(),
            network_policies: placed_policies,
            service_accounts: placed_accounts,
            role_bindings: placed_bindings,
            used: used_days,
            happenings: tell,
        };
        self.tasks
            .spawn("the statuses", statuses.run(self.stop.clone()));
        let keeping = in_force::keep(
            Arc::clone(&base.in_force),
            in_force_latest,
            self.stop.clone(),
        );
        self.tasks.spawn("what is in force", keeping);
        let settings = Settings {
            system_namespace: self.args.system_namespace.clone(),
            operator: self.args.operator_addresses.iter().copied().collect(),
            protected: self.protected().await,
        };
        let reconciler = Reconciler::new(
            settings,
            self.args.hold_threshold,
            inputs,
            outputs,
            self.metrics.clone(),
        );
        self.tasks
            .spawn("the loop", reconciler.run(self.stop.clone()));
        Ok(())
    }

    fn spawn_local_api(
        &mut self,
        base: &Base,
        views: Views,
        used: watch::Sender<BTreeMap<ObjectKey, String>>,
        worlds: mpsc::Sender<oneshot::Sender<World>>,
    ) {
        let fleet = base.fleet.clone();
        let sources = Sources {
            scopes: Arc::new(LocalScopes {
                views: views.clone(),
                used,
            }),
            devices: Arc::new(LocalDevices {
                views: views.clone(),
                fleet: fleet.clone(),
            }),
            enforcement: Arc::new(LocalStandings {
                views,
                fleet,
                worlds,
            }),
            audit: Arc::clone(&base.trail) as Arc<dyn AuditTrail>,
        };
        let (path, stop) = (self.args.local_socket.clone(), self.stop.clone());
        self.tasks.spawn("the local API", async move {
            local_sources::serve(&path, local::router::router(sources), stop).await
        });
    }

    async fn protected(&self) -> Vec<Protected> {
        let mut protected = self.args.protected.clone();
        protected.extend(protected::discover(&self.client, &self.args.cluster_dns).await);
        protected
    }

    fn spawn_hold_keeper(
        &mut self,
        wanted: watch::Receiver<Option<HoldList>>,
        confirmations: mpsc::Sender<String>,
    ) {
        let namespace = self.args.system_namespace.clone();
        let maps = api(
            &self.client,
            &ApiResource::erase::<ConfigMap>(&()),
            Some(&namespace),
        );
        let watch = Watch::all(maps, Kind::Holds, stored_holds).named(CONFIG_MAP);
        let keeper = HoldKeeper {
            changes: self.spawn_watch(watch),
            recorder: recorder::of(self.client.clone()),
            client: self.client.clone(),
            namespace,
            wanted,
            role: self.role.subscribe(),
            confirmations,
        };
        self.tasks
            .spawn("the list of holds", keeper.run(self.stop.clone()));
    }

    /// The applier of one kind: where it hears what is wanted, and where it tells what is in place.
    fn applier<K: Owned>(
        &mut self,
        name: &'static str,
        namespace: Option<&str>,
    ) -> (watch::Sender<Wanted<K>>, watch::Receiver<Placed>) {
        let ours = format!("{}={}", stamps::MANAGED_BY, stamps::MANAGED_BY_SEAWALL);
        let objects = api(&self.client, &K::resource(), namespace);
        let watch = Watch::all(objects, K::KIND, stored::<K>).labelled(&ours);
        let (wanted, wanted_latest) = watch::channel(None);
        let (placed, placed_latest) = watch::channel(Placed::default());
        let applier = Applier::<K> {
            client: self.client.clone(),
            wanted: wanted_latest,
            changes: self.spawn_watch(watch),
            role: self.role.subscribe(),
            placed,
        };
        self.tasks.spawn(name, applier.run(self.stop.clone()));
        (wanted, placed_latest)
    }

    /// The webhook, its place in the API server, and the witness that calls a gap what it was not told of.
    fn spawn_admission(
        &mut self,
        base: &Base,
        listener: std::net::TcpListener,
    ) -> admission::Observer {
        let (recorder, observer, witness) = admission::open(
            Arc::new(base.audit.clone()),
            Arc::new(base.store.clone()),
            &self.args.system_namespace,
            admission::Counts::registered(&self.metrics),
        );
        let mut names = self.args.webhook_names.clone();
        // The name is the address where the API server is told one, as in development.
        names.extend(listener.local_addr().map(|own| own.ip().to_string()));
        let namespace = &self.args.system_namespace;
        let identity = admission::Identity::new(Arc::clone(&base.keys), namespace, &names);
        let router = admission::router(recorder, identity.path());
        let registration = admission::Registration {
            client: self.client.clone(),
            identity: identity.clone(),
        };
        let serving = admission::serve(listener, router, identity, self.stop.clone());
        self.tasks.spawn("the webhook", serving);
        self.tasks.spawn(
            "the webhook's registration",
            registration.keep(self.stop.clone()),
        );
        self.tasks
            .spawn("the witness of changes", witness.run(self.stop.clone()));
        observer
    }

    /// Watches one of our kinds in every namespace, and has the observer see each change first.
    fn watch_observed<K, Spec, Status>(
        &mut self,
        kind: Kind,
        observer: Option<&admission::Observer>,
    ) -> mpsc::Receiver<Change<Watched<Spec, Status>>>
    where
        K: kube::Resource<DynamicType = ()>,
        Spec: DeserializeOwned + Send + 'static,
        Status: DeserializeOwned + Send + 'static,
    {
        let changes = self.watch_all::<K, _>(kind, narrow);
        let Some(observer) = observer else {
            return changes;
        };
        let (out, observed) = mpsc::channel(CHANGES);
        let observing = admission::observed(kind, changes, out, observer.clone());
        self.tasks.spawn("the observer of changes", async move {
            observing.await;
            Ok(())
        });
        observed
    }

    /// Watches one of our kinds in every namespace.
    fn watch_all<K, T>(
        &mut self,
        kind: Kind,
        narrow: fn(Raw) -> Result<T, String>,
    ) -> mpsc::Receiver<Change<T>>
    where
        K: kube::Resource<DynamicType = ()>,
        T: Send + 'static,
    {
        let objects = api(&self.client, &ApiResource::erase::<K>(&()), None);
        self.spawn_watch(Watch::all(objects, kind, narrow))
    }

    /// Starts a watch; until its first list is read, the process is not ready.
    fn spawn_watch<T: Send + 'static>(&mut self, watch: Watch<T>) -> mpsc::Receiver<Change<T>> {
        let (out, changes) = mpsc::channel(CHANGES);
        let (health, metrics) = (self.health.clone(), self.metrics.clone());
        let synced = move |kind: Kind, why_not: Option<&str>| {
            let kind = kind.as_str();
            health.send_modify(|health| match why_not {
                Some(why) => {
                    health.waiting_for.insert(kind, why.to_owned());
                }
                None => {
                    health.waiting_for.remove(kind);
                }
            });
            let synced = metrics.watch_synced.get_or_create(&KindLabel { kind });
            synced.set(i64::from(why_not.is_none()));
        };
        synced(watch.kind, Some("its list is not read yet"));
        let stop = self.stop.clone();
        self.tasks.spawn("a watch", async move {
            watch.run(out, synced, stop).await;
            Ok(())
        });
        changes
    }
}

fn api(client: &Client, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}
