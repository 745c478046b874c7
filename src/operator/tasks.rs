//! The tasks of a process: each has a name and is joined. One that ends before the process is asked to,
//! ends the process: a part that quietly does nothing is worse than a restart.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

pub struct Tasks {
    set: JoinSet<Result<()>>,
    names: HashMap<Id, &'static str>,
    stop: CancellationToken,
}

impl Tasks {
    /// Tasks that are asked to end by `stop`.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            set: JoinSet::new(),
            names: HashMap::new(),
            stop,
        }
    }

    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        let id = self.set.spawn(task).id();
        self.names.insert(id, name);
    }

    /// Waits until all have ended, at most `grace` after `stop`. The first that ends early or fails
    /// stops the others and is the error.
    pub async fn join(mut self, grace: Duration) -> Result<()> {
        let mut first = None;
        while !self.stop.is_cancelled() {
            let stop = self.stop.clone();
            let Some(Some(ended)) = stop.run_until_cancelled(self.set.join_next_with_id()).await
            else {
                break;
            };
            let failure = if self.stop.is_cancelled() {
                self.ended_in_order(ended).err()
            } else {
                Some(self.ended_early(ended))
            };
            if let Some(failure) = failure {
                error!("{failure:#}; the process ends");
                first = Some(failure);
                self.stop.cancel();
            }
        }
        let orderly = timeout(grace, async {
            while let Some(ended) = self.set.join_next_with_id().await {
                if let Err(failure) = self.ended_in_order(ended) {
                    warn!("{failure:#}");
                    first.get_or_insert(failure);
                }
            }
        })
        .await;
        if orderly.is_err() {
            let left: Vec<_> = self.names.values().copied().collect();
            warn!(
                ?left,
                "these tasks did not end in {} s and are dropped",
                grace.as_secs()
            );
            self.set.abort_all();
        }
        first.map_or(Ok(()), Err)
    }

    fn ended_early(&mut self, ended: Result<(Id, Result<()>), JoinError>) -> anyhow::Error {
        match ended {
            Ok((id, Ok(()))) => anyhow!("{} ended by itself", self.name(id)),
            Ok((id, Err(error))) => error.context(format!("{} failed", self.name(id))),
            Err(error) => anyhow!("{} panicked: {error}", self.name(error.id())),
        }
    }

    fn ended_in_order(&mut self, ended: Result<(Id, Result<()>), JoinError>) -> Result<()> {
        match ended {
            Ok((id, Ok(()))) => {
                debug!(task = self.name(id), "ended");
                Ok(())
            }
            other => Err(self.ended_early(other)),
        }
    }

    fn name(&mut self, id: Id) -> &'static str {
        self.names.remove(&id).unwrap_or("a task")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    fn tasks() -> (Tasks, CancellationToken) {
        let stop = CancellationToken::new();
        (Tasks::new(stop.clone()), stop)
    }

    async fn until(stop: CancellationToken) -> Result<()> {
        stop.cancelled().await;
        Ok(())
    }

    #[tokio::test]
    async fn asked_to_stop_all_end_in_order() {
        let (mut tasks, stop) = tasks();
        tasks.spawn("a", until(stop.clone()));
        tasks.spawn("b", until(stop.clone()));
        stop.cancel();
        assert!(tasks.join(GRACE).await.is_ok());
    }

    #[tokio::test]
    async fn a_task_that_ends_by_itself_ends_the_others_and_is_named() {
        let (mut tasks, stop) = tasks();
        tasks.spawn("the watch", async { Ok(()) });
        tasks.spawn("the rest", until(stop.clone()));
        let error = tasks.join(GRACE).await.expect_err("ended early");
        assert_eq!(error.to_string(), "the watch ended by itself");
        assert!(stop.is_cancelled());
    }

    #[tokio::test]
    async fn a_panic_ends_the_others_too() {
        let (mut tasks, stop) = tasks();
        tasks.spawn("the loop", async { panic!("no") });
        tasks.spawn("the rest", until(stop.clone()));
        let error = tasks.join(GRACE).await.expect_err("panicked");
        assert!(error.to_string().contains("the loop panicked"), "{error}");
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_is_dropped_after_its_grace() {
        let (mut tasks, stop) = tasks();
        tasks.spawn("stuck", std::future::pending());
        stop.cancel();
        assert!(tasks.join(Duration::from_millis(20)).await.is_ok());
    }
}
