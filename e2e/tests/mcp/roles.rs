//! What the roles of agents grant is what the tools of each access need: the API server refuses none of them, and
//! `crate::rights` finds no right that they leave.

use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::stand::{Agent, Stand};
use crate::harness::case;
use crate::tests::admission::tenant::{DEVICE, containing, rule};

pub fn all() -> Vec<Trial> {
    vec![case(
        "the tools of each access work with what its role grants",
        each,
    )]
}

async fn each() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-roles").await?;
    stand.operator.enrol("mcp-roles", DEVICE);
    let person = stand.tenant.object("Policy", "by-hand", auditing());
    stand.tenant.admin.create(&person).await?;
    let investigate = json!({"access": "Investigate"});
    let mut manage = containing(&[DEVICE]);
    manage["access"] = json!("Manage");
    for (name, scope, writes) in [
        ("investigates", investigate, false),
        ("contains", containing(&[DEVICE]), true),
        ("manages", manage, true),
    ] {
        let devices: &[&str] = if writes { &[DEVICE] } else { &[] };
        let key = stand.agent(name, scope, devices).await?;
        let agent = stand.modern(&key).await?;
        reads(&agent).await?;
        if writes {
            isolates(&agent).await?;
            governs(&agent, name).await?;
        }
    }
    stand.end().await
}

fn auditing() -> Value {
    json!({"subjects": {"devices": {"ids": [DEVICE]}}, "rules": [rule("Audit")]})
}

async fn reads(agent: &Agent) -> anyhow::Result<()> {
    let listed = agent.call("list_policies", json!({})).await?;
    assert!(
        listed["policies"].to_string().contains("by-hand"),
        "{listed}"
    );
    agent.call("get_policy", json!({"name": "by-hand"})).await?;
    agent.call("list_isolations", json!({})).await.map(drop)
}

/// Isolates, prolongs that, and takes it back.
async fn isolates(agent: &Agent) -> anyhow::Result<()> {
    let isolating = |ttl: &str| json!({"device_id": DEVICE, "reason": "test", "ttl": ttl});
    let first = agent.call("isolate_device", isolating("1m")).await?;
    let longer = agent.call("isolate_device", isolating("30m")).await?;
    assert_eq!(longer["isolation"], first["isolation"]);
    let releasing = json!({"device_id": DEVICE, "reason": "test"});
    let released = agent.call("release_device", releasing).await?;
    assert_eq!(released["released"].as_array().map(Vec::len), Some(1));
    Ok(())
}

/// Writes a policy and disables it, blocks a destination and unblocks it.
async fn governs(agent: &Agent, name: &str) -> anyhow::Result<()> {
    let creating = json!({"name": name, "spec": auditing(), "reason": "test"});
    agent.call("create_policy", creating).await?;
    let disabling = json!({"name": name, "reason": "test"});
    agent.call("disable_policy", disabling).await?;
    let blocking =
        json!({"destination": "203.0.113.7", "device_ids": [DEVICE], "reason": "C2", "ttl": "30m"});
    agent.call("block_destination", blocking).await?;
    let unblocking = json!({"destination": "203.0.113.7", "reason": "clean"});
    let answer = agent.call("unblock_destination", unblocking).await?;
    assert_eq!(answer["unblocked"].as_array().map(Vec::len), Some(1));
    Ok(())
}
