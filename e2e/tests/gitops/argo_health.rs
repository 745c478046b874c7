//! The health checks for Argo CD, run in its Lua against the statuses of the golden cases.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::case;
use crate::{interop, process};

pub fn all() -> Vec<Trial> {
    let trials = vec![
        case(
            "every status of the golden cases has the health that its Stalled and Ready say, with their words",
            golden,
        ),
        case(
            "without a status, or with one of an older generation, it is progressing",
            not_yet,
        ),
    ];
    let go = interop::LUA.program().is_none();
    let skip = |trial: Trial| match go {
        true => trial.with_kind("skipped: needs go").with_ignored_flag(true),
        false => trial,
    };
    trials.into_iter().map(skip).collect()
}

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What Argo CD is told of one object.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Health {
    status: String,
    message: String,
    error: String,
}

/// The script of each kind, as the ConfigMap has it.
fn scripts() -> anyhow::Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("manifests/argocd/argocd-cm.yaml"))?;
    let documents: Vec<Value> = seawall::yaml::documents(&text)?;
    let data = documents[0]["data"].as_object().context("data")?;
    data.iter()
        .map(|(key, script)| {
            let kind = key.strip_prefix("resource.customizations.health.seawall.dev_");
            let kind = kind.with_context(|| format!("{key} is of a kind of ours"))?;
            Ok((
                kind.to_owned(),
                script.as_str().context("a script")?.to_owned(),
            ))
        })
        .collect()
}

async fn ask(objects: &[Value]) -> anyhow::Result<Vec<Health>> {
    let scripts = scripts()?;
    let mut lines = String::new();
    for object in objects {
        let kind = object["kind"].as_str().context("a kind")?;
        let script = scripts
            .get(kind)
            .with_context(|| format!("no check of {kind}"))?;
        lines += &json!({"script": script, "object": object}).to_string();
        lines.push('\n');
    }
    let program = interop::LUA
        .program()
        .context("the test is passed over without it")?;
    let limit = Duration::from_secs(30);
    let said = process::run(Command::new(program), &lines, limit).await?;
    let said = said.success()?;
    let answers: Result<Vec<Health>, _> = said.lines().map(serde_json::from_str).collect();
    let answers = answers?;
    ensure!(answers.len() == objects.len(), "{} answers", answers.len());
    Ok(answers)
}

/// The objects of all cases that say what their statuses are, named after case and object.
fn cases() -> anyhow::Result<Vec<Value>> {
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(Path::new(ROOT).join("tests/golden"))? {
        let text = std::fs::read_to_string(entry?.path())?;
        let documents: Vec<Value> = seawall::yaml::documents(&text)?;
        let statuses = &documents[0]["expect"]["statuses"];
        for (plural, kind) in [
            ("policies", "Policy"),
            ("isolations", "Isolation"),
            ("scopes", "ApiKeyScope"),
        ] {
            for (name, status) in statuses[plural].as_object().into_iter().flatten() {
                let conditions = status["conditions"].as_object();
                let conditions = conditions.with_context(|| format!("conditions of {name}"))?;
                let conditions: anyhow::Result<Vec<Value>> =
                    conditions.iter().map(condition).collect();
                objects.push(json!({
                    "apiVersion": "seawall.dev/v1alpha1",
                    "kind": kind,
                    "metadata": {"name": name, "generation": 1},
                    "status": {"observedGeneration": 1, "conditions": conditions?},
                }));
            }
        }
    }
    Ok(objects)
}

/// `True Accepted: valid, understood and allowed` is a condition as a case writes it.
fn condition((name, written): (&String, &Value)) -> anyhow::Result<Value> {
    let written = written.as_str().context("a condition is words")?;
    let (head, message) = written.split_once(": ").context(written.to_owned())?;
    let (status, reason) = head.split_once(' ').context(written.to_owned())?;
    Ok(json!({"type": name, "status": status, "reason": reason, "message": message}))
}

fn find<'a>(object: &'a Value, condition: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions
        .find(|it| it["type"] == condition)
        .unwrap_or(&Value::Null)
}

async fn golden() -> anyhow::Result<()> {
    let objects = cases()?;
    let mut seen: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    for (object, health) in objects.iter().zip(ask(&objects).await?) {
        let (stalled, ready) = (find(object, "Stalled"), find(object, "Ready"));
        let (expected, words) = match (&stalled["status"], &ready["status"]) {
            (stuck, _) if stuck == "True" => ("Degraded", stalled),
            (_, is) if is == "True" => ("Healthy", ready),
            _ => ("Progressing", ready),
        };
        ensure!(health.error.is_empty(), "{}", health.error);
        ensure!(health.status == expected, "{health:?} of {object}");
        ensure!(
            words["message"] == *health.message,
            "{health:?} of {object}"
        );
        let kind = object["kind"].as_str().unwrap_or_default();
        *seen.entry(kind).or_default().entry(expected).or_default() += 1;
    }
    eprintln!("healths of golden statuses: {seen:?}");
    for kind in ["Policy", "Isolation"] {
        ensure!(
            seen[kind].len() == 3,
            "{kind}: every health is seen, not {:?}",
            seen[kind]
        );
    }
    ensure!(
        seen["ApiKeyScope"].contains_key("Healthy") && seen["ApiKeyScope"].contains_key("Degraded")
    );
    Ok(())
}

async fn not_yet() -> anyhow::Result<()> {
    let mut objects = Vec::new();
    for kind in scripts()?.into_keys() {
        objects.push(json!({"kind": kind, "metadata": {"generation": 1}}));
        objects.push(json!({"kind": kind, "metadata": {"generation": 1}, "status": {}}));
        objects.push(
            json!({"kind": kind, "metadata": {"generation": 2}, "status": {
                "observedGeneration": 1,
                "conditions": [{"type": "Ready", "status": "True", "message": "it was"}],
            }}),
        );
    }
    ensure!(objects.len() == 9, "three kinds");
    for (object, health) in objects.iter().zip(ask(&objects).await?) {
        ensure!(health.status == "Progressing", "{health:?} of {object}");
        ensure!(
            health.message.starts_with("Waiting for Seawall"),
            "{health:?}"
        );
    }
    Ok(())
}
