//! A namespace with workloads, as if a kubelet ran them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::harness::eventually;
use crate::operators::{Fixture, PATIENCE};

pub const SHOP: &str = "shop";
pub const NODE: &str = "worker";
pub const WITHOUT_AGENT: [&str; 1] = ["--workloads-without-agent"];

/// A control plane with a node that nobody runs, and an operator.
pub struct Shop {
    pub fixture: Fixture,
}

impl Shop {
    pub async fn open() -> anyhow::Result<Self> {
        let mut fixture = Fixture::prepare().await?;
        fixture.plane.kubectl(&["create", "ns", SHOP]).await?;
        fixture
            .apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}))
            .await?;
        let operator = fixture.add_operator(&WITHOUT_AGENT)?;
        fixture.wait_ready(operator).await?;
        fixture.wait_leading(operator).await?;
        Ok(Self { fixture })
    }

    /// A workload whose pods have an address each, as if a kubelet had started them.
    pub async fn run(
        &self,
        kind: &str,
        name: &str,
        replicas: usize,
    ) -> anyhow::Result<Vec<String>> {
        let labels = json!({"app": name});
        let mut workload = json!({
            "apiVersion": "apps/v1", "kind": kind,
            "metadata": {"name": name, "namespace": SHOP},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "terminationGracePeriodSeconds": 0,
                        "containers": [{"name": "c", "image": "none"}],
                    },
                },
            },
        });
        if kind == "StatefulSet" {
            workload["spec"]["serviceName"] = name.into();
        }
        self.fixture.apply(&workload).await?;
        let pods = self.labelled(name, replicas).await?;
        for (number, pod) in pods.iter().enumerate() {
            self.start(pod, number + 1).await?;
        }
        Ok(pods)
    }

    pub async fn start(&self, pod: &str, number: usize) -> anyhow::Result<()> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        });
        let path = format!("/api/v1/namespaces/{SHOP}/pods/{pod}/binding");
        let plane = &self.fixture.plane;
        let args = ["create", "--raw", &path, "-f", "-"];
        plane
            .kubectl_as(plane.admin_kubeconfig(), &args, &binding.to_string())
            .await?
            .success()?;
        let address = format!("10.50.{}.{number}", pod.len());
        let status = json!({"status": {"podIP": address, "podIPs": [{"ip": address}]}});
        let patch = ["patch", "pod", "-n", SHOP, pod, "--subresource=status"];
        let status = ["--type=merge", "-p", &status.to_string()];
        plane.kubectl(&[&patch[..], &status[..]].concat()).await?;
        Ok(())
    }

    /// Names of the pods with this label, once there are so many.
    pub async fn labelled(&self, app: &str, count: usize) -> anyhow::Result<Vec<String>> {
        let what = format!("{count} pods with the label app={app}");
        eventually(&what, PATIENCE, || async {
            let names = self.names(&format!("app={app}")).await?;
            Ok((names.len() == count).then(|| names.into_iter().collect()))
        })
        .await
    }

    pub async fn names(&self, selector: &str) -> anyhow::Result<BTreeSet<String>> {
        let args = ["get", "pods", "-n", SHOP, "-l", selector, "-o", "name"];
        let text = self.fixture.plane.kubectl(&args).await?;
        let names = text.lines().filter_map(|line| line.strip_prefix("pod/"));
        Ok(names.map(str::to_owned).collect())
    }

    pub async fn pod(&self, name: &str) -> anyhow::Result<Option<Value>> {
        self.fixture.get(&["pod", "-n", SHOP, name]).await
    }

    pub async fn isolate(&self, name: &str, workload: Value) -> anyhow::Result<()> {
        // Of one second, nothing is older.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let isolation = json!({
            "apiVersion": "seawall.dev/v1alpha1", "kind": "Isolation",
            "metadata": {"name": name, "namespace": SHOP},
            "spec": {
                "target": {"workload": workload},
                "reason": "test",
                "management": [{"cidr": "10.0.9.0/24", "ports": [{"protocol": "TCP", "port": 22}]}],
            },
        });
        self.fixture.apply(&isolation).await
    }

    pub async fn release(&self, name: &str) -> anyhow::Result<()> {
        let args = ["delete", "isolation", "-n", SHOP, name];
        self.fixture.plane.kubectl(&args).await.map(drop)
    }

    pub async fn condition(&self, isolation: &str, type_: &str) -> anyhow::Result<Value> {
        let args = ["isolation", "-n", SHOP, isolation];
        let object = self.fixture.get(&args).await?.context("it is there")?;
        let all = object["status"]["conditions"].as_array();
        let mut all = all.into_iter().flatten();
        let found = all.find(|condition| condition["type"] == type_);
        Ok(found.cloned().unwrap_or_default())
    }

    /// Waits until the condition has the status and reason, and its message the words.
    pub async fn stands(
        &self,
        isolation: &str,
        type_: &str,
        (status, reason): (&str, &str),
        words: &str,
    ) -> anyhow::Result<()> {
        let what = format!("{isolation} to be {type_}={status}, {reason}: {words}");
        let found = eventually(&what, PATIENCE, || async {
            let found = self.condition(isolation, type_).await?;
            let message = found["message"].as_str().unwrap_or_default();
            let stands = found["status"] == status && found["reason"] == reason;
            Ok((stands && message.contains(words)).then_some(()))
        });
        match found.await {
            Ok(()) => Ok(()),
            Err(error) => {
                let found = self.condition(isolation, type_).await?;
                let log = self.fixture.log(0).unwrap_or_default();
                Err(error.context(format!("{found}\n{log}")))
            }
        }
    }

    pub async fn gone(&self, pod: &str) -> anyhow::Result<()> {
        let what = format!("{pod} to be deleted");
        eventually(&what, PATIENCE, || async {
            let pod = self.pod(pod).await?;
            let left = pod.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
            Ok(left.is_none().then_some(()))
        })
        .await
        .with_context(|| self.fixture.log(0).unwrap_or_default())
    }
}
