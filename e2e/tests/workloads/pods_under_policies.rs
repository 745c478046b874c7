//! Policies for pods, by packets, and what their status says.

use std::time::{Duration, Instant};

use anyhow::ensure;
use libtest_mimic::Trial;

use super::{BARE, ENFORCING, PLAIN, Shop, without_agents};
use crate::harness::{case, eventually};
use crate::installed::PATIENCE;
use crate::lab::{Family, Flow, Reach, Responder, Transport, reach};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a Deny between pods of one bridge cuts what the subject opens, open connections too, and nothing else",
            denied,
        ),
        case(
            "a policy that observes pods counts what it would have cut, and cuts nothing",
            observed,
        ),
        case(
            "a default of Deny leaves a pod what is allowed, whatever other NetworkPolicies allow",
            by_default,
        ),
        case(
            "without agent and policy engine a policy is stored, cuts nothing, and isn't called enforced",
            nobody_enforces,
        ),
    ]
}

const ANSWER: Duration = Duration::from_millis(1500);
const EVERY: Duration = Duration::from_millis(5);
const PORT: u16 = 7000;

const DENY: &str = "
apiVersion: seawall.dev/v1alpha1
kind: Policy
metadata: {name: web}
spec:
  subjects: {workloads: {podSelector: {matchLabels: {app: web}}}}
  rules:
  - name: no-database
    direction: Egress
    action: Deny
    peers: {workloads: {podSelector: {matchLabels: {app: db}}}}
";

async fn denied() -> anyhow::Result<()> {
    let shop = Shop::open("denied", ENFORCING).await?;
    let (web, db) = (&shop.suspect.host, &shop.neighbour.host);
    let far = Responder::start(&shop.far.host, PORT).await?;
    let database = Responder::start(db, PORT).await?;
    let (mut cut, mut kept) = (Vec::new(), Vec::new());
    for transport in Transport::ALL {
        for family in Family::BOTH {
            cut.push(Flow::open(transport, family, web, db, EVERY).await?);
            kept.push(Flow::open(transport, family, db, web, EVERY).await?);
            kept.push(Flow::open(transport, family, web, &shop.far.host, EVERY).await?);
        }
    }
    let asked = Instant::now();
    shop.apply(DENY).await?;
    shop.condition("policy", "web", "Enforced", "True").await?;
    let done = Instant::now();
    tokio::time::sleep(ANSWER).await;
    for flow in &cut {
        flow.cut(asked, done)?;
    }
    for flow in &kept {
        flow.flows(ANSWER).await?;
    }
    let found = reach(web, &database, ANSWER).await?;
    ensure!(found == Reach::NONE, "{found:?}");
    let found = reach(web, &far, ANSWER).await?;
    ensure!(found == Reach::ALL, "{found:?}");
    Ok(())
}

async fn observed() -> anyhow::Result<()> {
    let shop = Shop::open("observed", PLAIN).await?;
    let database = Responder::start(&shop.neighbour.host, PORT).await?;
    let observing = DENY.replace("spec:", "spec:\n  mode: Observe");
    shop.apply(&observing).await?;
    shop.condition("policy", "web", "Ready", "True").await?;
    let found = reach(&shop.suspect.host, &database, ANSWER).await?;
    ensure!(found == Reach::ALL, "{found:?}");
    let rules = shop.seawall.node(PLAIN);
    let rules = rules
        .run("nft", &["list", "table", "inet", "seawall"])
        .await?;
    let rules = rules.success()?;
    let mut of_rule = rules
        .lines()
        .filter(|line| line.contains("observed/web/no-database"));
    let counts = |line: &str| line.contains("counter packets") && !line.contains("packets 0 ");
    ensure!(of_rule.any(counts), "nothing was counted:\n{rules}");
    Ok(())
}

const DEFAULT: &str = "
apiVersion: seawall.dev/v1alpha1
kind: Policy
metadata: {name: web}
spec:
  subjects: {workloads: {podSelector: {matchLabels: {app: web}}}}
  rules:
  - name: database
    direction: Egress
    action: Allow
    peers: {workloads: {podSelector: {matchLabels: {app: db}}}}
    ports: [{protocol: TCP, port: 7000}]
  default: {egress: Deny}
";

async fn by_default() -> anyhow::Result<()> {
    let shop = Shop::open("by-default", PLAIN).await?;
    let web = &shop.suspect.host;
    let database = Responder::start(&shop.neighbour.host, PORT).await?;
    let far = Responder::start(&shop.far.host, PORT).await?;
    let itself = Responder::start(web, PORT).await?;
    shop.apply(DEFAULT).await?;
    shop.condition("policy", "web", "Programmed", "True")
        .await?;
    let tcp = Reach {
        tcp4: true,
        tcp6: true,
        ..Reach::NONE
    };
    // The operator may hear of the pod's address after the policy was in force for nobody.
    eventually(
        "what the policy leaves of the database",
        PATIENCE,
        || async {
            let found = reach(web, &database, ANSWER).await?;
            ensure!(found == tcp, "to the database: {found:?}");
            Ok(Some(()))
        },
    )
    .await?;
    let found = reach(web, &far, ANSWER).await?;
    ensure!(found == Reach::NONE, "to the far pod: {found:?}");
    let found = reach(&shop.far.host, &itself, ANSWER).await?;
    ensure!(found == Reach::ALL, "from the far pod: {found:?}");
    shop.condition("policy", "web", "Enforced", "True").await?;

    let delete = ["delete", "policy", "-n", "by-default", "web"];
    shop.seawall.kubectl(&delete, "").await?;
    eventually("the pod to reach what it did before", PATIENCE, || async {
        Ok((reach(web, &far, ANSWER).await? == Reach::ALL).then_some(()))
    })
    .await
}

async fn nobody_enforces() -> anyhow::Result<()> {
    let seawall = without_agents().await?;
    seawall.cluster.namespace("bare").await?;
    let node = seawall.node(BARE);
    let web = node.run_pod("bare", "web", &[("app", "web")]).await?;
    let db = node.run_pod("bare", "db", &[("app", "db")]).await?;
    let database = Responder::start(&db.host, PORT).await?;
    let apply = ["apply", "-n", "bare", "-f", "-"];
    let nothing_allowed = DEFAULT.replace("app: db", "app: nobody");
    seawall.kubectl(&apply, &nothing_allowed).await?;
    let policy = ("bare", "policy", "web");
    seawall.condition(policy, "Ready", "True").await?;
    let found = reach(&web.host, &database, ANSWER).await?;
    ensure!(found == Reach::ALL, "somebody enforces it: {found:?}");
    seawall.condition(policy, "Enforced", "Unknown").await
}
