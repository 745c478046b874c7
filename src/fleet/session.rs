//! One agent's stream: what it says is taken in, what is due is sent. Both happen in the stream that
//! the agent reads, so nothing of it outlives the connection, and an agent that does not read slows
//! only itself.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::Stream;
use tokio::time::{Instant, timeout};
use tonic::{Status, Streaming};

use super::allowance::Allowance;
use super::outbox::{Outbox, Outgoing};
use super::proto::{self, AgentMessage, OperatorMessage, agent_message, operator_message};
use super::witness::Happening;
use super::{Fleet, clean, records};
use crate::domain::names::DeviceId;
use crate::local::types::RuleCount;

/// The agent has this long to say hello.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// Messages of one agent: in a burst, and a second.
const MESSAGES: (u32, f64) = (400, 50.0);
/// Those that change the world for everybody else.
const FACTS: (u32, f64) = (10, 1.0);
const MOST_COUNTS: usize = 4096;

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
        let session = self.fleet.attach(&self.device, &hello, &outbox)?;
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
                fleet.acknowledged(device, session, applied, ack.connections_cut)
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

pub(super) fn counts(hostile: &[proto::RuleCount]) -> Vec<RuleCount> {
    let hostile = hostile.iter().take(MOST_COUNTS);
    hostile
        .map(|count| RuleCount {
            rule: clean::name(&count.rule),
            packets: count.packets,
            bytes: count.bytes,
            observing: count.observing,
        })
        .collect()
}

fn over() -> Status {
    Status::aborted("a newer session of this device took the place of this one")
}

fn behind(device_epoch: u64, epoch: u64) -> Status {
    Status::failed_precondition(format!(
        "the device applied a bundle of epoch {device_epoch}, and this operator is at epoch {epoch}: \
         its store is older than the device. Stop the other operator, or run \
         `seawall fleet advance-epoch {device_epoch}` when the store was restored from a backup"
    ))
}

/// What agents say. Each of these speaks for its own device only.
impl Fleet {
    fn attach(
        &self,
        device: &DeviceId,
        hello: &proto::Hello,
        outbox: &Arc<Outbox>,
    ) -> Result<u64, Status> {
        let id = self.0.sessions.fetch_add(1, Ordering::Relaxed);
        let (facts, addresses) = clean::facts(&hello.facts.clone().unwrap_or_default());
        let (now, at) = (Instant::now(), records::now());
        let mut roster = self.roster();
        let epoch = roster.epoch().ok_or_else(super::not_leading)?;
        let device_epoch = hello.applied.as_ref().map_or(0, |applied| applied.epoch);
        let member = roster
            .members
            .get_mut(device)
            .ok_or_else(super::server::revoked)?;
        if device_epoch > epoch {
            let happening = Happening::DeviceAhead {
                device: device.clone(),
                device_epoch,
                operator_epoch: epoch,
            };
            let tenant = member.record.tenant.clone();
            let told = member.may_be_told(now);
            drop(roster);
            if told {
                self.tell(format!("device:{device}"), Some(tenant), happening);
            }
            return Err(behind(device_epoch, epoch));
        }
        member.claim(&addresses, at);
        let standing = member.standing();
        standing.facts = facts;
        standing.last_seen = Some(at);
        member.reported(hello.applied.as_ref(), at);
        let replaced = member.attach(id, outbox.clone(), now);
        if member.needs_sending() {
            member.promise(now);
        }
        roster.reassign(device, &addresses);
        drop(roster);
        if let Some(replaced) = replaced {
            replaced.outbox.close(over());
        }
        self.changed();
        Ok(id)
    }

    fn detach(&self, device: &DeviceId, session: u64) {
        let mut roster = self.roster();
        let Some(member) = roster.in_session(device, session) else {
            return;
        };
        member.session = None;
        member.unsaved = true;
        drop(roster);
        tracing::info!(%device, "an agent disconnected");
        self.changed();
    }

    fn heard(&self, device: &DeviceId, session: u64) -> Result<(), Status> {
        let (now, at) = (Instant::now(), records::now());
        let mut roster = self.roster();
        let member = roster.in_session(device, session).ok_or_else(over)?;
        member.record.standing.last_seen = Some(at);
        if let Some(session) = &mut member.session {
            session.heard = now;
        }
        Ok(())
    }

    fn acknowledged(
        &self,
        device: &DeviceId,
        session: u64,
        applied: &proto::Applied,
        cut: u32,
    ) -> Result<(), Status> {
        let mut roster = self.roster();
        let member = roster.in_session(device, session).ok_or_else(over)?;
        member.acknowledged(applied, cut, records::now());
        drop(roster);
        self.changed();
        Ok(())
    }

    fn refused(
        &self,
        device: &DeviceId,
        session: u64,
        refused: &proto::Refused,
    ) -> Result<(), Status> {
        let reason = clean::line(&refused.reason, 64);
        let detail = clean::line(&refused.detail, clean::LONGEST_DETAIL);
        let mut roster = self.roster();
        let member = roster.in_session(device, session).ok_or_else(over)?;
        member.refused(format!("{reason}: {detail}"), refused.revision);
        let tenant = member.record.tenant.clone();
        let told = member.may_be_told(Instant::now());
        drop(roster);
        self.changed();
        if !told {
            return Ok(());
        }
        let happening = Happening::BundleRefused {
            device: device.clone(),
            epoch: refused.epoch,
            revision: refused.revision,
            reason,
            detail,
        };
        self.tell(format!("device:{device}"), Some(tenant), happening);
        Ok(())
    }

    fn heartbeat(
        &self,
        device: &DeviceId,
        session: u64,
        heartbeat: &proto::Heartbeat,
    ) -> Result<(), Status> {
        let mut roster = self.roster();
        let member = roster.in_session(device, session).ok_or_else(over)?;
        member.counts = counts(&heartbeat.counts);
        let news = member.reported(heartbeat.applied.as_ref(), records::now());
        member.retry_if_due(Instant::now());
        drop(roster);
        if news {
            self.changed();
        }
        Ok(())
    }

    fn tampered(
        &self,
        device: &DeviceId,
        session: u64,
        tampered: &proto::Tampered,
    ) -> Result<(), Status> {
        let mut roster = self.roster();
        let member = roster.in_session(device, session).ok_or_else(over)?;
        let tenant = member.record.tenant.clone();
        if !member.may_be_told(Instant::now()) {
            return Ok(());
        }
        drop(roster);
        let happening = Happening::Tampered {
            device: device.clone(),
            description: clean::line(&tampered.what, clean::LONGEST_DETAIL),
            repaired: tampered.repaired,
            repair_us: tampered.repair_us,
        };
        self.tell(format!("device:{device}"), Some(tenant), happening);
        Ok(())
    }

    fn facts(&self, device: &DeviceId, session: u64, facts: &proto::Facts) -> Result<(), Status> {
        let (facts, addresses) = clean::facts(facts);
        let mut roster = self.roster();
        let member = roster.in_session(device, session).ok_or_else(over)?;
        let mut news = member.claim(&addresses, records::now());
        if member.record.standing.facts != facts {
            member.standing().facts = facts;
            news = true;
        }
        news |= roster.reassign(device, &addresses);
        drop(roster);
        if news {
            self.changed();
        }
        Ok(())
    }

    fn answered(
        &self,
        device: &DeviceId,
        session: u64,
        read_back: proto::ReadBack,
    ) -> Result<(), Status> {
        let mut roster = self.roster();
        let member = roster.in_session(device, session).ok_or_else(over)?;
        if let Some(session) = &mut member.session
            && let Some(asker) = session.questions.remove(&read_back.nonce)
        {
            // Who asked may have stopped waiting.
            let _ = asker.send(read_back);
        }
        Ok(())
    }
}
