//! With our own decision switched off, the API server refuses what is outside of a scope.

use libtest_mimic::Trial;
use seawall::access::{Decision, Tool};
use seawall::api::stamps;
use serde_json::{Value, json};

use super::stand::Stand;
use crate::caller::{Caller, assert_refused};
use crate::charts::SYSTEM;
use crate::harness::case;
use crate::tests::admission::tenant::{DEVICE, OTHER_DEVICE, containing, rule};

pub fn all() -> Vec<Trial> {
    vec![case(
        "without our own decision the API server holds an agent to its scope",
        undecided,
    )]
}

async fn undecided() -> anyhow::Result<()> {
    let namespace = "mcp-undecided";
    let stand = Stand::deciding_by(|_, _, _| Decision::Allow, namespace).await?;
    stand.operator.enrol(namespace, DEVICE);
    stand.operator.enrol(namespace, OTHER_DEVICE);
    let reads = stand
        .agent("reads", json!({"access": "Investigate"}), &[])
        .await?;
    let acts = stand
        .agent("acts", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let (reads, acts) = (stand.modern(&reads).await?, stand.modern(&acts).await?);
    let all = Tool::ALL.len();
    assert_eq!(reads.tools().await?.len(), all, "nothing of ours decides");

    let person = stand.tenant.object(
        "Policy",
        "by-hand",
        json!({"subjects": {"all": true}, "rules": [rule("Deny")]}),
    );
    stand.tenant.admin.create(&person).await?;
    let isolating =
        |device: &str, ttl: &str| json!({"device_id": device, "reason": "x", "ttl": ttl});
    let dry = |mut arguments: Value| {
        arguments["dry_run"] = true.into();
        arguments
    };
    let allow = json!({"subjects": {"devices": {"ids": [DEVICE]}}, "rules": [rule("Allow")]});
    let fleet = json!({"destination": "203.0.113.7", "fleet": true, "reason": "x"});
    for (agent, tool, arguments, words) in [
        (
            &reads,
            "isolate_device",
            isolating(DEVICE, "30m"),
            "cannot get resource \"isolations\"",
        ),
        (
            &reads,
            "isolate_device",
            dry(isolating(DEVICE, "30m")),
            "cannot get resource \"isolations\"",
        ),
        (
            &acts,
            "isolate_device",
            isolating(OTHER_DEVICE, "30m"),
            "is not a target of the ApiKeyScope acts",
        ),
        (
            &acts,
            "isolate_device",
            dry(isolating(OTHER_DEVICE, "30m")),
            "is not a target of the ApiKeyScope acts",
        ),
        (
            &acts,
            "isolate_device",
            isolating(DEVICE, "2h"),
            "allows isolations of at most 1h",
        ),
        (
            &acts,
            "isolate_device",
            json!({"device_id": DEVICE, "reason": "x"}),
            "give expiresAt",
        ),
        (
            &acts,
            "create_policy",
            json!({"name": "p", "spec": allow, "reason": "x"}),
            "may only tighten",
        ),
        (
            &acts,
            "block_destination",
            fleet,
            "does not act on every device",
        ),
        (
            &acts,
            "disable_policy",
            json!({"name": "by-hand", "reason": "x"}),
            "denied request",
        ),
    ] {
        let (code, found) = agent.failure(tool, arguments).await?;
        assert_eq!(code, "refused_by_api_server", "{found}");
        assert!(found.contains(words), "{tool}: {found}");
    }
    writes_nothing(&stand, "reads").await?;
    let outcomes = stand.operator.logged("outcome");
    assert_eq!(outcomes.len(), 9);
    for outcome in outcomes {
        assert_eq!(outcome["data"]["result"], "refused", "{outcome}");
    }
    stand.end().await
}

/// The tools look for what is there before they write. Nor does the write pass by itself.
async fn writes_nothing(stand: &Stand, agent: &str) -> anyhow::Result<()> {
    let server = stand.tenant.cluster.kubeconfig_for(SYSTEM, "seawall-mcp");
    let user = stamps::agent_user(stand.tenant.namespace, agent);
    let agent = Caller::impersonated(&server.await?, &user).await?;
    for (kind, words) in [
        ("Isolation", "cannot create resource \"isolations\""),
        ("Policy", "cannot create resource \"policies\""),
    ] {
        let object = stand.tenant.object(kind, "by-itself", json!({}));
        assert_refused(agent.try_create(&object).await, words);
    }
    Ok(())
}
