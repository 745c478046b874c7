//! The charts themselves: they render cleanly, the API server accepts what they render, and installing again
//! loses nothing.

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::caller::Caller;
use crate::charts::{self, SYSTEM};
use crate::cluster::{ControlPlane, Options};
use crate::harness::case;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "the charts pass lint, and what they render is accepted",
            rendered,
        ),
        case("a wrong value is refused by its name", wrong_values),
        case(
            "the pod is accepted where pods are restricted, and the sidecar sees neither the operator's token nor its data",
            pod,
        ),
        case(
            "a node's agent has NET_ADMIN and no other power, no rights in the API server, and no Service chooses it",
            agents,
        ),
        case(
            "upgrading and installing again keep the keys, the holds, the definitions and the webhook's certificate",
            again,
        ),
    ]
}

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/seawall");
const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/seawall-crds");

/// Values that reach every branch of the templates, between them.
const VALUES: [&[&str]; 5] = [
    &[],
    &["replicas=0", "webhook.url=https://127.0.0.1:9443/admission"],
    &[
        "database.existingSecret=seawall-database",
        "database.key=uri",
        "database.caSecret=postgres-ca",
        "networkPolicy.apiServer[0].cidr=192.0.2.1/32",
        "networkPolicy.apiServer[0].port=6443",
        "networkPolicy.database[0].cidr=192.0.2.5/32",
        "networkPolicy.database[0].port=5432",
    ],
    &[
        "mcp.enabled=false",
        "agent.enabled=false",
        "persistence.enabled=false",
        "rbac.aggregate=false",
        "networkPolicy.enabled=false",
        "image.digest=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ],
    &[
        "fleet.addresses={192.0.2.10:8443,[2001:db8::10]:8443}",
        "fleet.service.type=LoadBalancer",
        "fleet.service.nodePort=30443",
        "fleet.service.loadBalancerIP=192.0.2.10",
        "fleet.service.loadBalancerSourceRanges={10.0.0.0/8}",
        "fleet.service.annotations.a=b",
        "operator.protected.backup=10.0.7.0/24",
        "operator.protected.ntp=192.0.2.123",
        "operator.protected.dns=2001:db8::/32",
        "operator.extraArgs={--log-format=human}",
        "operator.env[0].name=RUST_LOG",
        "operator.env[0].value=debug",
        "mcp.allowedHosts={mcp.example.com}",
        "mcp.allowedOrigins={https://console.example.com:443}",
        "mcp.env[0].name=RUST_LOG",
        "mcp.env[0].value=debug",
        "mcp.extraArgs={--listen=0.0.0.0:8090}",
        "mcp.tls.existingSecret=mcp.example.com",
        "image.pullSecrets[0].name=registry",
        "persistence.existingClaim=mine",
        "persistence.storageClass=fast",
        "podLabels.team=soc",
        "podAnnotations.a=b",
        "nodeSelector.a=b",
        "tolerations[0].operator=Exists",
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key=a",
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator=Exists",
        "priorityClassName=system-cluster-critical",
        "podDisruptionBudget.enabled=true",
        "networkPolicy.fleetFrom[0].ipBlock.cidr=10.0.0.0/8",
        "networkPolicy.mcpFrom[0].namespaceSelector.matchLabels.a=b",
        "networkPolicy.metricsFrom[0].podSelector.matchLabels.a=b",
        "networkPolicy.webhookFrom[0].ipBlock.cidr=192.0.2.1/32",
        "networkPolicy.apiServer[0].cidr=192.0.2.1/32",
        "networkPolicy.apiServer[0].port=6443",
        "agent.maxUnavailable=3",
        "agent.stateDirectory=/var/lib/seawall-node",
        "agent.extraArgs={--operator-dir=/elsewhere}",
        "agent.env[0].name=RUST_LOG",
        "agent.env[0].value=debug",
        "agent.nodeSelector.a=b",
        "agent.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key=a",
        "agent.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator=Exists",
        "agent.podLabels.team=soc",
        "agent.podAnnotations.a=b",
    ],
];

fn with<'a>(command: &[&'a str], values: &[&'a str]) -> Vec<&'a str> {
    let mut args = command.to_vec();
    for value in values {
        args.extend(["--set", value]);
    }
    args
}

/// What the chart renders for the system namespace with these values.
async fn render(cluster: &ControlPlane, values: &[&str]) -> anyhow::Result<Vec<Value>> {
    let command = ["template", "seawall", CHART, "-n", SYSTEM];
    let text = cluster.helm(&with(&command, values)).await?;
    seawall::yaml::documents(&text).context("the chart renders YAML")
}

async fn rendered() -> anyhow::Result<()> {
    let cluster = charts::installed().await?;
    cluster.helm(&["lint", "--strict", CRDS]).await?;
    for values in VALUES {
        let command = ["lint", "--strict", CHART, "-n", SYSTEM];
        cluster.helm(&with(&command, values)).await?;
        let objects = render(cluster, values).await?;
        ensure!(objects.len() > 25, "{} objects", objects.len());
        let text =
            serde_json::to_string(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))?;
        let apply = [
            "apply",
            "--server-side",
            "--force-conflicts",
            // As helm does: another manager would only add to what is there.
            "--field-manager=helm",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            "-",
        ];
        let outcome = cluster
            .kubectl_as(cluster.admin_kubeconfig(), &apply, &text)
            .await?;
        outcome.success()?;
    }
    // The chart's own roles never grant everything.
    for object in render(cluster, &[]).await? {
        let rules = object["rules"].to_string();
        ensure!(!rules.contains("\"*\""), "{}", object["metadata"]["name"]);
    }
    Ok(())
}

async fn wrong_values() -> anyhow::Result<()> {
    let cluster = charts::installed().await?;
    for (value, words) in [
        ("replicas=2", "/replicas"),
        ("image.tagg=1", "'tagg' not allowed"),
        (
            "fleet.addresses={operator.example.com:8443}",
            "/fleet/addresses/0",
        ),
        (
            "webhook.url=http://127.0.0.1:9443/admission",
            "/webhook/url",
        ),
        ("operator.holdThreshold=-1", "/operator/holdThreshold"),
        ("mcp.allowedOrigins={*}", "/mcp/allowedOrigins/0"),
        ("persistence.size=big", "/persistence/size"),
        ("fleet.service.type=ExternalName", "/fleet/service/type"),
        ("operator.protected.x=foo", "/operator/protected/x"),
        ("operator.protected.x=10.0.7.0/33", "/operator/protected/x"),
        ("operator.protected.x=10.0.7.256", "/operator/protected/x"),
        (
            "operator.protected.x=2001:db8::/129",
            "/operator/protected/x",
        ),
        ("podLabels.app\\.kubernetes\\.io/name=x", "/podLabels"),
        ("podLabels.app\\.kubernetes\\.io/instance=x", "/podLabels"),
        ("podLabels.helm\\.sh/chart=x", "/podLabels"),
        (
            "podDisruptionBudget.maxUnavailable=2",
            "/podDisruptionBudget",
        ),
        (
            "networkPolicy.apiServer[0].cidr=10.0.0.1",
            "/networkPolicy/apiServer",
        ),
        (
            "networkPolicy.database[0].cidr=10.0.0.1",
            "/networkPolicy/database",
        ),
        ("networkPolicy.mcpFrom={any}", "/networkPolicy/mcpFrom/0"),
        ("database.existingSecret=A_b", "/database/existingSecret"),
        ("database.key=", "/database/key"),
        ("database.url=postgres://db/x", "'url' not allowed"),
        ("database.caSecret=ca", "database.existingSecret is not"),
        (
            "database.existingSecret=db,networkPolicy.apiServer[0].cidr=192.0.2.1/32,networkPolicy.apiServer[0].port=6443",
            "set networkPolicy.database too",
        ),
        ("podMonitor.interval=often", "/podMonitor/interval"),
        (
            "prometheusRule.runbookUrl=wiki",
            "/prometheusRule/runbookUrl",
        ),
        ("mcp.tls.existingSecret=Mine", "/mcp/tls/existingSecret"),
        ("mcp.tls.secretName=mine", "'secretName'"),
        (
            "mcp.tls.certManager=true",
            "/certificates/certManager/enabled",
        ),
        (
            "certificates.certManager.enabled=true",
            "/certificates/certManager/issuerRef/name",
        ),
        (
            "certificates.certManager.issuerRef.kind=Authority",
            "/certificates/certManager/issuerRef/kind",
        ),
        (
            "mcp.tls.certManager=true,mcp.tls.existingSecret=mine,certificates.certManager.enabled=true,certificates.certManager.issuerRef.name=ca",
            "/mcp/tls/existingSecret",
        ),
        ("agent.maxUnavailable=0", "/agent/maxUnavailable"),
        ("agent.maxUnavailable=0%", "/agent/maxUnavailable"),
        ("agent.stateDirectory=state", "/agent/stateDirectory"),
        (
            "agent.podLabels.app\\.kubernetes\\.io/name=seawall",
            "/agent/podLabels",
        ),
        (
            "podAnnotations.kubectl\\.kubernetes\\.io/default-container=mcp",
            "/podAnnotations",
        ),
    ] {
        let command = ["template", "seawall", CHART, "--set", value];
        let Err(error) = cluster.helm(&command).await else {
            anyhow::bail!("{value} is accepted");
        };
        let error = format!("{error:#}");
        ensure!(error.contains(words), "{value}: {error}");
    }
    Ok(())
}

async fn pod() -> anyhow::Result<()> {
    let cluster = charts::installed().await?;
    let admin = Caller::admin(cluster);
    let restricted = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": "restricted",
        "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    }});
    admin.create(&restricted).await?;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "seawall", "namespace": "restricted"}});
    admin.create(&account).await?;
    for values in VALUES {
        let objects = render(cluster, values).await?;
        let deployment = objects.iter().find(|it| it["kind"] == "Deployment");
        let template = &deployment.context("a Deployment")?["spec"]["template"];
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]});
        pod["metadata"] = json!({"name": "seawall", "namespace": "restricted"});
        let pod = admin.try_create(&pod).await?;
        let postgres = values.iter().any(|it| it.starts_with("database."));
        sidecar_is_apart(&pod, postgres)?;
    }
    Ok(())
}

async fn agents() -> anyhow::Result<()> {
    let cluster = charts::installed().await?;
    let admin = Caller::admin(cluster);
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
        "name": "privileged",
        "labels": {"pod-security.kubernetes.io/enforce": "privileged"},
    }});
    admin.create(&namespace).await?;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "seawall-agent", "namespace": "privileged"}});
    admin.create(&account).await?;
    for values in VALUES {
        let objects = render(cluster, values).await?;
        let daemons = objects.iter().find(|it| it["kind"] == "DaemonSet");
        let enabled = !values.contains(&"agent.enabled=false");
        ensure!(daemons.is_some() == enabled, "{values:?}");
        let Some(daemons) = daemons else { continue };
        let template = &daemons["spec"]["template"];
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]});
        pod["metadata"] = json!({"name": "agent", "namespace": "privileged"});
        let spec = &admin.try_create(&pod).await?["spec"];
        ensure!(
            spec["hostNetwork"] == true && spec["hostPID"].is_null() && spec["hostIPC"].is_null()
        );
        ensure!(spec["automountServiceAccountToken"] == false);
        ensure!(spec["containers"].as_array().map(Vec::len) == Some(1));
        let context = &spec["containers"][0]["securityContext"];
        let expected = json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        });
        ensure!(*context == expected, "{context}");
        let tokens = spec["volumes"].to_string();
        ensure!(
            tokens.matches("serviceAccountToken").count() == 1,
            "{tokens}"
        );
        ensure!(
            tokens.contains("\"audience\":\"seawall-fleet\""),
            "{tokens}"
        );
        for object in &objects {
            ensure!(
                !object["subjects"].to_string().contains("\"seawall-agent\""),
                "{} binds the agents",
                object["metadata"]["name"]
            );
            if object["kind"] == "Service" {
                let name = &template["metadata"]["labels"]["app.kubernetes.io/name"];
                ensure!(object["spec"]["selector"]["app.kubernetes.io/name"] != *name);
            }
        }
    }
    Ok(())
}

/// The sidecar mounts the folder of the local socket, the API server's certificate authority, and its own certificate
/// where it has one.
fn sidecar_is_apart(pod: &Value, postgres: bool) -> anyhow::Result<()> {
    let containers = pod["spec"]["containers"].as_array().context("containers")?;
    let mounts = |name: &str| {
        let container = containers.iter().find(|it| it["name"] == name);
        container.map(|container| {
            let mounts = container["volumeMounts"].as_array().into_iter().flatten();
            mounts
                .map(|mount| mount["name"].as_str().unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        })
    };
    let operator = mounts("operator").context("the operator")?;
    let mut expected = vec!["data", "local", "admin", "operator-token"];
    if postgres {
        expected.extend(["database", "database-ca"]);
    }
    ensure!(operator == expected, "{operator:?}");
    // The URL and its password are in a file: an argument would show them to everybody.
    let text = pod["spec"]["containers"][0]["args"].to_string();
    ensure!(text.contains("--database-url-file=/etc/seawall/database/url") == postgres);
    ensure!(!text.contains("--database-url="), "{text}");
    if let Some(mcp) = mounts("mcp") {
        let (own, certificate) = mcp.split_at(2);
        ensure!(own == ["local", "api-server-ca"], "{mcp:?}");
        ensure!(
            certificate.is_empty() || certificate == ["mcp-tls"],
            "{mcp:?}"
        );
    }
    ensure!(pod["spec"]["automountServiceAccountToken"] == false);
    Ok(())
}

async fn again() -> anyhow::Result<()> {
    let cluster = ControlPlane::start(Options::default()).await?;
    charts::install(&cluster, &["replicas=0"]).await?;
    let admin = Caller::admin(&cluster);
    let operator = Caller::account(&cluster, SYSTEM, "seawall").await?;
    let keys = json!({"kind": "Secret", "metadata": {"name": "seawall-keys", "namespace": SYSTEM}});
    let holds =
        json!({"kind": "ConfigMap", "metadata": {"name": "seawall-holds", "namespace": SYSTEM}});
    let mut written = operator.get(&keys).await?;
    written["data"] = json!({"k": "a2V5"});
    operator.replace(&written).await?;
    operator
        .merge(&holds, "", &json!({"data": {"hold": "1"}}))
        .await?;
    let webhook = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/seawall";
    let bundle = json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": certificate()?}]);
    let patch = http::Method::PATCH;
    operator
        .send(patch, webhook, "application/json-patch+json", &bundle)
        .await?;

    let upgrade = [
        "upgrade",
        "seawall",
        CHART,
        "-n",
        SYSTEM,
        "--set",
        "replicas=0,podLabels.a=b",
    ];
    cluster.helm(&upgrade).await?;
    let now = admin.get_path(webhook).await?;
    ensure!(
        now["webhooks"][0]["clientConfig"]["caBundle"].is_string(),
        "{now}"
    );

    let isolation = json!({
        "apiVersion": "seawall.dev/v1alpha1",
        "kind": "Isolation",
        "metadata": {"name": "stays", "namespace": "default"},
        "spec": {"target": {"node": "worker-1"}, "reason": "test"},
    });
    admin.create(&isolation).await?;
    cluster
        .helm(&["uninstall", "seawall", "-n", SYSTEM, "--wait"])
        .await?;
    cluster
        .helm(&["uninstall", "seawall-crds", "-n", "kube-system"])
        .await?;
    admin.get(&isolation).await?;
    charts::install(&cluster, &["replicas=0"]).await?;
    admin.get(&isolation).await?;
    ensure!(admin.get(&keys).await?["data"]["k"] == "a2V5");
    ensure!(admin.get(&holds).await?["data"]["hold"] == "1");
    Ok(())
}

/// Any certificate, in base64 of PEM, as a caBundle wants it.
fn certificate() -> anyhow::Result<String> {
    use base64::Engine as _;
    let made = rcgen::generate_simple_self_signed(["webhook.example.com".to_owned()])?;
    Ok(base64::engine::general_purpose::STANDARD.encode(made.cert.pem()))
}
