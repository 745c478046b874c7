//! What agents see: the tools of their scope, devices, pages, what is wrong with a call.

use std::collections::BTreeSet;
use std::time::Duration;

use libtest_mimic::Trial;
use seawall::domain::cluster::{OthersPolicy, Pod};
use seawall::domain::names::{DeviceId, ObjectKey};
use serde_json::{Value, json};

use super::stand::Stand;
use crate::harness::{case, eventually};
use crate::tests::admission::tenant::{DEVICE, OTHER_DEVICE, containing};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "an agent sees the tools of its scope, the same in both eras, and no other tenant's devices",
            tools,
        ),
        case(
            "no list is larger than clients take, and pages hold everything once",
            pages,
        ),
        case("a call that is wrong is told what to write", wrong_calls),
        case(
            "an agent is told who reaches whom of its own pods, and nothing of another tenant's",
            explained,
        ),
        case(
            "reads are in the audit log, and an agent searches its own tenant's part",
            audit,
        ),
    ]
}

async fn tools() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-tools").await?;
    stand.operator.enrol("mcp-tools", DEVICE);
    stand.operator.enrol("elsewhere", OTHER_DEVICE);
    let reads = json!({"access": "Investigate"});
    let reads = stand.agent("reads", reads, &[]).await?;
    let acts = stand
        .agent("acts", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let custom = json!({"access": "Custom", "tools": ["list_devices", "release_device"]});
    let custom = stand.agent("custom", custom, &[]).await?;
    for (key, count) in [(&reads, 9), (&acts, 19), (&custom, 2)] {
        let (old, new) = (stand.client(key).await?, stand.modern(key).await?);
        let tools = old.tools().await?;
        assert_eq!(tools.len(), count, "{tools:?}");
        assert_eq!(new.tools().await?, tools);
        for client in [&old, &new] {
            let answer = client.call("list_devices", json!({})).await?;
            assert_eq!(answer["devices"].as_array().map(Vec::len), Some(1));
            assert_eq!(answer["devices"][0]["id"], DEVICE);
            assert_eq!(answer["devices"][0]["host_name"], "camera");
        }
    }
    let client = stand.modern(&reads).await?;
    let (code, words) = client
        .failure("get_device", json!({"device_id": OTHER_DEVICE}))
        .await?;
    assert_eq!(code, "not_found");
    assert!(words.contains("list_devices"), "{words}");
    let arguments = json!({"device_id": DEVICE, "reason": "not listed, called all the same"});
    let (code, words) = client.failure("isolate_device", arguments).await?;
    assert_eq!(code, "tool_not_in_scope", "{words}");
    assert_eq!(stand.operator.logged("refusal").len(), 1);
    let report = client.call("verify_enforcement", json!({})).await?;
    assert_eq!(
        (&report["asked"], &report["matching"]),
        (&json!(1), &json!(1))
    );
    stand.end().await
}

async fn pages() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-pages").await?;
    let ids: BTreeSet<String> = (0..900)
        .map(|number| DeviceId::from_ulid(ulid::Ulid::from_parts(1, number)).into())
        .collect();
    for id in &ids {
        stand.operator.enrol("mcp-pages", id);
    }
    let key = stand
        .agent("reads", json!({"access": "Investigate"}), &[])
        .await?;
    let client = stand.modern(&key).await?;
    let (mut seen, mut cursor) = (BTreeSet::new(), Value::Null);
    for _ in 0..100 {
        let arguments =
            json!({"limit": 1_000_000, "response_format": "detailed", "cursor": cursor});
        let result = client.ask("list_devices", arguments).await?;
        let size = serde_json::to_vec(&result)?.len();
        assert!(size < 25_000 * 4, "{size} bytes");
        let content = result.structured_content.unwrap_or_default();
        let devices = content["devices"].as_array().cloned().unwrap_or_default();
        for device in devices {
            let id = device["id"].as_str().unwrap_or_default().to_owned();
            assert!(seen.insert(id), "twice: {device}");
        }
        cursor = content["next_cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    assert_eq!(seen, ids);
    stand.end().await
}

async fn wrong_calls() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-wrong").await?;
    stand.operator.enrol("mcp-wrong", DEVICE);
    let key = stand.agent("bot", containing(&[DEVICE]), &[DEVICE]).await?;
    let client = stand.client(&key).await?;
    let id = json!(DEVICE);
    for (tool, arguments, words) in [
        (
            "isolate_device",
            json!({"device_id": id}),
            "needs reason: Why, for the people",
        ),
        (
            "isolate_device",
            json!({"device_id": id, "reason": " "}),
            "reason is blank",
        ),
        (
            "isolate_device",
            json!({"reason": "x"}),
            "needs device_id: The device to isolate",
        ),
        (
            "isolate_device",
            json!({"device_id": "cam-1", "reason": "x"}),
            "list_devices gives the ids",
        ),
        (
            "isolate_device",
            json!({"device_id": OTHER_DEVICE, "reason": "x"}),
            "list_devices gives the ids",
        ),
        (
            "isolate_device",
            json!({"device_id": id, "reason": "x", "ttl": "soon"}),
            "such as 90s, 30m or 24h",
        ),
        (
            "isolate_device",
            json!({"device_id": id, "reason": "x", "force": true}),
            "takes no argument \"force\": it takes",
        ),
        (
            "isolate_device",
            json!({"device_id": 7, "reason": "x"}),
            "can't read device_id: invalid type: integer",
        ),
        (
            "block_destination",
            json!({"destination": "evil.example", "fleet": true, "reason": "x"}),
            "domain names are not taken",
        ),
        (
            "block_destination",
            json!({"destination": "203.0.113.7", "reason": "x"}),
            "give either device_ids",
        ),
        (
            "get_policy",
            json!({"name": "nope"}),
            "list_policies gives the names",
        ),
        (
            "list_devices",
            json!({"cursor": "made up"}),
            "leave it out to begin",
        ),
        (
            "create_policy",
            json!({"name": "p", "reason": "x", "spec": {"subjects": {"all": true}, "rules": [{"name": "r", "direction": "Egress", "action": "Block", "peers": {"any": true}}]}}),
            "spec.rules[0].action",
        ),
    ] {
        let (code, found) = client.failure(tool, arguments.clone()).await?;
        assert!(found.contains(words), "{arguments}: {found}");
        assert!(["invalid", "not_found"].contains(&code.as_str()), "{code}");
    }
    let unknown = client.ask("drop_tables", json!({})).await.err();
    assert!(format!("{unknown:?}").contains("tools/list"), "{unknown:?}");
    assert!(stand.operator.logged("intent").is_empty());
    stand.end().await
}

async fn explained() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-explain").await?;
    let pod = |address: &str| Pod {
        addresses: [address.parse().expect("an address")].into(),
        node: Some("n1".to_owned()),
        ..Pod::default()
    };
    let closed =
        serde_json::from_value(json!({"spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}))?;
    {
        let mut world = stand.operator.world.lock().expect("not poisoned");
        for (namespace, name, address) in [
            ("mcp-explain", "web-0", "10.1.0.1"),
            ("mcp-explain", "db-0", "10.1.0.2"),
            ("elsewhere", "vault-0", "10.1.0.3"),
        ] {
            let key = ObjectKey::new(namespace, name);
            world.pods.insert(key, pod(address));
        }
        for namespace in ["mcp-explain", "elsewhere"] {
            let key = ObjectKey::new(namespace, "closed");
            let closed: OthersPolicy = Clone::clone(&closed);
            world.others_policies.insert(key, closed);
        }
    }
    let key = stand
        .agent("reads", json!({"access": "Investigate"}), &[])
        .await?;
    let client = stand.modern(&key).await?;
    let ask = |to: &str| json!({"from": "pod/mcp-explain/web-0", "to": to, "port": "5432/TCP"});
    let answer = client
        .call("explain_connection", ask("pod/mcp-explain/db-0"))
        .await?;
    assert_eq!(answer["verdict"], "Blocked", "{answer}");
    let step = &answer["paths"][0]["points"][0]["steps"][0];
    assert_eq!(step["resource"], "NetworkPolicy mcp-explain/closed");
    assert_eq!(step["decisive"], true);
    let notes = answer["notes"].to_string();
    assert!(notes.contains("not known from the API"), "{notes}");

    let hidden = client.call("explain_connection", ask("10.1.0.3")).await?;
    assert_eq!(hidden["verdict"], "Unknown", "{hidden}");
    let text = hidden.to_string();
    assert!(
        !text.contains("elsewhere") && !text.contains("vault"),
        "{text}"
    );
    for (to, words) in [
        ("pod/elsewhere/vault-0", "pods of mcp-explain"),
        ("web-0", "pod/NAMESPACE/NAME"),
        ("node/n1", "there is no node/n1"),
    ] {
        let (code, said) = client.failure("explain_connection", ask(to)).await?;
        assert!(code == "invalid" && said.contains(words), "{to}: {said}");
    }
    stand.end().await
}

async fn audit() -> anyhow::Result<()> {
    let stand = Stand::new("mcp-audit").await?;
    let key = stand
        .agent("reads", json!({"access": "Investigate"}), &[])
        .await?;
    let client = stand.modern(&key).await?;
    for _ in 0..5 {
        client.call("list_devices", json!({"limit": 3})).await?;
    }
    eventually("reads in the log", Duration::from_secs(5), || async {
        Ok((stand.operator.logged("read").len() == 5).then_some(()))
    })
    .await?;
    let read = &stand.operator.logged("read")[0];
    assert_eq!(read["actor"]["name"], "mcp-audit/reads");
    let hash = read["data"]["argumentsHash"].as_str().unwrap_or_default();
    assert!(hash.starts_with("hmac-sha256:"), "{read}");
    assert!(!read.to_string().contains("limit"), "{read}");
    let first = client
        .call("search_audit_log", json!({"kind": "read", "limit": 3}))
        .await?;
    let rest = client
        .call(
            "search_audit_log",
            json!({"kind": "read", "limit": 3, "cursor": first["next_cursor"]}),
        )
        .await?;
    let indexes = |page: &Value| -> Vec<u64> {
        let entries = page["entries"].as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .filter_map(|entry| entry["index"].as_u64())
            .collect()
    };
    assert_eq!(indexes(&first), [4, 3, 2]);
    assert_eq!(indexes(&rest)[indexes(&rest).len() - 2..], [1, 0]);
    stand.end().await
}
