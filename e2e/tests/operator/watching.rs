//! What the operator sees, and what it does about it.

use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::json;

use crate::cluster::audit::{AuditEvent, Mark};
use crate::harness::{case, eventually};
use crate::operators::Device;
use crate::operators::{Fixture, PATIENCE, USER};

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
        case(
            "a quiet minute with devices, policies, isolations and scopes writes nothing but the lease",
            quiet,
        ),
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

const TENANT: &str = "plant";
const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/samples");
/// The device that the samples name.
const SAMPLE_DEVICE: &str = "dev_01k9x2v7rq4m8n0p3s5t6w7y8z";

/// A device with the tag that the samples choose it by.
async fn tagged(fixture: &Fixture, kind: &str, address: &str) -> anyhow::Result<Device> {
    let kind = format!("kind={kind}");
    let token = fixture.join_token(0, TENANT, 1, &[&kind]).await?;
    Device::enrol(&token, address).await
}

/// Every sample, with the device in place of the one that they name.
async fn apply_samples(fixture: &Fixture, device: &Device) -> anyhow::Result<()> {
    let admin = fixture.plane.admin_kubeconfig().to_owned();
    let mut applied = 0;
    for sample in std::fs::read_dir(SAMPLES)? {
        let text = std::fs::read_to_string(sample?.path())?;
        let text = text.replace(SAMPLE_DEVICE, &device.id);
        let args = ["apply", "--server-side", "-n", TENANT, "-f", "-"];
        let outcome = fixture.plane.kubectl_as(&admin, &args, &text).await?;
        outcome.success()?;
        applied += 1;
    }
    anyhow::ensure!(applied > 5, "{applied} samples");
    // One that becomes a NetworkPolicy.
    let pods = json!({
        "apiVersion": "seawall.dev/v1alpha1", "kind": "Policy",
        "metadata": {"name": "web", "namespace": TENANT},
        "spec": {
            "subjects": {"workloads": {"podSelector": {"matchLabels": {"app": "web"}}}},
            "rules": [{
                "name": "in", "direction": "Ingress", "action": "Allow",
                "peers": {"cidrs": ["10.0.0.0/8"]},
            }],
            "default": {"ingress": "Deny"},
        },
    });
    fixture.apply(&pods).await
}

/// What the operator wrote since, but for the lease.
fn writes(fixture: &Fixture, mark: Mark) -> anyhow::Result<Vec<AuditEvent>> {
    let mut writes = fixture.plane.audit().writes_by(USER, mark)?;
    writes.retain(|event| !event.is_about("leases"));
    Ok(writes)
}

async fn quiet() -> anyhow::Result<()> {
    let fixture = Fixture::start().await?;
    fixture.plane.kubectl(&["create", "ns", TENANT]).await?;
    let mut devices = Vec::new();
    for (number, kind) in ["workstation", "workstation", "camera", "recorder"]
        .into_iter()
        .enumerate()
    {
        let address = format!("10.9.0.{}", number + 1);
        devices.push(tagged(&fixture, kind, &address).await?);
    }
    let began = fixture.plane.audit().mark()?;
    apply_samples(&fixture, &devices[0]).await?;
    // What is counted below is what was written for all of this.
    eventually("all that there is to write", PATIENCE, || async {
        let written = writes(&fixture, began)?;
        let kinds = [
            "isolations",
            "policies",
            "apikeyscopes",
            "networkpolicies",
            "rolebindings",
        ];
        let all = kinds
            .iter()
            .all(|kind| written.iter().any(|event| event.is_about(kind)));
        Ok((devices[0].is_isolated() && all).then_some(()))
    })
    .await?;
    // A status whose words alone are different is written after half a minute.
    eventually("everything to settle", 3 * PATIENCE, || async {
        let mark = fixture.plane.audit().mark()?;
        tokio::time::sleep(Duration::from_secs(35)).await;
        Ok(writes(&fixture, mark)?.is_empty().then_some(()))
    })
    .await?;
    let mark = fixture.plane.audit().mark()?;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let written = writes(&fixture, mark)?;
    assert!(written.is_empty(), "{written:#?}");
    Ok(())
}
