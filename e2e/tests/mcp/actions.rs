//! What agents do: each action against the real API server, with the audit log before and after it.

use std::sync::atomic::Ordering;

use libtest_mimic::Trial;
use seawall::api::stamps;
use serde_json::{Value, json};

use super::stand::Stand;
use crate::harness::case;
use crate::tests::admission::tenant::{DEVICE, OTHER_DEVICE, containing, rule};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "an agent isolates a device as itself, with its stamp, and the audit log knew before",
            isolate,
        ),
        case("a dry run asks everybody and changes nothing", dry_run),
        case(
            "isolating again answers with what is there, and lasts longer when that is asked for",
            again,
        ),
        case(
            "release takes the agent's own isolation and names whose remain",
            release,
        ),
        case(
            "a destination is blocked for named devices or for the fleet, and unblocked",
            block,
        ),
        case(
            "a policy is created once and disabled by who wrote it",
            policy,
        ),
        case(
            "what the scope doesn't allow is refused in words, and logged",
            refusals,
        ),
        case(
            "an action that fails before it is begun is logged as a refusal, once, and within the rate of calls",
            failed_early,
        ),
        case("without the audit log nothing is done", no_log),
    ]
}

async fn isolations(stand: &Stand) -> anyhow::Result<Vec<Value>> {
    objects(stand, "isolations").await
}

async fn objects(stand: &Stand, plural: &str) -> anyhow::Result<Vec<Value>> {
    let namespace = stand.tenant.namespace;
    let path = format!("/apis/seawall.dev/v1alpha1/namespaces/{namespace}/{plural}");
    let list = stand.tenant.admin.get_path(&path).await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn isolating(device: &str, ttl: &str) -> Value {
    json!({"device_id": device, "reason": "Lateral movement", "ttl": ttl})
}

async fn isolate() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-isolate").await?;
    stand.operator.enrol("mcp-isolate", DEVICE);
    let key = stand.agent("bot", containing(&[DEVICE]), &[DEVICE]).await?;
    let client = stand.client(&key).await?;
    let user = stamps::agent_user("mcp-isolate", "bot");
    let mark = stand.tenant.cluster.audit().mark()?;
    let answer = client
        .call("isolate_device", isolating(DEVICE, "30m"))
        .await?;
    assert_eq!(answer["in_force"], "Everywhere");
    assert_eq!(answer["self_programmed"], true);
    assert_eq!(
        answer["peers"],
        json!({"matched": 2, "programmed": 2, "offline": 0})
    );
    assert_eq!(answer["connections_cut"], 3);

    let found = isolations(&stand).await?;
    let [isolation] = &found[..] else {
        anyhow::bail!("one isolation: {found:?}");
    };
    assert_eq!(isolation["metadata"]["name"], answer["isolation"]);
    let annotations = &isolation["metadata"]["annotations"];
    assert_eq!(annotations[stamps::SOURCE], "mcp_agent");
    assert_eq!(annotations[stamps::WRITTEN_BY], user);
    assert_eq!(annotations[stamps::REASON], "Lateral movement");
    let manager = &isolation["metadata"]["managedFields"][0]["manager"];
    assert_eq!(manager, "seawall/mcp");
    assert_eq!(isolation["spec"]["target"]["device"], DEVICE);
    assert_eq!(isolation["spec"]["expiresAt"], answer["expires_at"]);

    let writes = stand.tenant.cluster.audit().writes_by(&user, mark)?;
    assert_eq!(writes.len(), 1, "the API server saw the agent: {writes:?}");
    let (intents, outcomes) = (
        stand.operator.logged("intent"),
        stand.operator.logged("outcome"),
    );
    assert_eq!((intents.len(), outcomes.len()), (1, 1));
    let (intent, outcome) = (&intents[0]["data"], &outcomes[0]["data"]);
    assert_eq!(intents[0]["tenant"], "mcp-isolate");
    assert_eq!(intents[0]["actor"]["user"], user);
    assert_eq!(intents[0]["client"]["name"], "rmcp");
    assert_eq!(intent["reason"], "Lateral movement");
    assert_eq!(annotations[stamps::INTENT], intents[0]["id"]);
    assert_eq!(outcome["intent"], intents[0]["id"]);
    assert_eq!(outcome["result"], "done");
    assert_eq!(outcome["call"], intent["call"]);
    assert_eq!(outcome["target"], DEVICE);
    let metadata = &isolation["metadata"];
    let touched = json!([{
        "kind": "Isolation",
        "namespace": "mcp-isolate",
        "name": answer["isolation"],
        "uid": metadata["uid"],
        "generation": 1,
    }]);
    assert_eq!(outcome["objects"], touched);
    stand.end().await
}

async fn dry_run() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-dry-run").await?;
    stand.operator.enrol("mcp-dry-run", DEVICE);
    let key = stand.agent("bot", containing(&[DEVICE]), &[DEVICE]).await?;
    let client = stand.modern(&key).await?;
    let dry = |mut arguments: Value| {
        arguments["dry_run"] = true.into();
        arguments
    };
    let answer = client
        .call("isolate_device", dry(isolating(DEVICE, "30m")))
        .await?;
    assert_eq!(answer["in_force"], "NotWritten");
    assert_eq!(answer["peers"]["matched"], 2);
    let blocking = json!({"destination": "203.0.113.7", "device_ids": [DEVICE], "reason": "C2"});
    client.call("block_destination", dry(blocking)).await?;
    let spec = json!({"subjects": {"devices": {"ids": [DEVICE]}}, "rules": [rule("Audit")]});
    let policy = json!({"name": "p", "spec": spec, "reason": "test"});
    client.call("create_policy", dry(policy)).await?;
    assert!(isolations(&stand).await?.is_empty());
    assert!(objects(&stand, "policies").await?.is_empty());

    client
        .call("isolate_device", isolating(DEVICE, "30m"))
        .await?;
    let releasing = json!({"device_id": DEVICE, "reason": "clean"});
    let answer = client.call("release_device", dry(releasing)).await?;
    assert_eq!(answer["released"].as_array().map(Vec::len), Some(1));
    assert_eq!(isolations(&stand).await?.len(), 1);
    for outcome in &stand.operator.logged("outcome")[..3] {
        assert_eq!(outcome["data"]["dryRun"], true, "{outcome}");
    }
    stand.end().await
}

async fn again() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-again").await?;
    stand.operator.enrol("mcp-again", DEVICE);
    let key = stand.agent("bot", containing(&[DEVICE]), &[DEVICE]).await?;
    let client = stand.modern(&key).await?;
    let first = client
        .call("isolate_device", isolating(DEVICE, "1m"))
        .await?;
    assert_eq!(first["already_isolated"], false);
    let same = client
        .call("isolate_device", isolating(DEVICE, "30s"))
        .await?;
    assert_eq!(same["already_isolated"], true);
    assert_eq!(same["expires_at"], first["expires_at"]);
    let longer = client
        .call("isolate_device", isolating(DEVICE, "30m"))
        .await?;
    assert_eq!(longer["isolation"], first["isolation"]);
    assert_ne!(longer["expires_at"], first["expires_at"]);
    let found = isolations(&stand).await?;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["spec"]["expiresAt"], longer["expires_at"]);

    // One whose time is over counts no more: a new one takes its place.
    let second = client
        .call("isolate_device", isolating(DEVICE, "1s"))
        .await?;
    assert_eq!(second["already_isolated"], true);
    client
        .call(
            "release_device",
            json!({"device_id": DEVICE, "reason": "test"}),
        )
        .await?;
    client
        .call("isolate_device", isolating(DEVICE, "1s"))
        .await?;
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let mut dry = isolating(DEVICE, "1h");
    dry["dry_run"] = true.into();
    client.call("isolate_device", dry).await?;
    let anew = client
        .call("isolate_device", isolating(DEVICE, "59m"))
        .await?;
    assert_eq!(anew["already_isolated"], false);
    assert_eq!(isolations(&stand).await?.len(), 1);
    stand.end().await
}

async fn release() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-release").await?;
    stand.operator.enrol("mcp-release", DEVICE);
    let one = stand.agent("one", containing(&[DEVICE]), &[DEVICE]).await?;
    let two = stand.agent("two", containing(&[DEVICE]), &[DEVICE]).await?;
    let (one, two) = (stand.modern(&one).await?, stand.modern(&two).await?);
    let releasing = json!({"device_id": DEVICE, "reason": "clean"});
    let answer = one.call("release_device", releasing.clone()).await?;
    assert_eq!(answer["released"], json!([]));

    one.call("isolate_device", isolating(DEVICE, "30m")).await?;
    two.call("isolate_device", isolating(DEVICE, "30m")).await?;
    let listed = one
        .call(
            "list_isolations",
            json!({"device_id": DEVICE, "response_format": "detailed"}),
        )
        .await?;
    let listed = listed["isolations"].as_array().cloned().unwrap_or_default();
    assert_eq!(listed.len(), 2);
    assert_eq!(
        listed
            .iter()
            .filter(|isolation| isolation["own"] == true)
            .count(),
        1
    );
    assert_eq!(listed[0]["detail"]["reason"], "Lateral movement");

    let answer = one.call("release_device", releasing.clone()).await?;
    assert_eq!(answer["released"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer["lifted_everywhere"], true);
    assert_eq!(answer["still_isolated_by"][0]["written_by"], "agent two");
    let (code, words) = one.failure("release_device", releasing.clone()).await?;
    assert_eq!(code, "not_its_own");
    assert!(words.contains("the agent two of mcp-release"), "{words}");
    two.call("release_device", releasing.clone()).await?;

    let person = stand.tenant.object(
        "Isolation",
        "by-hand",
        json!({"target": {"device": DEVICE}, "reason": "by a person"}),
    );
    stand.tenant.admin.create(&person).await?;
    let (code, words) = one.failure("release_device", releasing).await?;
    assert_eq!(code, "not_its_own");
    assert!(words.contains("a person or a GitOps controller"), "{words}");
    assert_eq!(isolations(&stand).await?.len(), 1);
    stand.end().await
}

async fn block() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-block").await?;
    stand.operator.enrol("mcp-block", DEVICE);
    let named = stand
        .agent("named", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let all = json!({"access": "Contain", "targets": {"devices": {"all": true}}});
    let all = stand.agent("all", all, &[]).await?;
    let (named, all) = (stand.modern(&named).await?, stand.client(&all).await?);
    let on = |devices: &[&str]| json!({"destination": "203.0.113.7", "device_ids": devices, "reason": "C2", "ttl": "1h"});
    let fleet = json!({"destination": "203.0.113.7", "fleet": true, "reason": "C2"});

    let answer = named.call("block_destination", on(&[DEVICE])).await?;
    assert_eq!(answer["in_force"], "Everywhere");
    let (code, _) = named.failure("block_destination", fleet.clone()).await?;
    assert_eq!(code, "outside_targets");
    all.call("block_destination", fleet.clone()).await?;
    let again = all.call("block_destination", fleet).await?;
    assert_eq!(again["already_blocked"], true);

    let policies = objects(&stand, "policies").await?;
    assert_eq!(policies.len(), 2);
    for policy in &policies {
        let rules = policy["spec"]["rules"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let sides: Vec<_> = rules
            .iter()
            .map(|rule| (rule["direction"].as_str(), rule["action"].as_str()))
            .collect();
        let deny = Some("Deny");
        assert_eq!(sides, [(Some("Egress"), deny), (Some("Ingress"), deny)]);
        assert_eq!(rules[0]["peers"]["cidrs"], json!(["203.0.113.7/32"]));
        assert_eq!(policy["spec"]["priority"], 10);
    }
    let shown = named
        .call("get_policy", json!({"name": answer["policy"]}))
        .await?;
    assert_eq!(shown["spec"]["subjects"]["devices"]["ids"], json!([DEVICE]));
    assert_eq!(shown["own"], true);

    let unblocking = json!({"destination": "203.0.113.7/32", "reason": "false alarm"});
    let answer = named
        .call("unblock_destination", unblocking.clone())
        .await?;
    assert_eq!(answer["unblocked"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer["still_blocked_by"][0]["written_by"], "agent all");
    all.call("unblock_destination", unblocking).await?;
    assert!(objects(&stand, "policies").await?.is_empty());
    stand.end().await
}

async fn policy() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-policy").await?;
    stand.operator.enrol("mcp-policy", DEVICE);
    let manage = json!({"access": "Manage", "targets": {"devices": {"all": true}}});
    let key = stand.agent("bot", manage, &[]).await?;
    let client = stand.modern(&key).await?;
    let spec = json!({
        "description": "Cameras talk to the recorder only",
        "subjects": {"devices": {"tags": {"kind": "camera"}}},
        "rules": [rule("Allow")],
        "default": {"egress": "Deny"},
    });
    let creating = json!({"name": "cameras", "spec": spec, "reason": "baseline"});
    let answer = client.call("create_policy", creating.clone()).await?;
    assert_eq!(answer["already_there"], false);
    let answer = client.call("create_policy", creating.clone()).await?;
    assert_eq!(answer["already_there"], true);
    let mut other = creating;
    other["spec"]["priority"] = 7.into();
    let (_, words) = client.failure("create_policy", other).await?;
    assert!(words.contains("choose another name"), "{words}");

    let person = stand.tenant.object("Policy", "by-hand", spec);
    stand.tenant.admin.create(&person).await?;
    let disabling = |name: &str| json!({"name": name, "reason": "test"});
    let (code, _) = client
        .failure("disable_policy", disabling("by-hand"))
        .await?;
    assert_eq!(code, "not_its_own");
    let answer = client.call("disable_policy", disabling("cameras")).await?;
    assert_eq!(answer["lifted_everywhere"], true);
    let answer = client.call("disable_policy", disabling("cameras")).await?;
    assert_eq!(answer["already_disabled"], true);
    let listed = client.call("list_policies", json!({})).await?;
    let states: Vec<_> = listed["policies"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|policy| (policy["name"].as_str(), policy["state"].as_str()))
        .collect();
    let expected = [
        (Some("by-hand"), Some("Pending")),
        (Some("cameras"), Some("Disabled")),
    ];
    assert_eq!(states, expected);
    stand.end().await
}

async fn refusals() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-refusals").await?;
    stand.operator.enrol("mcp-refusals", DEVICE);
    stand.operator.enrol("mcp-refusals", OTHER_DEVICE);
    let mut scope = containing(&[DEVICE]);
    scope["limits"]["actionsPerHour"] = 1.into();
    scope["approval"] = json!({"tools": ["block_destination"]});
    let key = stand.agent("bot", scope, &[DEVICE]).await?;
    let client = stand.modern(&key).await?;
    assert!(!client.tools().await?.contains(&"block_destination".into()));
    let allow = json!({"subjects": {"devices": {"ids": [DEVICE]}}, "rules": [rule("Allow")]});
    let blocking = json!({"destination": "203.0.113.7", "device_ids": [DEVICE], "reason": "C2"});
    let mut endless = isolating(DEVICE, "");
    endless
        .as_object_mut()
        .map(|arguments| arguments.remove("ttl"));
    for (tool, arguments, code) in [
        (
            "isolate_device",
            isolating(OTHER_DEVICE, "30m"),
            "outside_targets",
        ),
        ("isolate_device", isolating(DEVICE, "2h"), "too_long"),
        ("isolate_device", endless, "end_required"),
        ("block_destination", blocking, "needs_approval"),
        (
            "create_policy",
            json!({"name": "p", "spec": allow, "reason": "x"}),
            "allow_not_in_scope",
        ),
    ] {
        let (found, words) = client.failure(tool, arguments).await?;
        assert_eq!(found, code, "{words}");
    }
    *stand.operator.protected.lock().expect("not poisoned") = DEVICE.parse().ok();
    let (code, words) = client
        .failure("isolate_device", isolating(DEVICE, "30m"))
        .await?;
    assert_eq!(code, "not_acceptable");
    assert!(words.contains("WouldCutOperator"), "{words}");
    let logged: Vec<_> = stand.operator.logged("refusal");
    assert_eq!(logged.len(), 6, "{logged:?}");
    assert!(isolations(&stand).await?.is_empty());

    *stand.operator.protected.lock().expect("not poisoned") = None;
    client
        .call("isolate_device", isolating(DEVICE, "30m"))
        .await?;
    let releasing = json!({"device_id": DEVICE, "reason": "test"});
    let (code, words) = client.failure("release_device", releasing).await?;
    assert_eq!(code, "actions_per_hour", "{words}");
    assert_eq!(isolations(&stand).await?.len(), 1);
    stand.end().await
}

async fn failed_early() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-failed-early").await?;
    stand.operator.enrol("mcp-failed-early", DEVICE);
    let mut scope = containing(&[DEVICE]);
    scope["limits"]["callsPerMinute"] = 6.into();
    let key = stand.agent("bot", scope, &[DEVICE]).await?;
    let client = stand.modern(&key).await?;
    let mut silent = isolating(DEVICE, "30m");
    silent["reason"] = " ".into();
    let mut endless = isolating(DEVICE, "30m");
    endless["reason"] = "x".repeat(100_000).into();
    let failing = [
        ("isolate_device", isolating(OTHER_DEVICE, "30m")),
        ("isolate_device", isolating(DEVICE, "soon")),
        ("isolate_device", silent),
        ("isolate_device", endless),
        ("release_device", json!({"device_id": DEVICE})),
        ("block_destination", json!({"destination": "everything"})),
    ];
    for (number, (tool, arguments)) in failing.into_iter().enumerate() {
        let (code, words) = client.failure(tool, arguments).await?;
        let logged = stand.operator.logged("refusal");
        assert_eq!(logged.len(), number + 1, "{words}: {logged:?}");
        let data = &logged[number]["data"];
        assert_eq!((&data["tool"], &data["code"]), (&tool.into(), &code.into()));
        assert_eq!(data["why"].as_str(), Some(&*words));
    }
    assert_eq!(stand.operator.logged("intent"), [] as [Value; 0]);
    // From here on it is the rate that refuses, and that is logged once a minute.
    for _ in 0..3 {
        let (code, _) = client
            .failure("isolate_device", isolating(DEVICE, "soon"))
            .await?;
        assert_eq!(code, "calls_per_minute");
    }
    assert_eq!(stand.operator.logged("refusal").len(), 7);
    stand.end().await
}

async fn no_log() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-no-log").await?;
    stand.operator.enrol("mcp-no-log", DEVICE);
    let key = stand.agent("bot", containing(&[DEVICE]), &[DEVICE]).await?;
    let client = stand.client(&key).await?;
    stand.operator.full.store(true, Ordering::Relaxed);
    let (code, words) = client
        .failure("isolate_device", isolating(DEVICE, "30m"))
        .await?;
    assert_eq!(code, "unavailable");
    assert!(
        words.contains("nothing was done, because the audit log"),
        "{words}"
    );
    assert!(isolations(&stand).await?.is_empty());
    client.call("list_devices", json!({})).await?;
    stand.end().await
}
