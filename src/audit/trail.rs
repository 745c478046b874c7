//! The audit log as the local API offers it to the MCP server: append a record and wait until it is
//! durable, search the tenant's entries.
//!
//! Translates between the API's records and [`Entry`]; keeps nothing itself.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::entry::{
    ActionResult, Actor, ActorKind, Body, Entry, Intent, ObjectRef, Outcome, Read, Refusal,
    RefusedBy, keyed_hash,
};
use super::index::{self, AuditIndex, IndexRecord};
use super::log::{AppendError, AuditLog};
use crate::local::AuditTrail;
use crate::local::types::{
    self, AgentRecord, Appended, AuditEntry, AuditPage, AuditQuery, Problem,
};

pub struct Trail {
    pub log: AuditLog,
    pub index: Arc<dyn AuditIndex>,
    /// Keys the hashes of what was read.
    pub reads_key: [u8; 32],
}

impl Trail {
    fn entry(&self, tenant: &str, record: AgentRecord) -> Entry {
        let (agent, user, body) = self.body(tenant, record);
        let actor = Actor::new(ActorKind::Agent, &format!("{tenant}/{agent}"));
        Entry::new(tenant, actor.via("mcp").user(&user), body)
    }

    /// The agent, its user and what it did.
    fn body(&self, tenant: &str, record: AgentRecord) -> (String, String, Body) {
        match record {
            AgentRecord::Intent {
                agent,
                user,
                tool,
                arguments,
                reason,
                dry_run,
                call,
            } => {
                let intent = Intent {
                    tool,
                    target: target(&arguments),
                    parameters: arguments,
                    reason,
                    dry_run,
                    call: Some(call),
                };
                (agent, user, Body::Intent(intent))
            }
            AgentRecord::Outcome {
                agent,
                user,
                tool,
                call,
                intent,
                dry_run,
                outcome,
                resources,
                message,
                milliseconds,
            } => {
                let outcome = Outcome {
                    intent,
                    tool,
                    result: result(outcome),
                    dry_run,
                    objects: resources.iter().map(|one| object(tenant, one)).collect(),
                    message,
                    milliseconds,
                    target: None,
                    call: Some(call),
                };
                (agent, user, Body::Outcome(outcome))
            }
            AgentRecord::Refusal {
                agent,
                user,
                tool,
                arguments,
                call,
                code,
                message,
            } => {
                let refusal = Refusal {
                    tool,
                    target: target(&arguments),
                    parameters: arguments,
                    // What the API server refuses was begun, and is the outcome of an intent.
                    by: RefusedBy::Us,
                    code,
                    why: message,
                    call: Some(call),
                };
                (agent, user, Body::Refusal(refusal))
            }
            AgentRecord::Read {
                agent,
                user,
                tool,
                arguments,
                call,
                outcome,
                milliseconds,
            } => {
                let read = Read {
                    tool,
                    arguments_hash: keyed_hash(&self.reads_key, &arguments),
                    result: result(outcome),
                    milliseconds,
                    call: Some(call),
                };
                (agent, user, Body::Read(read))
            }
        }
    }
}

fn result(outcome: types::Outcome) -> ActionResult {
    match outcome {
        types::Outcome::Done => ActionResult::Done,
        types::Outcome::Refused => ActionResult::Refused,
        types::Outcome::Failed => ActionResult::Failed,
    }
}

/// The one thing that a call's arguments are about, as far as their names tell.
fn target(arguments: &Value) -> Option<String> {
    ["device_id", "destination", "name"]
        .iter()
        .find_map(|name| arguments.get(name)?.as_str())
        .map(|target| super::text::clean(target, super::text::NAME))
}

/// `Isolation/name` of the tenant.
fn object(tenant: &str, resource: &str) -> ObjectRef {
    let (kind, name) = resource.split_once('/').unwrap_or(("", resource));
    ObjectRef {
        kind: kind.to_owned(),
        namespace: tenant.to_owned(),
        name: name.to_owned(),
        ..ObjectRef::default()
    }
}

fn entry_of(record: IndexRecord) -> AuditEntry {
    AuditEntry {
        index: record.index,
        entry: serde_json::from_str(&record.json).unwrap_or(Value::String(record.json)),
    }
}

#[async_trait]
impl AuditTrail for Trail {
    async fn append(&self, tenant: &str, record: AgentRecord) -> Result<Appended, Problem> {
        let entry = self.entry(tenant, record);
        match self.log.append(&entry).await {
            Ok(appended) => Ok(Appended {
                id: appended.id,
                index: appended.index,
            }),
            Err(error @ AppendError::Entry(_)) => Err(Problem {
                code: "entry_refused".into(),
                message: error.to_string(),
            }),
            Err(error) => Err(Problem::unavailable(error.to_string())),
        }
    }

    async fn search(&self, tenant: &str, query: &AuditQuery) -> Result<AuditPage, Problem> {
        let query = index::AuditQuery {
            tenant: Some(tenant.to_owned()),
            kind: query.kind.clone(),
            actor: query.actor.clone(),
            text: query.text.clone(),
            since: query.since,
            until: query.until,
            before: query.before,
            limit: query.limit as u64,
            ..index::AuditQuery::default()
        };
        let page = self.index.search(&query).await;
        let page = page.map_err(|error| Problem::unavailable(error.to_string()))?;
        Ok(AuditPage {
            entries: page.records.into_iter().map(entry_of).collect(),
            before: page.next,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;
    use crate::audit::index::{AuditPage as IndexPage, IndexError};
    use crate::audit::log::Options;
    use crate::audit::testing::{keys, published};

    /// Remembers what was asked.
    #[derive(Default)]
    struct Asked(Mutex<Vec<index::AuditQuery>>);

    #[async_trait]
    impl AuditIndex for Asked {
        async fn record(&self, _: &[IndexRecord]) -> Result<(), IndexError> {
            Err(IndexError("nobody records here".into()))
        }

        async fn search(&self, query: &index::AuditQuery) -> Result<IndexPage, IndexError> {
            self.0.lock().unwrap().push(query.clone());
            let bytes = br#"{"kind":"intent"}"#;
            Ok(IndexPage {
                records: vec![IndexRecord::of(7, bytes)],
                next: Some(7),
            })
        }

        async fn last(&self) -> Result<Option<IndexRecord>, IndexError> {
            Ok(None)
        }

        async fn clear(&self) -> Result<(), IndexError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn an_agents_record_becomes_an_entry_and_a_search_stays_in_its_tenant() {
        let directory = tempfile::tempdir().unwrap();
        let (log, task, _) = AuditLog::open(Options::new(directory.path(), keys())).unwrap();
        let writing = tokio::spawn(task.run());
        let index = Arc::new(Asked::default());
        let trail = Trail {
            log: log.clone(),
            index: index.clone(),
            reads_key: [7; 32],
        };
        let arguments = json!({"device_id": "dev_1", "reason": "r"});
        let who = || ("triage".to_owned(), "system:x".to_owned());
        let (agent, user) = who();
        let intent = AgentRecord::Intent {
            agent,
            user,
            tool: "isolate_device".into(),
            arguments: arguments.clone(),
            reason: "r".into(),
            dry_run: false,
            call: "c1".into(),
        };
        let appended = trail.append("plant", intent).await.unwrap();
        let (agent, user) = who();
        let outcome = AgentRecord::Outcome {
            agent,
            user,
            tool: "isolate_device".into(),
            call: "c1".into(),
            intent: appended.id.clone(),
            dry_run: false,
            outcome: types::Outcome::Refused,
            resources: vec!["Isolation/cam".into()],
            message: "no".into(),
            milliseconds: 4,
        };
        trail.append("plant", outcome).await.unwrap();
        let (agent, user) = who();
        let read = AgentRecord::Read {
            agent,
            user,
            tool: "list_devices".into(),
            arguments: arguments.clone(),
            call: "c2".into(),
            outcome: types::Outcome::Done,
            milliseconds: 1,
        };
        trail.append("plant", read).await.unwrap();
        let (agent, user) = who();
        let too_long = AgentRecord::Refusal {
            agent,
            user,
            tool: "isolate_device".into(),
            arguments: json!("x".repeat(70_000)),
            call: "c3".into(),
            code: "invalid".into(),
            message: "m".into(),
        };
        let refused = trail.append("plant", too_long).await.unwrap_err();
        assert_eq!(refused.code, "entry_refused");
        log.close().await;
        writing.await.unwrap().unwrap();

        let entries: Vec<Entry> = published(directory.path(), 3)
            .iter()
            .map(|bytes| Entry::decode(bytes).unwrap())
            .collect();
        assert_eq!(entries[0].id, appended.id);
        assert_eq!(entries[0].actor.name, "plant/triage");
        assert_eq!(entries[0].body.target().as_deref(), Some("dev_1"));
        assert_eq!(entries[1].body.result(), Some("refused"));
        let Body::Read(read) = &entries[2].body else {
            panic!("{:?}", entries[2]);
        };
        assert_eq!(read.arguments_hash, keyed_hash(&[7; 32], &arguments));

        let page = trail.search("plant", &AuditQuery::default()).await.unwrap();
        assert_eq!((page.entries[0].index, page.before), (7, Some(7)));
        assert_eq!(page.entries[0].entry, json!({"kind": "intent"}));
        let asked = index.0.lock().unwrap();
        assert_eq!(asked[0].tenant.as_deref(), Some("plant"));
    }
}
