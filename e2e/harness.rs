//! How a test of real parts is written: a sentence and an async body, run on one runtime that all
//! tests share, so that clients and fixtures can be shared too.

use std::future::Future;
use std::panic::Location;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::bail;
use libtest_mimic::Trial;
use tokio::runtime::Runtime;

use crate::run;

/// No test waits longer, whatever hangs; a machine that is busy otherwise may take as long.
const LIMIT: Duration = Duration::from_secs(360);

pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(4)
            .enable_all()
            .build()
            .expect("a runtime needs only threads")
    })
}

/// A test named by the sentence that it shows, after the file it stands in: `lab::a drop is seen`.
#[track_caller]
pub fn case<F, Fut>(sentence: &str, body: F) -> Trial
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let file = Path::new(Location::caller().file());
    let subject = file.file_stem().unwrap_or_default().to_string_lossy();
    let name = format!("{subject}::{sentence}");
    Trial::test(name.clone(), move || {
        let began = Instant::now();
        let outcome = runtime().block_on(async {
            match tokio::time::timeout(LIMIT, body()).await {
                Ok(outcome) => outcome,
                Err(_) => bail!("not done after {} s", LIMIT.as_secs()),
            }
        });
        let took = began.elapsed();
        run::note_duration(&name, took);
        outcome.map_err(|error| {
            // Said at once, where the log of a long run may be cut before its end.
            eprintln!("{name}: after {:.1} s: {error:#}", took.as_secs_f64());
            format!("{error:#}").into()
        })
    })
}

/// Asks again and again until there is an answer; fails with what was waited for.
pub async fn eventually<T, Fut>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Fut,
) -> anyhow::Result<T>
where
    Fut: Future<Output = anyhow::Result<Option<T>>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let last = match ask().await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() > deadline {
            match last {
                Some(error) => return Err(error.context(format!("waited {limit:?} for {what}"))),
                None => bail!("waited {limit:?} for {what}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
