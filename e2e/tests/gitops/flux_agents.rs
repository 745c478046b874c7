//! Keys and AI agents beside Flux, on the same objects.

use anyhow::ensure;
use libtest_mimic::Trial;
use seawall::api::stamps;
use serde_json::{Value, json};

use super::shared;
use crate::cluster::audit::AuditEvent;
use crate::gitops::{APPLIER, GitOps, manifest};
use crate::harness::case;
use crate::site::{McpClient, TENANT};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "Flux leaves the keys of a scope in git alone: made, used and revoked while it reconciles",
            keys,
        ),
        case(
            "an agent's isolation is neither pruned nor changed by Flux, and the agent changes nothing that Flux wrote",
            beside,
        ),
        case(
            "isolating and releasing ten times while Flux reconciles every second is ten isolations and no war of writes",
            ten_times,
        ),
    ]
}

/// What a scope in git says for an agent that contains.
const CONTAIN: &str = "{access: Contain, targets: {devices: {all: true}}, \
    limits: {callsPerMinute: 600, actionsPerHour: 100, maxIsolation: 24h}}";

/// A scope from git, and a key for it from `seawall keys create`.
async fn agent(all: &GitOps, folder: &str, scope: &str) -> anyhow::Result<(String, McpClient)> {
    let text = manifest("ApiKeyScope", scope, CONTAIN);
    let path = format!("{folder}/scope.yaml");
    let commit = all.git.commit("A scope", &[(&path, Some(text))]).await?;
    all.follow(folder).await?;
    all.applied(folder, &commit).await?;
    let key = all.site.key(scope).await?;
    let client = McpClient::connect(&all.site.mcp_url(), &key).await?;
    Ok((key, client))
}

async fn hashes(all: &GitOps, scope: &str) -> anyhow::Result<Vec<Value>> {
    let scope = all.object("apikeyscope", scope).await?;
    let hashes = scope["spec"]["credentials"]["keyHashes"].as_array();
    Ok(hashes.cloned().unwrap_or_default())
}

async fn keys() -> anyhow::Result<()> {
    let all = &*shared().await?;
    let (_, client) = agent(all, "keys", "keys-bot").await?;
    let made = hashes(all, "keys-bot").await?;
    ensure!(made.len() == 1, "{made:?}");
    all.rounds("keys-bot", 3).await?;
    ensure!(
        hashes(all, "keys-bot").await? == made,
        "while nothing changes"
    );

    let wider = CONTAIN.replace("24h", "12h");
    let text = manifest("ApiKeyScope", "keys-bot", &wider);
    let file = ("keys/scope.yaml", Some(text));
    let commit = all.git.commit("For half as long", &[file]).await?;
    all.applied("keys", &commit).await?;
    let scope = all.object("apikeyscope", "keys-bot").await?;
    ensure!(scope["spec"]["limits"]["maxIsolation"] == "12h", "{scope}");
    ensure!(
        hashes(all, "keys-bot").await? == made,
        "when Flux writes the scope"
    );
    client.must("list_devices", json!({})).await?;

    let hash = made[0].as_str().unwrap_or_default();
    let revoke = [
        "keys",
        "revoke",
        "--namespace",
        TENANT,
        "--scope",
        "keys-bot",
        "--hash",
        hash,
    ];
    all.site.seawall(&revoke).await?;
    all.rounds("keys-bot", 3).await?;
    ensure!(
        hashes(all, "keys-bot").await?.is_empty(),
        "it stays revoked"
    );
    Ok(())
}

async fn beside() -> anyhow::Result<()> {
    let all = &*shared().await?;
    let spec = "{subjects: {devices: {tags: {name: ws-2}}}, rules: [{name: c2, direction: Egress, \
                action: Deny, peers: {cidrs: [203.0.113.9/32]}}]}";
    let policy = manifest("Policy", "beside-net", spec);
    let file = ("beside/policy.yaml", Some(policy));
    all.git.commit("A policy", &[file]).await?;
    let (_, client) = agent(all, "beside", "beside-bot").await?;
    let before = all.object("policy", "beside-net").await?;

    let device = &all.site.device("ws-2").id;
    let isolate = json!({"device_id": device, "reason": "Beacons", "ttl": "1h"});
    let answer = client.must("isolate_device", isolate).await?;
    let name = answer.structured["isolation"].as_str().unwrap_or_default();
    let isolation = all.object("isolation", name).await?;
    all.rounds("beside-net", 5).await?;
    let later = all.object("isolation", name).await?;
    ensure!(later["metadata"]["uid"] == isolation["metadata"]["uid"]);
    ensure!(later["metadata"]["generation"] == isolation["metadata"]["generation"]);

    let disable = json!({"name": "beside-net", "reason": "It is in the way"});
    let refused = client.call("disable_policy", disable).await?;
    ensure!(refused.is_error, "{}", refused.text);
    ensure!(refused.text.contains("beside-net"), "{}", refused.text);
    let after = all.object("policy", "beside-net").await?;
    ensure!(after["spec"] == before["spec"], "{after}");
    ensure!(after["metadata"]["generation"] == before["metadata"]["generation"]);

    let release = json!({"device_id": device, "reason": "It was a test"});
    client.must("release_device", release).await?;
    let gone = all.site.get("isolation", name).await?;
    ensure!(gone.is_none(), "{gone:?}");
    Ok(())
}

async fn ten_times() -> anyhow::Result<()> {
    let all = &*shared().await?;
    let held = &all.site.device("ws-1").id;
    let spec = format!("{{target: {{device: {held}}}, reason: Of git}}");
    let text = manifest("Isolation", "ten-of-git", &spec);
    let file = ("ten/isolation.yaml", Some(text));
    all.git.commit("An isolation", &[file]).await?;
    let (_, client) = agent(all, "ten", "ten-bot").await?;
    let device = &all.site.device("ws-3").id;
    // Whatever was written until now has its line in the log by then.
    all.rounds("ten-of-git", 1).await?;
    let mark = all.site.plane.audit().mark()?;
    let mut names = vec!["ten-of-git".to_owned(), "ten-bot".to_owned()];
    for round in 1..=10 {
        let isolate = json!({"device_id": device, "reason": format!("Round {round}"), "ttl": "1h"});
        let answer = client.must("isolate_device", isolate).await?;
        let name = answer.structured["isolation"].as_str().unwrap_or_default();
        names.push(name.to_owned());
        all.rounds("ten-of-git", 1).await?;
        let release = json!({"device_id": device, "reason": format!("End of round {round}")});
        client.must("release_device", release).await?;
    }
    // What anybody has yet to say about it.
    all.rounds("ten-of-git", 3).await?;
    let looked = all.looked("ten-of-git", mark)?;
    ensure!(looked >= 10, "Flux looked {looked} times");
    let mut writes = all.writes(mark)?;
    writes.retain(|event| names.iter().any(|name| event.is_of(name)));
    judge(&writes, &stamps::agent_user(TENANT, "ten-bot"))
}

/// Ten objects made and deleted by the agent, none written by Flux, and a few statuses of each.
fn judge(writes: &[AuditEvent], agent: &str) -> anyhow::Result<()> {
    let by = |actor: &str, subresource: &str| {
        let of = |event: &&AuditEvent| {
            let object = event.object_ref.as_ref();
            event.actor() == actor && object.is_some_and(|it| it.subresource == subresource)
        };
        writes.iter().filter(of).count()
    };
    let operator = "system:serviceaccount:seawall-system:seawall";
    let told = (
        by(agent, ""),
        by(APPLIER, ""),
        by(operator, "status"),
        by(operator, ""),
    );
    eprintln!("writes of agent, Flux, statuses, operator: {told:?}");
    let (agents, flux, statuses, operators) = told;
    ensure!((agents, flux, operators) == (20, 0, 0), "{told:?}");
    ensure!(
        agents + statuses == writes.len(),
        "somebody else writes: {writes:?}"
    );
    // Taken in, then in force: no more than a handful for each isolation.
    ensure!(statuses <= 60, "{told:?}");
    Ok(())
}
