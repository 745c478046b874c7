//! The task that owns the enforcer: bundles, questions and checks, one after the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::{Acknowledged, Enforcer, ReadBack, Tampering};
use crate::agent::bundle::{Position, Refusal, SignedBundle};
use crate::agent::nft::Suspended;
use crate::domain::applied::Datapath;

/// Notifications can get lost; this finds what they would have told.
const FULL_CHECK: Duration = Duration::from_secs(60);
/// Bundles come one at a time, questions seldom.
const REQUESTS: usize = 16;

pub enum Request {
    Accept {
        bundle: SignedBundle,
        reply: oneshot::Sender<Result<Acknowledged, Refusal>>,
    },
    ReadBack(oneshot::Sender<ReadBack>),
    Beat(oneshot::Sender<Beat>),
}

/// For the heartbeat.
#[derive(Clone, Debug, Default)]
pub struct Beat {
    pub applied: Option<Position>,
    pub counts: Vec<crate::fleet::proto::RuleCount>,
    pub datapath: Datapath,
}

/// How things stand, for greetings and for `seawall agent status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Of what is in force, read back.
    pub applied: Option<Position>,
    pub matches: bool,
    pub isolated: bool,
    pub operator: Vec<SocketAddr>,
    /// Of suspended users.
    pub accounts: Suspended,
    /// As [`Enforcer::restored`].
    pub restored: Option<std::time::Instant>,
}

/// The enforcer, for those who ask it.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    pub standing: watch::Receiver<Standing>,
    /// Told when somebody changed the table.
    pub changed: Arc<Notify>,
}

#[derive(Debug, thiserror::Error)]
#[error("the agent is stopping")]
pub struct Stopping;

impl Handle {
    pub async fn accept(
        &self,
        bundle: SignedBundle,
    ) -> Result<Result<Acknowledged, Refusal>, Stopping> {
        self.ask(|reply| Request::Accept { bundle, reply }).await
    }

    pub async fn read_back(&self) -> Result<ReadBack, Stopping> {
        self.ask(Request::ReadBack).await
    }

    pub async fn beat(&self) -> Result<Beat, Stopping> {
        self.ask(Request::Beat).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Stopping> {
        let (reply, answer) = oneshot::channel();
        let request = request(reply);
        self.requests.send(request).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }
}

/// The task, and the handle to it. `tampered` gets what was found changed; when it is full, nobody is
/// there to be told, and the repair happens all the same.
pub fn spawn(
    enforcer: Enforcer,
    tampered: mpsc::Sender<Tampering>,
    stop: CancellationToken,
) -> (Handle, impl Future<Output = ()> + Send) {
    let (requests, receiver) = mpsc::channel(REQUESTS);
    let (standing, standing_seen) = watch::channel(Standing::default());
    let changed = Arc::new(Notify::new());
    let mut actor = Actor {
        enforcer,
        tampered,
        standing,
    };
    actor.publish();
    let handle = Handle {
        requests,
        standing: standing_seen,
        changed: changed.clone(),
    };
    (handle, actor.run(receiver, changed, stop))
}

struct Actor {
    enforcer: Enforcer,
    tampered: mpsc::Sender<Tampering>,
    standing: watch::Sender<Standing>,
}

impl Actor {
    /// What was begun is finished before it stops: the rules stay in force.
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        changed: Arc<Notify>,
        stop: CancellationToken,
    ) {
        let mut full_check = interval_at(Instant::now() + FULL_CHECK, FULL_CHECK);
        full_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                request = requests.recv() => match request {
                    Some(request) => self.answer(request).await,
                    None => return,
                },
                () = changed.notified() => self.check().await,
                _ = full_check.tick() => self.check().await,
            }
            self.publish();
        }
    }

    async fn answer(&mut self, request: Request) {
        // Who asked may be gone: then nobody needs the answer.
        match request {
            Request::Accept { bundle, reply } => {
                let outcome = self.enforcer.accept(bundle).await;
                self.publish();
                let _ = reply.send(outcome);
            }
            Request::ReadBack(reply) => {
                let answer = self.enforcer.read_back().await;
                let answer = answer.unwrap_or_else(|error| ReadBack {
                    detail: error.to_string(),
                    ..ReadBack::default()
                });
                let differs = !answer.matches;
                let _ = reply.send(answer);
                if differs {
                    self.check().await;
                }
            }
            Request::Beat(reply) => {
                let answer = self.enforcer.look().await;
                if !answer.as_ref().is_ok_and(|a| a.matches) {
                    self.check().await;
                }
                let _ = reply.send(Beat {
                    applied: self.enforcer.applied().cloned(),
                    counts: answer.map(|a| a.counts).unwrap_or_default(),
                    datapath: self.enforcer.datapath(),
                });
            }
        }
    }

    async fn check(&mut self) {
        match self.enforcer.check().await {
            Ok(None) => {}
            Ok(Some(tampering)) => {
                tracing::warn!(
                    repaired = tampering.repaired,
                    micros = tampering.took.as_micros(),
                    "the table was changed: {}",
                    tampering.what
                );
                let _ = self.tampered.try_send(tampering);
            }
            Err(error) => tracing::error!("the table could not be read back: {error}"),
        }
    }

    fn publish(&mut self) {
        let now = Standing {
            applied: self.enforcer.applied().cloned(),
            matches: self.enforcer.matches(),
            isolated: self.enforcer.is_isolated(),
            operator: self.enforcer.operator(),
            accounts: self.enforcer.accounts(),
            restored: self.enforcer.restored(),
        };
        self.standing.send_if_modified(|standing| {
            let differs = *standing != now;
            if differs {
                *standing = now;
            }
            differs
        });
    }
}
