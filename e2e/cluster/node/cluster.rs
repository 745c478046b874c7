//! A control plane that nodes join: on a lab's bridge, with the scheduler.

use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::Api;
use serde_json::Value;

use super::PATIENCE;
use super::network::{PodNetwork, SERVICES};
use crate::cluster::{ControlPlane, Options};
use crate::harness::eventually;
use crate::lab::{Host, Lab};
use crate::process::Daemon;

pub struct NodeCluster {
    // Dropped from top to bottom.
    _scheduler: Daemon,
    pub plane: ControlPlane,
    members: Mutex<Vec<Member>>,
    pub lab: Lab,
}

/// Who is told of the networks of pods: nodes, and hosts beside them.
#[derive(Clone)]
struct Member {
    host: Host,
    pods: Option<PodNetwork>,
}

impl NodeCluster {
    pub async fn start() -> anyhow::Result<Arc<Self>> {
        let lab = Lab::new()?;
        let plane = ControlPlane::start(Options {
            address: lab.gateway4().into(),
            nodes: true,
            api_server: vec![
                format!("--service-cluster-ip-range={SERVICES}"),
                // It runs on no node, where a Service's address would lead somewhere.
                "--enable-aggregator-routing=true".to_owned(),
            ],
        })
        .await?;
        let user = "system:kube-scheduler";
        let kubeconfig = plane
            .ground
            .kubeconfig(&plane.server, "kube-scheduler", user, &[])?;
        let mut scheduler = plane.ground.tools.command("kube-scheduler")?;
        scheduler
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg("--leader-elect=false")
            .arg("--secure-port=0");
        Ok(Arc::new(Self {
            _scheduler: Daemon::spawn("kube-scheduler", &mut scheduler, plane.dir())?,
            plane,
            members: Mutex::default(),
            lab,
        }))
    }

    /// A host beside the nodes that reaches pods, and that pods reach.
    pub async fn host(&self, name: &str) -> anyhow::Result<Host> {
        let host = self.lab.host(name)?;
        self.add(Member {
            host: host.clone(),
            pods: None,
        });
        self.rejoin(&host).await?;
        Ok(host)
    }

    /// kubectl as the administrator, with `input` for `-f -`.
    pub async fn apply(&self, document: &Value) -> anyhow::Result<String> {
        let admin = self.plane.admin_kubeconfig();
        let args = ["apply", "-f", "-"];
        let document = document.to_string();
        let outcome = self.plane.kubectl_as(admin, &args, &document).await?;
        outcome.success()
    }

    /// A new namespace, in which pods can be made at once.
    pub async fn namespace(&self, name: &str) -> anyhow::Result<()> {
        self.plane.kubectl(&["create", "namespace", name]).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(self.plane.admin(), name);
        let what = format!("the ServiceAccount of namespace {name}");
        eventually(&what, PATIENCE, || async {
            Ok(accounts.get_opt("default").await?)
        })
        .await
        .map(drop)
    }

    /// Runs a program in a pod by `kubectl exec`.
    pub async fn exec(&self, namespace: &str, pod: &str, args: &[&str]) -> anyhow::Result<String> {
        let exec = ["exec", "-n", namespace, pod, "--"];
        self.plane.kubectl(&[&exec, args].concat()).await
    }

    /// Waits until the pod is Ready.
    pub async fn wait_pod(&self, namespace: &str, name: &str) -> anyhow::Result<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.plane.admin(), namespace);
        let what = format!("pod {namespace}/{name} to be Ready");
        let ready = eventually(&what, PATIENCE, || async {
            Ok(pods.get_opt(name).await?.filter(is_ready))
        });
        match ready.await {
            Ok(pod) => Ok(pod),
            Err(error) => {
                let describe = ["describe", "pod", "-n", namespace, name];
                Err(error.context(self.plane.kubectl(&describe).await?))
            }
        }
    }

    /// The node's pods and all others find each other from now on.
    pub(super) async fn join(&self, node: &Host, pods: &PodNetwork) -> anyhow::Result<()> {
        // First, so that of two that join at once each finds the other.
        self.add(Member {
            host: node.clone(),
            pods: Some(pods.clone()),
        });
        for member in self.members() {
            if member.host.v4() != node.v4() {
                pods.route_from(&member.host).await?;
            }
        }
        pods.route_from_here().await?;
        self.rejoin(node).await
    }

    /// Tells a host with a new network namespace where the other nodes' pods are.
    pub(super) async fn rejoin(&self, host: &Host) -> anyhow::Result<()> {
        for pods in self.members().into_iter().filter_map(|member| member.pods) {
            if pods.node4 != host.v4() {
                pods.route_from(host).await?;
            }
        }
        Ok(())
    }

    /// Forgets the node, whose network namespace can go then.
    pub(super) fn leave(&self, node: &Host) {
        let mut members = self.members.lock().expect("nobody panics holding it");
        members.retain(|member| member.host.v4() != node.v4());
    }

    fn members(&self) -> Vec<Member> {
        self.members
            .lock()
            .expect("nobody panics holding it")
            .clone()
    }

    fn add(&self, member: Member) {
        let mut members = self.members.lock().expect("nobody panics holding it");
        members.push(member);
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
