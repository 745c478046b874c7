//! Suspended users: what the API server and Seawall refuse them, and what the status says.

use std::time::{Duration, Instant};

use http::Method;
use libtest_mimic::Trial;
use seawall::access::key;
use serde_json::{Value, json};

use super::scopes::{scope, wait_for};
use super::statuses::{condition, wait_condition};
use crate::caller::{Caller, assert_refused};
use crate::harness::{case, eventually};
use crate::operators::{Fixture, PATIENCE, SYSTEM};
use crate::tests::admission::tenant::object;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a suspended user's writes are refused in the whole cluster, and reads and others' writes are not",
            everywhere,
        ),
        case(
            "a tenant suspends a user in its own namespace, and nowhere else",
            in_a_namespace,
        ),
        case(
            "the list of suspended users is put back when somebody deletes or changes it",
            kept,
        ),
        case(
            "the keys of a suspended agent are refused until it is restored",
            keys,
        ),
    ]
}

/// What a person waits for at most; the machine of a test may be busy.
const SOON: Duration = Duration::from_secs(5);

fn suspending(namespace: &str, user: &str, names: Value) -> Value {
    let spec = json!({"target": {"user": user}, "userNames": names, "reason": "test"});
    object(namespace, "Isolation", user, spec)
}

fn map(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name},
    })
}

/// Operators with every right, of whom some get suspended.
async fn administrators(fixture: &Fixture, names: &[&str]) -> anyhow::Result<Vec<Caller>> {
    for namespace in ["plant", "hospital"] {
        fixture.plane.kubectl(&["create", "ns", namespace]).await?;
    }
    let mut callers = Vec::new();
    for name in names {
        let user = format!("--user={name}");
        let role = "--clusterrole=cluster-admin";
        let bind = ["create", "clusterrolebinding", name, role, &user];
        fixture.plane.kubectl(&bind).await?;
        let caller = Caller::person(&fixture.plane, name).await?;
        eventually("the rights to count", PATIENCE, || async {
            Ok(caller.try_create(&map("plant", "probe")).await.ok())
        })
        .await?;
        callers.push(caller);
    }
    Ok(callers)
}

/// How long it takes until the write is refused, in these words.
async fn refused(caller: &Caller, write: &Value, words: &str) -> anyhow::Result<Duration> {
    let began = Instant::now();
    eventually("the write to be refused", PATIENCE, || async {
        let answer = caller.try_create(write).await;
        Ok(answer
            .err()
            .filter(|refusal| refusal.message.contains(words)))
    })
    .await?;
    Ok(began.elapsed())
}

async fn allowed(caller: &Caller, write: &Value) -> anyhow::Result<()> {
    eventually("the write to be allowed", PATIENCE, || async {
        Ok(caller.try_create(write).await.ok())
    })
    .await?;
    Ok(())
}

const EVERYWHERE: &str = "the user mallory is suspended in the whole cluster by an Isolation in the namespace seawall-system";

async fn everywhere() -> anyhow::Result<()> {
    let fixture = Fixture::start().await?;
    let callers = administrators(&fixture, &["mallory", "alice"]).await?;
    let [mallory, alice] = &callers[..] else {
        anyhow::bail!("two administrators");
    };
    mallory.create(&map("plant", "made-before")).await?;
    let isolation = suspending(SYSTEM, "mallory", json!({"os": []}));
    fixture.apply(&isolation).await?;
    let took = refused(mallory, &map("plant", "new"), EVERYWHERE).await?;
    assert!(took < SOON, "{took:?}");

    let answer = mallory.delete(&map("plant", "made-before")).await;
    assert_refused(answer, EVERYWHERE);
    let patch = json!({"data": {"a": "b"}});
    let answer = mallory
        .merge(&map("plant", "made-before"), "", &patch)
        .await;
    assert_refused(answer, EVERYWHERE);
    assert_refused(mallory.delete(&isolation).await, EVERYWHERE);
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mallorys"}});
    assert_refused(mallory.try_create(&namespace).await, EVERYWHERE);
    let exec = "/api/v1/namespaces/plant/pods/none/exec?command=id";
    let json = "application/json";
    let answer = mallory.send(Method::POST, exec, json, &json!({})).await;
    assert_refused(answer, EVERYWHERE);
    let answer = alice.send(Method::POST, exec, json, &json!({})).await;
    assert_refused(answer, "\"none\" not found");

    mallory.get(&map("plant", "made-before")).await?;
    mallory.get_path("/api/v1/secrets").await?;
    alice.create(&map("plant", "of-alice")).await?;

    let name = ["isolation", "-n", SYSTEM, "mallory"];
    let object = wait_condition(&fixture, &name, "Ready", "True", "ReadBack").await?;
    assert_eq!(object["status"]["phase"], "Suspended");
    let enforced = condition(&object, "Enforced");
    assert_eq!(
        (&enforced["status"], &enforced["reason"]),
        (&json!("False"), &json!("Partial"))
    );
    let message = enforced["message"].as_str().unwrap_or_default();
    assert!(message.contains("reads from the API server"), "{message}");
    assert!(message.contains("identity provider"), "{message}");

    alice.delete(&isolation).await?;
    allowed(mallory, &map("plant", "again")).await
}

async fn in_a_namespace() -> anyhow::Result<()> {
    let fixture = Fixture::start().await?;
    let callers = administrators(&fixture, &["bob@example.com"]).await?;
    let names = json!({"kubernetes": ["bob@example.com"]});
    fixture.apply(&suspending("plant", "bob", names)).await?;
    let words =
        "the user bob@example.com is suspended in the namespace plant by an Isolation there";
    refused(&callers[0], &map("plant", "new"), words).await?;
    let answer = callers[0].delete(&map("plant", "kube-root-ca.crt")).await;
    assert_refused(answer, words);
    callers[0].create(&map("hospital", "new")).await?;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "bobs"}});
    callers[0].create(&namespace).await?;
    Ok(())
}

async fn kept() -> anyhow::Result<()> {
    let fixture = Fixture::start().await?;
    let callers = administrators(&fixture, &["mallory"]).await?;
    fixture
        .apply(&suspending(SYSTEM, "mallory", json!({"os": []})))
        .await?;
    refused(&callers[0], &map("plant", "new"), EVERYWHERE).await?;
    let admin = Caller::admin(&fixture.plane);
    let list = map(SYSTEM, "seawall-suspended-users");
    let before = admin.get(&list).await?;
    assert_eq!(before["data"], json!({"_all": "mallory"}));
    admin.delete(&list).await?;
    let back = |what: &'static str| {
        let (admin, list) = (&admin, &list);
        eventually(what, PATIENCE, move || async move {
            let now = admin.get(list).await.ok();
            Ok(now.filter(|now| now["data"] == json!({"_all": "mallory"})))
        })
    };
    let made = back("the list to be made again").await?;
    assert_ne!(made["metadata"]["uid"], before["metadata"]["uid"]);
    let patch = json!({"data": {"_all": "", "plant": "alice"}});
    admin.merge(&list, "", &patch).await?;
    back("the list to be repaired").await?;
    refused(&callers[0], &map("plant", "new"), EVERYWHERE).await?;
    Ok(())
}

async fn keys() -> anyhow::Result<()> {
    let fixture = Fixture::start().await?;
    for namespace in ["plant", "hospital"] {
        fixture.plane.kubectl(&["create", "ns", namespace]).await?;
    }
    let (theirs, others) = (key::generate(), key::generate());
    let (theirs, others) = (theirs.as_str(), others.as_str());
    fixture.apply(&scope("plant", "bot", &[theirs])).await?;
    fixture.apply(&scope("hospital", "bot", &[others])).await?;
    wait_for(&fixture, theirs, "plant/bot").await?;
    wait_for(&fixture, others, "hospital/bot").await?;

    let names = json!({"os": [], "kubernetes": [], "seawall": ["bot"]});
    fixture.apply(&suspending("plant", "eve", names)).await?;
    wait_for(&fixture, theirs, "scope_refused").await?;
    wait_for(&fixture, others, "hospital/bot").await?;
    let of_scope = ["apikeyscope", "-n", "plant", "bot"];
    wait_condition(&fixture, &of_scope, "Ready", "False", "Suspended").await?;
    let of_user = ["isolation", "-n", "plant", "eve"];
    wait_condition(&fixture, &of_user, "Programmed", "True", "ReadBack").await?;

    let delete = ["delete", "isolation", "-n", "plant", "eve"];
    fixture.plane.kubectl(&delete).await?;
    wait_for(&fixture, theirs, "plant/bot").await
}
