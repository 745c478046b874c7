//! The schemas refuse what is wrong, in words that say what to write: one wrong resource for each rule,
//! in `e2e/refusals`, named by what is wrong with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::caller::{Answer, Caller};
use crate::charts;
use crate::harness::case;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "every wrong resource is refused in the words that its file expects, and every rule refuses one",
            wrong_resources,
        ),
        case("every sample is accepted and says what it is for", samples),
    ]
}

async fn wrong_resources() -> anyhow::Result<()> {
    let cluster = charts::installed().await?;
    let admin = Caller::admin(cluster);
    let mut answers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut failures = Vec::new();
    for kind in ["policy", "isolation", "apikeyscope"] {
        for file in yaml_files(&repository().join("e2e/refusals").join(kind))? {
            let wrong = Wrong::read(&file)?;
            match wrong.offer(&admin).await? {
                Ok(_) => failures.push(format!("{} is accepted", file.display())),
                Err(refusal) if refusal.message.contains(&wrong.words) => {
                    answers
                        .entry(wrong.kind())
                        .or_default()
                        .push(refusal.message);
                }
                Err(refusal) => failures.push(format!("{}: {refusal}", file.display())),
            }
        }
    }
    for (kind, rule) in rules()? {
        let given = answers.get(&kind).map(Vec::as_slice).unwrap_or_default();
        if !given.iter().any(|answer| answer.contains(&rule)) {
            failures.push(format!("no wrong {kind} meets the rule {rule:?}"));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// A file of `e2e/refusals`: what is expected, and one resource, or two of which the second is the wrong
/// change of the first.
struct Wrong {
    words: String,
    documents: Vec<Value>,
}

impl Wrong {
    fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file)?;
        let first = text.lines().next().unwrap_or_default();
        let words = first
            .strip_prefix("# refused: ")
            .with_context(|| format!("{} begins with '# refused: '", file.display()))?;
        let mut documents: Vec<Value> = seawall::yaml::documents(&text)
            .with_context(|| format!("{} is YAML", file.display()))?;
        for document in &mut documents {
            document["metadata"]["namespace"] = "default".into();
        }
        ensure!((1..=2).contains(&documents.len()), "{}", file.display());
        Ok(Self {
            words: words.to_owned(),
            documents,
        })
    }

    fn kind(&self) -> String {
        let kind = self.documents[0]["kind"].as_str();
        kind.unwrap_or_default().to_owned()
    }

    async fn offer(&self, admin: &Caller) -> anyhow::Result<Answer> {
        let [first, changed] = &self.documents[..] else {
            return Ok(admin.try_create(&self.documents[0]).await);
        };
        admin.create(first).await?;
        let answer = admin.apply(changed, "").await;
        admin.delete(first).await?;
        Ok(answer)
    }
}

/// The words of every rule of every kind.
fn rules() -> anyhow::Result<Vec<(String, String)>> {
    let mut rules = Vec::new();
    for definition in seawall::api::definitions() {
        let kind = definition.spec.names.kind.clone();
        let mut messages = Vec::new();
        collect_messages(&serde_json::to_value(&definition)?, &mut messages);
        ensure!(!messages.is_empty(), "{kind} has rules");
        rules.extend(messages.into_iter().map(|message| (kind.clone(), message)));
    }
    rules.sort();
    rules.dedup();
    Ok(rules)
}

fn collect_messages(schema: &Value, into: &mut Vec<String>) {
    match schema {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "x-kubernetes-validations" {
                    for rule in value.as_array().into_iter().flatten() {
                        let message = rule["message"].as_str();
                        into.push(message.unwrap_or("a rule without words").to_owned());
                    }
                }
                collect_messages(value, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_messages(item, into)),
        _ => {}
    }
}

async fn samples() -> anyhow::Result<()> {
    let cluster = charts::installed().await?;
    let files = yaml_files(&repository().join("manifests/samples"))?;
    ensure!(!files.is_empty(), "there are samples");
    for file in files {
        let text = fs::read_to_string(&file)?;
        let says = text.lines().next().unwrap_or_default();
        ensure!(
            says.starts_with("# ") && says.len() > 20,
            "{} says what it is for",
            file.display()
        );
        let path = file.display().to_string();
        let apply = [
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            &path,
        ];
        cluster.kubectl(&apply).await?;
    }
    Ok(())
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn yaml_files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
