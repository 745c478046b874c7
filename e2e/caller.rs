//! Somebody who asks the API server for something: the administrator, a ServiceAccount with its token, or
//! whoever one of them impersonates. Objects are plain JSON, so that wrong ones can be sent too.

use std::fmt;
use std::path::Path;

use anyhow::Context;
use http::Method;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use crate::cluster::ControlPlane;

#[derive(Clone)]
pub struct Caller {
    client: kube::Client,
}

/// What the API server said no with.
#[derive(Debug)]
pub struct Refusal {
    pub code: u16,
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}

pub type Answer = Result<Value, Refusal>;

/// Where the resources of a kind are, below a namespace for those that have one.
const KINDS: [(&str, &str, &str); 12] = [
    ("Policy", "apis/seawall.dev/v1alpha1", "policies"),
    ("Isolation", "apis/seawall.dev/v1alpha1", "isolations"),
    ("ApiKeyScope", "apis/seawall.dev/v1alpha1", "apikeyscopes"),
    ("ConfigMap", "api/v1", "configmaps"),
    ("Secret", "api/v1", "secrets"),
    ("Pod", "api/v1", "pods"),
    ("ServiceAccount", "api/v1", "serviceaccounts"),
    ("Namespace", "api/v1", "namespaces"),
    (
        "NetworkPolicy",
        "apis/networking.k8s.io/v1",
        "networkpolicies",
    ),
    (
        "RoleBinding",
        "apis/rbac.authorization.k8s.io/v1",
        "rolebindings",
    ),
    (
        "ClusterRoleBinding",
        "apis/rbac.authorization.k8s.io/v1",
        "clusterrolebindings",
    ),
    ("Lease", "apis/coordination.k8s.io/v1", "leases"),
];

impl Caller {
    pub fn admin(cluster: &ControlPlane) -> Self {
        Self {
            client: cluster.admin(),
        }
    }

    /// A ServiceAccount, with its own token.
    pub async fn account(
        cluster: &ControlPlane,
        namespace: &str,
        name: &str,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            client: cluster.client_for(namespace, name).await?,
        })
    }

    /// A person with the rights that RBAC gives the name.
    pub async fn person(cluster: &ControlPlane, name: &str) -> anyhow::Result<Self> {
        let kubeconfig = cluster.kubeconfig_for_person(name, &[])?;
        Self::as_other(&kubeconfig, None).await
    }

    /// Whom the holder of the kubeconfig impersonates.
    pub async fn impersonated(kubeconfig: &Path, user: &str) -> anyhow::Result<Self> {
        Self::as_other(kubeconfig, Some(user)).await
    }

    async fn as_other(kubeconfig: &Path, user: Option<&str>) -> anyhow::Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let options = KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        config.auth_info.impersonate = user.map(str::to_owned);
        Ok(Self {
            client: kube::Client::try_from(config)?,
        })
    }

    pub async fn create(&self, object: &Value) -> Answer {
        let path = collection(object).map_err(wrong)?;
        let path = format!("{path}?fieldValidation=Strict");
        self.send(Method::POST, &path, "application/json", object)
            .await
    }

    /// Asks and keeps nothing, whatever the answer.
    pub async fn try_create(&self, object: &Value) -> Answer {
        let path = collection(object).map_err(wrong)?;
        let path = format!("{path}?fieldValidation=Strict&dryRun=All");
        self.send(Method::POST, &path, "application/json", object)
            .await
    }

    /// Server-side apply of the object, or of its subresource (`/status`).
    pub async fn apply(&self, object: &Value, subresource: &str) -> Answer {
        let path = location(object).map_err(wrong)?;
        let path = format!("{path}{subresource}?fieldManager=e2e&force=true");
        let kind = "application/apply-patch+yaml";
        self.send(Method::PATCH, &path, kind, object).await
    }

    /// A merge patch of what `object` names.
    pub async fn merge(&self, object: &Value, subresource: &str, patch: &Value) -> Answer {
        let path = location(object).map_err(wrong)?;
        let path = format!("{path}{subresource}");
        let kind = "application/merge-patch+json";
        self.send(Method::PATCH, &path, kind, patch).await
    }

    /// Writes the whole object, as it was read and changed.
    pub async fn replace(&self, object: &Value) -> Answer {
        let path = location(object).map_err(wrong)?;
        self.send(Method::PUT, &path, "application/json", object)
            .await
    }

    pub async fn get(&self, object: &Value) -> Answer {
        let path = location(object).map_err(wrong)?;
        self.get_path(&path).await
    }

    pub async fn get_path(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "application/json", &Value::Null)
            .await
    }

    pub async fn delete(&self, object: &Value) -> Answer {
        let path = location(object).map_err(wrong)?;
        self.send(Method::DELETE, &path, "application/json", &Value::Null)
            .await
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Answer {
        let body = if body.is_null() {
            Vec::new()
        } else {
            serde_json::to_vec(body).expect("JSON is written")
        };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .body(body)
            .expect("paths of tests are URIs");
        match self.client.request::<Value>(request).await {
            Ok(value) => Ok(value),
            Err(kube::Error::Api(status)) => Err(Refusal {
                code: status.code,
                message: status.message,
            }),
            Err(other) => Err(Refusal {
                code: 0,
                message: format!("no answer: {other}"),
            }),
        }
    }
}

fn wrong(error: anyhow::Error) -> Refusal {
    Refusal {
        code: 0,
        message: format!("the test is wrong: {error:#}"),
    }
}

fn collection(object: &Value) -> anyhow::Result<String> {
    let kind = object["kind"].as_str().context("a kind")?;
    let known = KINDS.iter().find(|(known, _, _)| *known == kind);
    let (_, group, plural) = known.with_context(|| format!("a kind that is listed, not {kind}"))?;
    Ok(match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/{group}/namespaces/{namespace}/{plural}"),
        None => format!("/{group}/{plural}"),
    })
}

fn location(object: &Value) -> anyhow::Result<String> {
    let name = object["metadata"]["name"].as_str().context("a name")?;
    Ok(format!("{}/{name}", collection(object)?))
}

/// Fails unless the answer is a refusal with these words.
#[track_caller]
pub fn assert_refused(answer: Answer, words: &str) {
    assert_refused_by_one(answer, &[words]);
}

/// Where several policies refuse the same: the API server tells one of them, and not always the same one.
pub fn assert_refused_by_one(answer: Answer, words: &[&str]) {
    match answer {
        Ok(done) => panic!("not refused, but {words:?} was expected: {done}"),
        Err(refusal) => assert!(
            (400..500).contains(&refusal.code)
                && words.iter().any(|words| refusal.message.contains(words)),
            "{words:?} was expected: {refusal}"
        ),
    }
}
