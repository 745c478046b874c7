//! The operator's database: what has to survive it and is no custom resource. The only place that knows
//! SQL; each part reaches its tables through a trait of its own, implemented here.
//!
//! SQLite is embedded and the default; PostgreSQL is for who has a server of it.

mod audit_index;
mod file;
mod fleet;
mod in_force;
mod migrations;
mod place;
mod postgres;
mod seen_objects;
mod sqlite;

use std::time::Duration;

use anyhow::bail;
use sea_orm::{DatabaseConnection, DbBackend};
use tokio::time::timeout;

/// How long a call waits for a connection, and a connection for a lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server behind a broken network never answers. Tasks that have all the time wait no longer than this.
const LONGEST: Duration = Duration::from_secs(30);

/// The open database; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) writer: DatabaseConnection,
    /// The same as `writer` where the database has many writers.
    pub(crate) readers: DatabaseConnection,
}

/// The database's server is away, and may come back by itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(String);

impl Store {
    /// Opens the database, and brings its tables up to date. `url` such as
    /// `sqlite:///var/lib/seawall/seawall.db?mode=rwc`, a file that is made if it is not there, or
    /// `postgres://USER:PASSWORD@HOST/DATABASE`. No error holds the password; one that is
    /// [`Unreachable`] is worth another try.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        match url.split_once(':').map(|(kind, _)| kind) {
            Some("sqlite") => sqlite::open(url).await,
            Some("postgres" | "postgresql") => postgres::open(url).await,
            _ => bail!(
                "the database's URL is of no kind that this version can use: write \
                 sqlite:///PATH/seawall.db?mode=rwc or postgres://USER:PASSWORD@HOST:5432/DATABASE"
            ),
        }
    }

    /// Whether it answers now.
    pub async fn ping(&self) -> anyhow::Result<()> {
        match timeout(PATIENCE, self.readers.ping()).await {
            Ok(answered) => Ok(answered?),
            Err(_) => bail!("no answer within {} s", PATIENCE.as_secs()),
        }
    }

    /// Whether it is a server, which can be away while the operator runs.
    pub fn is_remote(&self) -> bool {
        self.readers.get_database_backend() == DbBackend::Postgres
    }

    /// Waits for what is under way, and closes it.
    pub async fn close(self) -> anyhow::Result<()> {
        self.readers.close().await?;
        self.writer.close().await?;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;
