//! A namespace with agents in it, set up as the operator does it, with the operator's ServiceAccount.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use jiff::{SignedDuration, Timestamp};
use seawall::api::{GROUP, VERSION, stamps};
use serde_json::{Value, json};

use crate::caller::Caller;
use crate::charts::{self, SYSTEM};
use crate::cluster::ControlPlane;
use crate::harness::eventually;

pub const DEVICE: &str = "dev_01k9x2v7rq4m8n0p3s5t6w7y8z";
pub const OTHER_DEVICE: &str = "dev_01k9x2v7rq4m8n0p3s5t6w7y90";

pub struct Tenant {
    pub cluster: &'static ControlPlane,
    pub namespace: &'static str,
    pub admin: Caller,
    pub operator: Caller,
    mcp: PathBuf,
}

pub struct Agent {
    pub user: String,
    pub caller: Caller,
    namespace: &'static str,
    scope: Value,
}

impl Tenant {
    pub async fn new(namespace: &'static str) -> anyhow::Result<Self> {
        let cluster = charts::installed().await?;
        let admin = Caller::admin(cluster);
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        admin.create(&object).await?;
        Ok(Self {
            cluster,
            namespace,
            operator: Caller::account(cluster, SYSTEM, "seawall").await?,
            mcp: cluster.kubeconfig_for(SYSTEM, "seawall-mcp").await?,
            admin,
        })
    }

    /// An agent with this scope, resolved to these devices, that may write: the policies let through what
    /// it asks first.
    pub async fn agent(&self, name: &str, spec: Value, devices: &[&str]) -> anyhow::Result<Agent> {
        let agent = self.scope(name, spec, devices).await?;
        self.bind(&agent, "seawall-agent-manage").await?;
        let probe = agent.isolation("probe", devices.first().copied().unwrap_or(DEVICE), 1);
        let limit = Duration::from_secs(10);
        eventually("the agent's rights", limit, || async {
            Ok(agent.caller.try_create(&probe).await.ok())
        })
        .await?;
        Ok(agent)
    }

    /// The scope and its status, without any right.
    pub async fn scope(&self, name: &str, spec: Value, devices: &[&str]) -> anyhow::Result<Agent> {
        let scope = self.object("ApiKeyScope", name, spec);
        self.admin.create(&scope).await?;
        let user = stamps::agent_user(self.namespace, name);
        let agent = Agent {
            caller: Caller::impersonated(&self.mcp, &user).await?,
            namespace: self.namespace,
            user,
            scope,
        };
        self.resolve(&agent, devices).await?;
        Ok(agent)
    }

    /// What the operator writes when it has resolved the scope as it is now.
    pub async fn resolve(&self, agent: &Agent, devices: &[&str]) -> anyhow::Result<()> {
        self.resolve_to(agent, json!({ "devices": devices })).await
    }

    /// The same with all that a scope may act on.
    pub async fn resolve_to(&self, agent: &Agent, targets: Value) -> anyhow::Result<()> {
        let now = self.admin.get(&agent.scope).await?;
        let status = json!({
            "apiVersion": "seawall.dev/v1alpha1",
            "kind": "ApiKeyScope",
            "metadata": agent.scope["metadata"],
            "status": {
                "observedGeneration": now["metadata"]["generation"],
                "targets": targets,
            },
        });
        self.operator.apply(&status, "/status").await?;
        Ok(())
    }

    pub async fn bind(&self, agent: &Agent, role: &str) -> anyhow::Result<()> {
        self.operator
            .create(&self.binding(agent, role, self.namespace))
            .await?;
        Ok(())
    }

    /// The RoleBinding that gives the agent a role in a namespace.
    pub fn binding(&self, agent: &Agent, role: &str, namespace: &str) -> Value {
        let account = agent.user.rsplit(':').next();
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {
                "name": format!("{}-{role}", account.unwrap_or_default()),
                "namespace": namespace,
                "labels": {stamps::MANAGED_BY: stamps::MANAGED_BY_SEAWALL},
            },
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "namespace": stamps::AGENTS_NAMESPACE, "name": account}],
        })
    }

    /// A person with a ClusterRole in the namespace.
    pub async fn person(&self, name: &str, role: &str) -> anyhow::Result<Caller> {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": format!("{name}-{role}"), "namespace": self.namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
        });
        self.admin.create(&binding).await?;
        let person = Caller::person(self.cluster, name).await?;
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": self.namespace},
        });
        eventually("the person's rights", Duration::from_secs(10), || async {
            let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
            let answer = person
                .send(http::Method::POST, path, "application/json", &review)
                .await?;
            Ok(answer["status"].to_string().contains(GROUP).then_some(()))
        })
        .await?;
        Ok(person)
    }

    pub fn object(&self, kind: &str, name: &str, spec: Value) -> Value {
        object(self.namespace, kind, name, spec)
    }

    /// Changes the scope's spec and waits until the API server has seen that: the agent's request is then
    /// answered with `words`.
    pub async fn change_scope(
        &self,
        agent: &Agent,
        patch: Value,
        request: &Value,
        words: &str,
    ) -> anyhow::Result<()> {
        let patch = json!({ "spec": patch });
        self.admin.merge(&agent.scope, "", &patch).await?;
        let limit = Duration::from_secs(5);
        eventually(words, limit, || async {
            let Err(refusal) = agent.caller.try_create(request).await else {
                return Ok(None);
            };
            ensure!(refusal.message.contains(words), "{refusal}");
            Ok(Some(()))
        })
        .await
    }
}

impl Agent {
    /// With the agent's stamp.
    pub fn object(&self, kind: &str, name: &str, spec: Value) -> Value {
        stamped(object(self.namespace, kind, name, spec), &self.user)
    }

    /// An Isolation that ends so many minutes from now.
    pub fn isolation(&self, name: &str, device: &str, minutes: i64) -> Value {
        let spec = json!({"target": {"device": device}, "reason": "test", "expiresAt": in_minutes(minutes)});
        self.object("Isolation", name, spec)
    }

    /// A Policy with one Deny rule.
    pub fn policy(&self, name: &str, subjects: Value) -> Value {
        self.object("Policy", name, denying(subjects))
    }
}

pub fn denying(subjects: Value) -> Value {
    json!({"subjects": subjects, "rules": [rule("Deny")]})
}

pub fn rule(action: &str) -> Value {
    json!({"name": "r", "direction": "Egress", "action": action, "peers": {"cidrs": ["203.0.113.0/24"]}})
}

pub fn object(namespace: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    })
}

pub fn stamped(mut object: Value, user: &str) -> Value {
    object["metadata"]["annotations"] = json!({
        stamps::SOURCE: stamps::SOURCE_MCP_AGENT,
        stamps::WRITTEN_BY: user,
    });
    object
}

pub fn in_minutes(minutes: i64) -> String {
    (Timestamp::now() + SignedDuration::from_mins(minutes)).to_string()
}

/// A scope that may contain a device, and the pods with `app: web`.
pub fn containing_pods() -> Value {
    let mut scope = containing(&[DEVICE]);
    scope["targets"]["workloads"] = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    scope
}

/// A scope that may contain a device, and suspend these users.
pub fn containing_users(ids: &[&str]) -> Value {
    let mut scope = containing(&[DEVICE]);
    scope["targets"]["users"] = json!({ "ids": ids });
    scope
}

/// A scope that may contain these devices, for at most an hour.
pub fn containing(devices: &[&str]) -> Value {
    json!({
        "access": "Contain",
        "targets": {"devices": {"ids": devices}},
        "limits": {"maxIsolation": "1h"},
    })
}
