//! The operator's database: what has to survive it and is no custom resource. The only place that knows
//! SQL; each part reaches its tables through a trait of its own, implemented here.
//!
//! SQLite is embedded: one connection writes, so that writers queue in the pool and never meet a lock,
//! and several read beside it.

mod audit_index;
mod file;
mod fleet;
mod in_force;
mod migrations;
mod seen_objects;

use std::time::Duration;

use anyhow::{Context, bail};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, Database, DatabaseConnection};
use sea_orm_migration::MigratorTrait;

const READERS: u32 = 4;
/// How long a call waits for a connection, and a connection for a lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// The open database; clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) writer: DatabaseConnection,
    pub(crate) readers: DatabaseConnection,
}

impl Store {
    /// Opens the database, made if it is not there, and brings its tables up to date. `url` such as
    /// `sqlite:///var/lib/seawall/seawall.db?mode=rwc`.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        if !url.starts_with("sqlite:") || url.contains(":memory:") {
            bail!(
                "{url:?} is no database that this version can use: write sqlite:///PATH/seawall.db?mode=rwc"
            );
        }
        let opening = || format!("opening the database {url}");
        let file: SqliteConnectOptions = url.parse().with_context(opening)?;
        file::make_private(file.get_filename(), url.contains("mode=rwc")).with_context(opening)?;
        let writer = Database::connect(options(url, 1))
            .await
            .with_context(opening)?;
        migrations::Migrator::up(&writer, None)
            .await
            .with_context(|| format!("bringing the tables of {url} up to date"))?;
        let readers = Database::connect(options(url, READERS))
            .await
            .with_context(opening)?;
        Ok(Self { writer, readers })
    }

    /// Waits for what is under way, and closes the files.
    pub async fn close(self) -> anyhow::Result<()> {
        self.readers.close().await?;
        self.writer.close().await?;
        Ok(())
    }
}

fn options(url: &str, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .acquire_timeout(PATIENCE)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(|sqlite| {
            // A committed epoch or enrolment must survive a power cut, hence `Full`.
            sqlite
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .foreign_keys(true)
                .busy_timeout(PATIENCE)
        });
    options
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A database of its own, in a directory that goes with it.
    pub(crate) async fn scratch() -> (Store, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&url(&directory)).await.unwrap();
        (store, directory)
    }

    pub(crate) fn url(directory: &tempfile::TempDir) -> String {
        let file = directory.path().join("seawall.db");
        format!("sqlite://{}?mode=rwc", file.display())
    }

    #[tokio::test]
    async fn a_database_opens_again_with_what_was_in_it() {
        use crate::fleet::records::DeviceStore;
        let (store, directory) = scratch().await;
        assert_eq!(store.next_epoch(0).await.unwrap(), 1);
        store.close().await.unwrap();
        let store = Store::open(&url(&directory)).await.unwrap();
        assert_eq!(store.epoch().await.unwrap(), 1);
    }

    #[tokio::test]
    async fn its_files_are_its_owners_alone_also_those_that_were_made_for_all() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |file: &std::path::Path| {
            let found = std::fs::metadata(file).unwrap();
            found.permissions().mode() & 0o777
        };
        let (store, directory) = scratch().await;
        let files = ["", "-wal", "-shm"].map(|ending| {
            let name = format!("seawall.db{ending}");
            directory.path().join(name)
        });
        for file in &files {
            assert_eq!(mode(file), 0o600, "{}", file.display());
            let for_all = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(file, for_all).unwrap();
        }
        // As a killed process leaves them.
        let again = Store::open(&url(&directory)).await.unwrap();
        for file in &files {
            assert_eq!(mode(file), 0o600, "{}", file.display());
        }
        again.close().await.unwrap();
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn other_kinds_of_database_are_refused_with_what_to_write() {
        for url in ["sqlite::memory:", "mysql://x", ""] {
            let error = Store::open(url).await.unwrap_err().to_string();
            assert!(error.contains("sqlite:///"), "{error}");
        }
    }
}
