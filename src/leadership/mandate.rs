//! The right to write, as the parts of the process hold it: it ends when the lease's holder says so, and
//! by itself when the lease was not renewed in time. A process that was frozen finds it ended at its first
//! look, before the task that renews the lease has turned.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::sync::watch::error::RecvError;
use tokio::time::Instant;

/// Given by who holds the lease.
#[derive(Clone)]
pub struct Office {
    held: watch::Sender<bool>,
    until: Arc<Mutex<Option<Instant>>>,
}

/// Held by who writes; clones end together.
#[derive(Clone)]
pub struct Mandate {
    held: watch::Receiver<bool>,
    until: Arc<Mutex<Option<Instant>>>,
}

/// An office that nobody holds yet, and its mandate.
pub fn office() -> (Office, Mandate) {
    let (held, changes) = watch::channel(false);
    let until = Arc::<Mutex<Option<Instant>>>::default();
    let mandate = Mandate {
        held: changes,
        until: Arc::clone(&until),
    };
    (Office { held, until }, mandate)
}

impl Office {
    /// The lease is ours until then, unless it is renewed.
    pub fn hold(&self, until: Instant) {
        self.set(Some(until));
        self.held
            .send_if_modified(|held| !std::mem::replace(held, true));
    }

    /// The lease is not ours any more.
    pub fn resign(&self) {
        self.set(None);
        self.held
            .send_if_modified(|held| std::mem::replace(held, false));
    }

    fn set(&self, until: Option<Instant>) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

impl Mandate {
    /// Whether a write may begin now.
    pub fn leads(&self) -> bool {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Waits until it begins or ends.
    pub async fn changed(&mut self) -> Result<(), RecvError> {
        self.held.changed().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_mandate_begins_and_ends_with_its_office_and_says_so_once_each() {
        let (office, mut mandate) = office();
        assert!(!mandate.leads());
        let later = Instant::now() + Duration::from_secs(60);
        office.hold(later);
        mandate.changed().await.expect("the office is there");
        assert!(mandate.leads());
        office.hold(later + Duration::from_secs(1));
        assert!(
            !mandate.held.has_changed().expect("there"),
            "a renewal is no news"
        );
        office.resign();
        mandate.changed().await.expect("the office is there");
        assert!(!mandate.leads());
    }

    #[test]
    fn a_lease_that_was_not_renewed_in_time_is_no_mandate_though_nobody_said_so() {
        let (office, mandate) = office();
        office.hold(Instant::now());
        assert!(!mandate.leads());
    }
}
