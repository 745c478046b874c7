//! The agent with and without its operator.

use std::time::{Duration, Instant};

use anyhow::Context;
use libtest_mimic::Trial;
use serde_json::Value;

use super::{LIMIT, MANAGEMENT_PORT, PORT};
use crate::fleet::{Agent, Operator, isolated};
use crate::harness::{case, eventually};
use crate::lab::{Family, Host, Lab, Reach, Responder, connect, reach};
use crate::process;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "an operator that ends leaves all in force, and when it is back nothing is loaded again",
            operator_restarts,
        ),
        case(
            "a stream that died without a word is found and opened again",
            dead_stream,
        ),
        case(
            "a bundle on disk that was changed is refused aloud, and what the kernel holds stays",
            forged_file,
        ),
        case(
            "an agent that is stopped leaves its rules in force",
            stopped,
        ),
        case(
            "an agent that may not change nftables says what it needs",
            not_permitted,
        ),
        case("addresses that come and go are told", addresses),
    ]
}

/// An agent pings every 5 s and waits 8 s for an answer.
const DEAD_WITHIN: Duration = Duration::from_secs(20);

/// The table with the handles of its rules: equal only if nothing was loaded in between.
async fn handles(agent: &Agent) -> anyhow::Result<String> {
    let listing = agent
        .host()
        .run("nft", &["-s", "-a", "list", "table", "inet", "seawall"], "")
        .await?;
    listing.success()
}

/// Nothing that the host sends reaches the operator, and nobody is told.
async fn cut_off(host: &Host, operator: &Operator) -> anyhow::Result<()> {
    let port = operator.address().port();
    let script = format!(
        "table inet away {{
            chain leave {{ type filter hook output priority -20; tcp dport {port} drop; }}
            chain come {{ type filter hook input priority -20; tcp sport {port} drop; }}
        }}"
    );
    host.nft(&script).await.map(drop)
}

async fn status(agent: &Agent) -> anyhow::Result<Value> {
    let outcome = agent.run("status", &["--json"]).await?;
    Ok(serde_json::from_str(&outcome.stdout)?)
}

async fn says_in_log(agent: &Agent, words: &str) -> anyhow::Result<()> {
    eventually(
        &format!("the log to say {words:?}"),
        DEAD_WITHIN,
        || async { Ok(agent.log()?.contains(words).then_some(())) },
    )
    .await
}

async fn operator_restarts() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server, admin) = (lab.host("laptop")?, lab.host("server")?, lab.host("admin")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let service = Responder::start(&laptop, PORT).await?;
    let state = isolated(&admin, &[MANAGEMENT_PORT])?;
    operator.apply(&agent, state).await?;
    let loaded = handles(&agent).await?;

    let stopped = operator.stop().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(reach(&server, &service, LIMIT).await?, Reach::NONE);
    let operator = stopped.start().await?;
    operator.connected(&agent).await?;
    let found = operator.read_back(&agent).await?;
    assert!(found.matches, "{}", found.detail);
    assert_eq!(handles(&agent).await?, loaded);
    assert_eq!(reach(&server, &service, LIMIT).await?, Reach::NONE);
    // It is the same stream that takes the next one.
    operator.apply(&agent, Default::default()).await?;
    assert_eq!(reach(&server, &service, LIMIT).await?, Reach::ALL);
    Ok(())
}

async fn dead_stream() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, admin) = (lab.host("laptop")?, lab.host("admin")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    shows(&agent, &["connected"]).await?;
    cut_off(&laptop, &operator).await?;
    let silent_since = Instant::now();
    eventually("the agent to notice", DEAD_WITHIN, || async {
        Ok((status(&agent).await?["connected"] == false).then_some(()))
    })
    .await?;
    assert!(silent_since.elapsed() < DEAD_WITHIN);
    laptop.nft("delete table inet away").await?;
    let state = isolated(&admin, &[MANAGEMENT_PORT])?;
    let state = operator.want(&agent, state).await?;
    operator.acknowledged(&agent, &state).await?;
    shows(&agent, &["connected", "isolated", "kernelMatches"]).await
}

/// Waits until the agent's status, which follows what the operator was told, says that these are so.
async fn shows(agent: &Agent, facts: &[&str]) -> anyhow::Result<()> {
    eventually("the agent's status to say so", DEAD_WITHIN, || async {
        let shown = status(agent).await?;
        Ok(facts.iter().all(|fact| shown[fact] == true).then_some(()))
    })
    .await
}

async fn forged_file() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, admin) = (lab.host("laptop")?, lab.host("admin")?);
    let operator = Operator::start(&lab).await?;
    let mut agent = operator.agent(&laptop).await?;
    let state = isolated(&admin, &[MANAGEMENT_PORT])?;
    let applied = operator.want(&agent, state).await?;
    operator.acknowledged(&agent, &applied).await?;
    let file = agent.state_directory().join("bundle.json");
    let good = std::fs::read_to_string(&file)?;
    let table = agent.table().await?;
    // Somebody opens the device on its disk: the payload says so, the signature is the old one.
    let mut forged: Value = serde_json::from_str(&good)?;
    use base64::Engine;
    let engine = base64::engine::general_purpose::STANDARD;
    let payload = engine.decode(forged["payload"].as_str().unwrap_or_default())?;
    let mut payload: Value = serde_json::from_slice(&payload)?;
    payload["state"]
        .as_object_mut()
        .map(|state| state.remove("isolation"));
    forged["payload"] = engine.encode(serde_json::to_vec(&payload)?).into();
    let cut = &good[..good.len() / 2];

    for changed in [serde_json::to_string(&forged)?, cut.to_owned()] {
        agent.kill();
        cut_off(&laptop, &operator).await?;
        std::fs::write(&file, changed)?;
        let before = agent.log()?.matches("not believed").count();
        agent.restart()?;
        eventually("the agent to say so", DEAD_WITHIN, || async {
            Ok((agent.log()?.matches("not believed").count() > before).then_some(()))
        })
        .await?;
        says_in_log(&agent, "they stay in force").await?;
        assert_eq!(agent.table().await?, table);
        let shown = status(&agent).await?;
        assert_eq!(shown["kernelMatches"], false, "{shown}");
        // The operator's next word puts it right.
        laptop.nft("delete table inet away").await?;
        eventually("the bundle to be on disk again", DEAD_WITHIN, || async {
            Ok((status(&agent).await?["kernelMatches"] == true).then_some(()))
        })
        .await?;
        assert_eq!(agent.table().await?, table);
    }
    Ok(())
}

async fn stopped() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server, admin) = (lab.host("laptop")?, lab.host("server")?, lab.host("admin")?);
    let operator = Operator::start(&lab).await?;
    let mut agent = operator.agent(&laptop).await?;
    let service = Responder::start(&laptop, PORT).await?;
    let state = isolated(&admin, &[MANAGEMENT_PORT])?;
    operator.apply(&agent, state).await?;
    let loaded = handles(&agent).await?;
    let ended = agent.terminate().await?;
    assert!(ended.success(), "{ended}");
    assert_eq!(handles(&agent).await?, loaded);
    assert_eq!(reach(&server, &service, LIMIT).await?, Reach::NONE);
    let shown = agent.run("status", &[]).await?;
    assert_eq!(shown.status.code(), Some(1));
    assert!(
        shown.stdout.contains("no agent runs; the rules stay"),
        "{}",
        shown.stdout
    );
    agent.restart()?;
    operator.connected(&agent).await?;
    assert_eq!(
        handles(&agent).await?,
        loaded,
        "what is right is left alone"
    );
    Ok(())
}

async fn not_permitted() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let laptop = lab.host("laptop")?;
    let operator = Operator::start(&lab).await?;
    let agent = Agent::at_rest(&laptop, &operator.token(1, Duration::from_secs(60)).await?)?;
    let plain = agent.command("run");
    // In a user namespace of its own it has no rights over the host's network.
    let mut command = laptop.command("unshare");
    command.args(["-U", "--"]);
    let arguments: Vec<_> = plain
        .get_args()
        .skip_while(|a| *a != "--")
        .skip(1)
        .collect();
    command.args(arguments);
    let outcome = process::run(command, "", Duration::from_secs(20)).await?;
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("CAP_NET_ADMIN"), "{outcome:?}");
    Ok(())
}

async fn addresses() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let laptop = lab.host("laptop")?;
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    // A device that may be isolated gives up no address; this one is known not to be.
    let nothing = seawall::domain::enforcement::DeviceState::default();
    operator.apply(&agent, nothing).await?;
    let device = agent.id()?;
    let claims = |address: &'static str, there: bool| {
        let (operator, device) = (&operator, &device);
        async move {
            eventually(&format!("{address} to be told"), DEAD_WITHIN, || async {
                let view = operator.fleet.view_of(device);
                let claimed = view.is_some_and(|view| view.addresses.iter().any(|a| a == address));
                Ok((claimed == there).then_some(()))
            })
            .await
        }
    };
    for address in ["10.250.0.7", "fd99::7"] {
        let length = if address.contains(':') { 64 } else { 24 };
        let with_length = format!("{address}/{length}");
        for (verb, there) in [("add", true), ("del", false)] {
            laptop
                .run("ip", &["addr", verb, &with_length, "dev", "eth0"], "")
                .await?
                .success()?;
            claims(address, there).await?;
        }
    }
    // What a cluster's node has of Services is on an interface that is down.
    let ip = async |arguments: &str| {
        let words: Vec<&str> = arguments.split(' ').collect();
        laptop.run("ip", &words, "").await?.success()
    };
    ip("link add ipvs0 type veth peer name ipvs1").await?;
    ip("addr add 10.251.0.1/32 dev ipvs0").await?;
    ip("addr add 10.252.0.1/32 dev lo").await?;
    claims("10.252.0.1", true).await?;
    let view = operator.fleet.view_of(&device);
    let view = view.context("it is enrolled")?;
    assert!(!view.addresses.iter().any(|a| a == "10.251.0.1"));
    assert!(
        !view
            .addresses
            .iter()
            .any(|a| a == "127.0.0.1" || a == "::1")
    );
    ip("link set ipvs0 up").await?;
    claims("10.251.0.1", true).await?;
    ip("link set ipvs0 down").await?;
    claims("10.251.0.1", false).await?;
    let many: String = (0..300)
        .map(|n| format!("addr add 10.253.{}.{}/32 dev lo\n", n / 200, n % 200 + 1))
        .collect();
    laptop.run("ip", &["-batch", "-"], &many).await?.success()?;
    eventually("what is left out to be told", DEAD_WITHIN, || async {
        let view = operator.fleet.view_of(&device);
        let view = view.context("it is enrolled")?;
        let told = view.addresses.len();
        Ok((view.addresses_left_out > 0 && told == 256).then_some(()))
    })
    .await?;
    let service = Responder::start(&laptop, PORT).await?;
    let other = lab.host("other")?;
    connect(&other, service.address(Family::V4), LIMIT).await?;
    Ok(())
}
