//! What stands in statuses, who wrote it, and how often.

use std::time::{Duration, Instant};

use anyhow::Context;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::harness::{case, eventually};
use crate::operators::Device;
use crate::operators::{Fixture, PATIENCE, USER};

const TENANT: &str = "plant";

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "an isolation's status says so once the device and its peers have acknowledged it",
            isolation,
        ),
        case(
            "a policy for pods becomes a NetworkPolicy, which is kept as it should be and goes with it",
            network_policy,
        ),
        case(
            "a NetworkPolicy of the same name that somebody else made is left alone, and the status says so",
            foreign,
        ),
        case(
            "an object that can't be read is reported, stays in force as it was, and stops nothing",
            malformed,
        ),
        case(
            "peers that come and go move a status at most every thirty seconds",
            coverage,
        ),
    ]
}

async fn with_devices(count: usize) -> anyhow::Result<(Fixture, Vec<Device>)> {
    let fixture = Fixture::start().await?;
    fixture.plane.kubectl(&["create", "ns", TENANT]).await?;
    let token = fixture.join_token(0, TENANT, count, &[]).await?;
    let mut devices = Vec::new();
    for number in 1..=count {
        let address = format!("10.9.0.{number}");
        devices.push(Device::enrol(&token, &address).await?);
    }
    Ok((fixture, devices))
}

fn isolating(name: &str, device: &str) -> Value {
    json!({
        "apiVersion": "seawall.dev/v1alpha1", "kind": "Isolation",
        "metadata": {"name": name, "namespace": TENANT},
        "spec": {"target": {"device": device}, "reason": "test"},
    })
}

pub fn condition<'a>(object: &'a Value, wanted: &str) -> &'a Value {
    let all = object["status"]["conditions"].as_array();
    all.and_then(|all| all.iter().find(|condition| condition["type"] == wanted))
        .unwrap_or(&Value::Null)
}

/// Waits for a condition of the object to have this status and reason; answers with the object.
pub async fn wait_condition(
    fixture: &Fixture,
    object: &[&str],
    type_: &str,
    status: &str,
    reason: &str,
) -> anyhow::Result<Value> {
    let what = format!("{type_}={status} ({reason}) of {object:?}");
    eventually(&what, PATIENCE, || async {
        let object = fixture.get(object).await?.unwrap_or_default();
        let condition = condition(&object, type_);
        let there = condition["status"] == status && condition["reason"] == reason;
        Ok(there.then_some(object))
    })
    .await
}

async fn isolation() -> anyhow::Result<()> {
    let (fixture, devices) = with_devices(3).await?;
    let object = ["isolation", "-n", TENANT, "first"];
    fixture.apply(&isolating("first", &devices[0].id)).await?;
    let stands = wait_condition(&fixture, &object, "Enforced", "True", "ReadBack").await?;
    let status = &stands["status"];
    assert_eq!(status["phase"], "Isolated");
    assert_eq!(status["self"], "Programmed");
    assert_eq!(status["peers"]["summary"], "2/2");
    assert_eq!(status["observedGeneration"], 1);
    assert!(status["isolatedAt"].is_string());
    assert!(devices[0].is_isolated() && !devices[1].is_isolated());
    let managers = stands["metadata"]["managedFields"].as_array().cloned();
    let ours = managers
        .unwrap_or_default()
        .into_iter()
        .find(|entry| entry["manager"] == "seawall/status" && entry["operation"] == "Apply");
    assert_eq!(ours.context("an entry of ours")?["subresource"], "status");

    let unknown = "dev_01arz3ndektsv4rrffq69g5fav";
    fixture.apply(&isolating("unknown", unknown)).await?;
    let object = ["isolation", "-n", TENANT, "unknown"];
    wait_condition(&fixture, &object, "Accepted", "False", "UnknownTarget").await?;
    Ok(())
}

fn pods_policy() -> Value {
    json!({
        "apiVersion": "seawall.dev/v1alpha1", "kind": "Policy",
        "metadata": {"name": "web", "namespace": TENANT},
        "spec": {
            "subjects": {"workloads": {"podSelector": {"matchLabels": {"app": "web"}}}},
            "rules": [{
                "name": "clients", "direction": "Ingress", "action": "Allow",
                "peers": {"cidrs": ["10.0.0.0/8"]},
                "ports": [{"protocol": "TCP", "port": 443}],
            }],
            "default": {"ingress": "Deny"},
        },
    })
}

async fn network_policy() -> anyhow::Result<()> {
    let fixture = Fixture::start().await?;
    fixture.plane.kubectl(&["create", "ns", TENANT]).await?;
    fixture.apply(&pods_policy()).await?;
    let policy = ["policy.seawall.dev", "-n", TENANT, "web"];
    wait_condition(&fixture, &policy, "Programmed", "True", "ReadBack").await?;
    let all = ["networkpolicy", "-n", TENANT];
    let made = fixture.get(&all).await?.context("a list")?;
    let made = made["items"][0].clone();
    let name = made["metadata"]["name"].as_str().context("a name")?;
    let one = ["networkpolicy", "-n", TENANT, name];

    let wide = r#"{"spec":{"ingress":[{}]}}"#;
    let patch = ["patch", "--type=merge", "-p", wide];
    fixture
        .plane
        .kubectl(&[&patch[..], &one[..]].concat())
        .await?;
    eventually("the edit to be taken back", PATIENCE, || async {
        let now = fixture.get(&one).await?.unwrap_or_default();
        Ok((now["spec"] == made["spec"]).then_some(()))
    })
    .await?;
    fixture
        .plane
        .kubectl(&[&["delete"], &one[..]].concat())
        .await?;
    eventually("it to be made again", PATIENCE, || fixture.get(&one)).await?;
    fixture
        .plane
        .kubectl(&[&["delete"], &policy[..]].concat())
        .await?;
    eventually("it to go with its policy", PATIENCE, || async {
        Ok(fixture.get(&one).await?.is_none().then_some(()))
    })
    .await
}

async fn foreign() -> anyhow::Result<()> {
    let fixture = Fixture::start().await?;
    fixture.plane.kubectl(&["create", "ns", TENANT]).await?;
    let policy = ["policy.seawall.dev", "-n", TENANT, "web"];
    let one = ["networkpolicy", "-n", TENANT, "seawall-web"];
    // The label alone makes it nobody's but its author's.
    let theirs = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "seawall-web", "namespace": TENANT,
            "labels": {"app.kubernetes.io/managed-by": "seawall"}},
        "spec": {"podSelector": {"matchLabels": {"theirs": "yes"}}},
    });
    fixture.apply(&theirs).await?;
    fixture.apply(&pods_policy()).await?;
    wait_condition(&fixture, &policy, "Programmed", "False", "Conflict").await?;
    let now = fixture.get(&one).await?.context("still there")?;
    assert_eq!(now["spec"]["podSelector"]["matchLabels"]["theirs"], "yes");
    fixture
        .plane
        .kubectl(&[&["delete"], &policy[..]].concat())
        .await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(fixture.get(&one).await?.is_some(), "not ours to delete");
    Ok(())
}

async fn malformed() -> anyhow::Result<()> {
    let (fixture, devices) = with_devices(2).await?;
    let object = ["isolation", "-n", TENANT, "first"];
    fixture.apply(&isolating("first", &devices[0].id)).await?;
    wait_condition(&fixture, &object, "Enforced", "True", "ReadBack").await?;
    // As an etcd edited by hand, or a schema of another version, would have it.
    let loose = json!([
        {"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true}},
    ]);
    let crd = ["crd", "isolations.seawall.dev"];
    let (patch, loose) = (["patch", "--type=json", "-p"], loose.to_string());
    let loosen = [&patch[..], &[&loose], &crd[..]].concat();
    fixture.plane.kubectl(&loosen).await?;
    let broken = r#"{"spec":{"target":"everything","reason":7}}"#;
    let merge = ["patch", "--type=merge", "-p", broken];
    let edit = [&merge[..], &object[..]].concat();
    eventually(
        "the API server to take the broken object",
        PATIENCE,
        || async { Ok(fixture.plane.kubectl(&edit).await.ok()) },
    )
    .await?;
    let said = wait_condition(&fixture, &object, "Accepted", "False", "Malformed").await?;
    let message = condition(&said, "Accepted")["message"].to_string();
    assert!(message.contains("correct it or delete it"), "{message}");
    assert!(devices[0].is_isolated(), "it stays in force as it was");
    fixture.apply(&isolating("second", &devices[1].id)).await?;
    eventually("the watch to go on", PATIENCE, || async {
        Ok(devices[1].is_isolated().then_some(()))
    })
    .await?;
    let (_, metrics) = fixture.health(0, "/metrics").await?;
    let counted = r#"seawall_malformed_objects{kind="Isolation"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    Ok(())
}

async fn coverage() -> anyhow::Result<()> {
    let (fixture, mut devices) = with_devices(6).await?;
    let object = ["isolation", "-n", TENANT, "first"];
    fixture.apply(&isolating("first", &devices[0].id)).await?;
    wait_condition(&fixture, &object, "Enforced", "True", "ReadBack").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (mark, began) = (fixture.plane.audit().mark()?, Instant::now());
    while began.elapsed() < Duration::from_secs(10) {
        devices.truncate(devices.len() - usize::from(devices.len() > 3));
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let writes = fixture.plane.audit().writes_by(USER, mark)?;
    let writes = writes.iter().filter(|write| write.is_about("isolations"));
    assert!(writes.count() <= 1, "each device that left is no write");
    Ok(())
}
