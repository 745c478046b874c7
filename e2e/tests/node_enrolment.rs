//! Agents on the cluster's nodes: they enrol with what the API server says of their pods. The pods are
//! the chart's DaemonSet's and their tokens are real; where a kubelet would start the container, the test
//! starts the agent with the container's arguments.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libtest_mimic::Trial;
use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};

use crate::cluster::SERVICES;
use crate::harness::{case, eventually};
use crate::lab::Host;
use crate::process::{self, Daemon, Outcome};
use crate::site::{SYSTEM, Site};

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a node's agent enrols with its pod's token, is that node's device, and another certificate of the node ends the first",
            enrols,
        ),
        case(
            "forged and foreign tokens of nodes are refused with words, and nothing is enrolled",
            refused,
        ),
        case(
            "a node that was revoked stays out until a person readmits it, and then comes back by itself",
            revoked,
        ),
    ]
}

pub const PATIENCE: Duration = Duration::from_secs(60);
const ACCOUNT: &str = "seawall-agent";
const AUDIENCE: &str = "seawall-fleet";
pub const NODE: &str = "worker-1";

/// A site whose operator enrols nodes.
pub async fn site() -> anyhow::Result<Site> {
    let account = format!("{SYSTEM}/{ACCOUNT}");
    Site::start(&["--node-service-account", &account]).await
}

pub async fn create(site: &Site, object: &Value) -> anyhow::Result<()> {
    let admin = site.plane.admin_kubeconfig().to_owned();
    let create = ["create", "-f", "-"];
    let object = object.to_string();
    let created = site.plane.kubectl_as(&admin, &create, &object).await?;
    created.success().map(drop)
}

async fn get(site: &Site, args: &[&str]) -> anyhow::Result<Value> {
    let args = [&["get", "-n", SYSTEM, "-o", "json"], args].concat();
    Ok(serde_json::from_str(&site.plane.kubectl(&args).await?)?)
}

/// A node with the pod that the DaemonSet made for it, and what a kubelet would mount into that.
pub struct Node {
    pub host: Host,
    agent: Option<Daemon>,
    pod: Value,
    dir: PathBuf,
}

impl Node {
    /// The DaemonSet's pod of a new node, bound to it as the scheduler does.
    pub async fn add(site: &Site, name: &str) -> anyhow::Result<Self> {
        create(
            site,
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}),
        )
        .await?;
        let pod = eventually("the DaemonSet's pod", PATIENCE, || async {
            let pods = get(
                site,
                &["pods", "-l", "app.kubernetes.io/name=seawall-agent"],
            )
            .await?;
            let pods = pods["items"].as_array().cloned().unwrap_or_default();
            let of_node = |pod: &Value| pod["spec"]["affinity"].to_string().contains(name);
            Ok(pods.into_iter().find(of_node))
        })
        .await?;
        let pod_name = pod["metadata"]["name"].as_str().context("a name")?;
        let binding = json!({"apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod_name, "namespace": SYSTEM},
            "target": {"apiVersion": "v1", "kind": "Node", "name": name}});
        create(site, &binding).await?;
        let dir = site.dir().join(format!("node-{name}"));
        let node = Self {
            host: site.lab.host(name)?,
            agent: None,
            pod,
            dir,
        };
        // Nobody makes the Service's address the operator's here: it is passed over at once.
        let nobody = ["route", "add", "unreachable", SERVICES];
        node.host.run("ip", &nobody, "").await?.success()?;
        node.mount(site).await?;
        let token = token(site, ACCOUNT, AUDIENCE, Some(&node.pod)).await?;
        node.write_token(&token)?;
        Ok(node)
    }

    /// The ConfigMap, once the operator has filled it.
    async fn mount(&self, site: &Site) -> anyhow::Result<()> {
        let data = eventually("the operator to say where it is", PATIENCE, || async {
            let map = get(site, &["configmap", "seawall-fleet"]).await?;
            Ok(map["data"].as_object().cloned())
        })
        .await?;
        let names: Vec<&str> = data.keys().map(String::as_str).collect();
        assert_eq!(names, ["addresses", "ca.crt"], "and nothing private");
        std::fs::create_dir_all(self.dir.join("operator"))?;
        for (name, text) in data {
            let text = text.as_str().context("text")?;
            std::fs::write(self.dir.join("operator").join(name), text)?;
        }
        Ok(())
    }

    fn write_token(&self, token: &str) -> anyhow::Result<()> {
        Ok(std::fs::write(self.dir.join("token"), token)?)
    }

    /// The arguments of the pod's container, with `command` for its `run` and a state of this name.
    fn command(&self, command: &str, state: &str) -> anyhow::Result<Command> {
        let mut process = self.host.command(env!("CARGO_BIN_EXE_seawall"));
        let args = self.pod["spec"]["containers"][0]["args"].as_array();
        for arg in args.context("arguments")? {
            let arg = arg.as_str().context("text")?;
            let dir = self.dir.display();
            process.arg(match arg {
                "run" => command.to_owned(),
                "--state-dir=/var/lib/seawall" => format!("--state-dir={dir}/{state}"),
                "--node-token-file=/var/run/secrets/seawall/token" => {
                    format!("--node-token-file={dir}/token")
                }
                "--operator-dir=/etc/seawall/operator" => format!("--operator-dir={dir}/operator"),
                other => other.to_owned(),
            });
        }
        Ok(process)
    }

    pub fn start(&mut self) -> anyhow::Result<()> {
        let mut command = self.command("run", "state")?;
        self.agent = Some(Daemon::spawn("agent", &mut command, &self.dir)?);
        Ok(())
    }

    /// `seawall agent enroll`, into a state of its own.
    async fn enroll(&self, state: &str) -> anyhow::Result<Outcome> {
        process::run(self.command("enroll", state)?, "", PATIENCE).await
    }

    fn log(&self) -> anyhow::Result<String> {
        let agent = self.agent.as_ref().context("it runs")?;
        Ok(std::fs::read_to_string(agent.log())?)
    }

    async fn logs(&self, words: &str) -> anyhow::Result<()> {
        eventually(&format!("the agent to say {words:?}"), PATIENCE, || async {
            Ok(self.log()?.contains(words).then_some(()))
        })
        .await
    }
}

/// As a kubelet asks for it, for a pod; or for none.
async fn token(
    site: &Site,
    account: &str,
    audience: &str,
    pod: Option<&Value>,
) -> anyhow::Result<String> {
    let audience = format!("--audience={audience}");
    let mut args = vec!["create", "token", account, "-n", SYSTEM, &audience];
    let name = pod.and_then(|pod| pod["metadata"]["name"].as_str());
    if let Some(name) = name {
        args.extend(["--bound-object-kind=Pod", "--bound-object-name", name]);
    }
    Ok(site.plane.kubectl(&args).await?.trim().to_owned())
}

/// The token as it would be an hour after its end, signed as the API server does.
fn expired(site: &Site, token: &str) -> anyhow::Result<String> {
    let mut parts = token.split('.');
    let header = parts.next().context("a header")?;
    let claims = URL_SAFE_NO_PAD.decode(parts.next().context("claims")?)?;
    let mut claims: Value = serde_json::from_slice(&claims)?;
    for (claim, ago) in [("iat", 7200), ("nbf", 7200), ("exp", 3600)] {
        claims[claim] = json!(jiff::Timestamp::now().as_second() - ago);
    }
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let key = std::fs::read_to_string(site.plane.dir().join("service-accounts.key"))?;
    let signature = KeyPair::from_pem(&key)?.sign(signed.as_bytes())?;
    let signature = URL_SAFE_NO_PAD.encode(halves(&signature)?);
    Ok(format!("{signed}.{signature}"))
}

/// The two numbers of an ECDSA signature, 32 bytes each, as tokens have it, out of its DER.
fn halves(der: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut rest = der.get(2..).context("a sequence")?;
    let mut both = Vec::new();
    for _ in 0..2 {
        let length = usize::from(*rest.get(1).context("a number")?);
        let number = rest.get(2..2 + length).context("its bytes")?;
        let digits = &number[number.len().saturating_sub(32)..];
        both.extend(std::iter::repeat_n(0, 32 - digits.len()));
        both.extend(digits);
        rest = &rest[2 + length..];
    }
    Ok(both)
}

async fn devices(site: &Site) -> anyhow::Result<Vec<Value>> {
    let listed = site.seawall(&["fleet", "list", "--json"]).await?;
    Ok(serde_json::from_str(&listed)?)
}

/// The node's device, once it is connected.
pub async fn connected(site: &Site, node: &Node) -> anyhow::Result<Value> {
    let found = eventually("the node to be connected", PATIENCE, || async {
        let mut devices = devices(site).await?.into_iter();
        Ok(devices.find(|device| device["node"] == NODE && device["connected"] == true))
    });
    found.await.with_context(|| node.log().unwrap_or_default())
}

async fn enrols() -> anyhow::Result<()> {
    let site = site().await?;
    let mut node = Node::add(&site, NODE).await?;
    node.start()?;
    let device = connected(&site, &node).await?;
    assert_eq!(device["tenant"], SYSTEM);
    let table = site.seawall(&["fleet", "list"]).await?;
    assert!(table.contains("NODE") && table.contains(NODE), "{table}");
    process::run(status(&node), "", PATIENCE).await?.success()?;
    in_the_audit_log(&site, &["\"event\":\"enrolled\"", "\"node\":\"worker-1\""]).await?;

    // Whoever else has the pod's token is the same device, and the first agent's certificate counts no
    // more: it notices, and enrols anew by itself.
    let said = node.enroll("second").await?.success()?;
    let id = device["id"].as_str().context("an id")?;
    assert!(said.contains(id), "{said}");
    node.logs("enrolled anew").await?;
    let again = connected(&site, &node).await?;
    assert_eq!(again["id"], id);
    assert_eq!(devices(&site).await?.len(), 1);
    told_again(&site).await
}

/// Where the operator is stands in the API server again, though somebody deleted it.
async fn told_again(site: &Site) -> anyhow::Result<()> {
    let map = ["configmap", "seawall-fleet"];
    let before = get(site, &map).await?;
    let delete = ["delete", "-n", SYSTEM];
    site.plane.kubectl(&[&delete[..], &map].concat()).await?;
    let after = eventually("the ConfigMap to be made anew", PATIENCE, || async {
        let found = get(site, &map).await?;
        Ok((found["metadata"]["uid"] != before["metadata"]["uid"]).then_some(found))
    })
    .await?;
    assert_eq!(after["data"], before["data"]);
    Ok(())
}

fn status(node: &Node) -> Command {
    let mut command = node.host.command(env!("CARGO_BIN_EXE_seawall"));
    let state = format!("--state-dir={}/state", node.dir.display());
    command.args(["agent", "status", &state]);
    command
}

async fn in_the_audit_log(site: &Site, words: &[&str]) -> anyhow::Result<()> {
    let log = site.audit_log();
    eventually("an entry in the audit log", PATIENCE, || async {
        Ok(any_file(&log, &|text| words.iter().all(|word| text.contains(word)))?.then_some(()))
    })
    .await
}

fn any_file(directory: &Path, wanted: &dyn Fn(&str) -> bool) -> anyhow::Result<bool> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let found = match path.is_dir() {
            true => any_file(&path, wanted)?,
            false => wanted(&String::from_utf8_lossy(&std::fs::read(&path)?)),
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn refused() -> anyhow::Result<()> {
    let site = site().await?;
    let node = Node::add(&site, NODE).await?;
    let good = std::fs::read_to_string(node.dir.join("token"))?;
    let (head, _) = good.rsplit_once('.').context("a signature")?;
    let forged = format!("{head}.{}", "A".repeat(342));
    let pod = Some(&node.pod);
    let foreign = token(&site, ACCOUNT, "https://elsewhere", pod).await?;
    let unbound = token(&site, ACCOUNT, AUDIENCE, None).await?;
    let expired = expired(&site, &good)?;
    let operators = token(&site, "seawall", AUDIENCE, None).await?;
    for (token, words) in [
        (forged.as_str(), "the API server refuses it"),
        ("nonsense", "the API server refuses it"),
        (&expired, "expired"),
        (&foreign, "with the audience seawall-fleet"),
        (&unbound, "bound to no pod on a node"),
        (
            &operators,
            "have the ServiceAccount seawall-system/seawall-agent",
        ),
    ] {
        node.write_token(token)?;
        let outcome = node.enroll("refused").await?;
        assert_eq!(outcome.status.code(), Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains(words), "{words}: {outcome:?}");
    }
    // Who can't ask says so, and doesn't refuse: another time it is good.
    let binding = ["clusterrolebinding", "seawall-token-reviews"];
    let before = get(&site, &binding).await?;
    site.plane
        .kubectl(&[&["delete"], &binding[..]].concat())
        .await?;
    node.write_token(&good)?;
    eventually("the right to be gone", PATIENCE, || async {
        let outcome = node.enroll("refused").await?;
        let says = outcome.stderr.contains("seawall-token-reviews");
        assert!(says || outcome.status.success(), "{outcome:?}");
        let _ = std::fs::remove_dir_all(node.dir.join("refused"));
        Ok((says && outcome.status.code() == Some(1)).then_some(()))
    })
    .await?;
    let mut restored = before.clone();
    restored["metadata"] = json!({"name": before["metadata"]["name"]});
    create(&site, &restored).await?;
    // A token dies with its pod.
    let name = node.pod["metadata"]["name"].as_str().context("a name")?;
    let delete = [
        "delete",
        "pod",
        "-n",
        SYSTEM,
        name,
        "--force",
        "--grace-period=0",
    ];
    site.plane.kubectl(&delete).await?;
    eventually("the token to be dead", PATIENCE, || async {
        let outcome = node.enroll("refused").await?;
        let _ = std::fs::remove_dir_all(node.dir.join("refused"));
        Ok((outcome.status.code() == Some(2)).then_some(()))
    })
    .await
}

async fn revoked() -> anyhow::Result<()> {
    let site = site().await?;
    let mut node = Node::add(&site, NODE).await?;
    node.start()?;
    let device = connected(&site, &node).await?;
    let id = device["id"].as_str().context("an id")?;
    site.seawall(&["fleet", "revoke", id]).await?;
    node.logs("seawall fleet readmit").await?;
    let outcome = node.enroll("second").await?;
    assert_eq!(outcome.status.code(), Some(2), "{outcome:?}");
    let words = "run `seawall fleet readmit worker-1`";
    assert!(outcome.stderr.contains(words), "{outcome:?}");
    assert!(devices(&site).await?.is_empty());
    let unknown = site.seawall(&["fleet", "readmit", "worker-9"]).await;
    let unknown = format!("{:#}", unknown.expect_err("no such node"));
    assert!(
        unknown.contains("no node worker-9 was revoked"),
        "{unknown}"
    );
    let said = site.seawall(&["fleet", "readmit", NODE]).await?;
    assert!(said.contains(id), "{said}");
    let again = connected(&site, &node).await?;
    assert_eq!(again["id"], id);
    Ok(())
}
