//! Servers that take a new certificate from their files while they are at work.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libtest_mimic::Trial;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::caller::Caller;
use crate::cluster::free_port;
use crate::cluster::pki::{Authority, Identity};
use crate::harness::{case, eventually};
use crate::mounted::{MountedSecret, trusting};
use crate::process::Daemon;
use crate::site::{McpClient, Site, TENANT};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "the webhook takes new certificates, of another authority too, while changes go on and no author goes unknown",
            webhook,
        ),
        case(
            "an MCP client stays connected while the certificate is swapped, and a broken one is never shown",
            mcp,
        ),
    ]
}

fn pair(authority: &Authority) -> anyhow::Result<Identity> {
    authority.server("seawall", LOOPBACK)
}

/// Waits until who trusts this authority alone is shown a certificate of it.
async fn shown(authority: &Authority, url: &str) -> anyhow::Result<()> {
    eventually("the certificate to be shown", PATIENCE, || async {
        Ok(trusting(&[authority])?.get(url).send().await.ok().map(drop))
    })
    .await
}

/// Tells the API server whom to trust, as cert-manager's injector does.
async fn inject(site: &Site, authorities: &[&Authority]) -> anyhow::Result<()> {
    let pem: String = authorities.iter().map(|it| it.certificate()).collect();
    let bundle = STANDARD.encode(pem);
    let set = |number: usize| json!({"op": "add", "path": format!("/webhooks/{number}/clientConfig/caBundle"), "value": bundle});
    let patch = json!([set(0), set(1)]).to_string();
    let configuration = ["patch", "validatingwebhookconfiguration", "seawall"];
    let args = [&configuration[..], &["--type=json", "-p", &patch]].concat();
    site.plane.kubectl(&args).await.map(drop)
}

fn policy(name: &str) -> Value {
    json!({
        "apiVersion": "seawall.dev/v1alpha1", "kind": "Policy",
        "metadata": {"name": name, "namespace": TENANT},
        "spec": {
            "mode": "Observe",
            "subjects": {"all": true},
            "rules": [{
                "name": "r", "direction": "Egress", "action": "Deny",
                "peers": {"cidrs": ["203.0.113.0/24"]},
            }],
        },
    })
}

/// How many entries of a kind there are about objects with this in their name.
async fn entries(auditor: &McpClient, kind: &str, text: &str) -> anyhow::Result<usize> {
    let query = json!({"kind": kind, "text": text, "limit": 50});
    let found = auditor.must("search_audit_log", query).await?;
    Ok(found.structured["entries"].as_array().map_or(0, Vec::len))
}

async fn webhook() -> anyhow::Result<()> {
    let (first, second) = (Authority::generate()?, Authority::generate()?);
    let mut mounted = MountedSecret::new(&pair(&first)?)?;
    let site = Site::start(&[
        "--webhook-tls-certificate-file",
        &mounted.certificate(),
        "--webhook-tls-key-file",
        &mounted.key(),
    ])
    .await?;
    let auditor = site.agent("auditor", "Investigate", None).await?;
    let admin = Caller::admin(&site.plane);
    inject(&site, &[&first]).await?;
    let mut probes = 0;
    eventually("the webhook to be told", PATIENCE, || {
        probes += 1;
        let (name, admin, auditor) = (format!("probe-{probes}"), &admin, &auditor);
        async move {
            admin.create(&policy(&name)).await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let told = entries(auditor, "change_request", "probe-").await?;
            Ok((told > 0).then_some(()))
        }
    })
    .await?;

    let done = CancellationToken::new();
    let changing = async {
        let mut made = 0;
        while !done.is_cancelled() && made < 50 {
            admin.create(&policy(&format!("rotated-{made}"))).await?;
            made += 1;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        anyhow::Ok(made)
    };
    let rotating = async {
        let rotated = rotate(&site, &mut mounted, [&first, &second]).await;
        done.cancel();
        rotated
    };
    let (made, rotated) = tokio::join!(changing, rotating);
    rotated?;
    let made = made?;
    ensure!(made > 5, "{made} changes");
    eventually("the author of each change", PATIENCE, || async {
        let known = entries(&auditor, "resource_change", "rotated-").await?;
        Ok((known == made).then_some(()))
    })
    .await?;
    ensure!(entries(&auditor, "gap", "rotated-").await? == 0);
    operator_wrote_the_path_alone(&site, &second).await?;

    // That nobody went unknown says something: whom the API server doesn't trust, it tells nothing.
    inject(&site, &[&Authority::generate()?]).await?;
    let mut unknown = 0;
    eventually("an author who goes unknown", PATIENCE, || {
        unknown += 1;
        let (name, admin, auditor) = (format!("untrusted-{unknown}"), &admin, &auditor);
        async move {
            admin.create(&policy(&name)).await?;
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok((entries(auditor, "gap", "untrusted-").await? > 0).then_some(()))
        }
    })
    .await
}

/// A new certificate of the same authority, then one of another that is trusted beforehand.
async fn rotate(
    site: &Site,
    mounted: &mut MountedSecret,
    [first, second]: [&Authority; 2],
) -> anyhow::Result<()> {
    let url = format!("https://{}/", site.webhook_address());
    mounted.renew(site, &pair(first)?).await?;
    inject(site, &[first, second]).await?;
    // For the API server to see.
    tokio::time::sleep(Duration::from_secs(2)).await;
    mounted.swap(&pair(second)?)?;
    shown(second, &url).await?;
    ensure!(trusting(&[first])?.get(&url).send().await.is_err());
    inject(site, &[second]).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(())
}

async fn operator_wrote_the_path_alone(site: &Site, trusted: &Authority) -> anyhow::Result<()> {
    let args = ["get", "validatingwebhookconfiguration", "seawall", "-o"];
    let args = [&args[..], &["json", "--show-managed-fields"]].concat();
    let found: Value = serde_json::from_str(&site.plane.kubectl(&args).await?)?;
    let bundle = STANDARD.encode(trusted.certificate());
    for webhook in found["webhooks"].as_array().context("webhooks")? {
        ensure!(webhook["clientConfig"]["caBundle"] == bundle, "{webhook}");
        let url = webhook["clientConfig"]["url"].as_str().unwrap_or_default();
        let secret = url.rsplit('/').next().unwrap_or_default();
        ensure!(secret.len() == 32, "{url}");
    }
    let managers = found["metadata"]["managedFields"].as_array();
    let mut managers = managers.into_iter().flatten();
    let operator = managers.find(|it| it["manager"] == "seawall/webhook");
    let fields = operator.context("the operator applied")?["fieldsV1"].to_string();
    ensure!(
        fields.contains("f:url") && !fields.contains("f:caBundle"),
        "{fields}"
    );
    Ok(())
}

async fn mcp() -> anyhow::Result<()> {
    let (first, second) = (Authority::generate()?, Authority::generate()?);
    let (before, after) = (pair(&first)?, pair(&second)?);
    let mut mounted = MountedSecret::new(&before)?;
    let site = Site::start(&[]).await?;
    let key = site.scope("reader", "Investigate", None).await?;
    let port = free_port()?;
    let mut command = site.mcp_command(port);
    command
        .args(["--tls-certificate-file", &mounted.certificate()])
        .args(["--tls-key-file", &mounted.key()]);
    let server = Daemon::spawn("mcp-tls", &mut command, site.dir())?;
    let url = |path: &str| format!("https://127.0.0.1:{port}/{path}");
    shown(&first, &url("live")).await?;
    let connected = McpClient::connect_by(trusting(&[&first])?, &url("mcp"), &key).await?;
    let tools = connected.tools().await?;
    ensure!(!tools.is_empty());

    let http = trusting(&[&first])?;
    let refused = async |wanted: &str| {
        let line = format!("seawall_mcp_certificate_refused {wanted}\n");
        eventually(&line, PATIENCE, || async {
            let page = http.get(url("metrics")).send().await?.text().await?;
            Ok(page.contains(&line).then_some(()))
        })
        .await
    };
    let half = Identity {
        certificate: after.certificate[..after.certificate.len() / 2].to_owned(),
        key: after.key.clone(),
    };
    mounted.swap(&half)?;
    refused("1").await?;
    shown(&first, &url("live")).await?;
    let said = std::fs::read_to_string(server.log())?;
    ensure!(
        said.contains("can't be used") && said.contains("tls.crt is not whole"),
        "{said}"
    );

    mounted.swap(&after)?;
    shown(&second, &url("live")).await?;
    refused("0").await?;
    // It trusts the first alone: it is answered over the connections that it has.
    ensure!(connected.tools().await? == tools);
    let late = McpClient::connect_by(trusting(&[&first])?, &url("mcp"), &key).await;
    ensure!(late.is_err(), "the first certificate is still shown");
    let new = McpClient::connect_by(trusting(&[&second])?, &url("mcp"), &key).await?;
    ensure!(new.tools().await? == tools);
    let plain = reqwest::get(url("live").replace("https", "http")).await;
    ensure!(plain.is_err(), "plain HTTP is answered");
    server.terminate(Duration::from_secs(15)).await.map(drop)
}
