//! Suspended users, shown with packets of sockets that are theirs.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context;
use libtest_mimic::Trial;
use nix::unistd::{Uid, User, setfsuid};
use seawall::domain::applied::Accounts;
use seawall::domain::enforcement::DeviceState;
use serde_json::json;

use super::{LIMIT, PORT, WATCH};
use crate::fleet::{Agent, Operator, state};
use crate::harness::{case, eventually};
use crate::lab::{Family, Host, Lab, Responder};
use crate::sandbox;

pub fn all() -> Vec<Trial> {
    let cases = vec![
        case(
            "a suspended account sends nothing, other accounts do, and loopback passes",
            sends_nothing,
        ),
        case(
            "an open connection of a suspended account ends at once, and others stay",
            ends_at_once,
        ),
        case(
            "a service of a suspended account answers nobody",
            answers_nobody,
        ),
        case(
            "root is left alone, and the agent says so",
            root_is_left_alone,
        ),
    ];
    let ignored = !sandbox::has_other_users();
    let cases = cases.into_iter();
    cases.map(|case| case.with_ignored_flag(ignored)).collect()
}

/// Two accounts that every Debian has.
pub const SUSPENDED: &str = "daemon";
pub const OTHER: &str = "bin";

fn uid(account: &str) -> anyhow::Result<Uid> {
    let user = User::from_name(account)?;
    Ok(user.context("the account exists")?.uid)
}

fn suspending(accounts: &[&str]) -> anyhow::Result<DeviceState> {
    let source = json!({"kind": "Isolation", "namespace": "acme", "name": "test", "uid": "u1", "generation": 1});
    state(json!({"sources": [source], "suspendedUsers": accounts}))
}

/// Runs on the host with sockets that are the account's.
async fn as_user<T: Send + 'static>(
    host: &Host,
    account: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    let uid = uid(account)?;
    host.inside(move || {
        // Of this thread alone, which ends with the body.
        setfsuid(uid);
        body()
    })
    .await
}

pub async fn open(host: &Host, account: &str, to: SocketAddr) -> anyhow::Result<Option<TcpStream>> {
    let attempt = move || TcpStream::connect_timeout(&to, LIMIT).ok();
    as_user(host, account, attempt).await
}

pub async fn reaches(host: &Host, account: &str, to: &Responder) -> anyhow::Result<bool> {
    let mut every = true;
    for family in Family::BOTH {
        every &= open(host, account, to.address(family)).await?.is_some();
    }
    Ok(every)
}

fn accounts(operator: &Operator, agent: &Agent) -> anyhow::Result<Accounts> {
    let applied = operator.fleet.applied_of(&agent.id()?);
    Ok(applied.context("the device is known")?.accounts)
}

async fn sends_nothing() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let outside = Responder::start(&server, PORT).await?;
    let own = Responder::start(&laptop, PORT).await?;
    for account in [SUSPENDED, OTHER, "root"] {
        assert!(reaches(&laptop, account, &outside).await?, "{account}");
    }

    let ghost = "no-such-account";
    operator
        .apply(&agent, suspending(&[SUSPENDED, ghost])?)
        .await?;
    for family in Family::BOTH {
        let to = outside.address(family);
        assert!(open(&laptop, SUSPENDED, to).await?.is_none(), "{family:?}");
    }
    assert!(reaches(&laptop, OTHER, &outside).await?);
    assert!(reaches(&laptop, "root", &outside).await?);
    assert!(reaches(&laptop, SUSPENDED, &own).await?, "over loopback");
    let said = accounts(&operator, &agent)?;
    assert_eq!(said.dropped, [SUSPENDED.to_owned()].into());
    assert!(said.spared.is_empty());
    let found = operator.read_back(&agent).await?;
    assert!(found.matches, "{}", found.detail);

    operator.apply(&agent, DeviceState::default()).await?;
    assert!(reaches(&laptop, SUSPENDED, &outside).await?);
    assert_eq!(accounts(&operator, &agent)?, Accounts::default());
    Ok(())
}

/// Reads until the connection ends; whether and when it did.
fn watch(mut stream: TcpStream) -> tokio::task::JoinHandle<Option<Instant>> {
    tokio::task::spawn_blocking(move || {
        stream.set_read_timeout(Some(5 * LIMIT)).ok()?;
        match stream.read(&mut [0]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            Ok(_) | Err(_) => Some(Instant::now()),
        }
    })
}

async fn ends_at_once() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let outside = Responder::start(&server, PORT).await?;
    let own = Responder::start(&laptop, PORT).await?;
    let mut theirs = Vec::new();
    for family in Family::BOTH {
        let stream = open(&laptop, SUSPENDED, outside.address(family)).await?;
        theirs.push(watch(stream.context("a connection")?));
    }
    let stays = [
        (OTHER, outside.address(Family::V4)),
        (SUSPENDED, own.address(Family::V4)),
    ];
    let mut others = Vec::new();
    for (account, to) in stays {
        let stream = open(&laptop, account, to).await?;
        others.push(watch(stream.context("a connection")?));
    }

    let applied = operator.apply(&agent, suspending(&[SUSPENDED])?).await?;
    for ended in theirs {
        let at = ended.await?.context("the connection ended")?;
        assert!(at < applied.done + LIMIT, "{:?}", at - applied.action);
    }
    assert_eq!(applied.connections_cut, 2, "{applied:?}");
    tokio::time::sleep(WATCH).await;
    for (watched, (account, to)) in others.iter().zip(stays) {
        assert!(!watched.is_finished(), "{account} to {to}");
    }
    Ok(())
}

async fn answers_nobody() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let address = SocketAddr::new(laptop.v4().into(), PORT);
    let listener = as_user(&laptop, SUSPENDED, move || TcpListener::bind(address)).await??;
    assert!(open(&server, "root", address).await?.is_some(), "before");
    operator.apply(&agent, suspending(&[SUSPENDED])?).await?;
    assert!(open(&server, "root", address).await?.is_none());
    drop(listener);
    Ok(())
}

async fn root_is_left_alone() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let operator = Operator::start(&lab).await?;
    let mut agent = operator.agent(&laptop).await?;
    let outside = Responder::start(&server, PORT).await?;
    operator
        .apply(&agent, suspending(&[SUSPENDED, "root"])?)
        .await?;
    assert!(reaches(&laptop, "root", &outside).await?);
    let said = accounts(&operator, &agent)?;
    assert_eq!(said.spared, ["root".to_owned()].into());

    // An agent that starts again looks the accounts up before it connects, and says it in its greeting.
    agent.terminate().await?;
    operator
        .disconnected(&agent.id()?, Duration::from_secs(10))
        .await?;
    assert!(
        !reaches(&laptop, SUSPENDED, &outside).await?,
        "the rules stay"
    );
    agent.restart()?;
    operator.connected(&agent).await?;
    eventually("the agent to say it again", LIMIT, || async {
        Ok((accounts(&operator, &agent)? == said).then_some(()))
    })
    .await?;
    assert!(!reaches(&laptop, SUSPENDED, &outside).await?);
    Ok(())
}
