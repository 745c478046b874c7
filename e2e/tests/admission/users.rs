//! Which users an agent suspends: those that its scope names, by every name that it gives.

use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::tenant::{Agent, DEVICE, Tenant, containing, containing_users, in_minutes};
use crate::caller::assert_refused;
use crate::harness::{case, eventually};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "an agent suspends the users of its scope, by names of its scope, and no others",
            targets,
        ),
        case(
            "no scope lets an agent suspend the cluster's own users, root, or itself",
            protected,
        ),
        case(
            "a Custom scope suspends and restores what its tools are for",
            custom,
        ),
        case(
            "as many users as a scope lists are within what the API server has time for",
            many,
        ),
        case("a scope names users as they can be suspended", scopes),
    ]
}

fn suspending(agent: &Agent, name: &str, user: &str, names: Value) -> Value {
    let mut spec = json!({"target": {"user": user}, "reason": "test", "expiresAt": in_minutes(30)});
    if !names.is_null() {
        spec["userNames"] = names;
    }
    agent.object("Isolation", name, spec)
}

async fn targets() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-users").await?;
    let bot = containing_users(&["mallory", "m.smith"]);
    let bot = tenant.agent("bot", bot, &[DEVICE]).await?;
    let devices = json!({"access": "Manage", "targets": {"devices": {"all": true}}});
    let devices = tenant.agent("devices", devices, &[]).await?;
    for (user, names, outside) in [
        ("alice", Value::Null, "alice"),
        ("alice", json!({"os": ["mallory"]}), "alice"),
        ("mallory", json!({"os": ["alice"]}), "alice"),
        ("mallory", json!({"kubernetes": ["m.smith", "bob"]}), "bob"),
        ("mallory", json!({"seawall": ["other-bot"]}), "other-bot"),
        ("Mallory", Value::Null, "Mallory"),
    ] {
        let object = suspending(&bot, "i", user, names);
        let words = format!("user {outside} is not a target of the ApiKeyScope bot");
        assert_refused(bot.caller.create(&object).await, &words);
        assert_refused(bot.caller.apply(&object, "").await, &words);
    }
    let object = suspending(&devices, "i", "mallory", Value::Null);
    let words = "user mallory is not a target of the ApiKeyScope devices";
    assert_refused(devices.caller.create(&object).await, words);

    let plain = suspending(&bot, "plain", "mallory", Value::Null);
    bot.caller.create(&plain).await?;
    let names = json!({"os": ["m.smith"], "kubernetes": ["mallory", "m.smith"], "seawall": []});
    let named = suspending(&bot, "named", "mallory", names);
    bot.caller.create(&named).await?;
    let longer = json!({"spec": {"expiresAt": in_minutes(59)}});
    bot.caller.merge(&plain, "", &longer).await?;
    let words = "allows isolations of at most 1h: give an earlier expiresAt";
    let long = json!({"spec": {"expiresAt": in_minutes(61)}});
    assert_refused(bot.caller.merge(&plain, "", &long).await, words);
    let other = json!({"spec": {"userNames": {"os": ["alice"]}}});
    let words = "userNames cannot be changed";
    assert_refused(bot.caller.merge(&named, "", &other).await, words);
    bot.caller.delete(&plain).await?;
    bot.caller.delete(&named).await?;
    Ok(())
}

async fn protected() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-users-protected").await?;
    let mut everybody = containing(&[DEVICE]);
    everybody["targets"]["users"] = json!({"all": true});
    let bot = tenant.agent("bot", everybody, &[DEVICE]).await?;
    // What a scope says holds once the API server's admission has seen the scope.
    let itself = suspending(&bot, "itself", "bot", Value::Null);
    let limit = std::time::Duration::from_secs(20);
    eventually("the API server to know the scope", limit, || async {
        match bot.caller.create(&itself).await {
            Err(_) => Ok(Some(())),
            Ok(_) => {
                tenant.admin.delete(&itself).await?;
                Ok(None)
            }
        }
    })
    .await?;
    let account = bot.user.clone();
    let system = "cannot be suspended";
    let itself = "the ApiKeyScope bot does not suspend itself";
    for (user, names, words) in [
        ("system:masters", Value::Null, system),
        (account.as_str(), Value::Null, system),
        ("alice", json!({"kubernetes": ["system:masters"]}), system),
        ("alice", json!({"kubernetes": [account.as_str()]}), system),
        ("root", Value::Null, "root is no person"),
        ("alice", json!({"os": ["root"]}), "root cannot be suspended"),
        ("bot", Value::Null, itself),
        ("alice", json!({"seawall": ["other-bot", "bot"]}), itself),
    ] {
        let object = suspending(&bot, "i", user, names);
        assert_refused(bot.caller.create(&object).await, words);
    }
    let alice = suspending(&bot, "alice", "alice", Value::Null);
    bot.caller.create(&alice).await?;
    // A person of the agent's name is no agent.
    let person = suspending(&bot, "person", "bot", json!({"seawall": []}));
    bot.caller.create(&person).await?;
    Ok(())
}

async fn custom() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-users-custom").await?;
    let scope = |tools: &[&str]| {
        let mut scope = containing_users(&["mallory"]);
        scope["access"] = "Custom".into();
        scope["tools"] = json!(tools);
        scope
    };
    let suspender = scope(&["suspend_user", "isolate_device", "release_device"]);
    let suspender = tenant.agent("suspender", suspender, &[DEVICE]).await?;
    let user = suspending(&suspender, "i", "mallory", Value::Null);
    suspender.caller.create(&user).await?;
    let words = "the ApiKeyScope suspender has none of the tools that do this: restore_user";
    assert_refused(suspender.caller.delete(&user).await, words);

    let isolator = scope(&["isolate_device", "isolate_workload", "restore_user"]);
    let isolator = tenant.agent("isolator", isolator, &[DEVICE]).await?;
    let user = suspending(&isolator, "j", "mallory", Value::Null);
    let words = "the ApiKeyScope isolator has none of the tools that do this: suspend_user";
    assert_refused(isolator.caller.create(&user).await, words);
    Ok(())
}

async fn many() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-users-many").await?;
    let ids: Vec<String> = (0..1_000).map(|n| format!("u{n:0252}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let bot = tenant
        .agent("bot", containing_users(&ids), &[DEVICE])
        .await?;
    let last = &ids[ids.len() - 16..];
    let names = json!({"os": last, "kubernetes": last, "seawall": []});
    let object = suspending(&bot, "i", ids[999], names);
    bot.caller.create(&object).await?;
    Ok(())
}

async fn scopes() -> anyhow::Result<()> {
    let tenant = Tenant::new("scope-users-schema").await?;
    for (users, words) in [
        (json!({}), "give ids, or all: true for every user"),
        (json!({"ids": ["mallory"], "all": true}), "give ids, or all"),
        (json!({"ids": ["system:masters"]}), "cannot be suspended"),
        (json!({"ids": ["root"]}), "root is no person"),
        (json!({"ids": [""]}), "spec.targets.users.ids[0]"),
    ] {
        let spec = json!({"access": "Contain", "targets": {"users": users}});
        let scope = tenant.object("ApiKeyScope", "bot", spec);
        assert_refused(tenant.admin.create(&scope).await, words);
    }
    Ok(())
}
