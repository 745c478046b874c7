//! Pods by MCP: what an agent sees, isolates and releases, and what it is refused, by the real API server.

use libtest_mimic::Trial;
use seawall::access::Decision;
use seawall::api::stamps;
use serde_json::{Value, json};

use super::stand::{Stand, words};
use crate::harness::case;
use crate::tests::admission::tenant::{DEVICE, containing, containing_pods};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "an agent sees the pods of its tenant and which of them it may act on, and verifies them",
            reads,
        ),
        case(
            "an agent isolates a pod and all pods of its scope, sees why one is not covered, and releases them",
            isolates,
        ),
        case(
            "of a pod without an agent, an agent is told before that it is replaced, and deleted on release",
            replaced,
        ),
        case(
            "what an agent may not isolate is refused in words, for pods as for devices",
            refusals,
        ),
        case(
            "without our own decision the API server holds an agent to the pods of its scope",
            undecided,
        ),
    ]
}

const NO_AGENT: &str = "no agent runs on node node-2 of pod web-1";

/// `web-0` is covered, `web-1` is not; `db-0` is no target and isolated by others.
fn pods(stand: &Stand) {
    stand.operator.run_pod("web-0", "web", "", &[]);
    stand.operator.run_pod("web-1", "web", NO_AGENT, &[]);
    stand.operator.run_pod("db-0", "db", "", &["by-hand"]);
}

async fn reads() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-pods-reads").await?;
    pods(&stand);
    stand.operator.run_pod("web-9", "we\u{202e}b\n", "", &[]);
    let key = stand.agent("bot", containing_pods(), &[DEVICE]).await?;
    let client = stand.client(&key).await?;
    let first = client.call("list_workloads", json!({"limit": 2})).await?;
    let more = json!({"cursor": first["next_cursor"], "response_format": "detailed"});
    let rest = client.call("list_workloads", more).await?;
    let shown = |page: &Value| -> Vec<(Value, Value)> {
        let pods = page["workloads"].as_array().cloned().unwrap_or_default();
        let pods = pods.into_iter();
        pods.map(|pod| (pod["pod"].clone(), pod["target"].clone()))
            .collect()
    };
    let pair = |pod: &str, target: bool| (json!(pod), json!(target));
    assert_eq!(shown(&first), [pair("db-0", false), pair("web-0", true)]);
    assert_eq!(shown(&rest), [pair("web-1", true), pair("web-9", false)]);
    assert_eq!(rest["workloads"][0]["obstacle"], NO_AGENT);
    assert_eq!(rest["workloads"][1]["labels"]["app"], "web");
    assert_eq!(
        rest["workloads"][0]["detail"]["controller"],
        "ReplicaSet/web"
    );
    let isolated = json!({"isolated": true});
    let isolated = client.call("list_workloads", isolated).await?;
    assert_eq!(shown(&isolated), [pair("db-0", false)]);

    let answer = client.call("verify_enforcement", json!({})).await?;
    assert_eq!(
        (&answer["pods_asked"], &answer["pods_matching"]),
        (&json!(4), &json!(3))
    );
    let named = json!({"pods": ["web-1"]});
    let answer = client.call("verify_enforcement", named).await?;
    let expected = json!([{"pod": "web-1", "matches": false, "detail": NO_AGENT}]);
    assert_eq!((&answer["pods"], &answer["asked"]), (&expected, &json!(0)));
    stand.end().await
}

async fn isolations(stand: &Stand) -> anyhow::Result<Vec<Value>> {
    let namespace = stand.tenant.namespace;
    let path = format!("/apis/seawall.dev/v1alpha1/namespaces/{namespace}/isolations");
    let list = stand.tenant.admin.get_path(&path).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn isolating(what: Value) -> Value {
    let mut arguments = json!({"reason": "Miner", "ttl": "30m"});
    if let (Some(arguments), Some(what)) = (arguments.as_object_mut(), what.as_object()) {
        arguments.extend(what.clone());
    }
    arguments
}

async fn isolates() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-pods").await?;
    pods(&stand);
    let key = stand.agent("bot", containing_pods(), &[DEVICE]).await?;
    let client = stand.modern(&key).await?;
    let dry = isolating(json!({"pod": "web-0", "dry_run": true}));
    let answer = client.call("isolate_workload", dry).await?;
    assert_eq!(
        (&answer["in_force"], &answer["pods"]["covered"]),
        (&json!("NotWritten"), &json!(1))
    );
    assert!(isolations(&stand).await?.is_empty());

    let one = isolating(json!({"pod": "web-0", "probes": "Keep", "incident": "inc_1"}));
    let answer = client.call("isolate_workload", one.clone()).await?;
    assert_eq!(answer["in_force"], "Everywhere");
    let each = json!([{"name": "web-0", "covered": true}]);
    assert_eq!(
        answer["pods"],
        json!({"chosen": 1, "covered": 1, "by_network_policy": 0, "each": each, "left_out": 0})
    );
    assert_eq!(answer["evidence_at_risk"], json!(["web-0"]));
    assert!(
        answer["stages_ms"]["written"].as_f64().is_some(),
        "{answer}"
    );
    let written = &isolations(&stand).await?[0];
    assert_eq!(written["metadata"]["name"], answer["isolation"]);
    assert_eq!(
        written["spec"]["target"],
        json!({"workload": {"pod": "web-0"}})
    );
    assert_eq!(written["spec"]["probes"], "Keep");
    let user = stamps::agent_user("mcp-pods", "bot");
    assert_eq!(written["metadata"]["annotations"][stamps::WRITTEN_BY], user);
    let again = client.call("isolate_workload", one).await?;
    assert_eq!(again["already_isolated"], true);

    let all = isolating(json!({"labels": {"app": "web"}}));
    let answer = client.call("isolate_workload", all).await?;
    assert_eq!(answer["in_force"], "Partial");
    assert_eq!(answer["pods"]["each"][1]["why"], NO_AGENT);
    assert_eq!(isolations(&stand).await?.len(), 2);
    let listed = client.call("list_isolations", json!({"own": true})).await?;
    let targets: Vec<&Value> = (0..2).map(|n| &listed["isolations"][n]["target"]).collect();
    assert!(targets.contains(&&json!("workload/app=web")), "{listed}");
    let by_pod = client
        .call("list_isolations", json!({"pod": "web-0"}))
        .await?;
    assert_eq!(by_pod["isolations"].as_array().map(Vec::len), Some(1));

    released(&stand, &client).await?;
    let outcomes = stand.operator.logged("outcome");
    let targets: Vec<&Value> = outcomes.iter().map(|it| &it["data"]["target"]).collect();
    assert_eq!(targets[0], "workload/web-0");
    assert_eq!(targets.last(), Some(&&json!("workload/app=web")));
    stand.end().await
}

async fn released(stand: &Stand, client: &super::stand::Agent) -> anyhow::Result<()> {
    let one = json!({"pod": "web-0", "reason": "clean"});
    let dry = json!({"pod": "web-0", "reason": "clean", "dry_run": true});
    let answer = client.call("release_workload", dry).await?;
    assert_eq!(answer["released"].as_array().map(Vec::len), Some(1));
    assert_eq!(isolations(stand).await?.len(), 2);
    let answer = client.call("release_workload", one.clone()).await?;
    assert_eq!(answer["lifted_everywhere"], true);
    assert_eq!(isolations(stand).await?.len(), 1);
    // It is released already, and there is nothing of others.
    let answer = client.call("release_workload", one).await?;
    assert_eq!(answer["released"], json!([]));
    let all = json!({"labels": {"app": "web"}, "reason": "clean"});
    let answer = client.call("release_workload", all).await?;
    assert_eq!(answer["released"].as_array().map(Vec::len), Some(1));
    assert!(isolations(stand).await?.is_empty());
    Ok(())
}

async fn replaced() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-pods-replaced").await?;
    pods(&stand);
    stand.operator.strip_pod("web-0", "web", &[]);
    let key = stand.agent("bot", containing_pods(), &[DEVICE]).await?;
    let client = stand.modern(&key).await?;
    let dry = isolating(json!({"pod": "web-0", "dry_run": true}));
    let answer = client.ask("isolate_workload", dry).await?;
    let words = words(&answer);
    for said in [
        "1 of 1 pods by NetworkPolicies, for no agent runs on their nodes",
        "web-0 by Deployment web",
        "releasing it deletes it",
    ] {
        assert!(words.contains(said), "{words}");
    }
    assert!(isolations(&stand).await?.is_empty());
    let one = isolating(json!({"pod": "web-0"}));
    let answer = client.call("isolate_workload", one).await?;
    assert_eq!(answer["in_force"], "Unseen");
    assert_eq!(answer["pods"]["by_network_policy"], 1);
    assert_eq!(answer["pods"]["each"][0]["replaced_by"], "web");

    let isolation = answer["isolation"].as_str().unwrap_or_default().to_owned();
    for (isolated_by, deleted) in [
        (&[&*isolation, "by-hand"][..], Value::Null),
        (&[&*isolation][..], json!(["web-0"])),
    ] {
        stand.operator.strip_pod("web-0", "web", isolated_by);
        let dry = json!({"pod": "web-0", "reason": "clean", "dry_run": true});
        let answer = client.call("release_workload", dry).await?;
        assert_eq!(answer["deleted_pods"], deleted, "{isolated_by:?}");
    }
    let release = json!({"pod": "web-0", "reason": "clean"});
    let answer = client.call("release_workload", release).await?;
    assert_eq!(answer["deleted_pods"], json!(["web-0"]));
    assert!(isolations(&stand).await?.is_empty());
    stand.end().await
}

async fn refusals() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-pods-refusals").await?;
    pods(&stand);
    let by_hand = stand.tenant.object(
        "Isolation",
        "by-hand",
        json!({"target": {"workload": {"pod": "db-0"}}, "reason": "a person's"}),
    );
    stand.tenant.admin.create(&by_hand).await?;
    let key = stand.agent("bot", containing_pods(), &[DEVICE]).await?;
    let devices = stand
        .agent("devices", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let (bot, devices) = (stand.client(&key).await?, stand.client(&devices).await?);
    for (client, tool, arguments, code, words) in [
        (
            &bot,
            "isolate_workload",
            json!({"pod": "db-0"}),
            "outside_targets",
            "may not act on pod db-0",
        ),
        (
            &bot,
            "isolate_workload",
            json!({"pod": "nope"}),
            "outside_targets",
            "list_workloads shows",
        ),
        (
            &bot,
            "isolate_workload",
            json!({"labels": {"app": "db"}}),
            "outside_targets",
            "exactly the labels of its targets, app=web",
        ),
        (
            &bot,
            "isolate_workload",
            json!({}),
            "invalid",
            "give either pod",
        ),
        (
            &bot,
            "isolate_workload",
            json!({"pod": "web-0", "labels": {"app": "web"}}),
            "invalid",
            "give either pod",
        ),
        (
            &bot,
            "isolate_workload",
            json!({"pod": "shop/web-0"}),
            "invalid",
            "is no name of a pod",
        ),
        (
            &bot,
            "isolate_workload",
            json!({"pod": "web-0", "ttl": "2h"}),
            "too_long",
            "at most 1h",
        ),
        (
            &devices,
            "isolate_workload",
            json!({"pod": "web-0"}),
            "no_targets",
            "targets.workloads",
        ),
        (
            &bot,
            "release_workload",
            json!({"pod": "db-0"}),
            "not_its_own",
            "a person or a GitOps controller",
        ),
        (
            &bot,
            "release_workload",
            json!({"pod": "nope"}),
            "not_found",
            "no pod nope runs in mcp-pods-refusals",
        ),
    ] {
        let mut all = json!({"reason": "x"});
        if tool == "isolate_workload" {
            all["ttl"] = "30m".into();
        }
        if let (Some(all), Some(given)) = (all.as_object_mut(), arguments.as_object()) {
            all.extend(given.clone());
        }
        let (found, said) = client.failure(tool, all).await?;
        assert_eq!(found, code, "{tool} {arguments}: {said}");
        assert!(said.contains(words), "{tool} {arguments}: {said}");
    }
    assert!(stand.operator.logged("intent").is_empty());
    stand.end().await
}

async fn undecided() -> anyhow::Result<()> {
    let stand = Stand::deciding_by(|_, _, _| Decision::Allow, "mcp-pods-undecided").await?;
    pods(&stand);
    let key = stand.agent("bot", containing_pods(), &[DEVICE]).await?;
    let reads = json!({"access": "Investigate"});
    let reads = stand.agent("reads", reads, &[]).await?;
    let (bot, reads) = (stand.modern(&key).await?, stand.modern(&reads).await?);
    for (client, what, words) in [
        (
            &bot,
            json!({"pod": "db-0"}),
            "pod db-0 is not a target of the ApiKeyScope bot",
        ),
        (
            &bot,
            json!({"labels": {"app": "db"}}),
            "must be the targets.workloads.podSelector of",
        ),
        (
            &bot,
            json!({"pod": "web-0", "ttl": "2h"}),
            "allows isolations of at most 1h",
        ),
        (
            &reads,
            json!({"pod": "web-0"}),
            "cannot get resource \"isolations\"",
        ),
    ] {
        let (code, said) = client.failure("isolate_workload", isolating(what)).await?;
        assert_eq!(code, "refused_by_api_server", "{said}");
        assert!(said.contains(words), "{said}");
    }
    stand.end().await
}
