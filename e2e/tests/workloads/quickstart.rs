//! The quickstart, typed as it is written into a shell of somebody who has a cluster and nothing else. What
//! it pulls from registries is made here under the same names.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use serde_json::json;

use crate::cluster::node::{Node, NodeCluster, NodeOptions, SEAWALL, seawall, shell_as};
use crate::harness::{case, eventually};
use crate::process::{self, Daemon};
use crate::run;
use crate::site::McpClient;

pub fn all() -> Vec<Trial> {
    vec![case(
        "the quickstart does what it says, typed word by word",
        typed,
    )]
}

const PAGE: &str = "docs/quickstart.md";
/// What the page says of a command that must not succeed.
const FAILS: &str = "# times out";
/// What busybox's `timeout` ends with then.
const TIMED_OUT: i32 = 143;
const PATIENCE: Duration = Duration::from_secs(120);

async fn typed() -> anyhow::Result<()> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE))?;
    let steps = Steps::of(&page)?;
    let cluster = NodeCluster::start().await?;
    let node = Node::start(&cluster, "worker", NodeOptions::default()).await?;
    node.volume("state", "4Gi").await?;
    let product = seawall().await?;
    node.load(product).await?;
    let image = steps.image.as_str();
    let tag = ["-n", "k8s.io", "images", "tag", SEAWALL, image];
    node.run("ctr", &tag).await?.success()?;
    for (name, script) in [
        (
            "docker.io/library/nginx:1.29",
            "echo welcome > /tmp/index.html; exec httpd -f -p 80 -h /tmp",
        ),
        ("docker.io/library/busybox:1.37", "exec sleep infinity"),
    ] {
        node.load(&shell_as(name, script).await?).await?;
    }
    let desk = Desk::new(&cluster)?;
    let began = Instant::now();
    let said = desk.types(&steps.until_forwarded).await?;
    eprintln!("the quickstart took {:.1?} to type", began.elapsed());
    let mut words = said.split_whitespace();
    let key = words.find(|word| word.starts_with("swk_"));
    let key = key.context("the page has a key made")?;
    let _forwarding = desk.leaves_running(&steps.forward)?;
    let client = eventually(
        "the MCP server behind the forwarded port",
        PATIENCE,
        || async { Ok(McpClient::connect(&steps.url, key).await.ok()) },
    );
    let isolate = json!({"pod": "web", "ttl": "1h", "reason": "As the quickstart says"});
    let answer = client.await?.call("isolate_workload", isolate).await?;
    ensure!(!answer.is_error, "{}", answer.text);
    Ok(())
}

/// What the page has a person type.
struct Steps {
    /// The image that it builds and pushes, which is there already.
    image: String,
    until_forwarded: String,
    /// The command that goes on running.
    forward: String,
    /// Where the MCP server is then.
    url: String,
}

impl Steps {
    fn of(page: &str) -> anyhow::Result<Self> {
        let mut blocks = page.split("```").skip(1).step_by(2);
        let build = blocks.next().context("the page begins with an image")?;
        let mut words = build.split_whitespace();
        let image = words.find(|word| word.contains('/'));
        let mut script = String::new();
        let mut forward = None;
        for line in blocks.flat_map(|block| block.trim_start().lines()) {
            match line.strip_suffix(FAILS) {
                _ if line.contains(" port-forward ") => forward = Some(line.to_owned()),
                Some(command) => {
                    script += &format!("{command} && status=0 || status=$?\n");
                    script += &format!("test $status -eq {TIMED_OUT}\n");
                }
                None => script += &format!("{line}\n"),
            }
        }
        let mut words = page.split('`');
        let url = words.find(|word| word.starts_with("http://127.0.0.1"));
        Ok(Self {
            image: image.context("the image has a name")?.to_owned(),
            until_forwarded: script,
            forward: forward.context("the page forwards a port")?,
            url: url
                .context("the page says where the MCP server is")?
                .to_owned(),
        })
    }
}

/// A shell in a checkout, with the programs that the page asks for.
struct Desk {
    home: PathBuf,
    kubeconfig: PathBuf,
}

impl Desk {
    fn new(cluster: &NodeCluster) -> anyhow::Result<Self> {
        let home = run::scratch("desk")?;
        let programs = home.join("bin");
        fs::create_dir(&programs)?;
        for program in ["kubectl", "helm"] {
            symlink(cluster.plane.tool_path(program)?, programs.join(program))?;
        }
        symlink(env!("CARGO_BIN_EXE_seawall"), programs.join("seawall"))?;
        let kubeconfig = cluster.plane.admin_kubeconfig().to_owned();
        Ok(Self { home, kubeconfig })
    }

    async fn types(&self, script: &str) -> anyhow::Result<String> {
        let outcome = process::run(
            self.shell(&format!("set -euxo pipefail\n{script}")),
            "",
            PATIENCE,
        );
        outcome.await?.success()
    }

    fn leaves_running(&self, command: &str) -> anyhow::Result<Daemon> {
        Daemon::spawn(
            "shell",
            &mut self.shell(&format!("exec {command}")),
            &self.home,
        )
    }

    fn shell(&self, script: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("bash");
        shell
            .args(["-c", script])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env(
                "PATH",
                format!("{}:{path}", self.home.join("bin").display()),
            )
            .env("HOME", &self.home)
            .env("KUBECONFIG", &self.kubeconfig);
        shell
    }
}
