//! Wires `seawall operator` together: opens what it needs, starts every task, and joins them. Which
//! part does what is in the parts; here is only who talks to whom.

mod reconciling;
mod watches;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::admission;
use crate::audit::index;
use crate::health::{self, Health};
use crate::leadership::{self, Mandate, Office, Timing};
use crate::metrics::Metrics;
use crate::operator::args::OperatorArgs;
use crate::operator::base::{Base, Sockets};
use crate::operator::database;
use crate::operator::for_nodes::ForNodes;
use crate::operator::mcp_token::McpToken;
use crate::operator::tasks::Tasks;
use crate::operator::{logging, signals};
use crate::tls_pair::{Served, TlsPair};

/// After a signal, everything ends within this.
const GRACE: Duration = Duration::from_secs(8);

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
    // Before anything is waited for: a wrong file is told at once.
    let webhook_files = webhook_files(&args).await?;
    let health_listener = Sockets::bind_health(&args).await?;
    let sockets = Sockets::bind(&args).await?;
    let (health, metrics) = (watch::Sender::default(), Metrics::new());
    let mut tasks = Tasks::new(stop.clone());
    tasks.spawn("the signals", signals::wait(stop.clone()));
    let (told, counted) = (health.subscribe(), metrics.clone());
    let serving = health::serve(health_listener, told, counted, stop.clone());
    tasks.spawn("health and metrics", serving);
    let opened = stop
        .run_until_cancelled(Base::open(&args, &health, &metrics))
        .await;
    let Some(mut base) = opened.transpose()? else {
        return tasks.join(GRACE).await;
    };
    let (office, mandate) = leadership::office();
    let mut operator = Operator {
        tasks,
        client: base.client.clone(),
        metrics,
        health,
        mandate,
        stop,
        args,
        webhook_files,
    };
    base.enter("start").await?;
    let started = operator.spawn_all(&mut base, sockets, office).await;
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
    /// The webhook's certificate where others make it.
    webhook_files: Option<Served>,
    client: Client,
    metrics: Metrics,
    health: watch::Sender<Health>,
    mandate: Mandate,
    tasks: Tasks,
    stop: CancellationToken,
}

impl Operator {
    async fn spawn_all(&mut self, base: &mut Base, sockets: Sockets, office: Office) -> Result<()> {
        let stop = self.stop.clone();
        if base.store.is_remote() {
            let (store, health) = (base.store.clone(), self.health.clone());
            let watching = database::watch(store, health, self.metrics.clone(), stop.clone());
            self.tasks.spawn("the database", watching);
        }
        let fleet = base.fleet.clone();
        let serving = stop.clone();
        self.tasks.spawn("the fleet's server", async move {
            fleet.serve(sockets.fleet, serving).await
        });
        self.spawn_mcp_token();
        self.spawn_for_nodes(base);
        self.spawn_audit(base);
        let observer = sockets
            .webhook
            .map(|listener| self.spawn_admission(base, listener));
        self.spawn_reconciler(base, observer).await?;
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), &self.args.system_namespace);
        let lease = leadership::run(leases, base.candidate(), Timing::default(), office, stop);
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

    fn spawn_for_nodes(&mut self, base: &Base) {
        if self.args.node_service_account.is_none() {
            return;
        }
        let port = self.args.fleet_listen.port();
        let own = self.args.pod_ip.map(|ip| SocketAddr::new(ip, port));
        let keeper = ForNodes {
            client: self.client.clone(),
            namespace: self.args.system_namespace.clone(),
            authority: base.keys.authority.certificate_pem().to_owned(),
            own,
            advertised: self.args.operator_addresses.clone(),
            mandate: self.mandate.clone(),
        };
        self.tasks
            .spawn("what nodes are told", keeper.keep(self.stop.clone()));
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
        let mut told = identity.told();
        let certificate = match self.webhook_files.take() {
            Some(files) => {
                told.authority = None;
                admission::Certificate::Files(files)
            }
            None => admission::Certificate::Own(identity),
        };
        let registration = admission::Registration {
            client: self.client.clone(),
            told,
        };
        let gauges = self.metrics.certificate("webhook_");
        let serving = admission::serve(listener, router, certificate, gauges, self.stop.clone());
        self.tasks.spawn("the webhook", serving);
        self.tasks.spawn(
            "the webhook's registration",
            registration.keep(self.stop.clone()),
        );
        self.tasks
            .spawn("the witness of changes", witness.run(self.stop.clone()));
        observer
    }
}

async fn webhook_files(args: &OperatorArgs) -> Result<Option<Served>> {
    let pair = TlsPair::given(
        args.webhook_tls_certificate_file.as_ref(),
        args.webhook_tls_key_file.as_ref(),
    );
    let Some(pair) = pair else { return Ok(None) };
    let served = pair.serve(&admission::PROTOCOLS).await;
    served.map(Some).context(
        "the webhook needs --webhook-tls-certificate-file and --webhook-tls-key-file with a pair in PEM",
    )
}
