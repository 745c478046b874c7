//! A fleet's server with its own store and keys.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::domain::names::DeviceId;
use crate::fleet::Fleet;
use crate::fleet::administration::NewJoinToken;
use crate::fleet::join_token::JoinToken;
use crate::fleet::keys::OperatorKeys;
use crate::fleet::nodes::Nodes;
use crate::fleet::witness::{Channel, FleetEvent, Happening};
use crate::store::Store;
use crate::store::testing::url;

pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Lab {
    pub fleet: Fleet,
    pub store: Arc<Store>,
    pub keys: Arc<OperatorKeys>,
    pub address: SocketAddr,
    pub events: mpsc::Receiver<FleetEvent>,
    directory: TempDir,
    stop: CancellationToken,
    server: JoinHandle<anyhow::Result<()>>,
}

impl Lab {
    pub async fn begin() -> Self {
        Self::begin_with(None).await
    }

    /// With nodes that enrol.
    pub async fn begin_with(nodes: Option<Nodes>) -> Self {
        // As `main` does; the first test of the process to come here does it for all.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().unwrap();
        let keys = Arc::new(OperatorKeys::generate().unwrap());
        Self::with(directory, keys, nodes).await
    }

    async fn with(directory: TempDir, keys: Arc<OperatorKeys>, nodes: Option<Nodes>) -> Self {
        let store = Arc::new(Store::open(&url(&directory)).await.unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (witness, events) = Channel::new(1000);
        let advertised = vec![address.to_string()];
        let witness = Arc::new(witness);
        let fleet = Fleet::open(keys.clone(), store.clone(), witness, advertised, nodes);
        let fleet = fleet.await.unwrap();
        fleet.lead().await.unwrap();
        let stop = CancellationToken::new();
        let server = {
            let (fleet, stop) = (fleet.clone(), stop.clone());
            tokio::spawn(async move { fleet.serve(listener, stop).await })
        };
        Self {
            fleet,
            store,
            keys,
            address,
            events,
            directory,
            stop,
            server,
        }
    }

    /// The operator ends and another starts, on the same store and keys, at another port.
    pub async fn restart(self) -> Self {
        self.restart_with(None).await
    }

    pub async fn restart_with(self, nodes: Option<Nodes>) -> Self {
        self.stop.cancel();
        let ended = timeout(PATIENCE, self.server).await;
        ended
            .expect("the server ends when told to")
            .unwrap()
            .unwrap();
        Self::with(self.directory, self.keys, nodes).await
    }

    pub async fn token(&self, uses: u32) -> JoinToken {
        let new = NewJoinToken {
            tenant: "acme".to_owned(),
            tags: BTreeMap::from([("kind".to_owned(), "laptop".to_owned())]),
            uses,
            ttl: Duration::from_secs(600),
        };
        let (_, text) = self.fleet.create_join_token(new, "os:0").await.unwrap();
        JoinToken::decode(&text).unwrap()
    }

    /// Waits until the fleet is as `wanted` says.
    pub async fn until(&self, wanted: impl Fn(&Fleet) -> bool) {
        let mut changes = self.fleet.changes();
        let reached = async {
            while !wanted(&self.fleet) {
                changes.changed().await.unwrap();
            }
        };
        let reached = timeout(PATIENCE, reached).await;
        reached.expect("the fleet comes to what was waited for");
    }

    pub async fn until_connected(&self, device: &DeviceId, connected: bool) {
        self.until(|fleet| fleet.applied()[device].connected == connected)
            .await;
    }

    /// The next event that `wanted` knows.
    pub async fn event<T>(&mut self, wanted: impl Fn(&FleetEvent) -> Option<T>) -> T {
        let found = async {
            loop {
                let event = self.events.recv().await.unwrap();
                if let Some(found) = wanted(&event) {
                    return found;
                }
            }
        };
        let found = timeout(PATIENCE, found).await;
        found.expect("the witness is told")
    }

    pub fn told_so_far(&mut self) -> Vec<Happening> {
        std::iter::from_fn(|| self.events.try_recv().ok())
            .map(|event| event.what)
            .collect()
    }
}
