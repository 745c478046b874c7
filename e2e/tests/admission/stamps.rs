//! Nobody forges, changes or removes the stamp of who wrote an object.

use libtest_mimic::Trial;
use seawall::api::stamps::{SOURCE, SOURCE_MCP_AGENT, WRITTEN_BY};
use serde_json::{Value, json};

use super::tenant::{DEVICE, Tenant, containing, in_minutes, stamped};
use crate::caller::assert_refused;
use crate::harness::case;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a person can't forge an agent's stamp, not even half of it",
            forged_by_a_person,
        ),
        case(
            "nobody sets, changes or removes the stamp of an object that is there",
            changed_later,
        ),
        case(
            "a status can't carry a stamp past the policy",
            through_the_status,
        ),
        case(
            "an agent can't write without its stamp, nor with another's",
            forged_by_an_agent,
        ),
    ]
}

fn isolation(tenant: &Tenant, name: &str) -> Value {
    let spec = json!({"target": {"device": DEVICE}, "reason": "test"});
    tenant.object("Isolation", name, spec)
}

async fn forged_by_a_person() -> anyhow::Result<()> {
    let tenant = Tenant::new("stamps-person").await?;
    let words = "only AI agents' writes carry the annotations";
    for annotations in [
        json!({SOURCE: SOURCE_MCP_AGENT, WRITTEN_BY: "system:serviceaccount:seawall-agents:stamps-person.bot"}),
        json!({SOURCE: SOURCE_MCP_AGENT}),
        json!({SOURCE: ""}),
        json!({WRITTEN_BY: "admin"}),
    ] {
        let mut object = isolation(&tenant, "forged");
        object["metadata"]["annotations"] = annotations;
        assert_refused(tenant.admin.create(&object).await, words);
        assert_refused(tenant.admin.apply(&object, "").await, words);
    }
    let mut scope = tenant.object("ApiKeyScope", "bot", json!({"access": "Investigate"}));
    scope["metadata"]["annotations"] = json!({WRITTEN_BY: "admin"});
    assert_refused(tenant.admin.create(&scope).await, words);
    tenant.admin.create(&isolation(&tenant, "plain")).await?;
    Ok(())
}

async fn changed_later() -> anyhow::Result<()> {
    let tenant = Tenant::new("stamps-later").await?;
    let agent = tenant
        .agent("bot", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let other = tenant
        .agent("other", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let by_agent = agent.isolation("by-agent", DEVICE, 30);
    agent.caller.create(&by_agent).await?;
    let by_person = isolation(&tenant, "by-person");
    tenant.admin.create(&by_person).await?;

    let words = "say who made this object: leave them as they are";
    let annotate = |value: Value| json!({"metadata": {"annotations": value}});
    for (object, annotations) in [
        (&by_agent, json!({WRITTEN_BY: null})),
        (&by_agent, json!({SOURCE: null, WRITTEN_BY: null})),
        (&by_agent, json!({WRITTEN_BY: other.user})),
        (&by_agent, json!({SOURCE: "people"})),
        (
            &by_person,
            json!({SOURCE: SOURCE_MCP_AGENT, WRITTEN_BY: agent.user}),
        ),
    ] {
        let patch = annotate(annotations);
        assert_refused(tenant.admin.merge(object, "", &patch).await, words);
    }
    let removed = json!({"metadata": {"annotations": null}, "spec": {"reason": "another"}});
    assert_refused(tenant.admin.merge(&by_agent, "", &removed).await, words);

    let words = "an agent writes with the annotations";
    let unstamp = annotate(json!({SOURCE: null, WRITTEN_BY: null}));
    assert_refused(agent.caller.merge(&by_agent, "", &unstamp).await, words);
    let words = "an agent changes and deletes only what it wrote itself";
    let take = annotate(json!({WRITTEN_BY: other.user}));
    assert_refused(other.caller.merge(&by_agent, "", &take).await, words);

    // What a person may: change the rest, and delete.
    let reason = json!({"spec": {"reason": "confirmed by a person"}});
    tenant.admin.merge(&by_agent, "", &reason).await?;
    tenant.admin.delete(&by_agent).await?;
    Ok(())
}

async fn through_the_status() -> anyhow::Result<()> {
    let tenant = Tenant::new("stamps-status").await?;
    let object = isolation(&tenant, "i");
    tenant.admin.create(&object).await?;
    let patch = json!({
        "metadata": {"annotations": {SOURCE: SOURCE_MCP_AGENT, WRITTEN_BY: "somebody"}},
        "status": {"phase": "Isolated"},
    });
    // The API server takes nothing but the status here; should that change, the policy refuses.
    let after = match tenant.admin.merge(&object, "/status", &patch).await {
        Ok(after) => after,
        Err(refusal) => {
            assert!(refusal.message.contains("seawall-stamps"), "{refusal}");
            tenant.admin.get(&object).await?
        }
    };
    assert!(after["metadata"]["annotations"].is_null(), "{after}");
    Ok(())
}

async fn forged_by_an_agent() -> anyhow::Result<()> {
    let tenant = Tenant::new("stamps-agent").await?;
    let agent = tenant
        .agent("bot", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let words = "an agent writes with the annotations";
    let mut object = isolation(&tenant, "i");
    object["spec"]["expiresAt"] = json!(in_minutes(10));
    assert_refused(agent.caller.create(&object).await, words);
    for user in [
        "system:serviceaccount:seawall-agents:stamps-agent.other",
        "admin",
        "",
    ] {
        let object = stamped(object.clone(), user);
        assert_refused(agent.caller.create(&object).await, words);
    }
    let mut half = stamped(object.clone(), &agent.user);
    half["metadata"]["annotations"][SOURCE] = json!("a person");
    assert_refused(agent.caller.create(&half).await, words);
    agent.caller.create(&stamped(object, &agent.user)).await?;
    Ok(())
}
