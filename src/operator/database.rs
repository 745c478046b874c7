//! The operator's database: where it is, waiting for it, and saying when it is away.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::args::OperatorArgs;
use crate::backoff::{Backoff, jittered};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::store::{Store, Unreachable};

/// Under which `/ready` speaks of it.
const NAME: &str = "database";
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// A URL that may hold a password, so it is never shown.
#[derive(Clone)]
pub struct DatabaseUrl(String);

impl FromStr for DatabaseUrl {
    type Err = std::convert::Infallible;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        Ok(Self(url.to_owned()))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(…)")
    }
}

impl DatabaseUrl {
    /// What was given; none: SQLite in the data directory.
    pub fn of(args: &OperatorArgs) -> Result<Option<Self>> {
        let url = match (&args.database_url, &args.database_url_file) {
            (Some(_), Some(_)) => bail!(
                "--database-url and --database-url-file are both given: which database is it?"
            ),
            (Some(url), None) => url.clone(),
            (None, Some(file)) => read(file)?,
            (None, None) if args.database_ca_file.is_some() => {
                bail!("--database-ca-file is given, and no URL of a database")
            }
            (None, None) => return Ok(None),
        };
        let is_argument = std::env::args().any(|argument| argument.contains(&url.0));
        ensure!(
            !(is_argument && url.has_password()),
            "a password in an argument is shown by ps: give the URL by --database-url-file or SEAWALL_DATABASE_URL"
        );
        match &args.database_ca_file {
            Some(file) => url.with_authority(file).map(Some),
            None => Ok(Some(url)),
        }
    }

    fn with_authority(self, file: &Path) -> Result<Self> {
        ensure!(
            self.0.starts_with("postgres"),
            "--database-ca-file is for PostgreSQL, and the database is another"
        );
        ensure!(
            !self.0.contains("sslrootcert="),
            "--database-ca-file and sslrootcert in the database's URL are both given: which one is it?"
        );
        let joint = if self.0.contains('?') { '&' } else { '?' };
        Ok(Self(format!(
            "{}{joint}sslrootcert={}",
            self.0,
            file.display()
        )))
    }

    /// SQLite in the data directory.
    pub fn sqlite(directory: &Path) -> Self {
        let file = directory.join("seawall.db");
        Self(format!("sqlite://{}?mode=rwc", file.display()))
    }

    fn has_password(&self) -> bool {
        let authority = self.0.split_once("://").map_or("", |(_, rest)| rest);
        let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
        user.contains(':')
    }
}

fn read(file: &Path) -> Result<DatabaseUrl> {
    let url = std::fs::read_to_string(file)
        .with_context(|| format!("reading the database's URL from {}", file.display()))?;
    let url = url.trim();
    ensure!(
        !url.is_empty(),
        "{} is empty: it has to hold the database's URL",
        file.display()
    );
    Ok(DatabaseUrl(url.to_owned()))
}

/// Opens it. One that is away is waited for, and `/ready` says so; what can't pass by itself is an error.
pub async fn open(
    url: &DatabaseUrl,
    health: &watch::Sender<Health>,
    metrics: &Metrics,
) -> Result<Store> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let away = match Store::open(&url.0).await {
            Ok(store) => {
                metrics.database_up.set(1);
                health.send_modify(|health| drop(health.waiting_for.remove(NAME)));
                return Ok(store);
            }
            Err(error) => error.downcast::<Unreachable>()?,
        };
        let pause = backoff.pause();
        warn!(
            "waiting for the database, trying again in {} ms: {away}",
            pause.as_millis()
        );
        health.send_modify(|health| drop(health.waiting_for.insert(NAME, away.to_string())));
        sleep(pause).await;
    }
}

/// Looks whether it is there, until `stop`. While it is away nothing ends: what is in force stays, and
/// what is to be written waits in memory.
pub async fn watch(
    store: Store,
    health: watch::Sender<Health>,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<()> {
    let mut away = false;
    loop {
        let answer = stop.run_until_cancelled(store.ping()).await;
        match answer {
            None => return Ok(()),
            Some(Ok(())) if away => {
                info!("the database is back");
                metrics.database_up.set(1);
                health.send_modify(|health| drop(health.notes.remove(NAME)));
                away = false;
            }
            Some(Err(error)) if !away => {
                let why = format!(
                    "it is away: {error:#}. What is in force stays in force and isolations go on; nothing \
                     new is written until it is back, and no device enrols"
                );
                warn!("the database: {why}");
                metrics.database_up.set(0);
                health.send_modify(|health| drop(health.notes.insert(NAME, why)));
                away = true;
            }
            Some(_) => {}
        }
        if stop
            .run_until_cancelled(sleep(jittered(LOOK_EVERY)))
            .await
            .is_none()
        {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: OperatorArgs,
    }

    fn of(arguments: &[&str]) -> Result<Option<DatabaseUrl>> {
        let all = ["seawall"].iter().chain(arguments);
        DatabaseUrl::of(&Command::parse_from(all).args)
    }

    #[test]
    fn a_file_may_hold_the_url_and_only_one_may_say_it() {
        assert!(of(&[]).expect("none").is_none());
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_str().expect("a path");
        let empty = of(&["--database-url-file", path]).expect_err("empty");
        assert!(empty.to_string().contains("is empty"), "{empty}");
        std::fs::write(file.path(), "postgres://u:hunter2@db/x\n").expect("written");
        let url = of(&["--database-url-file", path])
            .expect("read")
            .expect("one");
        assert_eq!(url.0, "postgres://u:hunter2@db/x");
        assert!(url.has_password() && !format!("{url:?}").contains("hunter2"));
        let both = ["--database-url", "sqlite://x", "--database-url-file", path];
        assert!(of(&both).expect_err("two").to_string().contains("both"));
        let authority = ["--database-url-file", path, "--database-ca-file", "/ca.crt"];
        let url = of(&authority).expect("both").expect("one");
        assert_eq!(url.0, "postgres://u:hunter2@db/x?sslrootcert=/ca.crt");
        for url in ["sqlite:///x", "postgres://db/x?sslrootcert=/y"] {
            let wrong = ["--database-url", url, "--database-ca-file", "/ca.crt"];
            of(&wrong).expect_err(url);
        }
        of(&["--database-ca-file", "/ca.crt"]).expect_err("no URL");
        let none = of(&["--database-url-file", "/not/there"]).expect_err("no file");
        assert!(none.to_string().contains("/not/there"), "{none}");
    }

    #[test]
    fn urls_without_a_password_may_be_arguments() {
        for url in [
            "sqlite:///x?mode=rwc",
            "postgres://u@db/x",
            "postgres://db:5432/x",
        ] {
            assert!(!DatabaseUrl(url.to_owned()).has_password(), "{url}");
        }
    }
}
