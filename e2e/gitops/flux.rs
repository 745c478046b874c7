//! Flux's controllers beside a control plane, with its own custom resources: source-controller fetches,
//! kustomize-controller applies.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::cluster::{ControlPlane, free_port};
use crate::process::Daemon;

pub const NAMESPACE: &str = "flux-system";

/// Who applies, in the API server's audit log and in ours.
pub const APPLIER: &str = "system:serviceaccount:flux-system:kustomize-controller";

/// The rights that Flux's own installation gives both.
const RIGHTS: &str = "\
apiVersion: v1
kind: Namespace
metadata: {name: flux-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: source-controller, namespace: flux-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: kustomize-controller, namespace: flux-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: cluster-reconciler}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects:
- {kind: ServiceAccount, name: source-controller, namespace: flux-system}
- {kind: ServiceAccount, name: kustomize-controller, namespace: flux-system}
";

pub struct Flux {
    source: Daemon,
    kustomize: Daemon,
}

impl Flux {
    pub async fn start(plane: &ControlPlane, dir: &Path) -> anyhow::Result<Self> {
        for program in ["source-controller", "kustomize-controller"] {
            let definitions = plane.definitions(program)?;
            let definitions = definitions.to_str().context("a path in UTF-8")?;
            plane.kubectl(&["create", "-f", definitions]).await?;
        }
        let admin = plane.admin_kubeconfig();
        let rights = plane.kubectl_as(admin, &["apply", "-f", "-"], RIGHTS);
        rights.await?.success()?;
        let established = ["wait", "crd", "--all", "--for=condition=Established"];
        plane.kubectl(&established).await?;
        let store = dir.join("artifacts");
        std::fs::create_dir_all(&store)?;
        let storage = format!("127.0.0.1:{}", free_port()?);
        let more = [
            format!("--storage-path={}", store.display()),
            format!("--storage-addr={storage}"),
            format!("--storage-adv-addr={storage}"),
        ];
        Ok(Self {
            source: controller(plane, dir, "source-controller", &more).await?,
            kustomize: controller(plane, dir, "kustomize-controller", &[]).await?,
        })
    }

    /// The ends of their logs, for who wonders why nothing came.
    pub fn log_tails(&self) -> String {
        [&self.source, &self.kustomize]
            .map(Daemon::log_tail)
            .join("\n")
    }
}

async fn controller(
    plane: &ControlPlane,
    dir: &Path,
    name: &str,
    more: &[String],
) -> anyhow::Result<Daemon> {
    let scratch = dir.join(format!("{name}-tmp"));
    std::fs::create_dir_all(&scratch)?;
    let mut command = Command::new(plane.tool_path(name)?);
    command
        .arg(format!("--metrics-addr=127.0.0.1:{}", free_port()?))
        .arg(format!("--health-addr=127.0.0.1:{}", free_port()?))
        .args(more)
        .env("KUBECONFIG", plane.kubeconfig_for(NAMESPACE, name).await?)
        .env("RUNTIME_NAMESPACE", NAMESPACE)
        .env("TMPDIR", &scratch)
        .env("HOME", &scratch);
    Daemon::spawn(name, &mut command, dir)
}
