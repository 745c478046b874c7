//! What tests share: started by the first that asks, ended when nobody has asked for it for a while, so that
//! it doesn't take from the tests that follow.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::harness::runtime;

/// Longer than from the end of one test to the beginning of the next.
const LINGER: Duration = Duration::from_secs(3);

pub struct Shared<T> {
    started: Mutex<Option<Arc<T>>>,
}

/// A test's hold on it.
pub struct Held<T: Send + Sync + 'static> {
    this: Arc<T>,
    of: &'static Shared<T>,
}

impl<T: Send + Sync + 'static> Shared<T> {
    pub const fn new() -> Self {
        Self {
            started: Mutex::const_new(None),
        }
    }

    /// It, started now unless it is there.
    pub async fn get<Start>(&'static self, start: impl FnOnce() -> Start) -> anyhow::Result<Held<T>>
    where
        Start: Future<Output = anyhow::Result<T>>,
    {
        let mut started = self.started.lock().await;
        let this = match &*started {
            Some(this) => Arc::clone(this),
            None => Arc::clone(started.insert(Arc::new(start().await?))),
        };
        Ok(Held { this, of: self })
    }

    async fn end_unless_held(&self) {
        tokio::time::sleep(LINGER).await;
        let mut started = self.started.lock().await;
        if started
            .as_ref()
            .is_some_and(|this| Arc::strong_count(this) == 1)
        {
            let ended = started.take();
            // Ending processes is waited for.
            let _ = tokio::task::spawn_blocking(move || drop(ended)).await;
        }
    }
}

impl<T: Send + Sync + 'static> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.this
    }
}

impl<T: Send + Sync + 'static> Drop for Held<T> {
    fn drop(&mut self) {
        runtime().spawn(self.of.end_unless_held());
    }
}
