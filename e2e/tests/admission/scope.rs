//! The API server holds an agent to its ApiKeyScope, whatever our own code lets through: every agent here is
//! bound to the widest role.

use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::tenant::{DEVICE, OTHER_DEVICE, Tenant, containing, denying, in_minutes};
use crate::caller::{assert_refused, assert_refused_by_one};
use crate::harness::{case, eventually};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "an agent isolates the devices of its scope and no others",
            targets,
        ),
        case(
            "an agent's isolation ends within the scope's longest, and can't be prolonged",
            longest,
        ),
        case(
            "a scope that was changed counts when the operator has resolved it again",
            stale,
        ),
        case(
            "a disabled scope and one that reads write nothing",
            disabled_or_reading,
        ),
        case(
            "an agent neither changes nor deletes what others wrote",
            others,
        ),
        case(
            "an agent writes in its own namespace only, even where a binding lets it",
            other_namespace,
        ),
        case(
            "an agent sets no finalizers and no owner references",
            metadata,
        ),
    ]
}

fn spec(target: Value) -> Value {
    json!({"target": target, "reason": "test", "expiresAt": in_minutes(30)})
}

async fn targets() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-targets").await?;
    let agent = tenant
        .agent("bot", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let everybody = json!({"access": "Contain", "targets": {"devices": {"all": true}}});
    let all = tenant.agent("all", everybody, &[]).await?;
    let none = tenant
        .agent("none", containing(&[DEVICE]), &[DEVICE])
        .await?;

    let words = format!("{OTHER_DEVICE} is not a target of the ApiKeyScope bot");
    let outside = agent.isolation("outside", OTHER_DEVICE, 30);
    assert_refused(agent.caller.create(&outside).await, &words);
    assert_refused(agent.caller.apply(&outside, "").await, &words);
    let node = agent.object("Isolation", "i", spec(json!({"node": "worker-1"})));
    let words = "agents isolate devices and workloads and suspend users, and nothing else";
    assert_refused(agent.caller.create(&node).await, words);
    let pod = json!({"workload": {"pod": "web-0"}});
    let object = agent.object("Isolation", "i", spec(pod));
    let words = "pod web-0 is not a target of the ApiKeyScope bot";
    assert_refused(agent.caller.create(&object).await, words);
    agent
        .caller
        .create(&agent.isolation("inside", DEVICE, 30))
        .await?;
    all.caller
        .create(&all.isolation("anywhere", OTHER_DEVICE, 30))
        .await?;

    // The targets are what the operator resolved, not what the scope asks for.
    tenant.resolve(&none, &[]).await?;
    let object = none.isolation("i", DEVICE, 30);
    refused_soon(&none, &object, "is not a target of").await
}

async fn refused_soon(
    agent: &super::tenant::Agent,
    object: &Value,
    words: &str,
) -> anyhow::Result<()> {
    eventually(words, Duration::from_secs(5), || async {
        let refused = agent.caller.try_create(object).await.err();
        Ok(refused.filter(|refusal| refusal.message.contains(words)))
    })
    .await?;
    Ok(())
}

async fn longest() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-longest").await?;
    let agent = tenant
        .agent("bot", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let mut endless = agent.isolation("endless", DEVICE, 1);
    endless["spec"]
        .as_object_mut()
        .expect("a map")
        .remove("expiresAt");
    let words = "allows isolations of at most 1h: give expiresAt";
    assert_refused(agent.caller.create(&endless).await, words);
    let words = "allows isolations of at most 1h: give an earlier expiresAt";
    let long = agent.isolation("long", DEVICE, 61);
    assert_refused(agent.caller.create(&long).await, words);
    let exactly = agent.isolation("exactly", DEVICE, 60);
    agent.caller.create(&exactly).await?;

    let object = agent.isolation("i", DEVICE, 30);
    agent.caller.create(&object).await?;
    let until = |minutes| json!({"spec": {"expiresAt": in_minutes(minutes)}});
    assert_refused(agent.caller.merge(&object, "", &until(61)).await, words);
    let words = "give expiresAt";
    let never = json!({"spec": {"expiresAt": null}});
    assert_refused(agent.caller.merge(&object, "", &never).await, words);
    agent.caller.merge(&object, "", &until(59)).await?;
    agent.caller.delete(&object).await?;
    Ok(())
}

async fn stale() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-stale").await?;
    let agent = tenant
        .agent("bot", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let object = agent.isolation("i", DEVICE, 30);
    let change = json!({"limits": {"maxIsolation": "2h"}});
    tenant
        .change_scope(&agent, change, &object, "is not a target of")
        .await?;
    tenant.resolve(&agent, &[DEVICE]).await?;
    eventually("the new targets", Duration::from_secs(5), || async {
        Ok(agent.caller.try_create(&object).await.ok())
    })
    .await?;
    Ok(())
}

async fn disabled_or_reading() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-disabled").await?;
    let agent = tenant
        .agent("bot", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let object = agent.isolation("i", DEVICE, 30);
    agent.caller.create(&object).await?;
    let another = agent.isolation("another", DEVICE, 30);
    let words = "the ApiKeyScope bot is disabled";
    let disabled = json!({"disabled": true});
    tenant
        .change_scope(&agent, disabled, &another, words)
        .await?;
    assert_refused(agent.caller.delete(&object).await, words);
    let policy = agent.policy("p", json!({"devices": {"ids": [DEVICE]}}));
    assert_refused(agent.caller.create(&policy).await, words);

    let words = "the ApiKeyScope bot has access Investigate, which only reads";
    let reading = json!({"disabled": false, "access": "Investigate"});
    tenant
        .admin
        .merge(
            &tenant.object("ApiKeyScope", "bot", json!({})),
            "",
            &json!({"spec": reading}),
        )
        .await?;
    refused_soon(&agent, &another, words).await?;
    assert_refused(agent.caller.delete(&object).await, words);
    assert_refused(agent.caller.create(&policy).await, words);
    agent.caller.get(&object).await?;
    Ok(())
}

async fn others() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-others").await?;
    let agent = tenant
        .agent("bot", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let other = tenant
        .agent("other", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let by_person = tenant.object("Isolation", "by-person", spec(json!({"device": DEVICE})));
    tenant.admin.create(&by_person).await?;
    let policy = denying(json!({"devices": {"ids": [DEVICE]}}));
    let policy_by_person = tenant.object("Policy", "by-person", policy);
    tenant.admin.create(&policy_by_person).await?;
    let by_other = other.isolation("by-other", DEVICE, 30);
    other.caller.create(&by_other).await?;

    let words = "an agent changes and deletes only what it wrote itself";
    for object in [&by_person, &policy_by_person, &by_other] {
        assert_refused(agent.caller.delete(object).await, words);
        let mut taken = object.clone();
        taken["metadata"]["annotations"] =
            agent.isolation("i", DEVICE, 1)["metadata"]["annotations"].clone();
        assert_refused(agent.caller.apply(&taken, "").await, words);
        let label = json!({"metadata": {"labels": {"a": "b"}}});
        // The object isn't stamped as the agent's either.
        let either = [words, "an agent writes with the annotations"];
        assert_refused_by_one(agent.caller.merge(object, "", &label).await, &either);
    }
    Ok(())
}

async fn other_namespace() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-tenant").await?;
    let scope = json!({"access": "Manage", "targets": {"devices": {"all": true}}});
    let agent = tenant.agent("bot", scope, &[]).await?;
    let mut outside = agent.isolation("i", DEVICE, 30);
    outside["metadata"]["namespace"] = json!("default");
    assert_refused(
        agent.caller.create(&outside).await,
        "cannot create resource",
    );

    let binding = tenant.binding(&agent, "seawall-agent-manage", "default");
    let words = "the operator binds the agents of a namespace in that namespace";
    assert_refused(tenant.operator.create(&binding).await, words);
    tenant.admin.create(&binding).await?;
    let words = "an agent acts in the namespace of its own ApiKeyScope, not in default";
    refused_soon(&agent, &outside, words).await?;
    tenant.admin.delete(&binding).await?;
    Ok(())
}

async fn metadata() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-metadata").await?;
    let agent = tenant
        .agent("bot", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let words = "an agent sets no finalizers and no owner references";
    let mut finalizer = agent.isolation("i", DEVICE, 30);
    finalizer["metadata"]["finalizers"] = json!(["example.com/stay"]);
    assert_refused(agent.caller.create(&finalizer).await, words);
    let mut owned = agent.isolation("i", DEVICE, 30);
    owned["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "00000000-0000-0000-0000-000000000000"},
    ]);
    assert_refused(agent.caller.create(&owned).await, words);
    Ok(())
}
