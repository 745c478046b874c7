//! SQLite, in a file: one connection writes, so that writers queue in the pool and never meet a lock,
//! and several read beside it.

use anyhow::{Context, bail};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, Database};
use sea_orm_migration::MigratorTrait;

use super::{PATIENCE, Store, file, migrations};

const READERS: u32 = 4;

pub async fn open(url: &str) -> anyhow::Result<Store> {
    if url.contains(":memory:") {
        bail!(
            "a database in memory is gone with the operator: write sqlite:///PATH/seawall.db?mode=rwc"
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
    Ok(Store { writer, readers })
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
