//! One agent's stream: what it says is taken in, what is due is sent. Both happen in the stream that
//! the agent reads, so nothing of it outlives the connection, and an agent that does not read slows
//! only itself.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::time::{Instant, timeout};
use tonic::{Status, Streaming};

use super::Fleet;
use super::allowance::Allowance;
use super::outbox::{Outbox, Outgoing};
use super::proto::{self, AgentMessage, OperatorMessage, agent_message, operator_message};
use crate::domain::names::DeviceId;

/// The agent has this long to say hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// Messages of one agent: in a burst, and a second.
const MESSAGES: (u32, f64) = (400, 50.0);
/// Those that change the world for everybody else.
const FACTS: (u32, f64) = (10, 1.0);

pub struct Conversation {
    fleet: Fleet,
    device: DeviceId,
    remote: Option<IpAddr>,
    inbound: Streaming<AgentMessage>,
    attached: Option<Attached>,
    messages: Allowance,
    facts: Allowance,
}

struct Attached {
    session: u64,
    outbox: Arc<Outbox>,
}

impl Conversation {
    pub fn new(
        fleet: Fleet,
        device: DeviceId,
        remote: Option<IpAddr>,
        inbound: Streaming<AgentMessage>,
    ) -> Self {
        let now = Instant::now();
        Self {
            fleet,
            device,
            remote,
            inbound,
            attached: None,
            messages: Allowance::new(MESSAGES.0, MESSAGES.1, now),
            facts: Allowance::new(FACTS.0, FACTS.1, now),
        }
    }

    /// What the agent reads. Ends after the first error.
    pub fn stream(self) -> impl Stream<Item = Result<OperatorMessage, Status>> + Send + 'static {
        futures::stream::unfold(Some(self), |conversation| async {
            let mut conversation = conversation?;
            match conversation.step().await {
                Ok(Some(message)) => Some((Ok(message), Some(conversation))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    async fn step(&mut self) -> Result<Option<OperatorMessage>, Status> {
        loop {
            let Some(attached) = &self.attached else {
                if !self.hello().await? {
                    return Ok(None);
                }
                continue;
            };
            tokio::select! {
                outgoing = attached.outbox.next() => {
                    if let Some(message) = self.outgoing(outgoing)? {
                        return Ok(Some(message));
                    }
                }
                message = self.inbound.message() => {
                    let Some(message) = message?.and_then(|message| message.message) else {
                        return Ok(None);
                    };
                    self.take_in(message)?;
                }
            }
        }
    }

    /// False when the agent went away before it said anything.
    async fn hello(&mut self) -> Result<bool, Status> {
        let first = timeout(HELLO_PATIENCE, self.inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello came within 10 seconds"))??;
        let hello = match first.and_then(|first| first.message) {
            None => return Ok(false),
            Some(agent_message::Message::Hello(hello)) => hello,
            Some(_) => return Err(Status::invalid_argument("a stream begins with Hello")),
        };
        if let Some(applied) = &hello.applied {
            check(applied)?;
        }
        let outbox = Arc::new(Outbox::default());
        let session = self
            .fleet
            .attach(&self.device, self.remote, &hello, &outbox)?;
        tracing::info!(device = %self.device, remote = ?self.remote, "an agent connected");
        self.attached = Some(Attached { session, outbox });
        Ok(true)
    }

    fn outgoing(&self, outgoing: Outgoing) -> Result<Option<OperatorMessage>, Status> {
        let message = match outgoing {
            Outgoing::Close(why) => return Err(why),
            Outgoing::Question(nonce) => operator_message::Message::Verify(proto::Verify { nonce }),
            Outgoing::Bundle => {
                let session = self.attached.as_ref().map(|attached| attached.session);
                let bundle = session.and_then(|session| self.fleet.bundle(&self.device, session));
                match bundle {
                    Some(bundle) => operator_message::Message::Bundle(bundle),
                    None => return Ok(None),
                }
            }
        };
        Ok(Some(OperatorMessage {
            message: Some(message),
        }))
    }

    fn take_in(&mut self, message: agent_message::Message) -> Result<(), Status> {
        use agent_message::Message;
        let now = Instant::now();
        let too_many =
            |_| Status::resource_exhausted("more messages than an agent ever has to say");
        self.messages.take(now).map_err(too_many)?;
        let session = self
            .attached
            .as_ref()
            .map_or(0, |attached| attached.session);
        let (fleet, device) = (&self.fleet, &self.device);
        fleet.heard(device, session)?;
        match message {
            Message::Hello(_) => Err(Status::invalid_argument("a stream has one Hello")),
            Message::Ack(ack) => {
                let applied = ack.applied.as_ref();
                let applied = applied
                    .ok_or_else(|| Status::invalid_argument("an Ack says what is applied"))?;
                check(applied)?;
                fleet.acknowledged(device, session, applied, &ack)
            }
            Message::Refused(refused) => fleet.refused(device, session, &refused),
            Message::Heartbeat(heartbeat) => {
                if let Some(applied) = &heartbeat.applied {
                    check(applied)?;
                }
                fleet.heartbeat(device, session, &heartbeat)
            }
            Message::Tampered(tampered) => fleet.tampered(device, session, &tampered),
            Message::ReadBack(read_back) => fleet.answered(device, session, read_back),
            Message::Facts(facts) => {
                self.facts.take(now).map_err(too_many)?;
                fleet.facts(device, session, &facts)
            }
        }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if let Some(attached) = &self.attached {
            self.fleet.detach(&self.device, attached.session);
        }
    }
}

fn check(applied: &proto::Applied) -> Result<(), Status> {
    let hash = applied.state_hash.as_bytes();
    let is_hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    if hash.len() == 64 && hash.iter().all(is_hex) {
        Ok(())
    } else {
        Err(Status::invalid_argument(
            "a state hash is 64 lower-case hexadecimal digits",
        ))
    }
}
