//! AI agents and users, with control plane, operator, MCP server, the API server's admission and a device's agent
//! real, shown with packets of sockets that are the user's.

use std::net::SocketAddr;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::agent::users::{OTHER, SUSPENDED, open, reaches};
use crate::caller::{Caller, assert_refused};
use crate::harness::{case, eventually};
use crate::lab::{Family, Responder};
use crate::sandbox;
use crate::site::{McpClient, Site, TENANT};

pub fn all() -> Vec<Trial> {
    let trial = case(
        "an agent suspends a user: packets and writes end, reads go on; restored, both pass again",
        a_user,
    );
    vec![trial.with_ignored_flag(!sandbox::has_other_users())]
}

const PATIENCE: Duration = Duration::from_secs(30);
const LAPTOP: &str = "laptop";
const PERSON: &str = "m.smith";

struct Office {
    site: Site,
    server: Responder,
    bot: McpClient,
    person: Caller,
}

impl Office {
    async fn open() -> anyhow::Result<Self> {
        let mut site = Site::start(&[]).await?;
        site.enroll(LAPTOP, "laptop").await?;
        let server = Responder::start(&site.bystander("server")?, 7000).await?;
        let targets = format!("{{users: {{ids: [{SUSPENDED}, {PERSON}]}}}}");
        let bot = site.agent("bot", "Contain", Some(&targets)).await?;
        let user = format!("--user={PERSON}");
        let role = "--clusterrole=cluster-admin";
        let bind = ["create", "clusterrolebinding", PERSON, role, &user];
        site.plane.kubectl(&bind).await?;
        let person = Caller::person(&site.plane, PERSON).await?;
        let office = Self {
            site,
            server,
            bot,
            person,
        };
        eventually("the person's rights", PATIENCE, || async {
            Ok(office.writes(TENANT).await.ok())
        })
        .await?;
        Ok(office)
    }

    async fn call(&self, tool: &'static str, arguments: Value) -> anyhow::Result<Value> {
        Ok(self.bot.must(tool, arguments).await?.structured)
    }

    /// Tries to, and makes nothing.
    async fn writes(&self, namespace: &str) -> Result<Value, crate::caller::Refusal> {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "note", "namespace": namespace},
        });
        self.person.try_create(&object).await
    }

    async fn passes(&self, account: &str) -> anyhow::Result<bool> {
        let host = self.site.device(LAPTOP).host.clone();
        reaches(&host, account, &self.server).await
    }
}

async fn a_user() -> anyhow::Result<()> {
    let office = Office::open().await?;
    assert!(office.passes(SUSPENDED).await? && office.passes(OTHER).await?);
    let host = office.site.device(LAPTOP).host.clone();
    let to: SocketAddr = office.server.address(Family::V4);
    let connection = open(&host, SUSPENDED, to).await?;
    assert!(connection.is_some(), "one that is open before");

    let user = json!({
        "user": SUSPENDED, "kubernetes": [PERSON], "seawall": [], "reason": "Stolen laptop", "ttl": "30m",
    });
    let mut dry = user.clone();
    dry["dry_run"] = true.into();
    let answer = office.call("suspend_user", dry).await?;
    assert_eq!(answer["devices"]["programmed"], 1, "{answer}");
    assert!(office.passes(SUSPENDED).await?, "a dry run changes nothing");

    let answer = office.call("suspend_user", user).await?;
    told(&office, &answer);
    for family in Family::BOTH {
        let to = office.server.address(family);
        assert!(open(&host, SUSPENDED, to).await?.is_none(), "{family:?}");
    }
    assert!(office.passes(OTHER).await?, "others go on");
    let words = format!("the user {PERSON} is suspended in the namespace {TENANT}");
    refused(&office, &words).await?;
    office.writes("default").await?;
    let read = format!("/api/v1/namespaces/{TENANT}/configmaps");
    office.person.get_path(&read).await?;
    stays(&office).await?;
    restored(&office).await
}

/// What the answer says is what is.
fn told(office: &Office, answer: &Value) {
    assert_eq!(answer["in_force"], "Partial", "reads go on: {answer}");
    let id = &office.site.device(LAPTOP).id;
    let device = json!({"id": id, "programmed": true, "connected": true, "dropped": [SUSPENDED]});
    assert_eq!(answer["devices"]["each"], json!([device]));
    assert_eq!(answer["writes_refused"], true, "{answer}");
    assert_eq!(answer["connections_cut"], 1, "{answer}");
    let outside = answer["not_refused"].to_string();
    assert!(outside.contains("reads from the API server"), "{outside}");
    let read_back = answer["stages_ms"]["device_read_back"].as_f64();
    assert!(read_back.is_some_and(|took| took > 0.0), "{answer}");
}

/// The API server's watch of the list may be a moment behind the operator's.
async fn refused(office: &Office, words: &str) -> anyhow::Result<()> {
    eventually("the write to be refused", PATIENCE, || async {
        Ok(office.writes(TENANT).await.err())
    })
    .await?;
    assert_refused(office.writes(TENANT).await, words);
    Ok(())
}

/// What others suspended stays, and the status says what the answer said.
async fn stays(office: &Office) -> anyhow::Result<()> {
    office
        .site
        .apply(&format!(
            "apiVersion: seawall.dev/v1alpha1\nkind: Isolation\n\
             metadata: {{name: by-hand, namespace: {TENANT}}}\n\
             spec:\n  target: {{user: {PERSON}}}\n  userNames: {{os: [{SUSPENDED}], kubernetes: []}}\n  reason: x\n"
        ))
        .await?;
    office
        .site
        .condition("isolation", "by-hand", "Programmed", "True")
        .await?;
    let other = json!({"user": PERSON, "reason": "x"});
    let refused = office.bot.call("restore_user", other).await?;
    assert!(refused.is_error, "{refused:?}");
    assert!(refused.text.contains("a person or a GitOps controller"));
    eventually("the status to say it", PATIENCE, || async {
        let of_user = json!({"user": SUSPENDED});
        let listed = office.call("list_isolations", of_user).await?;
        let found = &listed["isolations"][0];
        let accounts = json!({"devices": 1, "programmed": 1, "with_account": 1});
        let stands = found["phase"] == "Suspended" && found["accounts"] == accounts;
        Ok(stands.then_some(()))
    })
    .await?;
    Ok(())
}

async fn restored(office: &Office) -> anyhow::Result<()> {
    let restoring = json!({"user": SUSPENDED, "reason": "Found again"});
    let answer = office.call("restore_user", restoring).await?;
    assert_eq!(answer["lifted_everywhere"], true, "{answer}");
    let still = &answer["still_isolated_by"];
    assert_eq!(still[0]["name"], "by-hand", "{answer}");
    assert!(!office.passes(SUSPENDED).await?, "the other one holds it");
    eventually("the write to be allowed", PATIENCE, || async {
        Ok(office.writes(TENANT).await.ok())
    })
    .await?;
    let delete = ["delete", "isolation", "-n", TENANT, "by-hand"];
    office.site.plane.kubectl(&delete).await?;
    eventually("packets to pass again", PATIENCE, || async {
        Ok(office.passes(SUSPENDED).await?.then_some(()))
    })
    .await?;

    // With nobody else's, the answer of restore_user comes when packets pass.
    let user = json!({"user": SUSPENDED, "kubernetes": [], "seawall": [], "reason": "x"});
    let answer = office.call("suspend_user", user).await?;
    assert_eq!(answer["in_force"], "Everywhere", "{answer}");
    assert!(!office.passes(SUSPENDED).await?);
    let restoring = json!({"user": SUSPENDED, "reason": "x"});
    let answer = office.call("restore_user", restoring).await?;
    assert_eq!(answer["lifted_everywhere"], true, "{answer}");
    assert_eq!(answer["still_isolated_by"], json!([]));
    assert!(office.passes(SUSPENDED).await?);
    Ok(())
}
