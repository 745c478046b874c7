use super::testing::{self, Scratch, on_each_database};
use super::*;
use crate::fleet::records::DeviceStore;

on_each_database!(
    a_database_opens_again_with_what_was_in_it,
    two_that_open_an_empty_database_at_once_make_its_tables_once,
);

async fn a_database_opens_again_with_what_was_in_it(scratch: Scratch) {
    let store = scratch.open().await;
    store.ping().await.unwrap();
    assert_eq!(store.next_epoch(0).await.unwrap(), 1);
    store.close().await.unwrap();
    let store = scratch.open().await;
    assert_eq!(store.epoch().await.unwrap(), 1);
}

async fn two_that_open_an_empty_database_at_once_make_its_tables_once(scratch: Scratch) {
    // A file is locked by the data directory, so only one process ever makes its tables.
    if scratch.url.starts_with("sqlite:") {
        scratch.open().await;
    }
    let (first, second) = tokio::join!(scratch.open(), scratch.open());
    assert_eq!(first.next_epoch(0).await.unwrap(), 1);
    assert_eq!(second.epoch().await.unwrap(), 1);
}

#[tokio::test]
async fn its_files_are_its_owners_alone_also_those_that_were_made_for_all() {
    use std::os::unix::fs::PermissionsExt;
    let mode = |file: &std::path::Path| {
        let found = std::fs::metadata(file).unwrap();
        found.permissions().mode() & 0o777
    };
    let scratch = Scratch::sqlite();
    let store = scratch.open().await;
    let files = ["", "-wal", "-shm"].map(|ending| {
        let name = format!("seawall.db{ending}");
        scratch.directory().join(name)
    });
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
        let for_all = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(file, for_all).unwrap();
    }
    // As a killed process leaves them.
    let again = scratch.open().await;
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    again.close().await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn other_kinds_of_database_are_refused_with_what_to_write() {
    for url in ["sqlite::memory:", "mysql://u:hunter2@x", "hunter2", ""] {
        let error = Store::open(url).await.unwrap_err().to_string();
        assert!(error.contains("sqlite:///"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

/// What opening this says, and whether another try may help.
async fn refusal(url: &str) -> (String, bool) {
    let error = Store::open(url).await.expect_err(url);
    let words = format!("{error:#}");
    assert!(!words.contains("hunter2"), "{words}");
    assert!(!words.contains(testing::server::PASSWORD), "{words}");
    let may_pass = error.downcast_ref::<Unreachable>().is_some();
    (words, may_pass)
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_said_with_what_to_do() {
    let server = testing::postgres();
    let right = server.tcp_url("postgres", "sslmode=disable");
    let wrong = right.replace(testing::server::PASSWORD_IN_URL, "hunter2");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    for (url, words, passes) in [
        (wrong, "does not take the password of \"postgres\"", false),
        (
            right.replace("/postgres?", "/nothere?"),
            "CREATE DATABASE \"nothere\" OWNER \"postgres\"",
            false,
        ),
        (
            right.replace("sslmode=disable", "sslmode=verify-full"),
            "can't be reached by TLS",
            false,
        ),
        (
            format!("postgres://u:hunter2@127.0.0.1:{port}/x?sslmode=disable"),
            "can't be reached",
            true,
        ),
    ] {
        let (said, may_pass) = refusal(&url).await;
        assert!(said.contains(words), "{said}");
        assert_eq!(may_pass, passes, "{said}");
    }
}

#[tokio::test]
async fn a_user_who_may_make_no_tables_is_told_which_right_is_missing() {
    let server = testing::postgres();
    let scratch = Scratch::postgres();
    let name = scratch.url.rsplit('/').find(|it| it.contains("scratch_"));
    let name = name.and_then(|it| it.split('?').next()).unwrap();
    let make = format!("CREATE ROLE poor_{name} LOGIN PASSWORD 'poor'");
    server.sql("postgres", &make).unwrap();
    let theirs = format!(
        "{}:{}@",
        testing::server::USER,
        testing::server::PASSWORD_IN_URL
    );
    let url = scratch.url.replace(&theirs, &format!("poor_{name}:poor@"));
    let (said, _) = refusal(&url).await;
    assert!(
        said.contains("GRANT CREATE") && said.contains("permission denied"),
        "{said}"
    );
}
