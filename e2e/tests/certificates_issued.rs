//! cert-manager itself beside the operator: it makes the webhook's certificate and tells the API server whom to trust.
//!
//! Building it takes longer than the other tests wait for anything, so this is run by who asks for it:
//! `(cd e2e/cert-manager && CGO_ENABLED=0 go build -o /tmp/cert-manager .)`, then
//! `SEAWALL_E2E_CERT_MANAGER=/tmp/cert-manager make test TESTS=certificates_issued`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::charts::SYSTEM;
use crate::cluster::pki::Identity;
use crate::harness::{case, eventually};
use crate::mounted::MountedSecret;
use crate::process::Daemon;
use crate::site::{McpClient, Site, TENANT};

const PATIENCE: Duration = Duration::from_secs(60);
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/seawall");

/// An authority of cert-manager's own making, as its documentation begins.
const ISSUERS: &str = "\
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: self-signed, namespace: seawall-system}
spec: {selfSigned: {}}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: authority, namespace: seawall-system}
spec:
  isCA: true
  commonName: authority
  secretName: authority
  privateKey: {algorithm: ECDSA, size: 256}
  issuerRef: {kind: Issuer, name: self-signed}
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata: {name: authority, namespace: seawall-system}
spec: {ca: {secretName: authority}}
";

/// The program that `e2e/cert-manager` is built to.
const PROGRAM: &str = "SEAWALL_E2E_CERT_MANAGER";

/// None unless the program is given: a test that is always passed over says nothing.
pub fn all() -> Vec<Trial> {
    let sentence = "cert-manager makes and renews the webhook's certificate, and the author of each change is recorded";
    let given = std::env::var_os(PROGRAM).filter(|path| !path.is_empty());
    given.map(|_| case(sentence, issued)).into_iter().collect()
}

async fn issued() -> anyhow::Result<()> {
    let mut site = Site::start(&[]).await?;
    let auditor = site.agent("auditor", "Investigate", None).await?;
    recorded(&site, &auditor, "by-own").await?;
    let _manager = start(&site).await?;
    site.apply(ISSUERS).await?;
    let values =
        "certificates.certManager.enabled=true,certificates.certManager.issuerRef.name=authority";
    let upgrade = [
        "upgrade",
        "seawall",
        CHART,
        "-n",
        SYSTEM,
        "--reset-then-reuse-values",
    ];
    // The operator has written its path behind the address of a webhook that is outside of the cluster.
    let upgrade = [&upgrade[..], &["--force-conflicts", "--set", values]].concat();
    site.plane.helm(&upgrade).await?;
    let (first, authority) = secret(&site, None).await?;
    let mut mounted = MountedSecret::new(&first)?;
    site.stop_operator().await?;
    site.add_operator_arguments(&[
        "--webhook-tls-certificate-file",
        &mounted.certificate(),
        "--webhook-tls-key-file",
        &mounted.key(),
    ]);
    site.start_operator().await?;
    injected(&site, &authority).await?;
    recorded(&site, &auditor, "by-issued").await?;

    renew(&site).await?;
    let (renewed, _) = secret(&site, Some(&first.certificate)).await?;
    mounted.renew(&site, &renewed).await?;
    recorded(&site, &auditor, "by-renewed").await?;
    // Nobody fought over whom to trust.
    injected(&site, &authority).await
}

async fn start(site: &Site) -> anyhow::Result<Daemon> {
    let folder = site.plane.definitions("cert-manager")?;
    let folder = folder.to_str().context("a path in UTF-8")?;
    let define = ["apply", "--server-side", "-f", folder];
    site.plane.kubectl(&define).await?;
    let established = ["wait", "crd", "--all", "--for=condition=Established"];
    site.plane.kubectl(&established).await?;
    let program = std::env::var_os(PROGRAM);
    let mut command = Command::new(program.context("the program was given")?);
    command.env("KUBECONFIG", site.plane.admin_kubeconfig());
    Daemon::spawn("cert-manager", &mut command, site.dir())
}

/// What is in the webhook's Secret once it is another than `before`: the pair, and whom to trust.
async fn secret(site: &Site, before: Option<&str>) -> anyhow::Result<(Identity, String)> {
    let args = [
        "get",
        "secret",
        "seawall-webhook-tls",
        "-n",
        SYSTEM,
        "-o",
        "json",
    ];
    eventually("cert-manager's Secret", PATIENCE, || async {
        let found: Value = serde_json::from_str(&site.plane.kubectl(&args).await?)?;
        ensure!(found["type"] == "kubernetes.io/tls", "{}", found["type"]);
        let entry = |name: &str| {
            let text = STANDARD.decode(found["data"][name].as_str().unwrap_or_default())?;
            anyhow::Ok(String::from_utf8(text)?)
        };
        let pair = Identity {
            certificate: entry("tls.crt")?,
            key: entry("tls.key")?,
        };
        let other = !pair.certificate.is_empty() && before != Some(&pair.certificate);
        Ok(other.then_some((pair, entry("ca.crt")?)))
    })
    .await
}

/// Waits until the API server trusts this authority for each of the webhooks.
async fn injected(site: &Site, authority: &str) -> anyhow::Result<()> {
    let args = [
        "get",
        "validatingwebhookconfiguration",
        "seawall",
        "-o",
        "json",
    ];
    eventually("the authority to be injected", PATIENCE, || async {
        let found: Value = serde_json::from_str(&site.plane.kubectl(&args).await?)?;
        let mut webhooks = found["webhooks"].as_array().into_iter().flatten();
        let all = webhooks.all(|webhook| {
            let bundle = webhook["clientConfig"]["caBundle"].as_str();
            let pem = bundle.and_then(|it| STANDARD.decode(it).ok());
            // Beside those that were trusted before.
            pem.is_some_and(|pem| String::from_utf8_lossy(&pem).contains(authority.trim()))
        });
        Ok(all.then_some(()))
    })
    .await
}

/// What `cmctl renew` does.
async fn renew(site: &Site) -> anyhow::Result<()> {
    let issuing = json!({
        "type": "Issuing", "status": "True", "reason": "ManuallyTriggered",
        "message": "a test asks for it", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let patch = json!([{"op": "add", "path": "/status/conditions/-", "value": issuing}]);
    let patch = patch.to_string();
    let args = ["patch", "certificate", "seawall-webhook", "-n", SYSTEM];
    let args = [
        &args[..],
        &["--subresource=status", "--type=json", "-p", &patch],
    ]
    .concat();
    site.plane.kubectl(&args).await.map(drop)
}

/// Makes policies of this name until the webhook was told of one.
async fn recorded(site: &Site, auditor: &McpClient, name: &str) -> anyhow::Result<()> {
    let mut made = 0;
    eventually("the webhook to be told", PATIENCE, || {
        made += 1;
        let policy = json!({
            "apiVersion": "seawall.dev/v1alpha1", "kind": "Policy",
            "metadata": {"name": format!("{name}-{made}"), "namespace": TENANT},
            "spec": {
                "mode": "Observe",
                "subjects": {"all": true},
                "rules": [{
                    "name": "r", "direction": "Egress", "action": "Deny",
                    "peers": {"cidrs": ["203.0.113.0/24"]},
                }],
            },
        });
        async move {
            site.apply(&policy.to_string()).await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let query = json!({"kind": "change_request", "text": name, "limit": 5});
            let found = auditor.must("search_audit_log", query).await?;
            let told = found.structured["entries"].as_array().map_or(0, Vec::len);
            Ok((told > 0).then_some(()))
        }
    })
    .await
}
