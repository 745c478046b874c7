//! Resources and people's programs on a control plane, as an administrator sees and uses them.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::ControlPlane;
use crate::harness::eventually;
use crate::process::{self, Outcome};

impl ControlPlane {
    /// The resource as JSON, or nothing when it isn't there.
    pub async fn get(
        &self,
        (namespace, kind, name): (&str, &str, &str),
    ) -> anyhow::Result<Option<Value>> {
        let args = ["get", kind, name, "-n", namespace, "-o", "json"];
        let args = [&args[..], &["--ignore-not-found"]].concat();
        let text = self.kubectl(&args).await?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(&text)?))
    }

    /// Waits until a condition of the resource has this status; fails with the status that it has.
    pub async fn condition(
        &self,
        (namespace, kind, name): (&str, &str, &str),
        (condition, status): (&str, &str),
        patience: Duration,
    ) -> anyhow::Result<()> {
        let wanted = format!("{kind} {namespace}/{name} to be {condition}={status}");
        let found = eventually(&wanted, patience, || async {
            let object = self.get((namespace, kind, name)).await?;
            let object = object.context("it is not there")?;
            let conditions = object["status"]["conditions"].as_array();
            let stands = |it: &Value| it["type"] == condition && it["status"] == status;
            Ok(conditions.into_iter().flatten().any(stands).then_some(()))
        });
        match found.await {
            Ok(()) => Ok(()),
            Err(error) => {
                let object = self.get((namespace, kind, name)).await?;
                let status = object.map(|mut object| object["status"].take());
                Err(error.context(status.unwrap_or_default().to_string()))
            }
        }
    }

    /// `seawall` on the machine of an administrator, with these variables.
    pub async fn seawall(
        &self,
        args: &[&str],
        variables: &[(&str, PathBuf)],
        patience: Duration,
    ) -> anyhow::Result<Outcome> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        command
            .args(args)
            .env("KUBECONFIG", self.admin_kubeconfig())
            .envs(variables.iter().map(|(name, value)| (name, value)));
        process::run(command, "", patience).await
    }

    /// Makes a scope of an AI agent, from the YAML of its spec, and a key for it; waits until it is Ready.
    pub async fn scope(
        &self,
        (namespace, name): (&str, &str),
        spec: &str,
        patience: Duration,
    ) -> anyhow::Result<String> {
        let scope = format!(
            "apiVersion: seawall.dev/v1alpha1\nkind: ApiKeyScope\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}"
        );
        let admin = self.admin_kubeconfig();
        let applied = self.kubectl_as(admin, &["apply", "-f", "-"], &scope);
        applied.await?.success()?;
        let key = self.key((namespace, name), patience).await?;
        let scope = (namespace, "apikeyscope", name);
        self.condition(scope, ("Ready", "True"), patience).await?;
        Ok(key)
    }

    /// Makes one more key for a scope.
    pub async fn key(
        &self,
        (namespace, scope): (&str, &str),
        patience: Duration,
    ) -> anyhow::Result<String> {
        let create = ["keys", "create", "--namespace", namespace, "--scope", scope];
        let said = self.seawall(&create, &[], patience).await?.success()?;
        let mut words = said.split_whitespace();
        let key = words.find(|word| word.starts_with("swk_"));
        Ok(key
            .context("`seawall keys create` prints a key")?
            .to_owned())
    }
}
