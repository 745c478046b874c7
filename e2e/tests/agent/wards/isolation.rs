//! Isolation of pods, shown with packets.

use std::io::Read;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::net::if_::if_nametoindex;
use seawall::domain::enforcement::DeviceState;
use serde_json::{Value, json};

use super::super::isolation::link_local;
use super::super::{EVERY, LIMIT, MANAGEMENT_PORT, PORT, WATCH, all_flow, open_all};
use super::{Stand, group, tcp, wards};
use crate::fleet::Applied;
use crate::harness::case;
use crate::lab::{
    Connection, Family, Flow, Host, Reach, Responder, Transport, Wiring, connect, reach,
};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "an isolated pod on a bridge loses every open connection, and its neighbour none",
            || cuts_everything(Wiring::Bridge),
        ),
        case(
            "an isolated pod loses every connection also where bridged packets go around the usual hooks",
            || cuts_everything(Wiring::BridgeAround),
        ),
        case(
            "an isolated pod with an interface of its own loses every open connection",
            || cuts_everything(Wiring::Routed),
        ),
        case(
            "what an isolated pod had opened to management is cut though management may open anything",
            || opened_from_inside(Wiring::Bridge),
        ),
        case(
            "an isolated pod opens no TCP connection to management where connections of bridges aren't tracked",
            no_way_out_without_tracking,
        ),
        case(
            "an isolated pod doesn't reach its neighbours by link-local addresses either",
            by_link_local,
        ),
        case(
            "the node probes an isolated pod at the ports that stay and nowhere else, and nobody else does",
            probes_stay,
        ),
        case(
            "connections through a Service's address end when the pod behind it is isolated",
            behind_a_service,
        ),
        case(
            "an isolated node forwards nothing of its wards, those on one bridge included",
            isolated_node,
        ),
    ]
}

fn isolation(management: &Host, ports: Value) -> Value {
    let rules =
        Family::BOTH.map(|family| json!({"network": management.address(family), "ports": ports}));
    let mut rules = json!(rules);
    rules[0]["network"] = json!(format!("{}/32", management.v4()));
    rules[1]["network"] = json!(format!("{}/128", management.v6()));
    json!({"isolation": {"management": rules}})
}

async fn all_cut(flows: &[Flow], applied: Applied) -> anyhow::Result<()> {
    tokio::time::sleep(WATCH).await;
    for flow in flows {
        let cut = flow.cut(applied.action, applied.done)?;
        assert!(cut.packets > 0, "{cut:?}");
    }
    Ok(())
}

async fn cuts_everything(wiring: Wiring) -> anyhow::Result<()> {
    let stand = Stand::new(wiring).await?;
    let Stand {
        bad,
        neighbour,
        third,
        outside,
        operator,
        agent,
        ..
    } = &stand;
    let node = stand.host();
    let services = Responder::start(bad, PORT).await?;
    let management = Responder::start(bad, MANAGEMENT_PORT).await?;
    let by_neighbour = Responder::start(neighbour, PORT).await?;
    let by_outside = Responder::start(outside, PORT).await?;
    let by_node = Responder::start(node, PORT).await?;

    let free = group(&[neighbour, third], json!({}));
    operator
        .apply(
            agent,
            wards(json!({"free": group(&[bad, neighbour, third], json!({}))}))?,
        )
        .await?;
    let mut tracked = Vec::new();
    for other in [outside, node] {
        tracked.extend(open_all(bad, other).await?);
        tracked.extend(open_all(other, bad).await?);
    }
    let mut bridged = open_all(bad, neighbour).await?;
    bridged.extend(open_all(neighbour, bad).await?);
    let mut elsewhere = open_all(neighbour, third).await?;
    elsewhere.extend(open_all(neighbour, outside).await?);
    elsewhere.extend(open_all(node, neighbour).await?);

    let cut = group(&[bad], isolation(outside, tcp(MANAGEMENT_PORT)));
    let applied = operator
        .apply(agent, wards(json!({"free": free, "cut": cut}))?)
        .await?;
    all_cut(&tracked, applied).await?;
    all_cut(&bridged, applied).await?;
    let known = match wiring {
        Wiring::BridgeAround => tracked.len(),
        Wiring::Bridge | Wiring::Routed => tracked.len() + bridged.len(),
    };
    assert!(
        applied.connections_cut >= known as u64,
        "{applied:?} of {known}"
    );

    for other in [&by_neighbour, &by_outside, &by_node] {
        let reached = reach(bad, other, LIMIT).await?;
        assert_eq!(reached, Reach::NONE, "{}", other.host().name());
        let reached = reach(other.host(), &services, LIMIT).await?;
        assert_eq!(reached, Reach::NONE, "{}", other.host().name());
    }
    for family in Family::BOTH {
        let managed = connect(outside, management.address(family), LIMIT).await?;
        assert_eq!(managed, Connection::Answered, "{family:?}");
        for other in [neighbour, node] {
            let managed = connect(other, management.address(family), LIMIT).await?;
            assert_eq!(managed, Connection::Silent, "{family:?}");
        }
    }
    all_flow(&elsewhere).await?;
    let found = operator.read_back(agent).await?;
    assert!(found.matches, "{}", found.detail);
    let met = found.counts.iter().find(|count| count.rule == "wards/cut");
    assert!(
        met.is_some_and(|count| count.packets > 0),
        "{:?}",
        found.counts
    );

    operator.apply(agent, DeviceState::default()).await?;
    for other in [&by_neighbour, &by_outside, &by_node] {
        assert_eq!(reach(bad, other, LIMIT).await?, Reach::ALL);
        assert_eq!(reach(other.host(), &services, LIMIT).await?, Reach::ALL);
    }
    Ok(())
}

async fn opened_from_inside(wiring: Wiring) -> anyhow::Result<()> {
    let stand = Stand::new(wiring).await?;
    let (bad, outside) = (&stand.bad, &stand.outside);
    operator_knows(&stand).await?;
    let from_inside = open_all(bad, outside).await?;
    let from_management = open_all(outside, bad).await?;
    let cut = group(&[bad], isolation(outside, json!([])));
    let applied = stand
        .operator
        .apply(&stand.agent, wards(json!({"cut": cut}))?)
        .await?;
    tokio::time::sleep(WATCH).await;
    for flow in &from_inside {
        flow.records()[0].cut(applied.action, applied.done)?;
    }
    all_flow(&from_management).await
}

/// A state with wards, so that connections are tracked from now on.
async fn operator_knows(stand: &Stand) -> anyhow::Result<()> {
    let free = group(&[&stand.bad, &stand.neighbour, &stand.third], json!({}));
    let state = wards(json!({"free": free}))?;
    stand.operator.apply(&stand.agent, state).await?;
    Ok(())
}

async fn no_way_out_without_tracking() -> anyhow::Result<()> {
    let stand = Stand::new(Wiring::BridgeAround).await?;
    let (bad, neighbour) = (&stand.bad, &stand.neighbour);
    // Management is on the same bridge, so that its packets meet the second table alone.
    let by_neighbour = Responder::start(neighbour, PORT).await?;
    let managed = Responder::start(bad, MANAGEMENT_PORT).await?;
    let target = by_neighbour.address(Family::V4);
    let before = connect(bad, target, LIMIT).await?;
    assert_eq!(before, Connection::Answered);
    let cut = group(&[bad], isolation(neighbour, json!([])));
    stand
        .operator
        .apply(&stand.agent, wards(json!({"cut": cut}))?)
        .await?;
    let after = connect(bad, target, LIMIT).await?;
    assert_eq!(after, Connection::Silent);
    let back = connect(neighbour, managed.address(Family::V4), LIMIT).await?;
    assert_eq!(back, Connection::Answered);
    Ok(())
}

async fn by_link_local() -> anyhow::Result<()> {
    for wiring in [Wiring::Bridge, Wiring::BridgeAround] {
        let stand = Stand::new(wiring).await?;
        operator_knows(&stand).await?;
        let (bad, neighbour) = (&stand.bad, &stand.neighbour);
        let _services = (
            Responder::start(bad, PORT).await?,
            Responder::start(neighbour, PORT).await?,
        );
        let attempts = async || {
            let mut connected = Vec::new();
            for (from, to) in [(bad, neighbour), (neighbour, bad)] {
                let to = link_local(to).await?;
                let attempt = move || -> anyhow::Result<bool> {
                    let scope = if_nametoindex("eth0")?;
                    let to = std::net::SocketAddrV6::new(to, PORT, 0, scope);
                    Ok(std::net::TcpStream::connect_timeout(&to.into(), LIMIT).is_ok())
                };
                connected.push(from.inside(attempt).await??);
            }
            anyhow::Ok(connected)
        };
        assert_eq!(attempts().await?, [true, true], "{wiring:?}");
        let cut = group(&[bad], json!({"isolation": {}}));
        let state = wards(json!({"cut": cut}))?;
        stand.operator.apply(&stand.agent, state).await?;
        assert_eq!(attempts().await?, [false, false], "{wiring:?}");
    }
    Ok(())
}

async fn probes_stay() -> anyhow::Result<()> {
    for wiring in [Wiring::Bridge, Wiring::Routed] {
        let stand = Stand::new(wiring).await?;
        let (bad, third, node) = (&stand.bad, &stand.third, stand.host());
        let probed = Responder::start(bad, PORT).await?;
        let other = Responder::start(bad, PORT + 1).await?;
        let unprobed = Responder::start(third, PORT).await?;
        let on_node = Responder::start(node, PORT).await?;
        let open = Flow::open(Transport::Udp, Family::V4, &stand.neighbour, bad, EVERY).await?;
        let probes = json!({"isolation": {"probes": {"shop/bad": tcp(PORT)}}});
        let cut = group(&[bad, third], probes);
        let applied = stand
            .operator
            .apply(&stand.agent, wards(json!({"cut": cut}))?)
            .await?;
        all_cut(&[open], applied).await?;
        for family in Family::BOTH {
            let from_node = connect(node, probed.address(family), LIMIT).await?;
            assert_eq!(from_node, Connection::Answered, "{wiring:?} {family:?}");
            for (from, to) in [
                (node, other.address(family)),
                (node, unprobed.address(family)),
                (&stand.neighbour, probed.address(family)),
                (&stand.outside, probed.address(family)),
                (bad, on_node.address(family)),
            ] {
                let reached = connect(from, to, LIMIT).await?;
                assert_eq!(
                    reached,
                    Connection::Silent,
                    "{wiring:?} {} {to}",
                    from.name()
                );
            }
        }
    }
    Ok(())
}

/// Sends what is meant for the Service's address on to the pod, as kube-proxy does.
async fn service(stand: &Stand, address: &str) -> anyhow::Result<()> {
    let pod = stand.bad.v4();
    let script = format!(
        "table ip services {{
            chain pods {{ type nat hook prerouting priority dstnat; ip daddr {address} dnat to {pod}; }}
            chain node {{ type nat hook output priority -100; ip daddr {address} dnat to {pod}; }}
        }}"
    );
    stand.host().nft(&script).await?;
    Ok(())
}

async fn behind_a_service() -> anyhow::Result<()> {
    const SERVICE: &str = "10.96.0.10";
    let stand = Stand::new(Wiring::Bridge).await?;
    operator_knows(&stand).await?;
    service(&stand, SERVICE).await?;
    let serving = Responder::start(&stand.bad, PORT).await?;
    let to = std::net::SocketAddr::new(SERVICE.parse()?, PORT);
    let mut ends = Vec::new();
    for from in [stand.host(), &stand.third] {
        assert_eq!(connect(from, to, LIMIT).await?, Connection::Answered);
        let stream = from
            .inside(move || std::net::TcpStream::connect_timeout(&to, LIMIT))
            .await??;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        ends.push(stream);
    }
    let of_node = ends.swap_remove(0);
    let reading = tokio::task::spawn_blocking(move || {
        let mut stream = of_node;
        (stream.read(&mut [0]), Instant::now())
    });
    let cut = group(&[&stand.bad], json!({"isolation": {}}));
    let applied = stand
        .operator
        .apply(&stand.agent, wards(json!({"cut": cut}))?)
        .await?;
    assert!(applied.connections_cut >= 2, "{applied:?}");
    let (end, at) = reading.await?;
    let error = end.expect_err("nothing was there to be read");
    assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
    assert!(at < applied.done + LIMIT, "{:?}", at - applied.action);
    for from in [stand.host(), &stand.third] {
        assert_eq!(connect(from, to, LIMIT).await?, Connection::Silent);
    }
    drop(serving);
    Ok(())
}

async fn isolated_node() -> anyhow::Result<()> {
    for wiring in [Wiring::Bridge, Wiring::BridgeAround] {
        let stand = Stand::new(wiring).await?;
        operator_knows(&stand).await?;
        let mut flows = open_all(&stand.bad, &stand.neighbour).await?;
        flows.extend(open_all(&stand.bad, &stand.outside).await?);
        let free = group(&[&stand.bad, &stand.neighbour, &stand.third], json!({}));
        let mut state = wards(json!({"free": free}))?;
        state.isolation = Some(Default::default());
        let applied = stand.operator.apply(&stand.agent, state).await?;
        all_cut(&flows, applied).await?;
        let found = stand.operator.read_back(&stand.agent).await?;
        assert!(found.matches, "{wiring:?}: {}", found.detail);
    }
    Ok(())
}
