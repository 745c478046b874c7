//! Pods that call from their first moment on, and a host that hears them: what they get out before they are
//! cut off is what a gap is about.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::cluster::node::SHELL;
use crate::lab::Host;

const PORT: u16 = 7001;
/// Long enough for packets on the way, on a busy machine.
const SILENCE: Duration = Duration::from_millis(1500);

/// A container that opens a connection up to twenty times a second.
pub fn container(to: &Listener) -> Value {
    let address = to.host.v4();
    let call = format!("nc -w 1 {address} {PORT} </dev/null; sleep 0.05");
    // It ends when it is asked to.
    let script = format!("trap 'exit 0' TERM; (while true; do {call}; done) & wait");
    json!({
        "name": "main", "image": SHELL, "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", script],
    })
}

pub struct Listener {
    host: Host,
    heard: Arc<Mutex<Vec<(Instant, IpAddr)>>>,
    task: JoinHandle<()>,
}

impl Listener {
    pub async fn start(host: Host) -> anyhow::Result<Self> {
        let address = (host.v4(), PORT);
        let listener = host
            .inside(move || std::net::TcpListener::bind(address))
            .await??;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let heard: Arc<Mutex<Vec<_>>> = Arc::default();
        let into = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            while let Ok((_, from)) = listener.accept().await {
                let mut heard = into.lock().unwrap_or_else(PoisonError::into_inner);
                heard.push((Instant::now(), from.ip()));
            }
        });
        Ok(Self { host, heard, task })
    }

    /// From when to when the address was heard since.
    pub fn heard(&self, from: IpAddr, since: Instant) -> Option<(Instant, Instant)> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut heard = heard
            .iter()
            .filter(|(at, address)| *address == from && *at >= since);
        let (first, _) = heard.next()?;
        Some((*first, heard.next_back().map_or(*first, |(at, _)| *at)))
    }

    /// For how long each address was heard that was heard at all, since.
    pub fn each(&self, since: Instant) -> Vec<Duration> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans: BTreeMap<IpAddr, (Instant, Instant)> = BTreeMap::new();
        for (at, from) in heard.iter().filter(|(at, _)| *at >= since) {
            spans.entry(*from).or_insert((*at, *at)).1 = *at;
        }
        let spans = spans.into_values();
        spans.map(|(first, last)| last - first).collect()
    }

    /// That nothing is heard of the address from now on.
    pub async fn is_silent(&self, from: IpAddr) -> anyhow::Result<()> {
        // What was on its way when it was cut off has arrived then.
        tokio::time::sleep(SILENCE / 5).await;
        let since = Instant::now();
        tokio::time::sleep(SILENCE).await;
        let heard = self.heard(from, since);
        ensure!(heard.is_none(), "{from} is heard though it is cut off");
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}
