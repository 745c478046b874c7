//! Facts about the cluster: pods, nodes, namespaces and the NetworkPolicies of others.

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::harness::{case, eventually};
use crate::operators::{Fixture, PATIENCE, SYSTEM};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "pods, nodes, namespaces and others' NetworkPolicies are known, and what is finished or gone is not",
            known,
        ),
        case(
            "what the kubelet tells of a pod all the time is nothing to compile for",
            heartbeats,
        ),
        case(
            "who reaches a pod is told from its NetworkPolicies as they are",
            explained,
        ),
        case(
            "without the right to see pods the operator is not ready and says so",
            no_right,
        ),
    ]
}

const TENANT: &str = "plant";

/// What a metric without or with these labels says.
async fn metric(fixture: &Fixture, name: &str) -> anyhow::Result<Option<u64>> {
    let (_, text) = fixture.health(0, "/metrics").await?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    Ok(lines.next().map(|value| value.trim().parse()).transpose()?)
}

async fn count(fixture: &Fixture, kind: &str) -> anyhow::Result<u64> {
    let name = format!("seawall_world_objects{{kind=\"{kind}\"}}");
    Ok(metric(fixture, &name).await?.unwrap_or_default())
}

async fn until(fixture: &Fixture, kind: &str, wanted: u64) -> anyhow::Result<()> {
    eventually(
        &format!("{wanted} of {kind} to be known"),
        PATIENCE,
        || async { Ok((count(fixture, kind).await? == wanted).then_some(())) },
    )
    .await
}

/// As a kubelet would tell: there is none here.
async fn tell(fixture: &Fixture, pod: &str, status: Value) -> anyhow::Result<()> {
    let patch = json!({ "status": status }).to_string();
    let args = ["patch", "pod", pod, "-n", TENANT, "--subresource=status"];
    let how = ["--type=merge", "-p", &patch];
    fixture.plane.kubectl(&[&args[..], &how].concat()).await?;
    Ok(())
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": TENANT, "labels": {"app": "web"}},
        "spec": {
            "nodeName": "worker-1", "automountServiceAccountToken": false,
            "containers": [{"name": "web", "image": "web"}],
        },
    })
}

/// A node, the tenant, and one pod in it with an address.
async fn furnished() -> anyhow::Result<Fixture> {
    let fixture = Fixture::start().await?;
    // The node gets no pods but the test's.
    let daemons = ["delete", "daemonset", "-n", SYSTEM, "seawall-agent"];
    fixture.plane.kubectl(&daemons).await?;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "worker-1"},
        "spec": {"podCIDRs": ["10.244.1.0/24"], "podCIDR": "10.244.1.0/24"}});
    fixture.apply(&node).await?;
    fixture.plane.kubectl(&["create", "ns", TENANT]).await?;
    // Pods wait for their namespace's ServiceAccount.
    eventually("a pod to be made", PATIENCE, || async {
        Ok(fixture.apply(&pod("web")).await.ok())
    })
    .await?;
    let running =
        json!({"phase": "Running", "podIP": "10.244.1.7", "podIPs": [{"ip": "10.244.1.7"}]});
    tell(&fixture, "web", running).await?;
    until(&fixture, "Pod", 1).await?;
    Ok(fixture)
}

async fn known() -> anyhow::Result<()> {
    let fixture = furnished().await?;
    until(&fixture, "Node", 1).await?;
    let namespaces = fixture
        .plane
        .kubectl(&["get", "namespaces", "-o", "name"])
        .await?;
    let namespaces = namespaces.lines().count().try_into()?;
    until(&fixture, "Namespace", namespaces).await?;
    let policy = "NetworkPolicy of others";
    // The chart brings some for its own pods.
    let before = fixture.get(&["networkpolicy", "-A"]).await?;
    let before = before.and_then(|all| all["items"].as_array().map(Vec::len));
    let before = u64::try_from(before.unwrap_or_default())?;
    until(&fixture, policy, before).await?;
    let others = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "all", "namespace": TENANT,
            "labels": {"app.kubernetes.io/managed-by": "seawall"}},
        "spec": {"podSelector": {}, "ingress": [{}]},
    });
    fixture.apply(&others).await?;
    until(&fixture, policy, before + 1).await?;
    let ours = json!({
        "apiVersion": "seawall.dev/v1alpha1", "kind": "Policy",
        "metadata": {"name": "web", "namespace": TENANT},
        "spec": {
            "subjects": {"workloads": {"podSelector": {"matchLabels": {"app": "web"}}}},
            "default": {"ingress": "Deny"},
        },
    });
    fixture.apply(&ours).await?;
    eventually("our NetworkPolicy to be made", PATIENCE, || async {
        let all = fixture.get(&["networkpolicy", "-n", TENANT]).await?;
        let all = all.unwrap_or_default();
        Ok((all["items"].as_array().map(Vec::len) == Some(2)).then_some(()))
    })
    .await?;
    fixture.apply(&pod("batch")).await?;
    until(&fixture, "Pod", 2).await?;
    let others = count(&fixture, policy).await?;
    assert_eq!(others, before + 1, "ours is no others'");
    tell(&fixture, "batch", json!({"phase": "Succeeded"})).await?;
    until(&fixture, "Pod", 1).await?;
    let delete = [
        "delete",
        "pod",
        "-n",
        TENANT,
        "web",
        "--force",
        "--grace-period=0",
    ];
    fixture.plane.kubectl(&delete).await?;
    until(&fixture, "Pod", 0).await
}

/// Waits until `seawall explain` says this of a connection from outside to the pod.
async fn told(fixture: &Fixture, port: &str, code: i32) -> anyhow::Result<Value> {
    let ask = ["explain", "--from", "203.0.113.7", "--to", "pod/plant/web"];
    let ask = [&ask[..], &["--port", port, "--output", "json"]].concat();
    eventually(&format!("exit code {code}"), PATIENCE, || async {
        let told = fixture.try_seawall(0, &ask).await?;
        let answer = serde_json::from_str(&told.stdout).unwrap_or_default();
        Ok((told.status.code() == Some(code)).then_some(answer))
    })
    .await
}

async fn explained() -> anyhow::Result<()> {
    let fixture = furnished().await?;
    let open = told(&fixture, "80/TCP", 0).await?;
    assert_eq!(open["verdict"], "Reaches");
    assert_eq!(open["paths"][0]["pairs"][0]["to"], "10.244.1.7");
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "web", "namespace": TENANT},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"ports": [{"port": 443}]}]},
    });
    fixture.apply(&policy).await?;
    let closed = told(&fixture, "80/TCP", 1).await?;
    let step = &closed["paths"][0]["points"][0]["steps"][0];
    assert_eq!(step["resource"]["name"], "web", "{closed}");
    assert_eq!(
        (&step["did"], &step["decisive"]),
        (&json!("Denied"), &json!(true))
    );
    told(&fixture, "443/TCP", 0).await?;
    let deny = json!({
        "apiVersion": "seawall.dev/v1alpha1", "kind": "Isolation",
        "metadata": {"name": "suspect", "namespace": TENANT},
        "spec": {"target": {"workload": {"pod": "web"}}, "reason": "beaconing"},
    });
    fixture.apply(&deny).await?;
    let unknown = told(&fixture, "443/TCP", 2).await?;
    let because = unknown["because"].to_string();
    assert!(because.contains("nothing enforces it"), "{unknown}");
    Ok(())
}

async fn heartbeats() -> anyhow::Result<()> {
    let fixture = furnished().await?;
    let compiles = async || metric(&fixture, "seawall_compiles_total").await;
    let before = compiles().await?.unwrap_or_default();
    for beat in 0..5 {
        let since = format!("2026-11-21T10:00:0{beat}Z");
        let conditions = json!([{"type": "Ready", "status": "True",
            "lastTransitionTime": since, "lastProbeTime": since}]);
        tell(&fixture, "web", json!({ "conditions": conditions })).await?;
    }
    // A watch tells in order: who knows of this pod has heard all of the other.
    fixture.apply(&pod("second")).await?;
    until(&fixture, "Pod", 2).await?;
    let after = eventually("the second pod to be compiled", PATIENCE, || async {
        Ok(compiles().await?.filter(|after| *after > before))
    })
    .await?;
    assert_eq!(after, before + 1);
    Ok(())
}

async fn no_right() -> anyhow::Result<()> {
    let mut fixture = Fixture::prepare().await?;
    let role = fixture.get(&["clusterrole", "seawall"]).await?;
    let mut role = role.unwrap_or_default();
    for rule in role["rules"].as_array_mut().into_iter().flatten() {
        if let Some(resources) = rule["resources"].as_array_mut() {
            resources.retain(|resource| resource != "pods");
        }
    }
    role["metadata"] = json!({"name": "seawall"});
    let admin = fixture.plane.admin_kubeconfig().to_owned();
    let replace = ["replace", "-f", "-"];
    let role = role.to_string();
    let replaced = fixture.plane.kubectl_as(&admin, &replace, &role).await?;
    replaced.success()?;
    let number = fixture.add_operator(&[])?;
    eventually(
        "the operator to say what it may not see",
        PATIENCE,
        || async {
            let (status, text) = fixture.health(number, "/ready").await?;
            let says = text.contains("Pod: the operator may not list and watch Pod: bind");
            Ok((status == 503 && says && !text.contains("Namespace:")).then_some(()))
        },
    )
    .await?;
    let (_, metrics) = fixture.health(number, "/metrics").await?;
    assert!(metrics.contains("seawall_compiles_total 0"), "{metrics}");
    Ok(())
}
