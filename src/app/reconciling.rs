//! Starts the loop, and the tasks that read from it and write for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::{mpsc, watch};

use super::Operator;
use crate::admission;
use crate::api::{ApiKeyScope, Isolation, Policy, stamps};
use crate::domain::enforcement::SuspendedUsers;
use crate::domain::names::ObjectKey;
use crate::domain::world::Settings;
use crate::enforce::access::{RoleBindings, ServiceAccounts};
use crate::enforce::holds::HoldKeeper;
use crate::enforce::netpol::NetworkPolicies;
use crate::enforce::owned::Placed;
use crate::enforce::stripped::{Obstacles, Stripper, WantedPods};
use crate::enforce::suspended;
use crate::fleet;
use crate::local::{self, AuditTrail, Sources};
use crate::operator::auditing::Auditing;
use crate::operator::base::Base;
use crate::operator::local_sources::{
    self, InApiServer, LocalDevices, LocalScopes, LocalStandings,
};
use crate::operator::{explain, kind_check, reporter};
use crate::reconcile::happening::Happening;
use crate::reconcile::holds::HoldList;
use crate::reconcile::{Inputs, Outputs, Reconciler, in_force};
use crate::status::StatusTask;
use crate::watch::Kind;

impl Operator {
    /// The loop, and the tasks that read from it and write for it.
    pub(super) async fn spawn_reconciler(
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
            cluster: self.watch_cluster(),
            fleet: base.fleet.clone(),
            mandate: self.mandate.clone(),
            confirmations,
            questions,
            protected: self.watch_protected(),
            stripping: self.watch_pod_rights(),
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
        let (suspended_users, kept_users) = self.spawn_user_keeper();
        let (stripped, stripped_obstacles) =
            self.spawn_stripper(placed_policies.clone(), tell.clone());
        let outputs = Outputs {
            view,
            network_policies,
            service_accounts,
            role_bindings,
            suspended_users,
            stripped,
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
        let standings = Arc::new(LocalStandings {
            views: views.clone(),
            fleet: base.fleet.clone(),
            in_api_server: InApiServer {
                policies: placed_policies.clone(),
                stripped: stripped_obstacles.clone(),
                suspended_users: kept_users.clone(),
            },
            worlds: ask,
        });
        self.spawn_local_api(base, used, standings);
        let statuses = StatusTask {
            client: self.client.clone(),
            metrics: self.metrics.clone(),
            fleet: base.fleet.clone(),
            views,
            mandate: self.mandate.clone(),
            network_policies: placed_policies,
            service_accounts: placed_accounts,
            role_bindings: placed_bindings,
            suspended_users: kept_users,
            stripped: stripped_obstacles,
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
            // The loop compiles nothing before it has heard what is.
            protected: Vec::new(),
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
        used: watch::Sender<BTreeMap<ObjectKey, String>>,
        standings: Arc<LocalStandings>,
    ) {
        let (views, fleet) = (standings.views.clone(), base.fleet.clone());
        self.spawn_admin_socket(base, standings.clone());
        let sources = Sources {
            scopes: Arc::new(LocalScopes {
                views: views.clone(),
                used,
            }),
            devices: Arc::new(LocalDevices { views, fleet }),
            enforcement: standings,
            audit: Arc::clone(&base.trail) as Arc<dyn AuditTrail>,
        };
        let (path, stop) = (self.args.local_socket.clone(), self.stop.clone());
        self.tasks.spawn("the local API", async move {
            local_sources::serve(&path, local::router::router(sources), stop).await
        });
    }

    fn spawn_admin_socket(&mut self, base: &Base, standings: Arc<LocalStandings>) {
        let router = fleet::admin::router(base.fleet.clone()).merge(explain::router(standings));
        let (socket, stop) = (self.args.admin_socket.clone(), self.stop.clone());
        self.tasks.spawn("the admin socket", async move {
            fleet::admin::socket::serve(&socket, router, stop).await
        });
    }

    /// Where it hears of the users whose writes are refused, and where it tells what is stored.
    fn spawn_user_keeper(
        &mut self,
    ) -> (
        watch::Sender<Option<SuspendedUsers>>,
        watch::Receiver<suspended::Kept>,
    ) {
        let (wanted, wanted_latest) = watch::channel(None);
        let (kept, kept_latest) = watch::channel(suspended::Kept::default());
        let keeper = suspended::Keeper {
            client: self.client.clone(),
            namespace: self.args.system_namespace.clone(),
            wanted: wanted_latest,
            changes: self.watch_suspended_users(),
            mandate: self.mandate.clone(),
            kept,
        };
        self.tasks
            .spawn("the suspended users", keeper.run(self.stop.clone()));
        (wanted, kept_latest)
    }

    /// Where it hears which pods' labels are taken away, and where it tells why some are not.
    fn spawn_stripper(
        &mut self,
        policies: watch::Receiver<Placed>,
        happenings: mpsc::Sender<Happening>,
    ) -> (watch::Sender<WantedPods>, watch::Receiver<Obstacles>) {
        let (wanted, wanted_latest) = watch::channel(None);
        let (obstacles, obstacles_latest) = watch::channel(Obstacles::default());
        let stripper = Stripper {
            client: self.client.clone(),
            wanted: wanted_latest,
            policies,
            mandate: self.mandate.clone(),
            obstacles,
            happenings,
            metrics: self.metrics.clone(),
        };
        self.tasks
            .spawn("pods without an agent", stripper.run(self.stop.clone()));
        (wanted, obstacles_latest)
    }

    fn spawn_hold_keeper(
        &mut self,
        wanted: watch::Receiver<Option<HoldList>>,
        confirmations: mpsc::Sender<String>,
    ) {
        let keeper = HoldKeeper {
            changes: self.watch_holds(),
            reporter: reporter::this(),
            client: self.client.clone(),
            namespace: self.args.system_namespace.clone(),
            wanted,
            mandate: self.mandate.clone(),
            confirmations,
        };
        self.tasks
            .spawn("the list of holds", keeper.run(self.stop.clone()));
    }
}
