//! What an agent's policies may say and whom they may be about, by its ApiKeyScope.

use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::tenant::{DEVICE, OTHER_DEVICE, Tenant, containing, rule};
use crate::caller::assert_refused;
use crate::harness::case;

pub fn all() -> Vec<Trial> {
    vec![
        case("a Contain scope only tightens", tightening),
        case(
            "an agent's policy reaches no further than the scope's targets",
            subjects,
        ),
        case(
            "an agent's default of Deny ends when the scope's isolations have to",
            default_of_deny,
        ),
        case("a Manage scope allows, for its targets", managing),
        case(
            "an agent turns off and deletes what it wrote, also when its scope was narrowed",
            narrowed,
        ),
        case("a Custom scope writes what its tools write", custom),
        case(
            "twenty thousand targets are within what the API server has time for",
            many_targets,
        ),
    ]
}

async fn tightening() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-tightening").await?;
    let agent = tenant
        .agent("bot", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let subjects = json!({"devices": {"ids": [DEVICE]}});
    let policy = |name: &str, rest: Value| {
        let mut object = agent.object("Policy", name, rest);
        object["spec"]["subjects"] = subjects.clone();
        object
    };
    let words = "the ApiKeyScope bot may only tighten; its rules have the action Deny or Audit";
    let allow = policy("allow", json!({"rules": [rule("Allow")]}));
    assert_refused(agent.caller.create(&allow).await, words);
    let words = "the ApiKeyScope bot may only tighten; its defaults are Deny";
    for default in [
        json!({"egress": "Allow"}),
        json!({"ingress": "Allow", "egress": "Deny"}),
    ] {
        let object = policy(
            "default",
            json!({"rules": [rule("Deny")], "default": default}),
        );
        assert_refused(agent.caller.create(&object).await, words);
    }
    let tight = policy(
        "tight",
        json!({"rules": [rule("Audit")], "default": {"ingress": "Deny"}, "mode": "Observe"}),
    );
    agent.caller.create(&tight).await?;
    let words = "may only tighten; its rules";
    let loosened = json!({"spec": {"rules": [rule("Allow")]}});
    assert_refused(agent.caller.merge(&tight, "", &loosened).await, words);
    let disabled = json!({"spec": {"disabled": true}});
    agent.caller.merge(&tight, "", &disabled).await?;
    agent.caller.delete(&tight).await?;
    Ok(())
}

async fn default_of_deny() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-default-deny").await?;
    let mut scope = containing(&[DEVICE]);
    scope["limits"] = json!({"maxIsolation": "1h"});
    let agent = tenant.agent("bot", scope, &[DEVICE]).await?;
    let policy = |name: &str, end: Option<i64>, mode: &str| {
        let end = end.map(in_minutes);
        let mut spec = json!({
            "subjects": {"devices": {"ids": [DEVICE]}},
            "default": {"egress": "Deny"},
            "mode": mode,
        });
        if let Some(end) = end {
            spec["expiresAt"] = end.into();
        }
        agent.object("Policy", name, spec)
    };
    let endless = policy("endless", None, "Enforce");
    let words =
        "the ApiKeyScope bot allows a Deny by default or of devices for at most 1h: give expiresAt";
    assert_refused(agent.caller.create(&endless).await, words);
    let late = policy("late", Some(65), "Enforce");
    let words = "allows a Deny by default or of devices for at most 1h: give an earlier expiresAt";
    assert_refused(agent.caller.create(&late).await, words);
    let mut of_devices = policy("of-devices", None, "Enforce");
    of_devices["spec"]["default"] = Value::Null;
    of_devices["spec"]["rules"] = json!([{
        "name": "others", "direction": "Egress", "action": "Deny",
        "peers": {"devices": {"tags": {"kind": "camera"}}},
    }]);
    assert_refused(agent.caller.create(&of_devices).await, "give expiresAt");
    let observed = policy("observed", None, "Observe");
    agent.caller.create(&observed).await?;
    let words = "allows a Deny by default or of devices for at most 1h: give expiresAt";
    let enforced = json!({"spec": {"mode": "Enforce"}});
    assert_refused(agent.caller.merge(&observed, "", &enforced).await, words);
    let short = policy("short", Some(55), "Enforce");
    agent.caller.create(&short).await?;
    let prolonged = json!({"spec": {"expiresAt": in_minutes(90)}});
    let words = "give an earlier expiresAt";
    assert_refused(agent.caller.merge(&short, "", &prolonged).await, words);
    agent.caller.delete(&short).await?;
    Ok(())
}

fn in_minutes(minutes: i64) -> String {
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(minutes);
    end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn subjects() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-subjects").await?;
    let by_id = tenant
        .agent("by-id", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let tagged = json!({"access": "Contain", "targets": {"devices": {"tags": {"kind": "camera", "site": "north"}}}});
    let by_tag = tenant.agent("by-tag", tagged, &[DEVICE]).await?;
    let pods = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    let workloads =
        json!({"access": "Contain", "targets": {"devices": {"ids": [DEVICE]}, "workloads": pods}});
    let by_pod = tenant.agent("by-pod", workloads, &[DEVICE]).await?;
    let everybody = json!({"access": "Contain", "targets": {"devices": {"all": true}}});
    let all = tenant.agent("all", everybody, &[]).await?;

    let ids = json!({"devices": {"ids": [DEVICE]}});
    let camera = json!({"devices": {"tags": {"kind": "camera", "site": "north", "floor": "2"}}});
    let web = json!({ "workloads": pods });
    let wider = "does not act on every device, so name devices in subjects";
    let outside = "subjects.devices.ids has a device that is not a target of";
    let tags = "subjects.devices.tags must hold every tag of the targets of";
    let trust = "subjects.devices.trustLevels without tags selects more than the targets of";
    let pods_words = "subjects.workloads must be the targets.workloads of";
    for (agent, subjects, words) in [
        (&by_id, json!({"all": true}), wider),
        (&by_id, json!({"users": {"ids": ["alice"]}}), wider),
        (
            &by_id,
            json!({"applications": [{"unit": "ssh.service"}]}),
            wider,
        ),
        (
            &by_id,
            json!({"devices": {"ids": [DEVICE, OTHER_DEVICE]}}),
            outside,
        ),
        (&by_id, camera.clone(), tags),
        (
            &by_id,
            json!({"devices": {"ids": [DEVICE], "trustLevels": ["Restricted"]}}),
            trust,
        ),
        (&by_id, web.clone(), pods_words),
        (
            &by_tag,
            json!({"devices": {"tags": {"kind": "camera"}}}),
            tags,
        ),
        (
            &by_tag,
            json!({"devices": {"tags": {"kind": "camera", "site": "south"}}}),
            tags,
        ),
        (
            &by_pod,
            json!({"workloads": {"podSelector": {"matchLabels": {"app": "db"}}}}),
            pods_words,
        ),
    ] {
        let object = agent.policy("p", subjects);
        assert_refused(agent.caller.try_create(&object).await, words);
    }
    for (agent, subjects) in [
        (&by_id, ids.clone()),
        (
            &by_id,
            json!({"devices": {"ids": [DEVICE]}, "users": {"ids": ["alice"]}}),
        ),
        (&by_tag, ids),
        (&by_tag, camera),
        (&by_pod, web.clone()),
        (&all, json!({"all": true})),
        (&all, json!({"devices": {"trustLevels": ["Restricted"]}})),
    ] {
        agent
            .caller
            .try_create(&agent.policy("p", subjects))
            .await?;
    }
    let beyond = all.policy("p", web);
    assert_refused(all.caller.try_create(&beyond).await, pods_words);
    Ok(())
}

async fn managing() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-manage").await?;
    let scope = json!({"access": "Manage", "targets": {"devices": {"ids": [DEVICE]}}});
    let agent = tenant.agent("bot", scope, &[DEVICE]).await?;
    let allowing = |device: &str| {
        let spec = json!({
            "subjects": {"devices": {"ids": [device]}},
            "rules": [rule("Allow")],
            "default": {"egress": "Allow"},
        });
        agent.object("Policy", "p", spec)
    };
    let words = "has a device that is not a target of";
    assert_refused(agent.caller.create(&allowing(OTHER_DEVICE)).await, words);
    agent.caller.create(&allowing(DEVICE)).await?;
    Ok(())
}

async fn narrowed() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-narrowed").await?;
    let scope = json!({"access": "Manage", "targets": {"devices": {"all": true}}});
    let agent = tenant.agent("bot", scope, &[]).await?;
    let spec = json!({"subjects": {"all": true}, "rules": [rule("Allow")]});
    let policy = agent.object("Policy", "p", spec);
    agent.caller.create(&policy).await?;

    let narrow =
        json!({"access": "Contain", "targets": {"devices": {"all": false, "ids": [DEVICE]}}});
    let words = "may only tighten; its rules";
    tenant.change_scope(&agent, narrow, &policy, words).await?;
    let spec = |spec: Value| json!({ "spec": spec });
    let sooner = spec(json!({"priority": 1}));
    assert_refused(agent.caller.merge(&policy, "", &sooner).await, words);
    let other = spec(
        json!({"disabled": true, "rules": [rule("Allow"), {"name": "s", "direction": "Ingress", "action": "Allow", "peers": {"any": true}}]}),
    );
    assert_refused(agent.caller.merge(&policy, "", &other).await, words);
    let off = spec(json!({"disabled": true}));
    agent.caller.merge(&policy, "", &off).await?;
    let on = spec(json!({"disabled": false}));
    assert_refused(agent.caller.merge(&policy, "", &on).await, words);
    agent.caller.delete(&policy).await?;
    Ok(())
}

async fn custom() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-custom").await?;
    let scope = |tools: &[&str]| json!({"access": "Custom", "tools": tools, "targets": {"devices": {"all": true}}});
    let isolator = tenant
        .agent("isolator", scope(&["isolate_device"]), &[])
        .await?;
    let blocker = tenant
        .agent(
            "blocker",
            scope(&["isolate_device", "block_destination"]),
            &[],
        )
        .await?;
    let writer = tenant
        .agent("writer", scope(&["isolate_device", "create_policy"]), &[])
        .await?;
    let everybody = json!({"all": true});

    let isolation = isolator.isolation("i", DEVICE, 30);
    isolator.caller.create(&isolation).await?;
    let words = "the ApiKeyScope isolator has none of the tools that do this: release_device";
    assert_refused(isolator.caller.delete(&isolation).await, words);
    let words = "has none of the tools that do this: create_policy, block_destination";
    let policy = isolator.policy("p", everybody.clone());
    assert_refused(isolator.caller.create(&policy).await, words);

    let block = blocker.policy("block", everybody.clone());
    blocker.caller.create(&block).await?;
    let words = "has none of the tools that do this: create_policy, unblock_destination";
    assert_refused(blocker.caller.delete(&block).await, words);
    let allow = json!({"subjects": everybody, "rules": [rule("Allow")]});
    let by_blocker = blocker.object("Policy", "allow", allow.clone());
    assert_refused(blocker.caller.create(&by_blocker).await, "may only tighten");
    let by_writer = writer.object("Policy", "allow", allow);
    writer.caller.create(&by_writer).await?;
    writer.caller.delete(&by_writer).await?;
    Ok(())
}

async fn many_targets() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-many").await?;
    let devices: Vec<String> = (0..20_000).map(|n| format!("dev_{n:026}")).collect();
    let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
    let tagged = json!({"access": "Contain", "targets": {"devices": {"tags": {"kind": "camera"}}}});
    let agent = tenant.agent("bot", tagged, &devices).await?;
    let last = devices[devices.len() - 1];
    agent
        .caller
        .try_create(&agent.isolation("i", last, 30))
        .await?;
    let policy = |ids: &[&str]| agent.policy("p", json!({"devices": {"ids": ids}}));
    let twenty = &devices[devices.len() - 20..];
    agent.caller.try_create(&policy(twenty)).await?;
    let words = "too many devices in one policy";
    let more = policy(&devices[..21]);
    assert_refused(agent.caller.try_create(&more).await, words);
    Ok(())
}
