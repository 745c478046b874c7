//! Rules of policies, shown with packets.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use seawall::domain::enforcement::DeviceState;
use serde_json::{Value, json};

use super::{EVERY, LIMIT, PORT, WATCH, all_flow, open_all};
use crate::fleet::{Agent, Operator, rules, state};
use crate::harness::{case, eventually};
use crate::lab::{
    Connection, Family, Flow, Host, Lab, Reach, Responder, Transport, connect, reach,
};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a default Deny leaves what is allowed and cuts what was open to others",
            default_deny,
        ),
        case(
            "rules judge a connection by who opened it, in both directions of its packets",
            by_direction,
        ),
        case(
            "a blocked network is cut off both ways, open connections too",
            blocked,
        ),
        case(
            "an Audit rule and a policy that observes count and cut nothing",
            observe,
        ),
        case(
            "packets that are exempt from connection tracking don't slip past a default Deny",
            untracked,
        ),
        case(
            "an error about an allowed connection arrives",
            errors_arrive,
        ),
        case("the first rule that matches decides", first_match),
    ]
}

fn network(host: &Host) -> Value {
    json!({"networks": [format!("{}/32", host.v4()), format!("{}/128", host.v6())]})
}

fn deny_both_ways(host: &Host) -> anyhow::Result<DeviceState> {
    rules(&[
        json!({"direction": "Egress", "action": "Deny", "peers": network(host)}),
        json!({"direction": "Ingress", "action": "Deny", "peers": network(host)}),
    ])
}

fn default_deny_egress(mut state: DeviceState) -> anyhow::Result<DeviceState> {
    state.defaults =
        serde_json::from_value(json!({"egress": {"id": "acme/test", "action": "Deny"}}))?;
    Ok(state)
}

async fn cut_since(flows: &[Flow], action: Instant, done: Instant) -> anyhow::Result<()> {
    tokio::time::sleep(WATCH).await;
    for flow in flows {
        flow.cut(action, done)?;
    }
    Ok(())
}

async fn default_deny() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server, other) = (lab.host("laptop")?, lab.host("server")?, lab.host("other")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let (service, elsewhere) = (
        Responder::start(&server, PORT).await?,
        Responder::start(&other, PORT).await?,
    );
    let outgoing = open_all(&laptop, &other).await?;
    let incoming = open_all(&other, &laptop).await?;

    let allowed = rules(&[json!({
        "direction": "Egress", "action": "Allow", "peers": network(&server),
        "ports": [{"protocol": "TCP", "first": PORT, "last": PORT},
                  {"protocol": "ICMP", "first": 0, "last": 65535}]})])?;
    let applied = operator
        .apply(&agent, default_deny_egress(allowed)?)
        .await?;
    cut_since(&outgoing, applied.action, applied.done).await?;
    // The device's answers belong to connections that others opened.
    all_flow(&incoming).await?;
    let expected = Reach {
        udp4: false,
        udp6: false,
        ..Reach::ALL
    };
    assert_eq!(reach(&laptop, &service, LIMIT).await?, expected);
    assert_eq!(reach(&laptop, &elsewhere, LIMIT).await?, Reach::NONE);
    Ok(())
}

async fn by_direction() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let (inside, outside) = (
        Responder::start(&laptop, PORT).await?,
        Responder::start(&server, PORT).await?,
    );
    let outgoing = open_all(&laptop, &server).await?;
    let incoming = open_all(&server, &laptop).await?;

    let deny = rules(&[json!({"direction": "Ingress", "action": "Deny", "peers": "any"})])?;
    let applied = operator.apply(&agent, deny).await?;
    cut_since(&incoming, applied.action, applied.done).await?;
    all_flow(&outgoing).await?;
    assert_eq!(reach(&laptop, &outside, LIMIT).await?, Reach::ALL);
    assert_eq!(reach(&server, &inside, LIMIT).await?, Reach::NONE);
    Ok(())
}

async fn blocked() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server, other) = (lab.host("laptop")?, lab.host("server")?, lab.host("other")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let mut flows = open_all(&laptop, &server).await?;
    flows.extend(open_all(&server, &laptop).await?);
    let others = open_all(&laptop, &other).await?;
    let applied = operator.apply(&agent, deny_both_ways(&server)?).await?;
    cut_since(&flows, applied.action, applied.done).await?;
    all_flow(&others).await?;
    // Lifted, what was only dropped goes on.
    operator.apply(&agent, DeviceState::default()).await?;
    for flow in flows {
        flow.flows(Duration::from_secs(10)).await?;
    }
    Ok(())
}

async fn observe() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let flows = open_all(&laptop, &server).await?;
    let observed = json!([
        {"id": "acme/watch/web", "direction": "Egress", "action": "Deny", "peers": network(&server), "observing": true}]);
    let audited = json!([
        {"id": "acme/log/all", "direction": "Egress", "action": "Audit", "peers": "any"}]);
    operator
        .apply(
            &agent,
            state(json!({"observedRules": observed, "rules": audited}))?,
        )
        .await?;
    all_flow(&flows).await?;
    let counted = |rule: &'static str, observing: bool| {
        let (operator, agent) = (&operator, &agent);
        async move { counted(operator, agent, rule, observing).await }
    };
    let first = counted("acme/watch/web", true).await?;
    counted("acme/log/all", false).await?;
    all_flow(&flows).await?;
    assert!(counted("acme/watch/web", true).await? > first);
    Ok(())
}

async fn counted(
    operator: &Operator,
    agent: &Agent,
    rule: &str,
    observing: bool,
) -> anyhow::Result<u64> {
    eventually(&format!("packets of {rule}"), LIMIT, || async {
        let found = operator.read_back(agent).await?;
        let count = found
            .counts
            .into_iter()
            .find(|count| count.rule == rule && count.observing == observing);
        Ok(count.map(|count| count.packets))
    })
    .await
}

async fn untracked() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    laptop
        .nft(
            "table inet exempt {
                chain leave { type filter hook output priority raw; meta l4proto udp notrack; }
                chain come { type filter hook prerouting priority raw; meta l4proto udp notrack; }
            }",
        )
        .await?;
    let service = Responder::start(&server, PORT).await?;
    let mut flows = Vec::new();
    for family in Family::BOTH {
        flows.push(Flow::open(Transport::Udp, family, &laptop, &server, EVERY).await?);
    }
    let denied = default_deny_egress(DeviceState::default())?;
    let applied = operator.apply(&agent, denied).await?;
    cut_since(&flows, applied.action, applied.done).await?;
    assert_eq!(reach(&laptop, &service, LIMIT).await?, Reach::NONE);

    let allowed = rules(&[json!({
        "direction": "Egress", "action": "Allow", "peers": network(&server),
        "ports": [{"protocol": "UDP", "first": PORT, "last": PORT}]})])?;
    operator
        .apply(&agent, default_deny_egress(allowed)?)
        .await?;
    let expected = Reach {
        udp4: true,
        udp6: true,
        ..Reach::NONE
    };
    assert_eq!(reach(&laptop, &service, LIMIT).await?, expected);
    Ok(())
}

async fn errors_arrive() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let allowed = rules(&[json!({
        "direction": "Egress", "action": "Allow", "peers": network(&server),
        "ports": [{"protocol": "UDP", "first": PORT, "last": PORT}]})])?;
    operator
        .apply(&agent, default_deny_egress(allowed)?)
        .await?;
    for family in Family::BOTH {
        // Nobody listens: the server answers that the port is unreachable.
        let to = std::net::SocketAddr::new(server.address(family), PORT);
        let any = std::net::SocketAddr::new(laptop.address(family), 0);
        let refused = laptop
            .inside(move || -> std::io::Result<bool> {
                let socket = std::net::UdpSocket::bind(any)?;
                socket.set_read_timeout(Some(LIMIT))?;
                socket.connect(to)?;
                socket.send(b"?")?;
                let answer = socket.recv(&mut [0; 8]);
                Ok(answer.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused))
            })
            .await??;
        assert!(refused, "{family:?}");
    }
    Ok(())
}

async fn first_match() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server) = (lab.host("laptop")?, lab.host("server")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let services = [
        Responder::start(&server, PORT).await?,
        Responder::start(&server, PORT + 1).await?,
        Responder::start(&server, PORT + 7).await?,
    ];
    let ports = |first: u16, last: u16| json!([{"protocol": "TCP", "first": first, "last": last}]);
    let state = rules(&[
        json!({"direction": "Egress", "action": "Allow", "peers": network(&server), "ports": ports(PORT + 1, PORT + 1)}),
        json!({"direction": "Egress", "action": "Deny", "peers": network(&server), "ports": ports(PORT, PORT + 5)}),
        json!({"direction": "Egress", "action": "Allow", "peers": network(&server), "ports": ports(PORT, PORT)}),
    ])?;
    operator.apply(&agent, state).await?;
    for family in Family::BOTH {
        let mut found = Vec::new();
        for service in &services {
            found.push(connect(&laptop, service.address(family), LIMIT).await?);
        }
        use Connection::{Answered, Silent};
        assert_eq!(found, [Silent, Answered, Answered], "{family:?}");
    }
    Ok(())
}
