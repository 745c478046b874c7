//! What the operator makes of scopes and their keys.

use libtest_mimic::Trial;
use seawall::access::key;
use seawall::local::client::Client;
use serde_json::{Value, json};

use super::statuses::{condition, wait_condition};
use crate::harness::{case, eventually};
use crate::operators::{Fixture, PATIENCE};
use crate::tests::admission::tenant::object;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a key that two scopes hold is nobody's until one of them gives it up, and other keys work",
            shared_key,
        ),
        case(
            "an agent is bound to the role of its scope's access, and to another when that changes",
            roles,
        ),
    ]
}

pub fn scope(namespace: &str, name: &str, keys: &[&str]) -> Value {
    let hashes: Vec<String> = keys.iter().map(|key| key::hash(key)).collect();
    let spec = json!({"access": "Investigate", "credentials": {"keyHashes": hashes}});
    object(namespace, "ApiKeyScope", name, spec)
}

/// Who the operator says that the key is, once it says so; or the code of its refusal.
pub async fn wait_for(fixture: &Fixture, key: &str, wanted: &str) -> anyhow::Result<()> {
    let client = Client::new(&fixture.home(0).join("local.sock"))?;
    eventually(wanted, PATIENCE, || async {
        let answer = client.authenticate(key::hash(key)).await;
        let who = answer.map_or_else(
            |problem| problem.code,
            |principal| format!("{}/{}", principal.tenant, principal.agent),
        );
        Ok((who == wanted).then_some(()))
    })
    .await
}

async fn shared_key() -> anyhow::Result<()> {
    let fixture = Fixture::start().await?;
    for namespace in ["plant", "hospital"] {
        fixture.plane.kubectl(&["create", "ns", namespace]).await?;
    }
    let (shared, own) = (key::generate(), key::generate());
    let (shared, own) = (shared.as_str(), own.as_str());
    fixture
        .apply(&scope("plant", "first", &[shared, own]))
        .await?;
    let first = ["apikeyscope", "-n", "plant", "first"];
    wait_condition(&fixture, &first, "Ready", "True", "Bound").await?;
    wait_for(&fixture, shared, "plant/first").await?;

    fixture.apply(&scope("plant", "second", &[shared])).await?;
    fixture
        .apply(&scope("hospital", "private", &[shared]))
        .await?;
    wait_for(&fixture, shared, "key_unknown").await?;
    wait_for(&fixture, own, "plant/first").await?;
    let elsewhere = "a scope of another namespace";
    for (namespace, name, names, hides) in [
        ("plant", "first", vec!["second", elsewhere], "private"),
        ("plant", "second", vec!["first", elsewhere], "private"),
        ("hospital", "private", vec![elsewhere], "first"),
    ] {
        let object = ["apikeyscope", "-n", namespace, name];
        // Words alone move a status at most every thirty seconds.
        eventually("the status to name who else", 2 * PATIENCE, || async {
            let object = fixture.get(&object).await?.unwrap_or_default();
            let accepted = condition(&object, "Accepted");
            let message = accepted["message"].as_str().unwrap_or_default();
            assert!(!message.contains(hides), "{message}");
            let says = accepted["status"] == "False"
                && accepted["reason"] == "DuplicateKey"
                && names.iter().all(|name| message.contains(name));
            Ok(says.then_some(()))
        })
        .await?;
        wait_condition(&fixture, &object, "Ready", "False", "DuplicateKey").await?;
    }

    fixture.apply(&scope("plant", "second", &[])).await?;
    let delete = ["delete", "apikeyscope", "-n", "hospital", "private"];
    fixture.plane.kubectl(&delete).await?;
    wait_condition(&fixture, &first, "Ready", "True", "Bound").await?;
    wait_for(&fixture, shared, "plant/first").await
}

async fn roles() -> anyhow::Result<()> {
    let fixture = Fixture::start().await?;
    fixture.plane.kubectl(&["create", "ns", "plant"]).await?;
    let devices = json!({"devices": {"all": true}});
    for (access, role) in [
        ("Investigate", "seawall-agent-investigate"),
        ("Contain", "seawall-agent-contain"),
        ("Manage", "seawall-agent-manage"),
        ("Investigate", "seawall-agent-investigate"),
    ] {
        let mut spec = json!({"access": access});
        if access != "Investigate" {
            spec["targets"] = devices.clone();
        }
        fixture
            .apply(&object("plant", "ApiKeyScope", "bot", spec))
            .await?;
        eventually(&format!("one binding, to {role}"), PATIENCE, || async {
            let listed = fixture.get(&["rolebindings", "-n", "plant"]).await?;
            let listed = listed.unwrap_or_default();
            let bound: Vec<&Value> = listed["items"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|binding| &binding["roleRef"]["name"])
                .collect();
            Ok((bound == [role]).then_some(()))
        })
        .await?;
    }
    Ok(())
}
