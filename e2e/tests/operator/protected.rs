//! Where the API server and the cluster's DNS are, and what agents may not cut, while both move.

use std::time::Duration;

use libtest_mimic::Trial;
use seawall::api::stamps;
use serde_json::{Value, json};

use super::statuses::{condition, wait_condition};
use crate::caller::Caller;
use crate::harness::{case, eventually};
use crate::operators::{Fixture, PATIENCE, SYSTEM};
use crate::tests::admission::tenant::{object, stamped};

const TENANT: &str = "plant";
const POLICY: [&str; 4] = ["policy.seawall.dev", "-n", TENANT, "block"];

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "an agent's block of an address is refused once the API server or the DNS is there, without a restart",
            moving,
        ),
        case(
            "an operator that may not read where they are says so, and works with what it was given",
            unreadable,
        ),
    ]
}

/// A slice of the Service, as the cluster's controllers write it.
fn slice(service: &str, namespace: &str, name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
        "ports": [{"name": "p", "protocol": "TCP", "port": 53}],
    })
}

/// A Policy that an agent wrote: it blocks 10.53.0.9 and 10.54.0.0/24.
async fn blocking(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.plane.kubectl(&["create", "ns", TENANT]).await?;
    let spec = json!({"access": "Contain", "targets": {"devices": {"all": true}}});
    let scope = object(TENANT, "ApiKeyScope", "bot", spec);
    fixture.apply(&scope).await?;
    let of_scope = ["apikeyscope", "-n", TENANT, "bot"];
    wait_condition(fixture, &of_scope, "Ready", "True", "Bound").await?;
    let user = stamps::agent_user(TENANT, "bot");
    let mcp = fixture.plane.kubeconfig_for(SYSTEM, "seawall-mcp").await?;
    let agent = Caller::impersonated(&mcp, &user).await?;
    let rule = json!({"name": "net", "direction": "Egress", "action": "Deny",
        "peers": {"cidrs": ["10.53.0.9/32", "10.54.0.0/24"]}});
    let spec = json!({"subjects": {"all": true}, "rules": [rule]});
    let policy = stamped(object(TENANT, "Policy", "block", spec), &user);
    let limit = Duration::from_secs(10);
    eventually("the agent's rights", limit, || async {
        Ok(agent.create(&policy).await.ok())
    })
    .await?;
    Ok(())
}

async fn accepted(fixture: &Fixture) -> anyhow::Result<()> {
    wait_condition(fixture, &POLICY, "Accepted", "True", "Accepted")
        .await
        .map(drop)
}

async fn would_cut(fixture: &Fixture, what: &str) -> anyhow::Result<()> {
    let reason = "WouldCutOperator";
    let said = wait_condition(fixture, &POLICY, "Accepted", "False", reason).await?;
    let message = condition(&said, "Accepted")["message"].to_string();
    assert!(message.contains(what), "{message}");
    Ok(())
}

async fn moving() -> anyhow::Result<()> {
    let fixture = Fixture::start().await?;
    blocking(&fixture).await?;
    accepted(&fixture).await?;

    let dns = |address| slice("kube-dns", "kube-system", "kube-dns-x7k2p", address);
    fixture.apply(&dns("10.53.0.9")).await?;
    would_cut(&fixture, "the cluster's DNS at 10.53.0.9").await?;
    // It moved: another address takes the place of the first.
    fixture.apply(&dns("10.53.0.10")).await?;
    accepted(&fixture).await?;

    let api_server = |address| slice("kubernetes", "default", "kubernetes", address);
    fixture.apply(&api_server("10.54.0.7")).await?;
    would_cut(&fixture, "the API server at 10.54.0.7").await?;
    // An API server that ends takes itself out of the list; that opens nothing.
    let slice = ["endpointslice", "-n", "default", "kubernetes"];
    let delete = [&["delete"], &slice[..]].concat();
    fixture.plane.kubectl(&delete).await?;
    // What comes later is seen.
    let mut two = dns("10.54.0.8");
    two["endpoints"][0]["addresses"] = json!(["10.54.0.8", "10.54.0.9"]);
    fixture.apply(&two).await?;
    eventually("both addresses of the DNS", PATIENCE, || async {
        let (_, metrics) = fixture.health(0, "/metrics").await?;
        let counted = r#"seawall_protected_addresses{part="cluster_dns"} 2"#;
        Ok(metrics.contains(counted).then_some(()))
    })
    .await?;
    would_cut(&fixture, "the API server at 10.54.0.7").await
}

async fn unreadable() -> anyhow::Result<()> {
    let mut fixture = Fixture::prepare().await?;
    for (namespace, name) in [
        ("default", "seawall-api-server"),
        ("kube-system", "seawall-cluster-dns"),
    ] {
        let delete = ["delete", "rolebinding", "-n", namespace, name];
        fixture.plane.kubectl(&delete).await?;
    }
    let given = ["--protected", "api=10.54.0.7"];
    let number = fixture.add_operator(&given)?;
    fixture.wait_ready(number).await?;
    fixture.wait_leading(number).await?;
    let log = fixture.log(number)?;
    for words in [
        "bind the chart's Roles seawall-api-server and seawall-cluster-dns",
        "no address of the cluster's DNS was found",
        "no address of the API server was found",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    let (_, metrics) = fixture.health(number, "/metrics").await?;
    let read = |line: &str| line.starts_with("seawall_protected_read") && line.ends_with(" 0");
    let unread = metrics.lines().filter(|line| read(line)).count();
    assert_eq!(unread, 4, "{metrics}");
    blocking(&fixture).await?;
    would_cut(&fixture, "api at 10.54.0.7/32").await
}
