//! The API server's own audit log: who asked for what, as Kubernetes itself saw it. The measure of
//! attribution and of "no writes in a quiet minute".

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

/// One line of the log, of the stage at which the answer had been sent.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    pub stage: String,
    pub verb: String,
    #[serde(rename = "requestURI", default)]
    pub uri: String,
    pub user: User,
    #[serde(default)]
    pub user_agent: String,
    /// Who the request was made as, where `user` impersonated somebody.
    pub impersonated_user: Option<User>,
    /// Absent for requests that are not about a resource.
    pub object_ref: Option<ObjectRef>,
    pub response_status: Option<ResponseStatus>,
    /// What authorization and admission found; empty where another answered before them.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// What was sent, for the kinds whose objects are logged.
    #[serde(default)]
    pub request_object: Value,
}

#[derive(Clone, Debug, Deserialize)]
pub struct User {
    pub username: String,
    #[serde(default)]
    pub groups: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    pub api_group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ResponseStatus {
    #[serde(default)]
    pub code: u16,
}

impl AuditEvent {
    /// In whose name it was done: the impersonated user's, where there is one.
    pub fn actor(&self) -> &str {
        &self
            .impersonated_user
            .as_ref()
            .unwrap_or(&self.user)
            .username
    }

    /// Whether it asked for a change, allowed or not.
    pub fn is_write(&self) -> bool {
        ["create", "update", "patch", "delete", "deletecollection"].contains(&self.verb.as_str())
    }

    /// Whether it only asked what a change would do, which is a write in its verb alone.
    pub fn is_dry_run(&self) -> bool {
        self.uri.contains("dryRun=All")
    }

    /// Whether it is about resources of this name, in whatever group.
    pub fn is_about(&self, resource: &str) -> bool {
        let object = self.object_ref.as_ref();
        object.is_some_and(|object| object.resource == resource)
    }

    /// Whether it is about one object of this name.
    pub fn is_of(&self, name: &str) -> bool {
        let object = self.object_ref.as_ref();
        object.is_some_and(|object| object.name == name)
    }

    /// Whether authorization let it through, whatever admission said afterwards.
    pub fn is_authorized(&self) -> bool {
        let decision = self.annotations.get("authorization.k8s.io/decision");
        decision.is_some_and(|decision| decision == "allow")
    }

    /// The role that let it through.
    pub fn role(&self) -> Option<&str> {
        let reason = self.annotations.get("authorization.k8s.io/reason")?;
        let (_, after) = reason.split_once(" of ")?;
        after.split('"').nth(1)
    }

    pub fn code(&self) -> u16 {
        self.response_status
            .as_ref()
            .map_or(0, |status| status.code)
    }
}

/// A place in the log, to read from there on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(u64);

pub struct AuditLog {
    path: PathBuf,
}

impl AuditLog {
    pub fn at(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// The end of the last whole line now. An answer may reach its client shortly before its line is here.
    pub fn mark(&self) -> anyhow::Result<Mark> {
        let mut file = File::open(&self.path)?;
        let mut end = file.metadata()?.len();
        let mut block = [0; 4096];
        while end > 0 {
            let start = end.saturating_sub(block.len() as u64);
            let part = &mut block[..(end - start) as usize];
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(part)?;
            if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
                return Ok(Mark(start + at as u64 + 1));
            }
            end = start;
        }
        Ok(Mark::default())
    }

    /// The answered requests whose lines were written after `mark`.
    pub fn since(&self, mark: Mark) -> anyhow::Result<Vec<AuditEvent>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(mark.0))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // The last line may be half written.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut events = Vec::new();
        for line in text[..whole].lines() {
            let event: AuditEvent = serde_json::from_str(line)?;
            if event.stage == "ResponseComplete" || event.stage == "Panic" {
                events.push(event);
            }
        }
        Ok(events)
    }

    /// All that was answered to ServiceAccounts whose namespace begins so, whoever they acted as.
    pub fn of_accounts(&self, namespace: &str) -> anyhow::Result<Vec<AuditEvent>> {
        let user = format!("\"system:serviceaccount:{namespace}");
        let mut events = Vec::new();
        for line in BufReader::new(File::open(&self.path)?).lines() {
            let line = line?;
            // Most lines are others', and not worth to be read whole.
            if !line.contains(&user) || !line.ends_with('}') {
                continue;
            }
            let event: AuditEvent = serde_json::from_str(&line)?;
            if event.stage == "ResponseComplete" || event.stage == "Panic" {
                events.push(event);
            }
        }
        Ok(events)
    }

    /// Changes that `actor` asked for after `mark`.
    pub fn writes_by(&self, actor: &str, mark: Mark) -> anyhow::Result<Vec<AuditEvent>> {
        let mut events = self.since(mark)?;
        events.retain(|event| event.is_write() && event.actor() == actor);
        Ok(events)
    }
}

/// Whole objects for our resources and for bindings to roles; who and what for the rest.
pub fn policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [
            {"level": "RequestResponse", "resources": [{"group": "seawall.dev"}]},
            // To which role somebody is bound.
            {"level": "Request", "resources": [
                {"group": "rbac.authorization.k8s.io", "resources": ["rolebindings"]},
            ]},
            {"level": "Metadata"},
        ],
    })
}
