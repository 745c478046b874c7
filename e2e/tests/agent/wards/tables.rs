//! Both tables of a node's agent: kept, repaired, followed, and what is told of them.

use std::time::Duration;

use anyhow::Context;
use libtest_mimic::Trial;
use seawall::domain::applied::Datapath;
use seawall::domain::enforcement::DeviceState;
use seawall::fleet::witness::Happening;
use serde_json::json;

use super::super::{EVERY, LIMIT, PORT, open_all};
use super::{Stand, group, network, numbered, wards};
use crate::harness::{case, eventually};
use crate::lab::{Family, Flow, Host, Reach, Responder, Transport, Wiring, reach};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "whatever somebody does to the table for bridges is repaired at once and told",
            repaired,
        ),
        case(
            "the table for bridges comes and goes with the settings of bridges, and with the wards",
            follows_settings,
        ),
        case(
            "a pod that joins or leaves a group changes elements of maps and no rule",
            elements_alone,
        ),
        case(
            "the status names isolated pods and says what is not judged between pods of a bridge",
            status_tells,
        ),
        case(
            "packets that the rules meet are told to pass, and those that go around them to go around",
            datapath_told,
        ),
    ]
}

fn isolating(stand: &Stand) -> anyhow::Result<DeviceState> {
    let cut = group(&[&stand.bad], json!({"isolation": {}}));
    wards(json!({"cut": cut}))
}

/// A table as nft shows it; none when there is none.
async fn table(host: &Host, family: &str, options: &[&str]) -> anyhow::Result<Option<String>> {
    let args = [options, &["list", "table", family, "seawall"]].concat();
    Ok(host.run("nft", &args, "").await?.success().ok())
}

async fn repaired() -> anyhow::Result<()> {
    let stand = Stand::new(Wiring::BridgeAround).await?;
    let service = Responder::start(&stand.bad, PORT).await?;
    stand
        .operator
        .apply(&stand.agent, isolating(&stand)?)
        .await?;
    let host = stand.host();
    let before = table(host, "bridge", &["-s"]).await?.context("a table")?;
    for (script, words) in [
        ("flush ruleset", "the table is gone"),
        (
            "delete table bridge seawall",
            "table for bridges: the table is gone",
        ),
        (
            "flush table bridge seawall",
            "table for bridges: chain forward lacks",
        ),
        (
            "insert rule bridge seawall forward accept",
            "table for bridges: chain forward, rule 1",
        ),
        (
            "flush map bridge seawall wards_to4",
            "table for bridges: set wards_to4",
        ),
        ("flush map inet seawall wards_from6", "set wards_from6"),
    ] {
        host.nft(script).await.with_context(|| script.to_owned())?;
        let (description, repaired) = stand
            .operator
            .event(script, |happening| match happening {
                Happening::Tampered {
                    description,
                    repaired,
                    ..
                } => Some((description.clone(), *repaired)),
                _ => None,
            })
            .await?;
        assert!(
            repaired && description.contains(words),
            "{script}: {description}"
        );
        let after = table(host, "bridge", &["-s"]).await?;
        assert_eq!(after.as_ref(), Some(&before), "{script}");
        let found = stand.operator.read_back(&stand.agent).await?;
        assert!(found.matches, "{script}: {}", found.detail);
    }
    assert_eq!(reach(&stand.neighbour, &service, LIMIT).await?, Reach::NONE);
    Ok(())
}

async fn call_hooks(host: &Host, on: bool) -> anyhow::Result<()> {
    for name in ["iptables", "ip6tables"] {
        let setting = format!("net.bridge.bridge-nf-call-{name}={}", u8::from(on));
        host.run("sysctl", &["-qw", &setting], "")
            .await?
            .success()?;
    }
    Ok(())
}

async fn follows_settings() -> anyhow::Result<()> {
    let stand = Stand::new(Wiring::Bridge).await?;
    let host = stand.host();
    let service = Responder::start(&stand.bad, PORT).await?;
    stand
        .operator
        .apply(&stand.agent, isolating(&stand)?)
        .await?;
    assert_eq!(table(host, "bridge", &[]).await?, None);
    for on in [false, true, false] {
        call_hooks(host, on).await?;
        // A change that the agent notices, so that it looks before its next turn.
        host.nft("add chain inet seawall noticed").await?;
        eventually(
            "the table for bridges to follow",
            Duration::from_secs(20),
            || async {
                let there = table(host, "bridge", &[]).await?.is_some();
                Ok((there != on).then_some(()))
            },
        )
        .await?;
        let found = stand.operator.read_back(&stand.agent).await?;
        assert!(found.matches, "{on}: {}", found.detail);
        assert_eq!(reach(&stand.neighbour, &service, LIMIT).await?, Reach::NONE);
        assert_eq!(reach(&stand.outside, &service, LIMIT).await?, Reach::NONE);
    }
    stand
        .operator
        .apply(&stand.agent, DeviceState::default())
        .await?;
    assert_eq!(table(host, "bridge", &[]).await?, None);
    assert_eq!(reach(&stand.neighbour, &service, LIMIT).await?, Reach::ALL);
    Ok(())
}

/// What nft shows of chains and rules, with their handles.
async fn rules(host: &Host) -> anyhow::Result<Vec<String>> {
    let shown = table(host, "inet", &["-s", "-a", "-t"]).await?;
    let shown = shown.context("a table")?;
    Ok(shown.lines().map(str::to_owned).collect())
}

async fn elements_alone() -> anyhow::Result<()> {
    let stand = Stand::new(Wiring::Bridge).await?;
    let service = Responder::start(&stand.third, PORT).await?;
    let denied = numbered(&[
        json!({"direction": "Egress", "action": "Deny", "peers": network(&stand.third)}),
    ]);
    let with = |pods: &[&Host]| wards(json!({"g": group(pods, json!({"rules": denied}))}));
    let Stand {
        bad,
        neighbour,
        operator,
        agent,
        ..
    } = &stand;
    operator.apply(agent, with(&[bad])?).await?;
    let before = rules(stand.host()).await?;
    assert_eq!(reach(neighbour, &service, LIMIT).await?, Reach::ALL);
    operator.apply(agent, with(&[bad, neighbour])?).await?;
    assert_eq!(rules(stand.host()).await?, before);
    assert_eq!(reach(neighbour, &service, LIMIT).await?, Reach::NONE);
    operator.apply(agent, with(&[neighbour])?).await?;
    assert_eq!(rules(stand.host()).await?, before);
    assert_eq!(reach(bad, &service, LIMIT).await?, Reach::ALL);
    Ok(())
}

async fn status_tells() -> anyhow::Result<()> {
    let stand = Stand::new(Wiring::BridgeAround).await?;
    let cut = group(&[&stand.bad], json!({"isolation": {}}));
    let free = group(&[&stand.neighbour, &stand.third], json!({}));
    stand
        .operator
        .apply(&stand.agent, wards(json!({"cut": cut, "free": free}))?)
        .await?;
    let said = stand.agent.run("status", &[]).await?.success()?;
    for words in [
        "3 pods in 2 groups; ISOLATED: shop/bad",
        "holds what the bundle says",
    ] {
        assert!(said.contains(words), "{said}");
    }
    let not_judged = said.contains("net.bridge.bridge-nf-call-iptables=1");
    assert_eq!(not_judged, !tracks_bridges(stand.host()).await?, "{said}");
    Ok(())
}

/// Whether this kernel tracks connections between ports of a bridge (`CONFIG_NF_CONNTRACK_BRIDGE`).
async fn tracks_bridges(host: &Host) -> anyhow::Result<bool> {
    let script = "table bridge trying {\nchain c {\nct state new accept\n}\n}\n";
    let tried = host.run("nft", &["-c", "-f", "-"], script).await?;
    anyhow::ensure!(!tried.stderr.contains("syntax error"), "{}", tried.stderr);
    Ok(tried.success().is_ok())
}

/// Waits for the heartbeats that it takes.
async fn told(stand: &Stand, wanted: Datapath) -> anyhow::Result<()> {
    let what = format!("the datapath to be told as {wanted:?}");
    eventually(&what, Duration::from_secs(60), || async {
        let applied = stand.operator.fleet.applied_of(&stand.agent.id()?);
        let applied = applied.context("the device is known")?;
        Ok((applied.datapath == wanted).then_some(()))
    })
    .await
}

async fn datapath_told() -> anyhow::Result<()> {
    // Without tracking, policies don't judge what passes between ports of a bridge.
    let stand = Stand::new(Wiring::BridgeAround).await?;
    let free = group(&[&stand.bad, &stand.neighbour], json!({}));
    stand
        .operator
        .apply(&stand.agent, wards(json!({"free": free}))?)
        .await?;
    let (from, to) = (&stand.bad, &stand.neighbour);
    // The node knows its pods' link-layer addresses from talking to them.
    let known = Flow::open(Transport::Udp, Family::V4, stand.host(), from, EVERY * 50).await?;
    let flows = open_all(from, to).await?;
    if !tracks_bridges(stand.host()).await? {
        told(&stand, Datapath::Bypasses).await?;
    }
    call_hooks(stand.host(), true).await?;
    stand.host().nft("add chain inet seawall noticed").await?;
    told(&stand, Datapath::Passes).await?;
    let applied = stand.operator.fleet.applied_of(&stand.agent.id()?);
    let seen = applied.context("the device is known")?.seen;
    assert!(
        seen.get("free").is_some_and(|packets| *packets > 0),
        "{seen:?}"
    );
    drop((flows, known));
    Ok(())
}
