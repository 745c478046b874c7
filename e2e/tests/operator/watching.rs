//! What the operator sees, and what it does about it.

use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::json;

use super::fixture::{Fixture, PATIENCE, USER};
use crate::harness::{case, eventually};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "without its custom resources the operator is not ready and says what to install",
            missing_definitions,
        ),
        case(
            "a scope gets its ServiceAccount and RoleBinding, and drift is repaired",
            access,
        ),
        case("a quiet minute writes nothing but the lease", quiet),
    ]
}

async fn missing_definitions() -> anyhow::Result<()> {
    let mut fixture = Fixture::prepare().await?;
    fixture.plane.helm(&["uninstall", "seawall-crds"]).await?;
    for name in ["policies", "isolations", "apikeyscopes"] {
        let name = format!("{name}.seawall.dev");
        let delete = ["delete", "crd", &name, "--ignore-not-found"];
        fixture.plane.kubectl(&delete).await?;
    }
    let number = fixture.add_operator(&[])?;
    eventually("the operator to say what is missing", PATIENCE, || async {
        let (status, text) = fixture.health(number, "/ready").await?;
        let says = status == 503 && text.contains("install Seawall's CustomResourceDefinitions");
        Ok(says.then_some(()))
    })
    .await?;
    assert_eq!(fixture.health(number, "/live").await?.0, 200);
    let crds = format!("{}/charts/seawall-crds", env!("CARGO_MANIFEST_DIR"));
    let install = ["install", "seawall-crds", &crds];
    fixture.plane.helm(&install).await?;
    fixture.wait_ready(number).await
}

async fn access() -> anyhow::Result<()> {
    let fixture = Fixture::start().await?;
    fixture.plane.kubectl(&["create", "ns", "plant"]).await?;
    let mut scope = json!({
        "apiVersion": "seawall.dev/v1alpha1", "kind": "ApiKeyScope",
        "metadata": {"name": "bot", "namespace": "plant"},
        "spec": {"access": "Contain"},
    });
    fixture.apply(&scope).await?;
    let binding = ["rolebinding", "-n", "plant", "seawall-agent-contain:bot"];
    let account = ["serviceaccount", "-n", "seawall-agents", "plant.bot"];
    let there = async |what: &[&str]| {
        eventually("the object to be there", PATIENCE, || fixture.get(what)).await
    };
    there(&account).await?;
    let first = there(&binding).await?;
    fixture
        .plane
        .kubectl(&[&["delete"], &binding[..]].concat())
        .await?;
    let second = there(&binding).await?;
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);

    // Somebody adds a subject: it goes.
    let mallory = r#"[{"op":"add","path":"/subjects/-","value":
        {"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"mallory"}}]"#;
    let patch = ["patch", "--type=json", "-p", mallory];
    fixture
        .plane
        .kubectl(&[&patch[..], &binding[..]].concat())
        .await?;
    eventually("the added subject to go", PATIENCE, || async {
        let binding = fixture.get(&binding).await?.unwrap_or_default();
        Ok((binding["subjects"].as_array().map(Vec::len) == Some(1)).then_some(()))
    })
    .await?;

    // Another access is another binding.
    scope["spec"]["access"] = "Investigate".into();
    fixture.apply(&scope).await?;
    there(&[
        "rolebinding",
        "-n",
        "plant",
        "seawall-agent-investigate:bot",
    ])
    .await?;
    eventually("the old binding to go", PATIENCE, || async {
        Ok(fixture.get(&binding).await?.is_none().then_some(()))
    })
    .await?;
    fixture
        .plane
        .kubectl(&["delete", "apikeyscope", "-n", "plant", "bot"])
        .await?;
    eventually("the ServiceAccount to go", PATIENCE, || async {
        Ok(fixture.get(&account).await?.is_none().then_some(()))
    })
    .await
}

async fn quiet() -> anyhow::Result<()> {
    let fixture = Fixture::start().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mark = fixture.plane.audit().mark()?;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let writes: Vec<_> = fixture
        .plane
        .audit()
        .writes_by(USER, mark)?
        .into_iter()
        .filter(|event| !event.is_about("leases"))
        .collect();
    assert!(writes.is_empty(), "{writes:#?}");
    Ok(())
}
