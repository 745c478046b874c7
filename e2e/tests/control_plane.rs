//! The control plane itself: what the other tests stand on.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{ListParams, PostParams};
use libtest_mimic::Trial;
use serde_json::json;

use crate::cluster::audit::AuditLog;
use crate::cluster::{ControlPlane, Options};
use crate::harness::{case, eventually};
use crate::run;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "kubectl and helm speak to a control plane",
            kubectl_and_helm,
        ),
        case(
            "two control planes run side by side and share nothing",
            side_by_side,
        ),
        case(
            "a control plane that is dropped leaves no process",
            leaves_nothing,
        ),
        case(
            "a control plane that can't start says what its log ends with",
            says_why,
        ),
        case(
            "a ServiceAccount has the rights that RBAC gives and no others",
            rbac,
        ),
        case("the audit log names who wrote", audit_names_who_wrote),
        case(
            "a place in the audit log never lies within a line",
            marks_are_between_lines,
        ),
        case("an admission policy is enforced", admission_policy),
        case("a deleted namespace goes away", namespace_goes),
    ]
}

async fn kubectl_and_helm() -> anyhow::Result<()> {
    let cluster = ControlPlane::shared().await?;
    let namespaces = cluster.kubectl(&["get", "ns", "-o", "name"]).await?;
    assert!(namespaces.contains("namespace/kube-system"), "{namespaces}");
    let version = cluster.kubectl(&["version"]).await?;
    assert!(version.contains("Server Version: v1.36."), "{version}");
    let releases = cluster.helm(&["list", "-A", "-o", "json"]).await?;
    assert_eq!(releases.trim(), "[]");
    assert!(cluster.kubectl(&["get", "nonsense"]).await.is_err());
    Ok(())
}

async fn side_by_side() -> anyhow::Result<()> {
    let (one, two) = tokio::try_join!(
        ControlPlane::start(Options::default()),
        ControlPlane::start(Options::default()),
    )?;
    assert_ne!(one.server_url(), two.server_url());
    one.kubectl(&["create", "namespace", "only-here"]).await?;
    let other: Api<Namespace> = Api::all(two.admin());
    assert!(other.get_opt("only-here").await?.is_none());
    Ok(())
}

async fn leaves_nothing() -> anyhow::Result<()> {
    let cluster = ControlPlane::start(Options::default()).await?;
    let (pids, dir) = (cluster.pids(), cluster.dir().to_owned());
    for pid in pids {
        assert!(Path::new(&format!("/proc/{pid}")).exists(), "{pid} runs");
    }
    assert_eq!(processes_about(&dir)?, 3);
    drop(cluster);
    assert_eq!(processes_about(&dir)?, 0);
    for pid in pids {
        assert!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "{pid} is gone"
        );
    }
    Ok(())
}

/// How many processes have the folder on their command line.
fn processes_about(dir: &Path) -> anyhow::Result<usize> {
    let dir = dir.display().to_string();
    let mut count = 0;
    for entry in std::fs::read_dir("/proc")? {
        // One that ends meanwhile has no command line.
        let line = std::fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        count += usize::from(String::from_utf8_lossy(&line).contains(&dir));
    }
    Ok(count)
}

async fn says_why() -> anyhow::Result<()> {
    let options = Options {
        api_server: vec!["--no-such-flag".into()],
        ..Options::default()
    };
    let error = ControlPlane::start(options).await.err();
    let words = format!("{:#}", error.context("it must not start")?);
    assert!(words.contains("kube-apiserver ended"), "{words}");
    assert!(words.contains("unknown flag: --no-such-flag"), "{words}");
    Ok(())
}

async fn rbac() -> anyhow::Result<()> {
    let cluster = ControlPlane::shared().await?;
    cluster.kubectl(&["create", "namespace", "rbac"]).await?;
    let reader = ["create", "serviceaccount", "reader", "-n", "rbac"];
    cluster.kubectl(&reader).await?;
    let grant = ["create", "rolebinding", "view", "-n", "rbac"];
    let to = ["--clusterrole=view", "--serviceaccount=rbac:reader"];
    cluster.kubectl(&[&grant[..], &to[..]].concat()).await?;

    let client = cluster.client_for("rbac", "reader").await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "rbac");
    eventually("the binding to be seen", Duration::from_secs(5), || async {
        Ok(maps.list(&ListParams::default()).await.ok())
    })
    .await?;
    let refused = maps
        .create(&PostParams::default(), &config_map("no")?)
        .await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 403));
    let elsewhere: Api<ConfigMap> = Api::namespaced(client, "kube-system");
    assert!(elsewhere.list(&ListParams::default()).await.is_err());
    Ok(())
}

fn config_map(name: &str) -> anyhow::Result<ConfigMap> {
    Ok(serde_json::from_value(json!({"metadata": {"name": name}}))?)
}

async fn audit_names_who_wrote() -> anyhow::Result<()> {
    let cluster = ControlPlane::shared().await?;
    let mark = cluster.audit().mark()?;
    let alice = cluster.kubeconfig_for_person("alice", &["system:masters"])?;
    let create = ["create", "namespace", "by-alice"];
    cluster.kubectl_as(&alice, &create, "").await?.success()?;
    let get = ["get", "namespace", "by-alice"];
    cluster.kubectl_as(&alice, &get, "").await?.success()?;

    let writes = eventually("the line", Duration::from_secs(5), || async {
        let writes = cluster.audit().writes_by("alice", mark)?;
        Ok((!writes.is_empty()).then_some(writes))
    })
    .await?;
    let [write] = &writes[..] else {
        anyhow::bail!("one write expected: {writes:?}");
    };
    assert!(write.is_about("namespaces"), "{write:?}");
    assert_eq!((write.verb.as_str(), write.code()), ("create", 201));
    assert!(write.user.groups.contains(&"system:masters".to_owned()));

    let impersonate = [
        "delete",
        "namespace",
        "by-alice",
        "--as=bob",
        "--wait=false",
    ];
    let refused = cluster.kubectl_as(&alice, &impersonate, "").await?;
    assert!(refused.stderr.contains("forbidden"), "{}", refused.stderr);
    let refusals = eventually("the refusal", Duration::from_secs(5), || async {
        let writes = cluster.audit().writes_by("bob", mark)?;
        Ok((!writes.is_empty()).then_some(writes))
    })
    .await?;
    assert_eq!(
        (refusals[0].user.username.as_str(), refusals[0].code()),
        ("alice", 403)
    );
    Ok(())
}

const NO_FORBIDDEN_NAMES: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-forbidden-names}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}
  validations:
    - {expression: "object.metadata.name != 'forbidden'", message: "that name is forbidden here"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-forbidden-names}
spec: {policyName: no-forbidden-names, validationActions: [Deny]}
"#;

/// The API server writes a long line in parts, and whoever looks may come between them.
async fn marks_are_between_lines() -> anyhow::Result<()> {
    let path = run::scratch("audit-marks")?.join("audit.log");
    let line = |verb: &str| {
        let event = json!({
            "stage": "ResponseComplete",
            "verb": verb,
            "user": {"username": "somebody"},
            "userAgent": "x".repeat(10_000),
        });
        format!("{event}\n")
    };
    let (first, second) = (line("create"), line("patch"));
    std::fs::write(&path, &first[..9_000])?;
    let log = AuditLog::at(&path);
    let verbs = |mark| -> anyhow::Result<Vec<String>> {
        let events = log.since(mark)?;
        Ok(events.into_iter().map(|event| event.verb).collect())
    };
    let none = log.mark()?;
    std::fs::write(&path, format!("{first}{}", &second[..9_000]))?;
    let one = log.mark()?;
    assert_eq!(verbs(none)?, ["create"]);
    assert!(verbs(one)?.is_empty());
    std::fs::write(&path, format!("{first}{second}"))?;
    assert_eq!(verbs(none)?, ["create", "patch"]);
    assert_eq!(verbs(one)?, ["patch"]);
    assert!(verbs(log.mark()?)?.is_empty());
    Ok(())
}

async fn admission_policy() -> anyhow::Result<()> {
    let cluster = ControlPlane::shared().await?;
    let admin = cluster.admin_kubeconfig();
    let apply = ["apply", "-f", "-"];
    let applied = cluster
        .kubectl_as(admin, &apply, NO_FORBIDDEN_NAMES)
        .await?;
    applied.success()?;
    let create = ["create", "configmap", "forbidden", "--dry-run=server"];
    eventually("the policy to bite", Duration::from_secs(10), || async {
        let outcome = cluster.kubectl_as(admin, &create, "").await?;
        Ok(outcome
            .stderr
            .contains("that name is forbidden here")
            .then_some(()))
    })
    .await?;
    let fine = ["create", "configmap", "fine", "--dry-run=server"];
    cluster.kubectl(&fine).await?;
    Ok(())
}

async fn namespace_goes() -> anyhow::Result<()> {
    let cluster = ControlPlane::shared().await?;
    cluster.kubectl(&["create", "namespace", "goes"]).await?;
    cluster
        .kubectl(&["create", "configmap", "with-it", "-n", "goes"])
        .await?;
    let began = std::time::Instant::now();
    cluster.kubectl(&["delete", "namespace", "goes"]).await?;
    let namespaces: Api<Namespace> = Api::all(cluster.admin());
    assert!(namespaces.get_opt("goes").await?.is_none());
    assert!(began.elapsed() < Duration::from_secs(60));
    Ok(())
}
