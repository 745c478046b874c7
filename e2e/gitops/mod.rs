//! A site whose resources come from git: Flux applies every second what was pushed.

mod flux;
mod repository;

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

pub use flux::APPLIER;
use flux::{Flux, NAMESPACE};
use repository::Repository;

use crate::cluster::audit::{AuditEvent, Mark};
use crate::harness::eventually;
use crate::run;
use crate::site::{Site, TENANT};

/// Longer than Flux takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct GitOps {
    // Dropped from top to bottom.
    flux: Flux,
    pub git: Repository,
    pub site: Site,
}

impl GitOps {
    /// A site with Flux and an empty repository; no devices yet.
    pub async fn start() -> anyhow::Result<Self> {
        let site = Site::start(&[]).await?;
        let dir = run::scratch("gitops")?;
        let git = Repository::serve(&dir).await?;
        let begin = ("README.md", Some("What the plant wants.\n".to_owned()));
        git.commit("Begin", &[begin]).await?;
        let flux = Flux::start(&site.plane, &dir).await?;
        let source = json!({
            "apiVersion": "source.toolkit.fluxcd.io/v1",
            "kind": "GitRepository",
            "metadata": {"name": "fleet", "namespace": NAMESPACE},
            "spec": {"interval": "1s", "url": git.url, "ref": {"branch": "main"}},
        });
        site.apply(&source.to_string()).await?;
        Ok(Self { flux, git, site })
    }

    /// Has Flux apply a folder of the repository from now on, as `wait` and `prune` do it.
    pub async fn follow(&self, folder: &str) -> anyhow::Result<()> {
        let wanted = json!({
            "apiVersion": "kustomize.toolkit.fluxcd.io/v1",
            "kind": "Kustomization",
            "metadata": {"name": folder, "namespace": NAMESPACE},
            "spec": {
                "interval": "1s",
                "retryInterval": "1s",
                "timeout": "40s",
                "path": format!("./{folder}"),
                "prune": true,
                "wait": true,
                "targetNamespace": TENANT,
                "sourceRef": {"kind": "GitRepository", "name": "fleet"},
            },
        });
        self.site.apply(&wanted.to_string()).await.map(drop)
    }

    /// Flux's resource for the folder.
    pub async fn kustomization(&self, folder: &str) -> anyhow::Result<Value> {
        let args = [
            "get",
            "kustomizations",
            folder,
            "-n",
            NAMESPACE,
            "-o",
            "json",
        ];
        Ok(serde_json::from_str(
            &self.site.plane.kubectl(&args).await?,
        )?)
    }

    /// Waits until Flux has applied the commit and says that all of it is ready.
    pub async fn applied(&self, folder: &str, commit: &str) -> anyhow::Result<()> {
        let what = format!("{folder} to be applied and ready at {commit}");
        let done = eventually(&what, PATIENCE, || async {
            let all = self.kustomization(folder).await?;
            let Some(revision) = all["status"]["lastAppliedRevision"].as_str() else {
                return Ok(None);
            };
            let is = ready(&all).is_some_and(|it| it["status"] == "True");
            Ok((is && self.git.has(revision, commit).await?).then_some(()))
        });
        match done.await {
            Ok(()) => Ok(()),
            Err(error) => {
                let said = self.kustomization(folder).await?["status"].to_string();
                Err(error.context(format!("{said}\n{}", self.flux.log_tails())))
            }
        }
    }

    /// Waits until Flux has gone over the folder so many times more.
    pub async fn rounds(&self, of: &str, more: usize) -> anyhow::Result<()> {
        let mark = self.site.plane.audit().mark()?;
        let what = format!("Flux to look at {of} {more} times");
        eventually(&what, PATIENCE, || async {
            Ok((self.looked(of, mark)? >= more).then_some(()))
        })
        .await
    }

    /// How often Flux asked what applying the object would change.
    pub fn looked(&self, name: &str, mark: Mark) -> anyhow::Result<usize> {
        let events = self.site.plane.audit().since(mark)?;
        let asked = |event: &&AuditEvent| {
            event.is_dry_run() && event.actor() == APPLIER && event.is_of(name)
        };
        Ok(events.iter().filter(asked).count())
    }

    /// Changes of our resources since then, by whomever; what was only asked is none.
    pub fn writes(&self, mark: Mark) -> anyhow::Result<Vec<AuditEvent>> {
        let mut events = self.site.plane.audit().since(mark)?;
        events.retain(|event| {
            let object = event.object_ref.as_ref();
            let ours = object.is_some_and(|object| object.api_group == "seawall.dev");
            event.is_write() && !event.is_dry_run() && ours
        });
        Ok(events)
    }

    pub async fn object(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        let found = self.site.get(kind, name).await?;
        found.with_context(|| format!("{kind} {name} is there"))
    }
}

/// The condition of a Flux resource that says whether all is well.
pub fn ready(object: &Value) -> Option<&Value> {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready")
}

/// A manifest as it stands in git.
pub fn manifest(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: seawall.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}
