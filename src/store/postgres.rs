//! PostgreSQL: a server that several processes may use at once. What must not happen twice is decided in
//! the database, by conditions and row locks, and not by who holds which connection.

use anyhow::{Context, Error, bail};
use sea_orm::sqlx::postgres::{PgConnection, PgPoolOptions};
use sea_orm::sqlx::{Connection, Error as SqlxError};
use sea_orm::{ConnectionTrait, DatabaseConnection, SqlxPostgresConnector, TransactionTrait};
use sea_orm_migration::MigratorTrait;
use tokio::time::timeout;

use super::place::Place;
use super::{LONGEST, PATIENCE, Store, Unreachable, migrations};

const CONNECTIONS: u32 = 6;
/// The oldest that the tests run with.
const OLDEST: u32 = 15;
/// Two that start at once on an empty database make its tables one after the other.
const MIGRATING: &str = "SELECT pg_advisory_xact_lock(6101813202)";

pub async fn open(url: &str) -> anyhow::Result<Store> {
    let place = Place::parse(url)?;
    greet(&place).await?;
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(PATIENCE)
        .connect_lazy_with(place.options.clone());
    let connection = SqlxPostgresConnector::from_sqlx_postgres_pool(pool);
    match timeout(LONGEST, migrate(&connection)).await {
        Ok(migrated) => migrated.with_context(|| {
            format!("bringing the tables of {place} up to date, which its user must be allowed to (GRANT CREATE ON SCHEMA)")
        })?,
        // It stopped answering, or another process is at it.
        Err(_) => {
            let after = LONGEST.as_secs();
            let words = format!("the tables of {place} were not up to date after {after} s");
            return Err(Unreachable(words).into());
        }
    }
    Ok(Store {
        writer: connection.clone(),
        readers: connection,
    })
}

async fn migrate(connection: &DatabaseConnection) -> anyhow::Result<()> {
    let transaction = connection.begin().await?;
    transaction.execute_unprepared(MIGRATING).await?;
    migrations::Migrator::up(&transaction, None).await?;
    transaction.commit().await?;
    Ok(())
}

/// Asks one connection whether this is a server to work with. A pool would only say that it has none.
async fn greet(place: &Place) -> anyhow::Result<()> {
    let greeting = async {
        let connection = PgConnection::connect_with(&place.options).await?;
        let version = connection.server_version_num();
        connection.close().await?;
        Ok(version)
    };
    match timeout(PATIENCE, greeting).await {
        Ok(Ok(version)) => is_new_enough(place, version),
        Ok(Err(error)) => Err(in_words(place, &error)),
        Err(_) => Err(Unreachable(format!(
            "{place} does not answer within {} s",
            PATIENCE.as_secs()
        ))
        .into()),
    }
}

/// `version` as in `server_version_num`, such as 150004.
fn is_new_enough(place: &Place, version: Option<u32>) -> anyhow::Result<()> {
    match version.map(|version| version / 10_000) {
        Some(major) if major < OLDEST => {
            bail!("{place} is run by PostgreSQL {major}: PostgreSQL {OLDEST} or later is needed")
        }
        _ => Ok(()),
    }
}

/// What to do about a connection that there is not. What may pass by itself is [`Unreachable`].
fn in_words(place: &Place, error: &SqlxError) -> Error {
    let options = &place.options;
    let user = options.get_username();
    let code = error.as_database_error().and_then(|it| it.code());
    match (code.as_deref(), error) {
        (Some("28P01"), _) => Error::msg(format!(
            "{place} does not take the password of {user:?}: write the right one into the URL"
        )),
        (Some("28000"), _) => Error::msg(format!(
            "{place} does not let {user:?} in ({error}): see the server's pg_hba.conf"
        )),
        (Some("3D000"), _) => Error::msg(format!(
            "{place} is not there: CREATE DATABASE {:?} OWNER {user:?}",
            options.get_database().unwrap_or_default()
        )),
        // Starting, stopping, or no connection left.
        (Some("57P01" | "57P02" | "57P03" | "53300"), _) | (None, SqlxError::Io(_)) => {
            Unreachable(format!("{place} can't be reached: {error}")).into()
        }
        (None, SqlxError::Tls(_)) => Error::msg(format!(
            "{place} can't be reached by TLS ({error}): sslrootcert= names the file of its \
             authority; sslmode=disable is for where the way is safe"
        )),
        _ => Error::msg(format!("{place} can't be used: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_too_old_is_refused_by_its_version() {
        let place = Place::parse("postgres://u:hunter2@db/x").expect("a place");
        let error = is_new_enough(&place, Some(140_013)).expect_err("too old");
        let words = error.to_string();
        assert!(words.contains("PostgreSQL 14: PostgreSQL 15"), "{words}");
        for version in [Some(150_000), Some(180_001), None] {
            is_new_enough(&place, version).expect("new enough");
        }
    }
}
