//! Which pods an agent isolates: those that the operator resolved, by name, or all by the scope's selector.

use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::tenant::{Agent, DEVICE, Tenant, containing_pods, in_minutes};
use crate::caller::{assert_refused, assert_refused_by_one};
use crate::harness::{case, eventually};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "an agent isolates the pods of its scope by name, or by the scope's own selector, and no others",
            targets,
        ),
        case(
            "a Custom scope isolates and releases what its tools are for",
            custom,
        ),
        case(
            "as many pods as a scope lists are within what the API server has time and room for",
            many_pods,
        ),
    ]
}

fn of(agent: &Agent, name: &str, workload: Value) -> Value {
    let spec =
        json!({"target": {"workload": workload}, "reason": "test", "expiresAt": in_minutes(30)});
    agent.object("Isolation", name, spec)
}

fn by_labels(labels: Value) -> Value {
    json!({"podSelector": {"matchLabels": labels}})
}

/// With these pods resolved, as the API server has seen.
async fn resolved(tenant: &Tenant, agent: &Agent, pods: &[&str]) -> anyhow::Result<()> {
    let targets = json!({"devices": [DEVICE], "pods": pods});
    tenant.resolve_to(agent, targets).await?;
    let last = pods.last().copied().unwrap_or_default();
    let object = of(agent, "probe", json!({"pod": last}));
    eventually("the resolved pods", Duration::from_secs(5), || async {
        Ok(agent.caller.try_create(&object).await.ok())
    })
    .await?;
    Ok(())
}

async fn targets() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-pods").await?;
    let agent = tenant.agent("bot", containing_pods(), &[DEVICE]).await?;
    resolved(&tenant, &agent, &["web-0", "web-1"]).await?;
    let words = "pod db-0 is not a target of the ApiKeyScope bot";
    let outside = of(&agent, "i", json!({"pod": "db-0"}));
    assert_refused(agent.caller.create(&outside).await, words);
    assert_refused(agent.caller.apply(&outside, "").await, words);
    let words = "target.workload.podSelector must be the targets.workloads.podSelector of the ApiKeyScope bot";
    for labels in [
        json!({"app": "db"}),
        json!({"app": "web", "tier": "front"}),
        json!({"tier": "front"}),
    ] {
        let object = of(&agent, "i", by_labels(labels));
        assert_refused(agent.caller.create(&object).await, words);
    }
    let inside = of(&agent, "inside", json!({"pod": "web-1"}));
    agent.caller.create(&inside).await?;
    let all = of(&agent, "all", by_labels(json!({"app": "web"})));
    agent.caller.create(&all).await?;
    let longer = json!({"spec": {"expiresAt": in_minutes(59)}});
    agent.caller.merge(&inside, "", &longer).await?;
    let words = "allows isolations of at most 1h: give an earlier expiresAt";
    let long = json!({"spec": {"expiresAt": in_minutes(61)}});
    assert_refused(agent.caller.merge(&inside, "", &long).await, words);
    agent.caller.delete(&inside).await?;
    agent.caller.delete(&all).await?;

    // Every device of the tenant is no pod of it.
    let devices = json!({"access": "Manage", "targets": {"devices": {"all": true}}});
    let devices = tenant.agent("devices", devices, &[]).await?;
    for workload in [json!({"pod": "web-0"}), by_labels(json!({"app": "web"}))] {
        let object = of(&devices, "i", workload);
        let either = ["is not a target of", "must be the targets.workloads"];
        assert_refused_by_one(devices.caller.create(&object).await, &either);
    }
    Ok(())
}

async fn custom() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-pods-custom").await?;
    let scope = |tools: &[&str]| {
        let mut scope = containing_pods();
        scope["access"] = "Custom".into();
        scope["tools"] = json!(tools);
        scope
    };
    let isolator = scope(&["isolate_device", "isolate_workload", "release_device"]);
    let isolator = tenant.agent("isolator", isolator, &[DEVICE]).await?;
    resolved(&tenant, &isolator, &["web-0"]).await?;
    let pod = of(&isolator, "i", json!({"pod": "web-0"}));
    isolator.caller.create(&pod).await?;
    let words = "the ApiKeyScope isolator has none of the tools that do this: release_workload";
    assert_refused(isolator.caller.delete(&pod).await, words);
    let device = isolator.isolation("device", DEVICE, 30);
    isolator.caller.create(&device).await?;
    isolator.caller.delete(&device).await?;

    let of_devices = scope(&["isolate_device", "release_workload"]);
    let of_devices = tenant.agent("devices", of_devices, &[DEVICE]).await?;
    tenant
        .resolve_to(&of_devices, json!({"devices": [DEVICE], "pods": ["web-0"]}))
        .await?;
    let words = "the ApiKeyScope devices has none of the tools that do this: isolate_workload";
    let pod = of(&of_devices, "j", json!({"pod": "web-0"}));
    assert_refused(of_devices.caller.create(&pod).await, words);
    let device = of_devices.isolation("k", DEVICE, 30);
    of_devices.caller.create(&device).await?;
    let words = "the ApiKeyScope devices has none of the tools that do this: release_device";
    assert_refused(of_devices.caller.delete(&device).await, words);
    Ok(())
}

async fn many_pods() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-pods-many").await?;
    let agent = tenant.agent("bot", containing_pods(), &[DEVICE]).await?;
    let short: Vec<String> = (0..5_000).map(|n| format!("web-{n:04}")).collect();
    let long: Vec<String> = (0..1_953).map(|n| format!("{n:0253}")).collect();
    let devices: Vec<String> = (0..20_000).map(|n| format!("dev_{n:026}")).collect();
    for pods in [&short, &long] {
        let targets = json!({"devices": devices, "pods": pods});
        tenant.resolve_to(&agent, targets).await?;
        let object = of(&agent, "i", json!({"pod": pods.last()}));
        eventually("the last of them", Duration::from_secs(10), || async {
            Ok(agent.caller.try_create(&object).await.ok())
        })
        .await?;
    }
    Ok(())
}
