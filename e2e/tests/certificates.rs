//! Certificates: what the chart asks cert-manager for, what can't be served, and the one that the webhook makes itself.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use reqwest::tls::TlsInfo;
use seawall::admission::{self, Identity};
use seawall::fleet::keys::OperatorKeys;
use seawall::tls_pair::Gauges;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::charts::{self, SYSTEM};
use crate::cluster::pki::{self, Authority};
use crate::cluster::toolset::Toolset;
use crate::harness::case;
use crate::mounted::MountedSecret;
use crate::process;

const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
/// The chart's with cert-manager.
const VALUES: [&str; 4] = [
    "certificates.certManager.enabled=true",
    "certificates.certManager.issuerRef.name=authority",
    "mcp.tls.certManager=true",
    "mcp.allowedHosts={mcp.example.com,mcp.example.com:8443,192.0.2.1:8443,[2001:db8::1]:8443}",
];

pub fn all() -> Vec<Trial> {
    let accepted = case(
        "what the chart has cert-manager make is accepted by its custom resources, and is what the pod mounts",
        accepted,
    );
    // Outside the sandbox, where tests are only listed, nobody has looked for it yet.
    let missing = Toolset::from_env().is_ok_and(|tools| tools.definitions("cert-manager").is_err());
    let accepted = match missing {
        true => accepted
            .with_kind("skipped: cert-manager's custom resources could not be fetched")
            .with_ignored_flag(true),
        false => accepted,
    };
    vec![
        accepted,
        case(
            "a certificate that can't be served ends operator and MCP server at once, with its file's name",
            refused_at_start,
        ),
        case(
            "the webhook's certificate of the operator's own authority is another before the last one ends",
            own,
        ),
    ]
}

async fn accepted() -> anyhow::Result<()> {
    let cluster = charts::installed().await?;
    let folder = cluster.definitions("cert-manager")?;
    let folder = folder.to_str().context("a path in UTF-8")?;
    let define = ["apply", "--server-side", "-f", folder];
    cluster.kubectl(&define).await?;
    let definition = "crd/certificates.cert-manager.io";
    let established = ["wait", definition, "--for=condition=Established"];
    cluster.kubectl(&established).await?;
    let objects = charts::template(&VALUES).await?;
    let named = |kind: &str, name: &str| {
        let mut found = objects.iter();
        let found = found.find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
        found.with_context(|| format!("{kind} {name}"))
    };
    let apply = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
    let try_apply = async |object: &Value| {
        let admin = cluster.admin_kubeconfig();
        cluster
            .kubectl_as(admin, &apply, &object.to_string())
            .await?
            .success()
    };
    let pod = &named("Deployment", "seawall")?["spec"]["template"]["spec"];
    for (name, container) in [("seawall-webhook", "operator"), ("seawall-mcp", "mcp")] {
        let certificate = named("Certificate", name)?;
        try_apply(certificate).await?;
        let mut wrong = certificate.clone();
        wrong["spec"]["issuerRef"] = json!({"kind": "Issuer"});
        let refused = try_apply(&wrong).await;
        ensure!(refused.is_err_and(|it| format!("{it:#}").contains("issuerRef.name")));
        mounts(pod, container, certificate)?;
    }
    let of_webhook = &named("Certificate", "seawall-webhook")?["spec"];
    let service = format!("seawall-webhook.{SYSTEM}.svc");
    ensure!(of_webhook["dnsNames"] == json!([service]), "{of_webhook}");
    let of_mcp = &named("Certificate", "seawall-mcp")?["spec"];
    let names = of_mcp["dnsNames"].as_array().context("names")?;
    ensure!(names.len() == 5 && names.contains(&json!("mcp.example.com")));
    ensure!(of_mcp["ipAddresses"] == json!(["192.0.2.1", "2001:db8::1"]));
    let webhook = named("ValidatingWebhookConfiguration", "seawall")?;
    let injected = &webhook["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
    ensure!(*injected == format!("{SYSTEM}/seawall-webhook"));
    Ok(())
}

/// The container reads the certificate's Secret by its flags.
fn mounts(pod: &Value, container: &str, certificate: &Value) -> anyhow::Result<()> {
    let find = |list: &Value, key: &str, value: &Value| {
        let mut all = list.as_array().into_iter().flatten().cloned();
        all.find(|it| it.pointer(key) == Some(value))
            .with_context(|| format!("{key} {value} in {list}"))
    };
    let secret = &certificate["spec"]["secretName"];
    let volume = find(&pod["volumes"], "/secret/secretName", secret)?;
    let container = find(&pod["containers"], "/name", &json!(container))?;
    let mount = find(&container["volumeMounts"], "/name", &volume["name"])?;
    let arguments = container["args"].to_string();
    for file in ["tls.crt", "tls.key"] {
        let path = format!(
            "{}/{file}\"",
            mount["mountPath"].as_str().unwrap_or_default()
        );
        ensure!(arguments.contains(&path), "{path} in {arguments}");
    }
    Ok(())
}

async fn refused_at_start() -> anyhow::Result<()> {
    let authority = Authority::generate()?;
    let (one, other) = (pair(&authority)?, pair(&authority)?);
    let mismatched = pki::Identity {
        key: other.key,
        ..one
    };
    let mounted = MountedSecret::new(&mismatched)?;
    let missing = "/nonexistent/tls.crt".to_owned();
    for (part, before) in [("operator", "--webhook-"), ("mcp", "--")] {
        for (certificate, key, words) in [
            (Some(&missing), Some(mounted.key()), "/nonexistent/tls.crt"),
            (
                Some(&mounted.certificate()),
                Some(mounted.key()),
                "tls.key is not the key",
            ),
            (
                Some(&mounted.certificate()),
                Some(mounted.certificate()),
                "holds no private key",
            ),
            (Some(&mounted.certificate()), None, "tls-key-file"),
            (None, Some(mounted.key()), "tls-certificate-file"),
        ] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
            command.arg(part);
            if let Some(file) = certificate {
                command.arg(format!("{before}tls-certificate-file={file}"));
            }
            if let Some(file) = key {
                command.arg(format!("{before}tls-key-file={file}"));
            }
            let ended = process::run(command, "", Duration::from_secs(20)).await?;
            let said = format!("{:#}", ended.success().expect_err("it can't serve"));
            ensure!(said.contains(words), "{part}, {words}: {said}");
        }
    }
    Ok(())
}

async fn own() -> anyhow::Result<()> {
    const LIFETIME: Duration = Duration::from_secs(6);
    let keys = Arc::new(OperatorKeys::generate()?);
    let address = [LOOPBACK.to_string()];
    let identity = Identity::new(Arc::clone(&keys), SYSTEM, &address).lasting(LIFETIME);
    let listener = std::net::TcpListener::bind((LOOPBACK, 0))?;
    listener.set_nonblocking(true)?;
    let url = format!("https://{}/", listener.local_addr()?);
    let (gauges, stop) = (Gauges::default(), CancellationToken::new());
    let certificate = admission::Certificate::Own(identity);
    let serving = admission::serve(
        listener,
        axum::Router::new(),
        certificate,
        gauges,
        stop.clone(),
    );
    let serving = tokio::spawn(serving);
    let root = reqwest::Certificate::from_der(keys.authority.certificate())?;
    let began = Instant::now();
    let mut seen = BTreeSet::new();
    while began.elapsed() < LIFETIME + LIFETIME / 2 {
        // A handshake each time.
        let client = reqwest::Client::builder()
            .tls_certs_only([root.clone()])
            .tls_info(true)
            .build()?;
        let answer = client.get(&url).send().await?;
        let shown = answer.extensions().get::<TlsInfo>();
        let shown = shown.and_then(TlsInfo::peer_certificate);
        seen.insert(shown.context("a certificate")?.to_vec());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ensure!(seen.len() >= 3, "{} certificates", seen.len());
    stop.cancel();
    serving.await?
}

fn pair(authority: &Authority) -> anyhow::Result<pki::Identity> {
    authority.server("seawall", LOOPBACK)
}
