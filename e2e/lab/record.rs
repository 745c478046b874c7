//! What a receiver saw of a sender's packets, and what may be concluded from it.
//!
//! Every packet carries when it was sent, so that "nothing passed from then on" is judged by what was sent
//! from then on: a packet that had arrived before and was read late by a busy machine is no leak. A flow
//! that did not flow before, or whose sender did not try afterwards, shows nothing and is an error.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};

/// A flow must have been seen this shortly before an action, to be able to show that it was cut by it.
const FLOWED_WITHIN: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
struct Packet {
    sent: Instant,
    received: Instant,
}

#[derive(Default)]
struct Seen {
    packets: Vec<Packet>,
    tries: Vec<Instant>,
    /// When, and why, the connection ended for one of its ends.
    ended: Option<(Instant, String)>,
}

/// One direction of a flow. A handle: clones see the same.
#[derive(Clone)]
pub struct Record {
    label: Arc<str>,
    seen: Arc<Mutex<Seen>>,
}

/// When a flow was cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// From the action to the arrival of the last packet; zero when that was before.
    pub latency: Duration,
    /// Packets that arrived in all.
    pub packets: usize,
}

impl Record {
    pub(super) fn new(label: String) -> Self {
        epoch();
        Self {
            label: label.into(),
            seen: Arc::default(),
        }
    }

    /// Who sends what to whom.
    pub fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn tried(&self, at: Instant) {
        self.with(|seen| seen.tries.push(at));
    }

    pub(super) fn received(&self, sent: Instant) {
        let received = Instant::now();
        self.with(|seen| seen.packets.push(Packet { sent, received }));
    }

    pub(super) fn ended(&self, why: impl ToString) {
        let end = (Instant::now(), why.to_string());
        self.with(|seen| {
            seen.ended.get_or_insert(end);
        });
    }

    fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().expect("nobody panics holding it"))
    }

    /// How many packets arrived.
    pub fn count(&self) -> usize {
        self.with(|seen| seen.packets.len())
    }

    pub fn last_received_at(&self) -> Option<Instant> {
        self.with(|seen| seen.packets.last().map(|packet| packet.received))
    }

    /// How many packets that were sent from then on have arrived.
    pub fn passed_since(&self, from: Instant) -> usize {
        self.with(|seen| count_from(&seen.packets, |packet| packet.sent, from))
    }

    /// How many packets were sent, or given to the kernel to send, from then on.
    pub fn tried_since(&self, from: Instant) -> usize {
        self.with(|seen| count_from(&seen.tries, |at| *at, from))
    }

    /// Waits until packets that are sent from now on arrive.
    pub async fn flows(&self, limit: Duration) -> anyhow::Result<()> {
        let from = Instant::now();
        while self.passed_since(from) == 0 {
            let end = self.with(|seen| seen.ended.clone());
            ensure!(
                from.elapsed() < limit,
                "{}: nothing sent in the last {limit:?} has arrived ({} tries, ended: {end:?})",
                self.label,
                self.tried_since(from),
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// That it flowed until the action and that nothing sent since `done` has arrived until now.
    pub fn cut(&self, action: Instant, done: Instant) -> anyhow::Result<Cut> {
        let label = &self.label;
        let before = self.with(|seen| {
            let recent = |packet: &&Packet| {
                packet.received <= action && action - packet.received < FLOWED_WITHIN
            };
            seen.packets.iter().filter(recent).count()
        });
        ensure!(before > 0, "{label}: it did not flow when the action began");
        let ended = self.with(|seen| seen.ended.clone());
        if ended.is_none() && self.tried_since(done) == 0 {
            bail!("{label}: nothing was sent since the action was done");
        }
        let passed = self.passed_since(done);
        ensure!(
            passed == 0,
            "{label}: {passed} packets passed that were sent after the action was done"
        );
        let last = self.last_received_at().unwrap_or(action);
        Ok(Cut {
            latency: last.saturating_duration_since(action),
            packets: self.count(),
        })
    }
}

/// Times only grow, so it is enough to look from the end.
fn count_from<T>(items: &[T], time: impl Fn(&T) -> Instant, from: Instant) -> usize {
    let recent = items.iter().rev();
    recent.take_while(|item| time(item) >= from).count()
}

/// What travels: whose it is, and when it was sent.
pub const FRAME: usize = 16;

/// The frame of a flow, sent at `at`.
pub fn encode(flow: u64, at: Instant) -> [u8; FRAME] {
    let nanos = at.duration_since(epoch()).as_nanos();
    let mut frame = [0; FRAME];
    frame[..8].copy_from_slice(&flow.to_be_bytes());
    frame[8..].copy_from_slice(&u64::try_from(nanos).unwrap_or(u64::MAX).to_be_bytes());
    frame
}

/// When the frame was sent, if it is this flow's.
pub fn decode(flow: u64, frame: &[u8]) -> Option<Instant> {
    let (whose, when) = frame.first_chunk::<FRAME>()?.split_at(8);
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).ok();
    (number(whose)? == flow).then_some(epoch() + Duration::from_nanos(number(when)?))
}

/// Earlier than every frame of this process, which sends and receives all of them.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}
