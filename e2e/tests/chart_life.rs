//! What becomes of what stands when the charts are upgraded, rolled back and uninstalled, and the other ways to install.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::caller::Caller;
use crate::charts::{self, SYSTEM};
use crate::cluster::{ControlPlane, Options};
use crate::harness::{case, eventually};
use crate::lab::{Reach, Responder, reach};
use crate::site::{Site, TENANT};
use crate::{process, run};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "uninstalling leaves devices isolated, and installing again finds the isolations in force",
            uninstalled,
        ),
        case(
            "a rollback keeps the keys and takes back what the upgrade changed",
            rolled_back,
        ),
        case(
            "what was stored under the first definitions is read, kept and written again after their upgrade",
            definitions,
        ),
        case(
            "kustomize gives the definitions and the namespace, and the overlays of a tenant are accepted",
            kustomize,
        ),
        case(
            "kubectl finds seawall as its plugin, which names itself so in its usage",
            plugin,
        ),
    ]
}

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/seawall");
const ANSWER: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(30);

async fn uninstalled() -> anyhow::Result<()> {
    let mut site = Site::start(&[]).await?;
    for name in ["ws-1", "ws-2"] {
        site.enroll(name, "workstation").await?;
    }
    let server = Responder::start(&site.bystander("server")?, 7000).await?;
    let device = &site.device("ws-1").id;
    let isolation = json!({
        "apiVersion": "seawall.dev/v1alpha1",
        "kind": "Isolation",
        "metadata": {"name": "stays", "namespace": TENANT},
        "spec": {"target": {"device": device}, "reason": "Before the uninstall"},
    });
    site.apply(&isolation.to_string()).await?;
    site.condition("isolation", "stays", "Enforced", "True")
        .await?;
    let [suspect, other] = ["ws-1", "ws-2"].map(|name| site.device(name).host.clone());
    ensure!(reach(&suspect, &server, ANSWER).await? == Reach::NONE);

    site.plane
        .helm(&["uninstall", "seawall", "-n", SYSTEM, "--wait"])
        .await?;
    site.plane
        .helm(&["uninstall", "seawall-crds", "-n", "kube-system"])
        .await?;
    // The operator's process has lost its rights, and must not take that for an empty cluster.
    tokio::time::sleep(Duration::from_secs(15)).await;
    ensure!(
        reach(&suspect, &server, ANSWER).await? == Reach::NONE,
        "with an operator without rights"
    );
    site.kill_operator()?;
    ensure!(
        reach(&suspect, &server, ANSWER).await? == Reach::NONE,
        "without an operator"
    );
    ensure!(
        reach(&other, &server, ANSWER).await? != Reach::NONE,
        "the other is not cut"
    );
    let kept = site.get("isolation", "stays").await?;
    let uid = kept.context("definitions and objects are kept")?["metadata"]["uid"].clone();

    charts::install(&site.plane, &["replicas=0"]).await?;
    site.start_operator().await?;
    site.device("ws-1").wait_connected(&site).await?;
    site.condition("isolation", "stays", "Enforced", "True")
        .await?;
    let again = site
        .get("isolation", "stays")
        .await?
        .context("it is there")?;
    ensure!(again["metadata"]["uid"] == uid, "{again}");
    ensure!(
        reach(&suspect, &server, ANSWER).await? == Reach::NONE,
        "after installing again"
    );
    Ok(())
}

async fn rolled_back() -> anyhow::Result<()> {
    let cluster = ControlPlane::start(Options::default()).await?;
    charts::install(&cluster, &["replicas=0"]).await?;
    let admin = Caller::admin(&cluster);
    let operator = Caller::account(&cluster, SYSTEM, "seawall").await?;
    let keys = json!({"kind": "Secret", "metadata": {"name": "seawall-keys", "namespace": SYSTEM}});
    let mut written = operator.get(&keys).await?;
    written["data"] = json!({"k": "a2V5"});
    operator.replace(&written).await?;
    let upgrade = ["upgrade", "seawall", CHART, "-n", SYSTEM, "--set"];
    let values = "replicas=0,mcp.enabled=false,podDisruptionBudget.enabled=true";
    cluster.helm(&[&upgrade[..], &[values]].concat()).await?;
    let here = ["get", "service,pdb", "-n", SYSTEM, "-o", "name"];
    let upgraded = cluster.kubectl(&here).await?;
    ensure!(
        !upgraded.contains("seawall-mcp") && upgraded.contains("poddisruptionbudget"),
        "{upgraded}"
    );
    cluster
        .helm(&["rollback", "seawall", "1", "-n", SYSTEM])
        .await?;
    let back = cluster.kubectl(&here).await?;
    ensure!(
        back.contains("seawall-mcp") && !back.contains("poddisruptionbudget"),
        "{back}"
    );
    ensure!(admin.get(&keys).await?["data"]["k"] == "a2V5");
    Ok(())
}

/// A field of the first definition of Isolations, which had no effect and is no more.
const TAKEN_OUT: &str = "notify";

/// The chart of the definitions as it was before the first release, in a folder of its own.
fn chart_before() -> anyhow::Result<std::path::PathBuf> {
    let dir = run::scratch("definitions-before")?;
    let templates = dir.join("templates");
    std::fs::create_dir(&templates)?;
    let root = Path::new(ROOT);
    std::fs::copy(
        root.join("charts/seawall-crds/Chart.yaml"),
        dir.join("Chart.yaml"),
    )?;
    for entry in std::fs::read_dir(root.join("e2e/definitions-before"))? {
        let entry = entry?;
        std::fs::copy(entry.path(), templates.join(entry.file_name()))?;
    }
    Ok(dir)
}

async fn definitions() -> anyhow::Result<()> {
    let cluster = ControlPlane::start(Options::default()).await?;
    let before = chart_before()?.display().to_string();
    cluster
        .helm(&["install", "seawall-crds", &before, "-n", "kube-system"])
        .await?;
    let established = ["wait", "crd", "--all", "--for=condition=Established"];
    cluster.kubectl(&established).await?;
    let admin = Caller::admin(&cluster);
    let stored = [
        json!({"kind": "Policy", "spec": {
            "subjects": {"devices": {"tags": {"kind": "camera"}}},
            "rules": [{"name": "c2", "direction": "Egress", "action": "Deny",
                "peers": {"cidrs": ["203.0.113.0/24"]}, "ports": [{"protocol": "TCP", "port": 443}]}],
            "expiresAt": "2030-01-01T00:00:00Z",
        }}),
        json!({"kind": "Isolation", "spec": {
            "target": {"workload": {"podSelector": {"matchLabels": {"app": "shop"}}}},
            "reason": "Before", "probes": "Keep",
        }}),
        json!({"kind": "ApiKeyScope", "spec": {
            "access": "Contain", "targets": {"devices": {"all": true}},
            "credentials": {"keyHashes": [format!("sha256:{}", "0a".repeat(32))]},
        }}),
    ]
    .map(|mut object| {
        object["apiVersion"] = "seawall.dev/v1alpha1".into();
        object["metadata"] = json!({"name": "before", "namespace": "default"});
        object
    });
    let mut specs = Vec::new();
    for object in &stored {
        specs.push(admin.create(object).await?["spec"].clone());
    }
    let now = format!("{ROOT}/charts/seawall-crds");
    cluster
        .helm(&["upgrade", "seawall-crds", &now, "-n", "kube-system"])
        .await?;
    for (object, spec) in stored.iter().zip(&specs) {
        let found = admin.get(object).await?;
        let fields = spec.as_object().context("a spec")?.iter();
        for (field, value) in fields.filter(|(field, _)| *field != TAKEN_OUT) {
            ensure!(
                found["spec"][field] == *value,
                "{field} became {}",
                found["spec"][field]
            );
        }
        reads(&found)?;
        let patch = json!({"metadata": {"annotations": {"team": "soc"}}});
        // Written whole, so the new definition judges what the old one took.
        admin.merge(object, "", &patch).await?;
    }
    Ok(())
}

/// This version's own types take what the API server gives.
fn reads(object: &Value) -> anyhow::Result<()> {
    use seawall::api::{ApiKeyScope, Isolation, Policy};
    let object = object.clone();
    match object["kind"].as_str() {
        Some("Policy") => serde_json::from_value::<Policy>(object).map(drop),
        Some("Isolation") => serde_json::from_value::<Isolation>(object).map(drop),
        _ => serde_json::from_value::<ApiKeyScope>(object).map(drop),
    }
    .context("this version reads it")
}

async fn kustomize() -> anyhow::Result<()> {
    let cluster = charts::installed().await?;
    let base = format!("{ROOT}/manifests/kustomize/base");
    let text = cluster.kubectl(&["kustomize", &base]).await?;
    let objects: Vec<Value> = seawall::yaml::documents(&text)?;
    let kinds: Vec<_> = objects
        .iter()
        .filter_map(|it| it["kind"].as_str())
        .collect();
    let are_definitions = |kind: &&&str| **kind == "CustomResourceDefinition";
    let definitions = seawall::api::definitions().len();
    ensure!(kinds.iter().filter(are_definitions).count() == definitions);
    ensure!(kinds.contains(&"Namespace"), "{kinds:?}");
    let apply = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "-k",
    ];
    cluster.kubectl(&[&apply[..], &[&base]].concat()).await?;

    for (overlay, namespace, mode) in [
        ("dev", "plant-dev", Some("Observe")),
        ("production", "plant-a", None),
    ] {
        let path = format!("{ROOT}/manifests/kustomize/overlays/{overlay}");
        let text = cluster.kubectl(&["kustomize", &path]).await?;
        let objects: Vec<Value> = seawall::yaml::documents(&text)?;
        let policies = objects.iter().filter(|it| it["kind"] == "Policy");
        ensure!(policies.clone().count() == 2, "{text}");
        for policy in policies {
            ensure!(policy["metadata"]["namespace"] == namespace, "{policy}");
            ensure!(policy["spec"]["mode"].as_str() == mode, "{policy}");
        }
        // In a dry run the namespace would not be there for what is in it.
        cluster
            .kubectl(&["apply", "--validate=strict", "-k", &path])
            .await?;
        cluster.kubectl(&["delete", "-k", &path]).await?;
    }
    Ok(())
}

async fn plugin() -> anyhow::Result<()> {
    let cluster = charts::installed().await?;
    let dir = run::scratch("plugin")?;
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_seawall"), dir.join("kubectl-seawall"))?;
    let said = |args: &'static [&'static str]| {
        let path = dir.display().to_string();
        async move {
            let mut command = std::process::Command::new(cluster.tool_path("kubectl")?);
            command
                .arg("seawall")
                .args(args)
                .env("PATH", path)
                .env("KUBECONFIG", cluster.admin_kubeconfig());
            process::run(command, "", PATIENCE).await
        }
    };
    let help = said(&["--help"]).await?.success()?;
    ensure!(help.contains("Usage: kubectl seawall <COMMAND>"), "{help}");
    let help = said(&["keys", "create", "--help"]).await?.success()?;
    ensure!(
        help.contains("Usage: kubectl seawall keys create"),
        "{help}"
    );
    let wrong = said(&["keys", "creat"]).await?;
    ensure!(!wrong.status.success(), "{wrong:?}");
    ensure!(
        wrong.stderr.contains("Usage: kubectl seawall keys"),
        "{}",
        wrong.stderr
    );
    // And it does what it does by its own name.
    let none = eventually("the holds to be listed", PATIENCE, || async {
        let outcome = said(&["release", "holds"]).await?;
        Ok(outcome.status.success().then_some(outcome.stdout))
    })
    .await?;
    ensure!(!none.is_empty(), "it says that nothing is held");
    Ok(())
}
