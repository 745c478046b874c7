//! Who writes an ApiKeyScope holds what it grants.

use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::tenant::{DEVICE, Tenant, containing};
use crate::caller::assert_refused;
use crate::harness::{case, eventually};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a scope that grants more than its writer holds is refused, and one that does not is accepted",
            creates,
        ),
        case(
            "a scope is not widened by who holds less, and anybody who may write it disables it",
            updates,
        ),
        case(
            "an agent writes no ApiKeyScope, whatever it is bound to",
            agents,
        ),
    ]
}

/// A ClusterRole with the right to write scopes and some others.
async fn role(tenant: &Tenant, name: &str, rights: &[(&str, &[&str])]) -> anyhow::Result<()> {
    let mut rules = vec![json!({
        "apiGroups": ["seawall.dev"],
        "resources": ["apikeyscopes"],
        "verbs": ["get", "create", "update", "patch", "delete"],
    })];
    rules.extend(rights.iter().map(|(resource, verbs)| {
        json!({"apiGroups": ["seawall.dev"], "resources": [resource], "verbs": verbs})
    }));
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": rules,
    });
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    tenant
        .admin
        .send(http::Method::POST, path, "application/json", &role)
        .await?;
    Ok(())
}

const ALL: &[&str] = &[
    "get", "list", "watch", "create", "update", "patch", "delete",
];
const READ: &[&str] = &["get", "list", "watch"];

async fn creates() -> anyhow::Result<()> {
    let tenant = Tenant::new("writers").await?;
    role(&tenant, "scopes-only", &[]).await?;
    role(
        &tenant,
        "scopes-read",
        &[("policies", READ), ("isolations", READ)],
    )
    .await?;
    role(
        &tenant,
        "scopes-isolate",
        &[("policies", READ), ("isolations", ALL)],
    )
    .await?;
    let nothing = tenant.person("nils", "scopes-only").await?;
    let reader = tenant.person("rita", "scopes-read").await?;
    let isolator = tenant.person("ines", "scopes-isolate").await?;
    let administrator = tenant.person("ada", "admin").await?;

    let scope = |spec: Value| tenant.object("ApiKeyScope", "s", spec);
    let investigate = scope(json!({"access": "Investigate"}));
    let contain = scope(json!({"access": "Contain"}));
    let manage = scope(json!({"access": "Manage"}));
    let reading = scope(json!({"access": "Custom", "tools": ["list_devices", "search_audit_log"]}));
    let writing = scope(json!({"access": "Custom", "tools": ["list_devices", "isolate_device"]}));
    let unknown = scope(json!({"access": "Custom", "tools": ["tool_of_tomorrow"]}));

    let words =
        "this ApiKeyScope grants more than its writer holds: nils may not get policies in writers";
    assert_refused(nothing.try_create(&investigate).await, words);
    let words = "rita may not create isolations in writers";
    for object in [&contain, &manage, &writing, &unknown] {
        assert_refused(reader.try_create(object).await, words);
    }
    let words = "ines may not create policies in writers";
    for object in [&contain, &manage, &writing] {
        assert_refused(isolator.try_create(object).await, words);
    }
    reader.try_create(&investigate).await?;
    reader.try_create(&reading).await?;
    for object in [
        &investigate,
        &contain,
        &manage,
        &reading,
        &writing,
        &unknown,
    ] {
        administrator.try_create(object).await?;
    }
    // Rights in one namespace are none in another.
    let mut elsewhere = investigate;
    elsewhere["metadata"]["namespace"] = json!("default");
    assert_refused(administrator.try_create(&elsewhere).await, "forbidden");
    Ok(())
}

async fn updates() -> anyhow::Result<()> {
    let tenant = Tenant::new("writers-later").await?;
    role(
        &tenant,
        "scopes-later",
        &[("policies", READ), ("isolations", READ)],
    )
    .await?;
    let reader = tenant.person("rosa", "scopes-later").await?;
    let scope = tenant.object("ApiKeyScope", "s", containing(&[DEVICE]));
    tenant.admin.create(&scope).await?;

    let words = "this ApiKeyScope grants more than its writer holds";
    let spec = |spec: Value| json!({ "spec": spec });
    for change in [
        json!({"limits": {"maxIsolation": "999h"}}),
        json!({"limits": null}),
        json!({"targets": {"devices": {"ids": [], "all": true}}}),
        json!({"credentials": {"keyHashes": [format!("sha256:{}", "0".repeat(64))]}}),
        json!({"access": "Manage"}),
        json!({"expiresAt": "2099-01-01T00:00:00Z"}),
    ] {
        assert_refused(reader.merge(&scope, "", &spec(change)).await, words);
    }
    let label = json!({"metadata": {"labels": {"team": "soc"}}});
    reader.merge(&scope, "", &label).await?;
    reader
        .merge(&scope, "", &spec(json!({"disabled": true})))
        .await?;
    let enable = spec(json!({"disabled": false}));
    assert_refused(reader.merge(&scope, "", &enable).await, words);
    reader
        .merge(
            &scope,
            "",
            &spec(json!({"disabled": false, "access": "Investigate"})),
        )
        .await?;
    reader.delete(&scope).await?;
    Ok(())
}

async fn agents() -> anyhow::Result<()> {
    let tenant = Tenant::new("writers-agents").await?;
    let scope = json!({"access": "Manage", "targets": {"devices": {"all": true}}});
    let agent = tenant.agent("bot", scope, &[]).await?;
    // An administrator's mistake.
    tenant
        .admin
        .create(&tenant.binding(&agent, "admin", "writers-agents"))
        .await?;
    let object = agent.object("ApiKeyScope", "more", json!({"access": "Manage"}));
    let limit = Duration::from_secs(5);
    eventually("the binding to be seen", limit, || async {
        let refused = agent.caller.try_create(&object).await.err();
        Ok(refused.filter(|refusal| !refusal.message.contains("cannot create resource")))
    })
    .await?;
    let words = "agents write policies and isolations, and nothing else";
    assert_refused(agent.caller.create(&object).await, words);
    Ok(())
}
