//! What the operator still has to say to one agent: a slot, not a queue.
//!
//! A bundle is the whole state, so only the newest matters: the slot says *that* one is wanted, and
//! which one it is is decided when the agent's stream is ready to take it. A slow agent therefore
//! holds nothing up and gathers nothing.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tonic::Status;

/// Read-backs that may wait for a stream that does not drain.
const MOST_QUESTIONS: usize = 8;

#[derive(Default)]
pub struct Outbox {
    slot: Mutex<Slot>,
    filled: Notify,
}

#[derive(Default)]
struct Slot {
    bundle_wanted: bool,
    /// Nonces of read-backs to ask for.
    questions: VecDeque<String>,
    /// Why the stream has to end.
    closed: Option<Status>,
}

/// The next thing to do on the stream.
#[derive(Debug)]
pub enum Outgoing {
    /// End it, before all else.
    Close(Status),
    /// Send the device's newest bundle.
    Bundle,
    /// Ask for a read-back.
    Question(String),
}

impl Outbox {
    pub fn want_bundle(&self) {
        self.with(|slot| slot.bundle_wanted = true);
    }

    /// False when too many questions wait already.
    pub fn ask(&self, nonce: String) -> bool {
        self.with(|slot| {
            let room = slot.questions.len() < MOST_QUESTIONS;
            if room {
                slot.questions.push_back(nonce);
            }
            room
        })
    }

    /// The first reason given is the one that the agent reads.
    pub fn close(&self, why: Status) {
        self.with(|slot| {
            slot.closed.get_or_insert(why);
        });
    }

    /// Waits for something to do. For one caller at a time.
    pub async fn next(&self) -> Outgoing {
        loop {
            if let Some(outgoing) = self.take() {
                return outgoing;
            }
            self.filled.notified().await;
        }
    }

    fn take(&self) -> Option<Outgoing> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &slot.closed {
            return Some(Outgoing::Close(why.clone()));
        }
        if std::mem::take(&mut slot.bundle_wanted) {
            return Some(Outgoing::Bundle);
        }
        slot.questions.pop_front().map(Outgoing::Question)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Slot) -> T) -> T {
        let changed = change(&mut self.slot.lock().unwrap_or_else(PoisonError::into_inner));
        self.filled.notify_one();
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn any_number_of_wanted_bundles_is_one() {
        let outbox = Outbox::default();
        for _ in 0..100 {
            outbox.want_bundle();
        }
        assert!(outbox.ask("n".into()));
        assert!(matches!(outbox.next().await, Outgoing::Bundle));
        assert!(matches!(outbox.next().await, Outgoing::Question(n) if n == "n"));
        assert!(outbox.take().is_none());
    }

    #[tokio::test]
    async fn closing_comes_first_and_keeps_its_first_reason() {
        let outbox = Outbox::default();
        outbox.want_bundle();
        outbox.close(Status::permission_denied("revoked"));
        outbox.close(Status::aborted("replaced"));
        let Outgoing::Close(why) = outbox.next().await else {
            panic!("not closed");
        };
        assert_eq!(why.code(), tonic::Code::PermissionDenied);
    }

    #[test]
    fn questions_to_an_agent_that_does_not_read_are_bounded() {
        let outbox = Outbox::default();
        let asked = (0..20).filter(|n| outbox.ask(n.to_string())).count();
        assert_eq!(asked, MOST_QUESTIONS);
    }
}
