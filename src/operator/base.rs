//! What the operator opens before any task starts: its sockets, its data directory, the API server's
//! client, its keys, the store, the fleet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::args::OperatorArgs;
use super::data_dir::DataDir;
use super::database::{self, DatabaseUrl};
use super::node_tokens::TokenReviews;
use super::{auditing, keys, kubernetes};
use crate::audit::keys::LogKeys;
use crate::audit::log::{AuditLog, LogFailure, LogTask, Options};
use crate::audit::trail::Trail;
use crate::fleet::Fleet;
use crate::fleet::keys::OperatorKeys;
use crate::fleet::nodes::Nodes;
use crate::fleet::witness::{Channel, FleetEvent};
use crate::health::Health;
use crate::leadership::Candidate;
use crate::metrics::Metrics;
use crate::reconcile::records::InForceStore;
use crate::store::Store;
use crate::user_agent::Part;

const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// What happened in the fleet and is not in the audit log yet.
const FLEET_EVENTS: usize = 4096;

/// Bound before anything else, so that a port that is taken is the first thing one hears of.
pub struct Sockets {
    pub fleet: TcpListener,
    /// None where no webhook is served.
    pub webhook: Option<std::net::TcpListener>,
}

impl Sockets {
    pub async fn bind(args: &OperatorArgs) -> Result<Self> {
        let webhook = match args.webhook_listen {
            Some(address) => Some(bind(address, "webhook-listen").await?.into_std()?),
            None => None,
        };
        Ok(Self {
            fleet: bind(args.fleet_listen, "fleet-listen").await?,
            webhook,
        })
    }

    /// Apart from the others, for it is served while the rest is opened.
    pub async fn bind_health(args: &OperatorArgs) -> Result<TcpListener> {
        bind(args.health_listen, "health-listen").await
    }
}

async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}: give --{flag} another address"))
}

pub struct Base {
    pub client: Client,
    pub keys: Arc<OperatorKeys>,
    pub fleet: Fleet,
    pub audit: AuditLog,
    pub trail: Arc<Trail>,
    /// Taken by the task that enters them in the audit log.
    pub fleet_events: Option<mpsc::Receiver<FleetEvent>>,
    pub in_force: Arc<dyn InForceStore>,
    /// Outlives every other task, so that all that ends is still entered.
    audit_task: JoinHandle<Result<(), LogFailure>>,
    pub store: Store,
    data_dir: DataDir,
    system_namespace: String,
    /// The store is in the data directory: who has locked that is alone with it.
    own_store: bool,
}

impl Base {
    /// Waits for a database that is away; `health` says so.
    pub async fn open(
        args: &OperatorArgs,
        health: &watch::Sender<Health>,
        metrics: &Metrics,
    ) -> Result<Self> {
        let url = DatabaseUrl::of(args)?;
        let data_dir = DataDir::open(&args.data_dir)?;
        let own_store = url.is_none();
        let url = url.unwrap_or_else(|| DatabaseUrl::sqlite(data_dir.path()));
        let store = database::open(&url, health, metrics).await?;
        let client = kubernetes::client(Part::Operator).await?;
        let keys = Arc::new(operator_keys(&client, args).await?);
        let (audit, audit_task) = open_audit(&data_dir, &keys)?;
        let (witness, fleet_events) = Channel::new(FLEET_EVENTS);
        let advertised = args.operator_addresses.iter().map(ToString::to_string);
        let fleet = Fleet::open(
            Arc::clone(&keys),
            Arc::new(store.clone()),
            Arc::new(witness),
            advertised.collect(),
            nodes(&client, args),
        )
        .await
        .context("reading the device table")?;
        let trail = Trail {
            log: audit.clone(),
            index: Arc::new(store.clone()),
            reads_key: reads_key(&keys)?,
        };
        Ok(Self {
            client,
            trail: Arc::new(trail),
            keys,
            fleet,
            audit,
            audit_task: tokio::spawn(audit_task.run()),
            fleet_events: Some(fleet_events),
            in_force: Arc::new(store.clone()),
            store,
            data_dir,
            system_namespace: args.system_namespace.clone(),
            own_store,
        })
    }

    /// Unique to this process; says on whose data it works.
    pub fn candidate(&self) -> Candidate {
        let host = nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_default();
        let mine = format!("{}_", self.data_dir.id());
        let started = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Candidate {
            identity: format!(
                "{mine}{host}_{}-{}",
                std::process::id(),
                started.as_millis()
            ),
            predecessors: self.own_store.then_some(mine),
        }
    }

    /// Enters in the audit log that the operator starts or stops.
    pub async fn enter(&self, event: &str) -> Result<()> {
        let entry = auditing::service_entry(&self.system_namespace, event);
        let entered = self.audit.append(&entry).await;
        entered
            .map(drop)
            .with_context(|| format!("entering the {event} in the audit log"))
    }

    /// After every task has ended: publishes the audit log, and closes the store.
    pub async fn close(self) {
        if let Err(error) = self.enter("stop").await {
            error!("{error:#}");
        }
        self.audit.close().await;
        match timeout(CLOSE_TIMEOUT, self.audit_task).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => error!(%error, "the audit log did not close"),
            Ok(Err(error)) => error!(%error, "the audit log's task panicked"),
            Err(_) => warn!("the audit log did not close in time; it recovers at the next start"),
        }
        match timeout(CLOSE_TIMEOUT, self.store.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(error = format!("{error:#}"), "the store did not close"),
            Err(_) => warn!("the store did not close in time"),
        }
    }
}

/// How nodes enrol, if they do.
fn nodes(client: &Client, args: &OperatorArgs) -> Option<Nodes> {
    let tokens = TokenReviews {
        client: client.clone(),
        account: args.node_service_account.clone()?,
    };
    Some(Nodes::new(Arc::new(tokens), args.system_namespace.clone()))
}

/// Names of entries in the Secret: the audit log's signing key, and the key of the hashes of what
/// agents read.
const AUDIT_KEY: &str = "audit.key";
const READS_KEY: &str = "reads.key";

/// Reads the keys, and makes what is not there yet.
async fn operator_keys(client: &Client, args: &OperatorArgs) -> Result<OperatorKeys> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &args.system_namespace);
    let entries = keys::load(&secrets, |entries| {
        if entries.contains_key(AUDIT_KEY) && entries.contains_key(READS_KEY) {
            return Ok(None);
        }
        let mut keys = if entries.is_empty() {
            OperatorKeys::generate()?
        } else {
            OperatorKeys::from_map(entries)?
        };
        if !keys.others.contains_key(AUDIT_KEY) {
            keys.others.insert(AUDIT_KEY.to_owned(), audit_key(args)?);
        }
        let reads = || hex::encode(rand::random::<[u8; 32]>());
        keys.others
            .entry(READS_KEY.to_owned())
            .or_insert_with(reads);
        Ok(Some(keys.to_map()))
    })
    .await?;
    Ok(OperatorKeys::from_map(&entries)?)
}

/// A signing key under the log's name, which is part of the key.
fn audit_key(args: &OperatorArgs) -> Result<String> {
    let origin = args
        .audit_origin
        .clone()
        .unwrap_or_else(|| format!("seawall/{}", args.system_namespace));
    let log = LogKeys::generate(&origin)
        .with_context(|| format!("{origin:?} can't be the audit log's name"))?;
    String::from_utf8(log.to_bytes()).context("writing the audit log's key")
}

/// The key of the hashes of what agents read.
fn reads_key(keys: &OperatorKeys) -> Result<[u8; 32]> {
    let mut key = [0; 32];
    let text = keys.others.get(READS_KEY).map_or("", String::as_str);
    hex::decode_to_slice(text.trim(), &mut key).context(
        "reads.key in the Secret seawall-keys is not 32 bytes in hex: delete that entry",
    )?;
    Ok(key)
}

fn open_audit(data_dir: &DataDir, keys: &OperatorKeys) -> Result<(AuditLog, LogTask)> {
    let text = keys.others.get(AUDIT_KEY);
    let text =
        text.context("the Secret seawall-keys has no audit.key: restore it from a backup")?;
    let keys = LogKeys::from_bytes(text.as_bytes())
        .context("audit.key in the Secret seawall-keys is not readable")?;
    let directory = data_dir.path().join("audit");
    let (log, task, opened) = AuditLog::open(Options::new(&directory, keys))
        .with_context(|| format!("opening the audit log in {}", directory.display()))?;
    info!(
        entries = opened.size,
        replayed = opened.replayed,
        dropped_bytes = opened.dropped_bytes,
        "the audit log is open"
    );
    Ok((log, task))
}
