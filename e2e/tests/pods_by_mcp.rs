//! AI agents and pods, with the operator, the MCP server and a node's agent real. The pods are objects that no
//! kubelet runs: their packets are tried elsewhere.

use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::node_enrolment::{NODE, Node, PATIENCE, connected, create, site};
use crate::harness::{case, eventually};
use crate::site::{McpClient, Site, TENANT};

pub fn all() -> Vec<Trial> {
    vec![case(
        "an agent finds a pod, has it isolated by its node's agent, has that verified, and releases it",
        a_pod,
    )]
}

const ADDRESS: &str = "10.244.1.7";
/// A node without an agent.
const BARE_NODE: &str = "worker-2";
const TARGETS: &str = "{workloads: {podSelector: {matchLabels: {app: web}}}}";

/// A pod that runs, as far as the API server was told.
async fn run_pod(
    site: &Site,
    name: &str,
    app: &str,
    node: &str,
    address: &str,
) -> anyhow::Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": TENANT, "labels": {"app": app}},
        "spec": {
            "nodeName": node, "automountServiceAccountToken": false,
            "containers": [{
                "name": app, "image": app,
                "livenessProbe": {"tcpSocket": {"port": 8080}},
            }],
        },
    });
    // Pods wait for their namespace's ServiceAccount.
    eventually("a pod to be made", PATIENCE, || async {
        Ok(create(site, &pod).await.ok())
    })
    .await?;
    let status = json!({"status": {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
    }});
    let status = status.to_string();
    let patch = ["patch", "pod", name, "-n", TENANT, "--subresource=status"];
    let how = ["--type=merge", "-p", &status];
    site.plane.kubectl(&[&patch[..], &how].concat()).await?;
    Ok(())
}

struct Shop {
    site: Site,
    node: Node,
    bot: McpClient,
}

/// A node with an agent and one without, with a pod of the agent's scope each, and one that is no target.
async fn open() -> anyhow::Result<Shop> {
    let site = site().await?;
    let mut node = Node::add(&site, NODE).await?;
    node.start()?;
    connected(&site, &node).await?;
    let bare = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": BARE_NODE}});
    create(&site, &bare).await?;
    run_pod(&site, "web-0", "web", NODE, ADDRESS).await?;
    run_pod(&site, "web-1", "web", BARE_NODE, "10.244.2.7").await?;
    run_pod(&site, "db-0", "db", NODE, "10.244.1.8").await?;
    let bot = site.agent("bot", "Contain", Some(TARGETS)).await?;
    eventually("the scope's pods to be resolved", PATIENCE, || async {
        let scope = site.get("apikeyscope", "bot").await?.unwrap_or_default();
        let pods = &scope["status"]["targets"]["pods"];
        Ok((*pods == json!(["web-0", "web-1"])).then_some(()))
    })
    .await?;
    Ok(Shop { site, node, bot })
}

impl Shop {
    async fn call(&self, tool: &'static str, arguments: Value) -> anyhow::Result<Value> {
        Ok(self.bot.must(tool, arguments).await?.structured)
    }

    async fn pod(&self, name: &str) -> anyhow::Result<Value> {
        let listed = self.call("list_workloads", json!({})).await?;
        let pods = listed["workloads"].as_array().cloned().unwrap_or_default();
        let found = pods.into_iter().find(|pod| pod["pod"] == name);
        Ok(found.unwrap_or_default())
    }

    /// Whether the node's kernel has a rule set with the pod's address.
    async fn kernel_names(&self, address: &str) -> anyhow::Result<bool> {
        let listed = self.node.host.run("nft", &["list", "ruleset"], "").await?;
        Ok(listed.success()?.contains(address))
    }
}

async fn a_pod() -> anyhow::Result<()> {
    let shop = open().await?;
    eventually(
        "the pods to be known with their agents",
        PATIENCE,
        || async { Ok((shop.pod("web-0").await?["covered"] == true).then_some(())) },
    )
    .await?;
    let (web, bare, db) = (
        shop.pod("web-0").await?,
        shop.pod("web-1").await?,
        shop.pod("db-0").await?,
    );
    assert_eq!((&web["target"], &web["node"]), (&json!(true), &json!(NODE)));
    assert!(web["obstacle"].is_null(), "{web}");
    let no_agent = "no agent runs on node worker-2 of pod web-1";
    assert_eq!(bare["obstacle"], no_agent);
    assert_eq!(
        (&db["covered"], &db["target"]),
        (&json!(true), &json!(false))
    );
    assert!(!shop.kernel_names(ADDRESS).await?);

    let dry = json!({"pod": "web-0", "reason": "miner", "dry_run": true});
    let answer = shop.call("isolate_workload", dry).await?;
    assert_eq!(answer["pods"]["covered"], 1);
    let one = json!({"pod": "web-0", "reason": "miner", "ttl": "30m"});
    let answer = shop.call("isolate_workload", one).await?;
    assert_eq!(answer["in_force"], "Everywhere", "{answer}");
    assert_eq!(
        answer["pods"]["each"],
        json!([{"name": "web-0", "covered": true}])
    );
    assert_eq!(answer["evidence_at_risk"], json!(["web-0"]));
    let read_back = answer["stages_ms"]["device_read_back"].as_f64();
    assert!(read_back.is_some_and(|took| took > 0.0), "{answer}");
    assert!(shop.kernel_names(ADDRESS).await?);
    verified(&shop).await?;

    let all = json!({"labels": {"app": "web"}, "reason": "worm", "ttl": "30m"});
    let answer = shop.call("isolate_workload", all).await?;
    assert_eq!(answer["in_force"], "Partial", "{answer}");
    let each = &answer["pods"]["each"];
    assert_eq!(
        (&each[0]["name"], &each[0]["covered"]),
        (&json!("web-1"), &json!(false))
    );
    let why = each[0]["why"].as_str().unwrap_or_default();
    assert!(why.starts_with(no_agent), "{why}");
    let nobody = "nothing made web-1 that would replace it";
    assert!(why.ends_with(nobody), "{why}");
    released(&shop).await
}

async fn verified(shop: &Shop) -> anyhow::Result<()> {
    let named = json!({"pods": ["web-0", "web-1", "db-0"]});
    let answer = shop.call("verify_enforcement", named).await?;
    assert_eq!(answer["pods_matching"], 2, "{answer}");
    assert_eq!(answer["pods"][1], json!({"pod": "web-0", "matches": true}));
    assert_eq!(answer["devices"], json!([]), "the node is another tenant's");
    let answer = shop.call("verify_enforcement", json!({})).await?;
    assert_eq!(answer["pods"], json!([{"pod": "web-0", "matches": true}]));
    eventually("the status to say it", PATIENCE, || async {
        let listed = shop
            .call("list_isolations", json!({"pod": "web-0"}))
            .await?;
        let covered = &listed["isolations"][0]["pods"];
        Ok((*covered == json!({"chosen": 1, "covered": 1})).then_some(()))
    })
    .await?;
    let other = json!({"pod": "db-0", "reason": "x"});
    let refused = shop.bot.call("isolate_workload", other).await?;
    assert!(
        refused.is_error && refused.text.contains("db-0"),
        "{refused:?}"
    );
    Ok(())
}

async fn released(shop: &Shop) -> anyhow::Result<()> {
    let one = json!({"pod": "web-0", "reason": "clean"});
    let answer = shop.call("release_workload", one).await?;
    assert_eq!(answer["lifted_everywhere"], true, "{answer}");
    let still = &answer["still_isolated_by"];
    assert_eq!(still.as_array().map(Vec::len), Some(1), "{answer}");
    assert_eq!(still[0]["written_by"], "agent bot");
    assert!(shop.kernel_names(ADDRESS).await?, "the other one holds it");
    let all = json!({"labels": {"app": "web"}, "reason": "clean"});
    let answer = shop.call("release_workload", all).await?;
    assert_eq!(answer["lifted_everywhere"], true, "{answer}");
    assert_eq!(answer["still_isolated_by"], json!([]));
    assert!(!shop.kernel_names(ADDRESS).await?);
    assert_eq!(shop.pod("web-0").await?["isolated_by"], json!([]));
    let unknown = json!({"pod": "web-9", "reason": "x"});
    let unknown = shop.bot.call("release_workload", unknown).await?;
    assert!(unknown.text.contains("list_workloads"), "{unknown:?}");
    let _ = &shop.site;
    Ok(())
}
