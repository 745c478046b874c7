//! The fleet's server as the operator runs it, without the cluster around it, and agents on the hosts of
//! a lab. Tests say what should be in force on a device; everything below that is real.

mod agent;
mod states;

pub use agent::{Agent, DEADLY_COMMAND, run_deadly};
pub use states::{isolated, peer_of, rules, state};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use seawall::domain::enforcement::DeviceState;
use seawall::domain::names::DeviceId;
use seawall::fleet::Fleet;
use seawall::fleet::administration::NewJoinToken;
use seawall::fleet::keys::OperatorKeys;
use seawall::fleet::witness::{Channel, FleetEvent, Happening};
use seawall::local::types::DeviceReadBack;
use seawall::store::Store;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::lab::{Host, Lab};
use crate::run;

/// An agent that is well answers within this on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Operator {
    pub fleet: Fleet,
    keys: Arc<OperatorKeys>,
    folder: PathBuf,
    /// The gateway of the lab, where agents reach it.
    address: String,
    port: u16,
    desired: Mutex<BTreeMap<DeviceId, Arc<DeviceState>>>,
    events: Mutex<mpsc::Receiver<FleetEvent>>,
    stop: CancellationToken,
    server: JoinHandle<anyhow::Result<()>>,
}

impl Operator {
    pub async fn start(lab: &Lab) -> anyhow::Result<Self> {
        let folder = run::scratch("operator")?;
        let keys = Arc::new(OperatorKeys::generate()?);
        Self::with(lab.gateway4().to_string(), 0, folder, keys).await
    }

    async fn with(
        address: String,
        port: u16,
        folder: PathBuf,
        keys: Arc<OperatorKeys>,
    ) -> anyhow::Result<Self> {
        let data = folder.join(run::DATA);
        std::fs::create_dir_all(&data)?;
        let url = format!("sqlite://{}/fleet.db?mode=rwc", data.display());
        let store = Arc::new(Store::open(&url).await?);
        let listener = TcpListener::bind((address.as_str(), port)).await?;
        let port = listener.local_addr()?.port();
        let (witness, events) = Channel::new(10_000);
        let advertised = vec![format!("{address}:{port}")];
        let fleet = Fleet::open(keys.clone(), store, Arc::new(witness), advertised, None).await?;
        fleet.lead().await?;
        let stop = CancellationToken::new();
        let server = {
            let (fleet, stop) = (fleet.clone(), stop.clone());
            tokio::spawn(async move { fleet.serve(listener, stop).await })
        };
        Ok(Self {
            fleet,
            keys,
            folder,
            address,
            port,
            desired: Mutex::default(),
            events: Mutex::new(events),
            stop,
            server,
        })
    }

    /// Where agents reach it.
    pub fn address(&self) -> std::net::SocketAddr {
        let ip = self.address.parse().expect("a gateway's address");
        std::net::SocketAddr::new(ip, self.port)
    }

    /// Ends it. [`Stopped::start`] is the same operator again.
    pub async fn stop(self) -> anyhow::Result<Stopped> {
        self.stop.cancel();
        self.server.await??;
        Ok(Stopped {
            keys: self.keys,
            folder: self.folder,
            address: self.address,
            port: self.port,
            desired: self.desired.into_inner(),
        })
    }

    /// A join token as a person is shown it.
    pub async fn token(&self, uses: u32, ttl: Duration) -> anyhow::Result<String> {
        let new = NewJoinToken {
            tenant: "acme".to_owned(),
            tags: BTreeMap::new(),
            uses,
            ttl,
        };
        let (_, text) = self.fleet.create_join_token(new, "os:0").await?;
        Ok(text)
    }

    /// An agent on the host, enrolled and connected.
    pub async fn agent(&self, host: &Host) -> anyhow::Result<Agent> {
        let token = self.token(1, Duration::from_secs(600)).await?;
        let agent = Agent::start(host, &token)?;
        self.connected(&agent).await?;
        Ok(agent)
    }

    /// Waits until the agent has enrolled and has a stream.
    pub async fn connected(&self, agent: &Agent) -> anyhow::Result<()> {
        self.until("the agent to connect", Some(agent), |fleet| {
            let id = agent.id().ok()?;
            fleet.applied_of(&id)?.connected.then_some(())
        })
        .await
    }

    pub async fn disconnected(&self, device: &DeviceId, limit: Duration) -> anyhow::Result<()> {
        let started = Instant::now();
        while self.fleet.applied_of(device).is_some_and(|d| d.connected) {
            if started.elapsed() > limit {
                bail!("{device} still counts as connected after {limit:?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Says what should be in force on one device, beside what is said of others. The operator's own
    /// address is added, as `compile` does.
    pub async fn want(&self, agent: &Agent, state: DeviceState) -> anyhow::Result<DeviceState> {
        let mut state = state;
        state.operator.insert(self.address());
        let mut desired = self.desired.lock().await;
        desired.insert(agent.id()?, Arc::new(state.clone()));
        self.fleet.set_desired(vec![desired.clone()]);
        Ok(state)
    }

    /// The same, and waits until the device has acknowledged it.
    pub async fn apply(&self, agent: &Agent, state: DeviceState) -> anyhow::Result<Applied> {
        let started = Instant::now();
        let before = self.cut_so_far(agent)?;
        let state = self.want(agent, state).await?;
        self.acknowledged(agent, &state).await?;
        Ok(Applied {
            action: started,
            done: Instant::now(),
            // The fleet forgets the number when the isolation ends.
            connections_cut: self.cut_so_far(agent)?.saturating_sub(before),
        })
    }

    pub async fn acknowledged(&self, agent: &Agent, state: &DeviceState) -> anyhow::Result<()> {
        let hash = state.hash();
        let what = format!("{} to acknowledge its state", agent.host().name());
        self.until(&what, Some(agent), |fleet| {
            (fleet.applied_of(&agent.id().ok()?)?.state_hash == hash).then_some(())
        })
        .await
    }

    fn cut_so_far(&self, agent: &Agent) -> anyhow::Result<u64> {
        let applied = self.fleet.applied_of(&agent.id()?);
        let applied = applied.context("the device is known")?;
        Ok(applied.connections_cut.values().sum())
    }

    /// What the device's kernel holds, asked now.
    pub async fn read_back(&self, agent: &Agent) -> anyhow::Result<DeviceReadBack> {
        let devices = [agent.id()?].into();
        let answers = self.fleet.read_back(&devices, PATIENCE).await;
        answers.into_iter().next().context("the device is known")
    }

    /// The next happening that `wanted` knows.
    pub async fn event<T>(
        &self,
        what: &str,
        wanted: impl Fn(&Happening) -> Option<T>,
    ) -> anyhow::Result<T> {
        let mut events = self.events.lock().await;
        let found = async {
            while let Some(event) = events.recv().await {
                if let Some(found) = wanted(&event.what) {
                    return Ok(found);
                }
            }
            bail!("the fleet ended")
        };
        tokio::time::timeout(PATIENCE, found)
            .await
            .with_context(|| format!("waited {PATIENCE:?} for {what}"))?
    }

    async fn until<T>(
        &self,
        what: &str,
        agent: Option<&Agent>,
        wanted: impl Fn(&Fleet) -> Option<T>,
    ) -> anyhow::Result<T> {
        let mut changes = self.fleet.changes();
        let reached = async {
            loop {
                if let Some(answer) = wanted(&self.fleet) {
                    return answer;
                }
                // What doesn't change the fleet is seen at the next turn.
                let _ = tokio::time::timeout(Duration::from_millis(50), changes.changed()).await;
            }
        };
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(answer) => Ok(answer),
            Err(_) => bail!(
                "waited {PATIENCE:?} for {what}\n{}",
                agent.map(Agent::log_tail).unwrap_or_default()
            ),
        }
    }
}

/// An operator that ended, with all that outlives it.
pub struct Stopped {
    keys: Arc<OperatorKeys>,
    folder: PathBuf,
    address: String,
    port: u16,
    desired: BTreeMap<DeviceId, Arc<DeviceState>>,
}

impl Stopped {
    /// At the same address, wanting the same.
    pub async fn start(self) -> anyhow::Result<Operator> {
        let operator = Operator::with(self.address, self.port, self.folder, self.keys).await?;
        *operator.desired.lock().await = self.desired.clone();
        operator.fleet.set_desired(vec![self.desired]);
        Ok(operator)
    }
}

/// When a state was asked for and when it was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Applied {
    pub action: Instant,
    pub done: Instant,
    pub connections_cut: u64,
}
