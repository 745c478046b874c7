//! The audit log as the local API offers it to the MCP server: append a record and wait until it is
//! durable, search the tenant's entries.
//!
//! Translates between the API's records and [`Entry`]; keeps nothing itself.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::entry::{
    ActionResult, Actor, ActorKind, Body, Client, Entry, Intent, ObjectRef, Outcome, Read, Refusal,
    RefusedBy, keyed_hash,
};
use super::index::{self, AuditIndex, IndexRecord};
use super::log::{AppendError, AuditLog};
use crate::local::AuditTrail;
use crate::local::types::{
    self, AgentAct, AgentRecord, Appended, AuditEntry, AuditPage, AuditQuery, Problem, Touched,
};

pub struct Trail {
    pub log: AuditLog,
    pub index: Arc<dyn AuditIndex>,
    /// Keys the hashes of what was read.
    pub reads_key: [u8; 32],
}

/// What is entered of an agent's act.
pub fn entry_of(tenant: &str, record: AgentRecord, reads_key: &[u8; 32]) -> Entry {
    let AgentRecord {
        agent,
        user,
        client,
        tool,
        call,
        target,
        what,
    } = record;
    let call = Some(call);
    let body = match what {
        AgentAct::Intent {
            arguments,
            reason,
            dry_run,
        } => Body::Intent(Intent {
            tool,
            parameters: arguments,
            reason,
            dry_run,
            target,
            call,
        }),
        AgentAct::Outcome {
            intent,
            dry_run,
            outcome,
            resources,
            message,
            milliseconds,
        } => Body::Outcome(Outcome {
            intent,
            tool,
            result: result(outcome),
            dry_run,
            objects: resources.into_iter().map(|t| object(tenant, t)).collect(),
            message,
            milliseconds,
            target,
            call,
        }),
        AgentAct::Refusal {
            arguments,
            code,
            message,
        } => Body::Refusal(Refusal {
            tool,
            parameters: arguments,
            // As a rule, what the API server refuses was begun, and is the outcome of an intent.
            by: if code == types::REFUSED_BY_API_SERVER {
                RefusedBy::ApiServer
            } else {
                RefusedBy::Us
            },
            code,
            why: message,
            target,
            call,
        }),
        AgentAct::Read {
            arguments,
            outcome,
            milliseconds,
        } => Body::Read(Read {
            tool,
            arguments_hash: keyed_hash(reads_key, &arguments),
            result: result(outcome),
            milliseconds,
            call,
        }),
    };
    let actor = Actor::new(ActorKind::Agent, &format!("{tenant}/{agent}"));
    let entry = Entry::new(tenant, actor.via("mcp").user(&user), body);
    match client {
        Some(client) => entry.with_client(Client::new(&client.name, Some(&client.version))),
        None => entry,
    }
}

fn result(outcome: types::Outcome) -> ActionResult {
    match outcome {
        types::Outcome::Done => ActionResult::Done,
        types::Outcome::Refused => ActionResult::Refused,
        types::Outcome::Failed => ActionResult::Failed,
    }
}

fn object(tenant: &str, touched: Touched) -> ObjectRef {
    ObjectRef {
        kind: touched.kind,
        namespace: tenant.to_owned(),
        name: touched.name,
        uid: touched.uid,
        generation: touched.generation,
    }
}

fn found(record: IndexRecord) -> AuditEntry {
    AuditEntry {
        index: record.index,
        entry: serde_json::from_str(&record.json).unwrap_or(Value::String(record.json)),
    }
}

#[async_trait]
impl AuditTrail for Trail {
    async fn append(&self, tenant: &str, record: AgentRecord) -> Result<Appended, Problem> {
        let entry = entry_of(tenant, record, &self.reads_key);
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
            entries: page.records.into_iter().map(found).collect(),
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
        let record = |tool: &str, what| AgentRecord {
            agent: "triage".into(),
            user: "system:x".into(),
            client: Some(types::Program {
                name: "claude".into(),
                version: "1".into(),
            }),
            tool: tool.into(),
            call: "c1".into(),
            target: Some("dev_1".into()),
            what,
        };
        let intent = AgentAct::Intent {
            arguments: arguments.clone(),
            reason: "r".into(),
            dry_run: false,
        };
        let intent = record("isolate_device", intent);
        let appended = trail.append("plant", intent).await.unwrap();
        let outcome = AgentAct::Outcome {
            intent: appended.id.clone(),
            dry_run: false,
            outcome: types::Outcome::Refused,
            resources: vec![Touched {
                kind: "Isolation".into(),
                name: "cam".into(),
                uid: Some("u".into()),
                generation: Some(1),
            }],
            message: "no".into(),
            milliseconds: 4,
        };
        let outcome = record("isolate_device", outcome);
        trail.append("plant", outcome).await.unwrap();
        let read = AgentAct::Read {
            arguments: arguments.clone(),
            outcome: types::Outcome::Done,
            milliseconds: 1,
        };
        let read = record("list_devices", read);
        trail.append("plant", read).await.unwrap();
        let too_long = AgentAct::Refusal {
            arguments: json!("x".repeat(70_000)),
            code: "invalid".into(),
            message: "m".into(),
        };
        let too_long = record("isolate_device", too_long);
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
        let client = entries[0].client.as_ref().map(|client| &client.name);
        assert_eq!(client.map(String::as_str), Some("claude"));
        assert_eq!(entries[1].body.result(), Some("refused"));
        let Body::Outcome(outcome) = &entries[1].body else {
            panic!("{:?}", entries[1]);
        };
        assert_eq!(outcome.objects[0].to_string(), "Isolation/plant/cam");
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
