//! Rules of policies for pods, shown with packets.

use std::time::Instant;

use libtest_mimic::Trial;
use serde_json::json;

use super::super::{LIMIT, PORT, WATCH, all_flow, open_all};
use super::{Stand, deny_all, group, network, numbered, tcp, wards};
use crate::harness::{case, eventually};
use crate::lab::{Connection, Family, Flow, Reach, Responder, Wiring, connect, reach};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a Deny between two pods ends what is open between them and leaves the rest",
            denied,
        ),
        case(
            "where both pods deny by default, both have to allow",
            both_sides,
        ),
        case(
            "the node reaches a pod whose policies deny everything, and what the pod opens to the node is judged",
            node_and_pod,
        ),
        case(
            "rules judge a pod's connections by who opened them",
            by_direction,
        ),
        case(
            "an Audit rule and a policy that observes count a pod's packets and cut nothing",
            observe,
        ),
        case(
            "packets of a pod that connection tracking doesn't know don't slip past a default Deny",
            untracked,
        ),
    ]
}

const WIRINGS: [Wiring; 2] = [Wiring::Bridge, Wiring::Routed];

async fn cut_since(flows: &[Flow], action: Instant, done: Instant) -> anyhow::Result<()> {
    tokio::time::sleep(WATCH).await;
    for flow in flows {
        flow.cut(action, done)?;
    }
    Ok(())
}

async fn denied() -> anyhow::Result<()> {
    for wiring in WIRINGS {
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
        operator
            .apply(
                agent,
                wards(json!({"g": group(&[bad, neighbour], json!({}))}))?,
            )
            .await?;
        let mut flows = open_all(bad, neighbour).await?;
        flows.extend(open_all(neighbour, bad).await?);
        let mut others = open_all(bad, third).await?;
        others.extend(open_all(outside, bad).await?);
        others.extend(open_all(neighbour, third).await?);
        let rules = numbered(&[
            json!({"direction": "Egress", "action": "Deny", "peers": network(neighbour)}),
            json!({"direction": "Ingress", "action": "Deny", "peers": network(neighbour)}),
        ]);
        let denying = wards(json!({
            "free": group(&[neighbour], json!({})),
            "denying": group(&[bad], json!({"rules": rules}))}))?;
        let applied = operator.apply(agent, denying).await?;
        cut_since(&flows, applied.action, applied.done).await?;
        all_flow(&others).await?;
        // Lifted, what was only dropped goes on.
        operator
            .apply(
                agent,
                wards(json!({"g": group(&[bad, neighbour], json!({}))}))?,
            )
            .await?;
        for flow in flows {
            flow.flows(std::time::Duration::from_secs(10)).await?;
        }
    }
    Ok(())
}

async fn both_sides() -> anyhow::Result<()> {
    for wiring in WIRINGS {
        let stand = Stand::new(wiring).await?;
        let (client, server) = (&stand.bad, &stand.neighbour);
        let allowed = Responder::start(server, PORT).await?;
        let other = Responder::start(server, PORT + 1).await?;
        let egress = numbered(&[json!({"direction": "Egress", "action": "Allow",
            "peers": network(server), "ports": tcp(PORT)})]);
        let ingress = numbered(&[json!({"direction": "Ingress", "action": "Allow",
            "peers": network(client), "ports": tcp(PORT)})]);
        let nothing = json!([]);
        for (on_client, on_server, reached) in [
            (&nothing, &nothing, false),
            (&egress, &nothing, false),
            (&nothing, &ingress, false),
            (&egress, &ingress, true),
        ] {
            let state = wards(json!({
                "client": group(&[client], json!({"rules": on_client, "defaults": deny_all()})),
                "server": group(&[server], json!({"rules": on_server, "defaults": deny_all()}))}))?;
            stand.operator.apply(&stand.agent, state).await?;
            let expected = Reach {
                tcp4: reached,
                tcp6: reached,
                ..Reach::NONE
            };
            let (found, at_other, from_third) = tokio::try_join!(
                reach(client, &allowed, LIMIT),
                reach(client, &other, LIMIT),
                reach(&stand.third, &allowed, LIMIT),
            )?;
            assert_eq!(found, expected, "{wiring:?} {on_client} {on_server}");
            assert_eq!(at_other, Reach::NONE, "{wiring:?}");
            assert_eq!(from_third, Reach::NONE, "{wiring:?}");
        }
    }
    Ok(())
}

async fn node_and_pod() -> anyhow::Result<()> {
    for wiring in WIRINGS {
        let stand = Stand::new(wiring).await?;
        let (pod, node) = (&stand.bad, stand.host());
        let in_pod = Responder::start(pod, PORT).await?;
        let on_node = Responder::start(node, PORT).await?;
        assert_eq!(reach(pod, &on_node, LIMIT).await?, Reach::ALL, "{wiring:?}");
        let denied = group(&[pod], json!({"defaults": deny_all()}));
        stand
            .operator
            .apply(&stand.agent, wards(json!({"denied": denied}))?)
            .await?;
        assert_eq!(reach(node, &in_pod, LIMIT).await?, Reach::ALL, "{wiring:?}");
        assert_eq!(
            reach(pod, &on_node, LIMIT).await?,
            Reach::NONE,
            "{wiring:?}"
        );
        let outside = reach(&stand.outside, &in_pod, LIMIT).await?;
        assert_eq!(outside, Reach::NONE, "{wiring:?}");
        // What no policy judges does not show that they are in force.
        let found = stand.operator.read_back(&stand.agent).await?;
        assert!(found.matches, "{wiring:?}: {}", found.detail);

        let rules = numbered(&[json!({"direction": "Egress", "action": "Allow",
            "peers": network(node), "ports": tcp(PORT)})]);
        let fields = json!({"rules": rules, "defaults": deny_all()});
        let allowed = wards(json!({"allowed": group(&[pod], fields)}))?;
        stand.operator.apply(&stand.agent, allowed).await?;
        for family in Family::BOTH {
            let reached = connect(pod, on_node.address(family), LIMIT).await?;
            assert_eq!(reached, Connection::Answered, "{wiring:?} {family:?}");
        }
    }
    Ok(())
}

async fn by_direction() -> anyhow::Result<()> {
    for wiring in WIRINGS {
        let stand = Stand::new(wiring).await?;
        let (pod, outside) = (&stand.bad, &stand.outside);
        let free = wards(json!({"g": group(&[pod], json!({}))}))?;
        stand.operator.apply(&stand.agent, free).await?;
        let outgoing = open_all(pod, outside).await?;
        let incoming = open_all(outside, pod).await?;
        let rules = numbered(&[json!({"direction": "Ingress", "action": "Deny", "peers": "any"})]);
        let state = wards(json!({"g": group(&[pod], json!({"rules": rules}))}))?;
        let applied = stand.operator.apply(&stand.agent, state).await?;
        cut_since(&incoming, applied.action, applied.done).await?;
        all_flow(&outgoing).await?;
    }
    Ok(())
}

async fn observe() -> anyhow::Result<()> {
    let stand = Stand::new(Wiring::Bridge).await?;
    let (pod, neighbour) = (&stand.bad, &stand.neighbour);
    let flows = open_all(pod, neighbour).await?;
    let fields = json!({
        "rules": [{"id": "shop/log/all", "direction": "Egress", "action": "Audit", "peers": "any"}],
        "observedRules": [{"id": "shop/watch/web", "direction": "Egress", "action": "Deny",
            "peers": network(neighbour), "observing": true}]});
    stand
        .operator
        .apply(&stand.agent, wards(json!({"g": group(&[pod], fields)}))?)
        .await?;
    all_flow(&flows).await?;
    let mut before = 0;
    for (rule, observing) in [
        ("shop/log/all", false),
        ("shop/watch/web", true),
        ("wards/g", false),
    ] {
        let packets = eventually(&format!("packets of {rule}"), LIMIT, || async {
            let found = stand.operator.read_back(&stand.agent).await?;
            let mut counts = found.counts.into_iter();
            let count = counts.find(|c| c.rule == rule && c.observing == observing);
            Ok(count.map(|count| count.packets))
        })
        .await?;
        // All packets of the ward are at least those of its rules.
        assert!(
            packets > 0 && (rule != "wards/g" || packets >= before),
            "{rule}"
        );
        before = packets;
    }
    all_flow(&flows).await
}

async fn untracked() -> anyhow::Result<()> {
    let stand = Stand::new(Wiring::Routed).await?;
    let (pod, neighbour) = (&stand.bad, &stand.neighbour);
    stand
        .host()
        .nft(
            "table inet exempt {
                chain come { type filter hook prerouting priority raw; meta l4proto udp notrack; }
            }",
        )
        .await?;
    let service = Responder::start(neighbour, PORT).await?;
    let only = |udp| Reach {
        udp4: udp,
        udp6: udp,
        ..Reach::NONE
    };
    let deny_egress = json!({"egress": {"id": "shop/test", "action": "Deny"}});
    let rules = numbered(&[
        json!({"direction": "Egress", "action": "Allow", "peers": network(neighbour),
        "ports": [{"protocol": "UDP", "first": PORT, "last": PORT}]}),
    ]);
    for (rules, udp) in [(json!([]), false), (rules, true)] {
        let fields = json!({"rules": rules, "defaults": deny_egress});
        let state = wards(json!({"g": group(&[pod], fields)}))?;
        stand.operator.apply(&stand.agent, state).await?;
        assert_eq!(reach(pod, &service, LIMIT).await?, only(udp));
    }
    Ok(())
}
