//! The operator and the MCP server have the rights that they need and no more.

use std::time::Duration;

use libtest_mimic::Trial;
use seawall::api::stamps::{AGENTS_NAMESPACE, ISOLATED, MANAGED_BY, MANAGED_BY_SEAWALL};
use serde_json::{Value, json};

use super::tenant::{DEVICE, Tenant, containing, denying};
use crate::caller::{Caller, assert_refused};
use crate::charts::{self, SYSTEM};
use crate::harness::{case, eventually};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "the MCP server can be an agent and nobody else, and is nobody by itself",
            mcp,
        ),
        case(
            "the operator writes and deletes only what carries its label",
            labelled,
        ),
        case(
            "of pods the operator takes the labels and says so, and it deletes those of which it did",
            pods,
        ),
        case(
            "the operator binds agents to the three roles, in their namespaces",
            binding,
        ),
        case(
            "the operator reads one Secret, and mints tokens for the MCP server alone",
            secrets,
        ),
        case(
            "only the operator says what the targets of a scope are",
            scope_status,
        ),
        case("no pod runs among the agents' accounts", no_pods),
        case(
            "the API server finds nothing to say about the policies' expressions",
            type_checks,
        ),
    ]
}

async fn mcp() -> anyhow::Result<()> {
    let tenant = Tenant::new("rights-mcp").await?;
    tenant
        .agent("bot", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let kubeconfig = tenant.cluster.kubeconfig_for(SYSTEM, "seawall-mcp").await?;
    let path = "/apis/seawall.dev/v1alpha1/namespaces/rights-mcp/isolations";
    for other in [
        "admin",
        "system:serviceaccount:seawall-system:seawall",
        "system:serviceaccount:rights-mcp:default",
        "system:serviceaccount:seawall-agents-2:rights-mcp.bot",
        "system:kube-controller-manager",
    ] {
        let caller = Caller::impersonated(&kubeconfig, other).await?;
        assert_refused(caller.get_path(path).await, "cannot impersonate");
    }
    let agent = "system:serviceaccount:seawall-agents:rights-mcp.bot";
    Caller::impersonated(&kubeconfig, agent)
        .await?
        .get_path(path)
        .await?;

    let alone = Caller::account(tenant.cluster, SYSTEM, "seawall-mcp").await?;
    for path in [
        path,
        "/apis/seawall.dev/v1alpha1/namespaces/rights-mcp/apikeyscopes",
        "/api/v1/namespaces/rights-mcp/pods",
        "/api/v1/namespaces/seawall-system/secrets/seawall-keys",
        "/api/v1/namespaces/seawall-agents/serviceaccounts",
        "/api/v1/namespaces",
    ] {
        assert_refused(alone.get_path(path).await, "is forbidden");
    }
    let own = tenant.object("Policy", "p", denying(json!({"all": true})));
    assert_refused(alone.create(&own).await, "is forbidden");
    let token =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let path = "/api/v1/namespaces/seawall-agents/serviceaccounts/rights-mcp.bot/token";
    let post = http::Method::POST;
    assert_refused(
        alone.send(post, path, "application/json", &token).await,
        "is forbidden",
    );
    Ok(())
}

fn network_policy(name: &str, labels: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "rights-labels", "labels": labels},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]},
    })
}

async fn labelled() -> anyhow::Result<()> {
    let tenant = Tenant::new("rights-labels").await?;
    let ours = network_policy("ours", json!({MANAGED_BY: MANAGED_BY_SEAWALL}));
    let theirs = network_policy("theirs", json!({}));
    tenant.admin.create(&theirs).await?;
    tenant.operator.apply(&ours, "").await?;

    let words = "the operator writes only objects with the label";
    let unlabelled = network_policy("unlabelled", json!({}));
    assert_refused(tenant.operator.create(&unlabelled).await, words);
    let words = "the operator changes and deletes only what it made";
    assert_refused(tenant.operator.delete(&theirs).await, words);
    let taken = network_policy("theirs", json!({MANAGED_BY: MANAGED_BY_SEAWALL}));
    assert_refused(tenant.operator.apply(&taken, "").await, words);
    tenant.operator.delete(&ours).await?;

    let account = |labels: Value| {
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "rights-labels.bot", "namespace": AGENTS_NAMESPACE, "labels": labels},
        })
    };
    let words = "the operator writes only objects with the label";
    assert_refused(tenant.operator.create(&account(json!({}))).await, words);
    let ours = account(json!({MANAGED_BY: MANAGED_BY_SEAWALL}));
    tenant.operator.apply(&ours, "").await?;
    tenant.operator.delete(&ours).await?;
    let mut elsewhere = ours;
    elsewhere["metadata"]["namespace"] = json!("rights-labels");
    assert_refused(
        tenant.operator.create(&elsewhere).await,
        "cannot create resource",
    );
    Ok(())
}

async fn pods() -> anyhow::Result<()> {
    let tenant = Tenant::new("rights-pods").await?;
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web", "namespace": "rights-pods",
            "labels": {"app": "web"}, "annotations": {"owner": "shop"},
        },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "none"}],
        },
    });
    // Pods are refused until the namespace has its ServiceAccount.
    let limit = Duration::from_secs(20);
    let stored = eventually("a pod", limit, || async {
        Ok(tenant.admin.create(&pod).await.ok())
    })
    .await?;
    let uid = &stored["metadata"]["uid"];
    let operator = &tenant.operator;
    let labels = |labels: Value, annotations: Value| json!({"metadata": {"labels": labels, "annotations": annotations}});
    let bare = || json!({"app": null, (ISOLATED): uid});
    let says = || json!({(ISOLATED): "{}"});

    let words = "the operator deletes only pods whose labels it has taken";
    assert_refused(operator.delete(&pod).await, words);
    let words = "the operator takes all labels of a pod";
    for patch in [
        labels(json!({"app": "db"}), says()),
        labels(json!({(ISOLATED): uid}), says()),
        labels(json!({"app": null, (ISOLATED): "another"}), says()),
        labels(bare(), json!({})),
    ] {
        assert_refused(operator.merge(&pod, "", &patch).await, words);
    }
    let words = "the operator changes no annotation of a pod but its own";
    let patch = labels(bare(), json!({(ISOLATED): "{}", "owner": "me"}));
    assert_refused(operator.merge(&pod, "", &patch).await, words);
    let patch = labels(bare(), json!({(ISOLATED): "{}", "another": "one"}));
    assert_refused(operator.merge(&pod, "", &patch).await, words);
    let words = "the operator changes neither a pod's finalizers nor its owners";
    for (field, value) in [
        ("finalizers", json!(["seawall.dev/stay"])),
        (
            "ownerReferences",
            json!([{"apiVersion": "v1", "kind": "Pod", "name": "gone", "uid": "none"}]),
        ),
    ] {
        let mut patch = labels(bare(), says());
        patch["metadata"][field] = value;
        assert_refused(operator.merge(&pod, "", &patch).await, words);
    }
    let words = "the operator changes nothing of what a pod runs";
    let mut patch = labels(bare(), says());
    patch["spec"] = json!({"activeDeadlineSeconds": 1});
    assert_refused(operator.merge(&pod, "", &patch).await, words);
    assert_refused(operator.create(&pod).await, "cannot create resource");

    // The note is nobody else's, whatever rights they have.
    let words = "is the operator's note of the labels that it took";
    let noted = |note: Value| json!({"metadata": {"annotations": {(ISOLATED): note}}});
    let forged = tenant.admin.merge(&pod, "", &noted(json!("{}"))).await;
    assert_refused(forged, words);
    let patch = labels(bare(), says());
    operator.merge(&pod, "", &patch).await?;
    for note in [json!(null), json!("{\"pod\": \"another\"}")] {
        assert_refused(tenant.admin.merge(&pod, "", &noted(note)).await, words);
    }
    let owner = json!({"metadata": {"annotations": {"owner": "another"}}});
    tenant.admin.merge(&pod, "", &owner).await?;
    let mut copy = pod.clone();
    copy["metadata"]["name"] = json!("copy");
    copy["metadata"]["annotations"] = json!({(ISOLATED): "{}"});
    assert_refused(tenant.admin.create(&copy).await, words);
    operator.delete(&pod).await?;
    Ok(())
}

async fn binding() -> anyhow::Result<()> {
    let tenant = Tenant::new("rights-binding").await?;
    let agent = tenant
        .scope("bot", containing(&[DEVICE]), &[DEVICE])
        .await?;
    for (role, words) in [
        (
            "cluster-admin",
            "is attempting to grant RBAC permissions not currently held",
        ),
        (
            "edit",
            "is attempting to grant RBAC permissions not currently held",
        ),
        (
            "seawall",
            "the operator hands out the three roles of agents, and no other",
        ),
    ] {
        let wider = tenant.binding(&agent, role, "rights-binding");
        assert_refused(tenant.operator.create(&wider).await, words);
    }
    let words = "the operator binds the agents of a namespace in that namespace";
    let role = "seawall-agent-contain";
    let elsewhere = tenant.binding(&agent, role, "default");
    assert_refused(tenant.operator.create(&elsewhere).await, words);
    let user = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"});
    let account = json!({"kind": "ServiceAccount", "namespace": "rights-binding", "name": "rights-binding.bot"});
    for subject in [user, account] {
        let mut wrong = tenant.binding(&agent, role, "rights-binding");
        wrong["subjects"] = json!([subject]);
        assert_refused(tenant.operator.create(&wrong).await, words);
    }
    for role in ["investigate", "contain", "manage"] {
        let role = format!("seawall-agent-{role}");
        tenant.bind(&agent, &role).await?;
        let binding = tenant.binding(&agent, &role, "rights-binding");
        tenant.operator.delete(&binding).await?;
    }
    let mut cluster_wide = tenant.binding(&agent, role, "rights-binding");
    cluster_wide["kind"] = json!("ClusterRoleBinding");
    cluster_wide["metadata"]["namespace"] = Value::Null;
    assert_refused(
        tenant.operator.create(&cluster_wide).await,
        "cannot create resource",
    );
    Ok(())
}

async fn secrets() -> anyhow::Result<()> {
    let tenant = Tenant::new("rights-secrets").await?;
    let secret = |namespace: &str, name: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
        })
    };
    tenant.operator.get(&secret(SYSTEM, "seawall-keys")).await?;
    for (namespace, name) in [(SYSTEM, "another"), ("rights-secrets", "seawall-keys")] {
        let other = secret(namespace, name);
        assert_refused(tenant.operator.get(&other).await, "cannot get resource");
        assert_refused(
            tenant.operator.create(&other).await,
            "cannot create resource",
        );
    }
    let all = "/api/v1/namespaces/seawall-system/secrets";
    assert_refused(tenant.operator.get_path(all).await, "cannot list resource");

    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = |account: &str| format!("/api/v1/namespaces/{account}/token");
    for account in [
        "seawall-system/serviceaccounts/seawall",
        "seawall-agents/serviceaccounts/default",
        "kube-system/serviceaccounts/default",
    ] {
        let (post, path) = (http::Method::POST, token(account));
        let answer = tenant
            .operator
            .send(post, &path, "application/json", &request);
        assert_refused(answer.await, "cannot create resource");
    }
    let post = http::Method::POST;
    let account = token("seawall-system/serviceaccounts/seawall-mcp");
    tenant
        .operator
        .send(post, &account, "application/json", &request)
        .await?;

    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "seawall", "namespace": SYSTEM},
        "spec": {"holderIdentity": "test"},
    });
    tenant.operator.create(&lease).await?;
    let answer = tenant.operator.apply(&lease, "").await;
    assert_refused(answer, "cannot patch resource");
    tenant.admin.delete(&lease).await?;
    Ok(())
}

async fn scope_status() -> anyhow::Result<()> {
    let tenant = Tenant::new("rights-status").await?;
    let agent = tenant
        .scope("bot", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let scope = tenant.object("ApiKeyScope", "bot", json!({}));
    let patch = json!({"status": {"targets": {"devices": ["dev_everybody"]}}});
    let words = "only the operator writes the status of an ApiKeyScope";
    assert_refused(tenant.admin.merge(&scope, "/status", &patch).await, words);
    let ignored = tenant.admin.merge(&scope, "", &patch).await?;
    let devices = &ignored["status"]["targets"]["devices"];
    assert_eq!(devices, &json!([DEVICE]), "{}", agent.user);
    Ok(())
}

async fn no_pods() -> anyhow::Result<()> {
    let cluster = charts::installed().await?;
    let admin = Caller::admin(cluster);
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": AGENTS_NAMESPACE},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "c",
                "image": "none",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    // Until the quota is known to the API server, that is what it says; it refuses all the same.
    let limit = Duration::from_secs(20);
    eventually("the quota", limit, || async {
        match admin.try_create(&pod).await {
            Ok(created) => anyhow::bail!("a pod was accepted: {created}"),
            Err(refusal) => Ok(refusal
                .message
                .contains("exceeded quota: no-pods")
                .then_some(())),
        }
    })
    .await
}

async fn type_checks() -> anyhow::Result<()> {
    let cluster = charts::installed().await?;
    let admin = Caller::admin(cluster);
    let path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let policies = eventually("the type checks", Duration::from_secs(30), || async {
        let list = admin.get_path(path).await?;
        let mut policies = list["items"].as_array().cloned().unwrap_or_default();
        // Other tests make some of their own.
        policies.retain(|policy| {
            let name = policy["metadata"]["name"].as_str();
            name.is_some_and(|name| name.starts_with("seawall-"))
        });
        let checked = |policy: &Value| {
            policy["status"]["observedGeneration"] == policy["metadata"]["generation"]
        };
        Ok(policies.iter().all(checked).then_some(policies))
    })
    .await?;
    assert_eq!(policies.len(), 10);
    for policy in policies {
        let warnings = &policy["status"]["typeChecking"]["expressionWarnings"];
        assert!(
            warnings.is_null(),
            "{}: {warnings}",
            policy["metadata"]["name"]
        );
    }
    Ok(())
}
