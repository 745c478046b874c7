//! That the judgement over a run's rights finds what it is there for: see `crate::rights`.

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::charts::{self, SYSTEM};
use crate::harness::case;
use crate::rights::granted::{Right, granted};
use crate::rights::needs::{self, Needs};
use crate::rights::{AGENT_ROLES, compare};
use crate::run;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a right that no call took, one granted twice and one wider than it was taken are named",
            surplus,
        ),
        case(
            "a call that the chart doesn't grant is named, refused or let through",
            missing,
        ),
        case(
            "what tests ask for with the product's tokens counts for nothing",
            forged,
        ),
        case("agents on nodes are granted nothing", nodes),
    ]
}

const OPERATOR: &str = "seawall-operator/1.2.3";

/// A chart that grants the operator these rules, in its namespace or everywhere.
fn chart(own: Value, everywhere: Value) -> anyhow::Result<Vec<Right>> {
    let account = json!([{"kind": "ServiceAccount", "name": "seawall", "namespace": SYSTEM}]);
    let place = json!({"name": "seawall", "namespace": SYSTEM});
    let mut objects = vec![
        json!({"kind": "Role", "metadata": place, "rules": own}),
        json!({"kind": "RoleBinding", "metadata": place, "subjects": account,
            "roleRef": {"kind": "Role", "name": "seawall"}}),
        json!({"kind": "ClusterRole", "metadata": {"name": "seawall"}, "rules": everywhere}),
        json!({"kind": "ClusterRoleBinding", "metadata": {"name": "seawall"}, "subjects": account,
            "roleRef": {"kind": "ClusterRole", "name": "seawall"}}),
    ];
    objects.extend(
        AGENT_ROLES
            .map(|name| json!({"kind": "ClusterRole", "metadata": {"name": name}, "rules": []})),
    );
    granted(&objects)
}

fn rule(resource: &str, verbs: &[&str]) -> Value {
    json!({"apiGroups": [""], "resources": [resource], "verbs": verbs})
}

/// One line of an API server's audit log.
fn call(verb: &str, resource: &str, namespace: &str, decision: &str, agent: &str) -> Value {
    json!({
        "stage": "ResponseComplete",
        "verb": verb,
        "user": {"username": format!("system:serviceaccount:{SYSTEM}:seawall")},
        "userAgent": agent,
        "objectRef": {"resource": resource, "namespace": namespace, "name": "one"},
        "responseStatus": {"code": if decision == "allow" { 200 } else { 403 }},
        "annotations": {"authorization.k8s.io/decision": decision},
    })
}

fn asked(calls: &[Value]) -> anyhow::Result<Needs> {
    let log = run::scratch("rights")?.join("log");
    let lines: Vec<String> = calls.iter().map(Value::to_string).collect();
    std::fs::write(&log, lines.join("\n") + "\n")?;
    let mut needs = Needs::new();
    needs::read(&log, &mut needs)?;
    Ok(needs)
}

async fn surplus() -> anyhow::Result<()> {
    let mut twice = rule("secrets", &["get"]);
    twice["resourceNames"] = json!(["one"]);
    let own = json!([rule("secrets", &["get", "update"]), twice]);
    let rights = chart(
        own,
        json!([rule("pods", &["list"]), rule("events", &["create"])]),
    )?;
    let needs = asked(&[
        call("get", "secrets", SYSTEM, "allow", OPERATOR),
        call("update", "secrets", SYSTEM, "forbid", OPERATOR),
        call("list", "pods", "", "allow", OPERATOR),
        call("create", "events", SYSTEM, "allow", OPERATOR),
    ])?;
    let found = compare::surplus(&rights, &needs);
    let expected = [
        "used in seawall-system alone: operator: create events everywhere (ClusterRole seawall)",
        "granted twice: operator: get secrets one in seawall-system (Role seawall); also by Role seawall",
        "nobody used: operator: update secrets in seawall-system (Role seawall)",
    ];
    for words in expected {
        ensure!(found.iter().any(|it| it == words), "{words}: {found:#?}");
    }
    ensure!(found.len() == expected.len(), "{found:#?}");
    Ok(())
}

async fn missing() -> anyhow::Result<()> {
    let rights = chart(json!([rule("secrets", &["get"])]), json!([]))?;
    let needs = asked(&[
        // The chart grants it; the stand had taken it away.
        call("get", "secrets", SYSTEM, "forbid", OPERATOR),
        call("list", "secrets", SYSTEM, "forbid", OPERATOR),
        call("get", "secrets", "elsewhere", "allow", OPERATOR),
    ])?;
    let found = compare::missing(&rights, &needs);
    ensure!(found.len() == 2, "{found:#?}");
    for words in [
        "operator asked for: list secrets",
        "in \"elsewhere\" (1 let through",
    ] {
        ensure!(
            found.iter().any(|it| it.contains(words)),
            "{words}: {found:#?}"
        );
    }
    Ok(())
}

async fn forged() -> anyhow::Result<()> {
    let rights = chart(json!([rule("secrets", &["get"])]), json!([]))?;
    let needs = asked(&[
        call("get", "secrets", SYSTEM, "allow", ""),
        call("list", "secrets", SYSTEM, "forbid", "kubectl/v1.36.4"),
    ])?;
    ensure!(compare::missing(&rights, &needs).is_empty());
    let found = compare::surplus(&rights, &needs);
    ensure!(
        found.len() == 1 && found[0].starts_with("nobody used"),
        "{found:#?}"
    );
    Ok(())
}

async fn nodes() -> anyhow::Result<()> {
    let rights = granted(&charts::template(&[]).await?)?;
    let of = |who: &str| rights.iter().filter(|it| it.who.to_string() == who).count();
    ensure!(of("node's agent") == 0, "{rights:#?}");
    ensure!(of("MCP server") == 1, "{rights:#?}");
    ensure!(of("operator") > 30, "{rights:#?}");
    Ok(())
}
