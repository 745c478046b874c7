//! The stream to the operator, for as long as the agent lives: greets with what is in force, takes
//! bundles and questions, tells of counters, changed addresses and tampering. It decides nothing and
//! keeps nothing; when the stream breaks, it is opened again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};

use super::bundle::{Position, SignedBundle};
use super::enforcer::{self, Acknowledged, Standing, Tampering};
use super::identity::{Credentials, Identity};
use super::operator_channel::{connect, innermost};
use super::status::StatusFile;
use super::words::printable;
use crate::backoff::Backoff;
use crate::domain::applied::Datapath;
use crate::fleet::proto::fleet_client::FleetClient;
use crate::fleet::proto::{
    self, Ack, AgentMessage, Applied, Facts, Heartbeat, Hello, OperatorMessage, Refused,
    agent_message, operator_message,
};

const HEARTBEAT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A stream that lasted this long was a good one.
const GOOD: Duration = Duration::from_secs(5);
/// An operator that doesn't read for so long is treated as gone.
const SEND: Duration = Duration::from_secs(10);
/// Addresses and tampering are told at most so often; the last word always is.
const SPACING: Duration = Duration::from_millis(1200);
/// A bundle of a hundred thousand networks has 5 MB.
const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;
const OUTGOING: usize = 16;

pub struct Session {
    pub identity: Identity,
    pub credentials: Credentials,
    pub enforcer: enforcer::Handle,
    pub facts: watch::Receiver<Facts>,
    pub tampered: mpsc::Receiver<Tampering>,
    pub status: StatusFile,
    /// Told when the operator does not know this device's certificate.
    pub unknown: Arc<Notify>,
}

impl Session {
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut told = String::new();
        loop {
            for address in self.addresses() {
                let started = Instant::now();
                let outcome = tokio::select! {
                    () = stop.cancelled() => break,
                    outcome = self.converse(&address) => outcome,
                };
                let words = match outcome {
                    Ok(()) => format!("{address}: the operator ended the stream"),
                    Err(error) => format!("{error:#}"),
                };
                if started.elapsed() > GOOD {
                    backoff.reset();
                    told.clear();
                }
                // The same words again and again help nobody.
                if words != told {
                    tracing::warn!("no stream to the operator, trying again: {words}");
                    self.status.disconnected(&words).await;
                    told = words;
                }
            }
            let pause = backoff.spread_pause();
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.status.disconnected("the agent was stopped").await;
    }

    /// As the join token named them, then as the last bundle does: those work without DNS.
    fn addresses(&self) -> Vec<String> {
        let mut addresses = self.identity.operator.clone();
        for address in &self.enforcer.standing.borrow().operator {
            let address = address.to_string();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// One stream, until it ends.
    async fn converse(&mut self, address: &str) -> anyhow::Result<()> {
        let channel = connect(address, &self.credentials).await?;
        let mut client = FleetClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let (outgoing, outgoing_stream) = mpsc::channel(OUTGOING);
        let outgoing = Outgoing(outgoing);
        let hello = Hello {
            facts: Some(self.facts.borrow_and_update().clone()),
            applied: {
                let standing = self.enforcer.standing.borrow();
                let position = standing.applied.as_ref();
                position.map(|position| applied(position, &standing))
            },
        };
        outgoing.send(agent_message::Message::Hello(hello)).await?;
        let opening = client.session(ReceiverStream::new(outgoing_stream));
        let incoming = timeout(SEND, opening)
            .await
            .with_context(|| format!("{address}: the operator opened no stream"))?
            .map_err(|status| {
                if status.code() == Code::Unauthenticated {
                    self.unknown.notify_one();
                }
                said(address, &status)
            })?
            .into_inner();
        tracing::info!("connected to the operator at {address}");
        self.status.connected(address).await;
        self.serve(&outgoing, incoming).await.map_err(|error| {
            match error.downcast::<tonic::Status>() {
                Ok(status) => said(address, &status),
                Err(error) => error.context(address.to_owned()),
            }
        })
    }

    async fn serve(
        &mut self,
        outgoing: &Outgoing,
        mut incoming: Streaming<OperatorMessage>,
    ) -> anyhow::Result<()> {
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut facts = Spaced::every(SPACING);
        let mut tampering = Spaced::every(SPACING);
        let mut last_tampering: Option<(Tampering, u32)> = None;
        loop {
            tokio::select! {
                message = incoming.message() => match message? {
                    Some(message) => self.answer(outgoing, message).await?,
                    None => return Ok(()),
                },
                _ = heartbeat.tick() => {
                    let beat = self.enforcer.beat().await?;
                    let beat = Heartbeat {
                        applied: beat.applied.as_ref().map(|position| self.applied(position)),
                        counts: beat.counts,
                        datapath: datapath(beat.datapath).into(),
                    };
                    outgoing.send(agent_message::Message::Heartbeat(beat)).await?;
                }
                changed = self.facts.changed() => {
                    changed.context("the agent is stopping")?;
                    facts.wanted();
                }
                () = facts.due() => {
                    let now = self.facts.borrow_and_update().clone();
                    outgoing.send(agent_message::Message::Facts(now)).await?;
                }
                Some(found) = self.tampered.recv() => {
                    let times = last_tampering.map_or(1, |(_, times)| times + 1);
                    last_tampering = Some((found, times));
                    tampering.wanted();
                }
                () = tampering.due() => {
                    if let Some((found, times)) = last_tampering.take() {
                        let message = agent_message::Message::Tampered(tampered(&found, times));
                        outgoing.send(message).await?;
                    }
                }
            }
        }
    }

    fn applied(&self, position: &Position) -> Applied {
        applied(position, &self.enforcer.standing.borrow())
    }

    async fn answer(&self, outgoing: &Outgoing, message: OperatorMessage) -> anyhow::Result<()> {
        match message.message {
            Some(operator_message::Message::Bundle(bundle)) => {
                let bundle = SignedBundle::from(bundle);
                let claimed = Position::claimed(&bundle.payload);
                let answer = match self.enforcer.accept(bundle).await? {
                    Ok(done) => {
                        tell(&done);
                        let applied = self.applied(&done.position);
                        agent_message::Message::Ack(ack(&done, applied))
                    }
                    Err(refusal) => {
                        tracing::warn!(
                            epoch = claimed.epoch,
                            revision = claimed.revision,
                            "a bundle was refused: {refusal}"
                        );
                        agent_message::Message::Refused(Refused {
                            epoch: claimed.epoch,
                            revision: claimed.revision,
                            reason: refusal.reason.to_owned(),
                            detail: refusal.detail,
                        })
                    }
                };
                outgoing.send(answer).await
            }
            Some(operator_message::Message::Verify(verify)) => {
                let found = self.enforcer.read_back().await?;
                let answer = proto::ReadBack {
                    nonce: verify.nonce,
                    applied: found
                        .applied
                        .as_ref()
                        .map(|position| self.applied(position)),
                    matches: found.matches,
                    detail: found.detail,
                    counts: found.counts,
                };
                outgoing
                    .send(agent_message::Message::ReadBack(answer))
                    .await
            }
            // From an operator that is newer than this agent.
            None => Ok(()),
        }
    }
}

/// What goes to the operator.
struct Outgoing(mpsc::Sender<AgentMessage>);

impl Outgoing {
    async fn send(&self, message: agent_message::Message) -> anyhow::Result<()> {
        let message = AgentMessage {
            message: Some(message),
        };
        timeout(SEND, self.0.send(message))
            .await
            .context("the operator does not read what it is told")?
            .context("the stream has ended")
    }
}

/// Something that is told when it changes, but not too often.
struct Spaced {
    spacing: Duration,
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Spaced {
    fn every(spacing: Duration) -> Self {
        Self {
            spacing,
            due: None,
            last: None,
        }
    }

    fn wanted(&mut self) {
        let soonest = self.last.map(|last| last + self.spacing);
        let now = Instant::now();
        self.due
            .get_or_insert(soonest.map_or(now, |soonest| soonest.max(now)));
    }

    /// Waits until it is time; forever when nothing is wanted.
    async fn due(&mut self) {
        match self.due {
            Some(due) => {
                tokio::time::sleep_until(due).await;
                self.due = None;
                self.last = Some(Instant::now());
            }
            None => std::future::pending().await,
        }
    }
}

fn said(address: &str, status: &tonic::Status) -> anyhow::Error {
    match status.message() {
        "" => anyhow::anyhow!("{address}: {}", innermost(status)),
        words => anyhow::anyhow!("{address}: {}", printable(words, 300)),
    }
}

fn applied(position: &Position, standing: &Standing) -> Applied {
    let accounts = &standing.accounts;
    let restored = standing.restored.map(|at| at.elapsed().as_millis());
    Applied {
        epoch: position.epoch,
        revision: position.revision,
        state_hash: position.state_hash.clone(),
        suspended_accounts: accounts.dropped.keys().cloned().collect(),
        spared_accounts: accounts.spared.iter().cloned().collect(),
        restored_ms_ago: restored.and_then(|ms| u64::try_from(ms).ok()),
    }
}

fn datapath(found: Datapath) -> proto::Datapath {
    match found {
        Datapath::Unknown => proto::Datapath::Unknown,
        Datapath::Passes => proto::Datapath::Passes,
        Datapath::Bypasses => proto::Datapath::Bypasses,
    }
}

fn tell(done: &Acknowledged) {
    let stages = done.stages;
    tracing::info!(
        epoch = done.position.epoch,
        revision = done.position.revision,
        connections_cut = done.connections_cut,
        verify = micros(stages.verify),
        persist = micros(stages.persist),
        apply = micros(stages.apply),
        cut = micros(stages.cut),
        read_back = micros(stages.read_back),
        "a bundle is in force, read back"
    );
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn ack(done: &Acknowledged, applied: Applied) -> Ack {
    Ack {
        applied: Some(applied),
        connections_cut: done.connections_cut,
        verify_us: micros(done.stages.verify),
        persist_us: micros(done.stages.persist),
        apply_us: micros(done.stages.apply),
        cut_us: micros(done.stages.cut),
        read_back_us: micros(done.stages.read_back),
    }
}

fn tampered(found: &Tampering, times: u32) -> proto::Tampered {
    let what = match times {
        0 | 1 => found.what.clone(),
        more => format!("{} (changed {more} times in a moment)", found.what),
    };
    proto::Tampered {
        what: printable(&what, 500),
        repaired: found.repaired,
        repair_us: micros(found.took),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_changes_often_is_told_at_intervals_and_the_last_word_is_told() {
        let spacing = Duration::from_millis(40);
        let mut spaced = Spaced::every(spacing);
        let started = Instant::now();
        let mut told = Vec::new();
        for _ in 0..3 {
            spaced.wanted();
            spaced.wanted();
            spaced.due().await;
            told.push(started.elapsed());
        }
        assert!(told[1] >= spacing && told[2] >= 2 * spacing, "{told:?}");
        let nothing = timeout(3 * spacing, spaced.due()).await;
        assert!(nothing.is_err(), "nothing more is wanted");
    }

    #[test]
    fn tampering_that_repeats_is_told_once_with_its_number() {
        let found = Tampering {
            what: "the table is gone".into(),
            repaired: true,
            took: Duration::from_micros(4200),
        };
        assert_eq!(tampered(&found, 1).what, "the table is gone");
        let many = tampered(&found, 7);
        assert!(many.what.contains("7 times"), "{}", many.what);
        assert_eq!(many.repair_us, 4200);
    }
}
