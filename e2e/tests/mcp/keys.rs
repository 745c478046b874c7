//! `seawall keys`: the command that people run, with their own rights.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Trial;
use seawall::access::key;
use serde_json::{Value, json};

use crate::harness::case;
use crate::process::{self, Outcome};
use crate::tests::admission::tenant::{DEVICE, Tenant, containing};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a key is made, listed and revoked, and the other keys stay",
            life,
        ),
        case(
            "who may not write a scope makes no key for it",
            without_rights,
        ),
    ]
}

async fn keys(kubeconfig: &Path, args: &[&str], input: &str) -> anyhow::Result<Outcome> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    command.arg("keys").args(args).env("KUBECONFIG", kubeconfig);
    process::run(command, input, Duration::from_secs(30)).await
}

async fn life() -> anyhow::Result<()> {
    let tenant = Tenant::new("keys-life").await?;
    tenant
        .scope("bot", containing(&[DEVICE]), &[DEVICE])
        .await?;
    let admin = tenant.cluster.admin_kubeconfig();
    let of = ["-n", "keys-life", "-s", "bot"];
    let create = [&["create"][..], &of].concat();
    let (first, second) = tokio::try_join!(keys(admin, &create, ""), keys(admin, &create, ""))?;
    let (first, second) = (first.success()?, second.success()?);
    let (first, second) = (first.trim(), second.trim());
    assert!(key::is_well_formed(first) && key::is_well_formed(second));

    let held = || async {
        let scope = tenant.object("ApiKeyScope", "bot", Value::Null);
        let scope = tenant.admin.get(&scope).await?;
        anyhow::Ok(scope["spec"]["credentials"]["keyHashes"].clone())
    };
    let both = held().await?;
    assert_eq!(both.as_array().map(Vec::len), Some(2));
    let hash = keys(admin, &["hash"], first).await?.success()?;
    assert_eq!(hash.trim(), key::hash(first));
    let listed = keys(admin, &[&["list"][..], &of].concat(), "")
        .await?
        .success()?;
    let beginning = &hash["sha256:".len()..][..12];
    assert!(listed.lines().any(|line| line == beginning), "{listed}");

    let revoke = [&["revoke"][..], &of, &["--hash", beginning]].concat();
    keys(admin, &revoke, "").await?.success()?;
    assert_eq!(held().await?, json!([key::hash(second)]));
    let again = keys(admin, &revoke, "").await?;
    assert!(
        again.stderr.contains("seawall keys list"),
        "{}",
        again.stderr
    );
    Ok(())
}

async fn without_rights() -> anyhow::Result<()> {
    let tenant = Tenant::new("keys-rights").await?;
    tenant
        .scope("bot", containing(&[DEVICE]), &[DEVICE])
        .await?;
    tenant.person("keys-eve", "view").await?;
    let eve = tenant.cluster.kubeconfig_for_person("keys-eve", &[])?;
    let of = ["create", "-n", "keys-rights", "-s", "bot"];
    let refused = keys(&eve, &of, "").await?;
    assert!(!refused.status.success());
    assert_eq!(refused.stdout, "");
    assert!(
        refused.stderr.contains("cannot patch"),
        "{}",
        refused.stderr
    );
    let missing = ["create", "-n", "keys-rights", "-s", "nobody"];
    let missing = keys(&eve, &missing, "").await?;
    assert!(
        missing.stderr.contains("no ApiKeyScope nobody"),
        "{}",
        missing.stderr
    );
    Ok(())
}
