//! A database of a test's own, of either kind.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::Store;

#[allow(dead_code, reason = "the integration tests use the rest of it")]
#[path = "../../e2e/postgres.rs"]
pub mod server;

use server::Postgres;

/// An empty database. It goes with this.
pub struct Scratch {
    pub url: String,
    directory: Option<TempDir>,
}

impl Scratch {
    pub fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            url: url(&directory),
            directory: Some(directory),
        }
    }

    pub fn postgres() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let name = format!("scratch_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let server = postgres();
        server
            .sql("postgres", &format!("CREATE DATABASE {name}"))
            .unwrap();
        Self {
            url: server.socket_url(&name),
            directory: None,
        }
    }

    /// Opens it, each time anew: two of them are as two processes are to each other.
    pub async fn open(&self) -> Store {
        Store::open(&self.url).await.unwrap()
    }

    /// Where the files of SQLite are.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.as_ref().unwrap().path()
    }
}

/// The server of this process, which ends with it.
pub fn postgres() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| Postgres::for_this_process().unwrap())
}

pub fn url(directory: &TempDir) -> String {
    let file = directory.path().join("seawall.db");
    format!("sqlite://{}?mode=rwc", file.display())
}

/// Makes a test on each kind of database of every `async fn name(scratch: Scratch)`.
macro_rules! on_each_database {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::store::testing::Scratch::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                super::$test($crate::store::testing::Scratch::postgres()).await;
            })*
        }
    };
}

pub(crate) use on_each_database;
