//! `make up` and `make down`: the demo's world, left running in the background. What is asked of it from
//! outside its namespaces goes through sockets in its folder.

mod background;
mod forward;

pub use background::{down, outside};

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::demo::Demo;

/// Named in the environment by the process outside: the folder that both sides know.
const FOLDER: &str = "SEAWALL_E2E_UP";

/// What the outside has to know.
#[derive(Serialize, Deserialize)]
struct Addresses {
    mcp: SocketAddr,
    api_server: SocketAddr,
}

/// The part inside: builds the world, tells what to do with it, and stays until it is ended.
pub async fn inside() -> anyhow::Result<ExitCode> {
    let folder = PathBuf::from(std::env::var_os(FOLDER).unwrap_or_default());
    let outer: Addresses = serde_json::from_slice(&std::fs::read(folder.join("outer.json"))?)?;
    let demo = Demo::set_up(Instant::now()).await?;
    let inner = Addresses {
        mcp: demo.site.mcp_address(),
        api_server: demo.site.plane.server_address()?,
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(forward::serve(folder.join("mcp.sock"), inner.mcp)?);
    tasks.spawn(forward::serve(
        folder.join("api-server.sock"),
        inner.api_server,
    )?);
    let words = welcome(&demo, &folder, &inner, &outer).await?;
    private_file(&folder.join("welcome.new"))?.write_all(words.as_bytes())?;
    std::fs::rename(folder.join("welcome.new"), folder.join("welcome"))?;
    // Ends when the process outside is told to.
    tasks.join_all().await;
    drop(demo);
    Ok(ExitCode::SUCCESS)
}

/// Made anew, and its owner's alone from its first moment: keys and kubeconfigs are in these files.
pub fn private_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

async fn welcome(
    demo: &Demo,
    folder: &Path,
    inner: &Addresses,
    outer: &Addresses,
) -> anyhow::Result<String> {
    let site = &demo.site;
    let everything = Some("{devices: {all: true}}");
    let key = site.scope("responder", "Contain", everything).await?;
    let config = std::fs::read_to_string(site.plane.admin_kubeconfig())?;
    let kubeconfig = folder.join("kubeconfig");
    let (from, to) = (inner.api_server.to_string(), outer.api_server.to_string());
    private_file(&kubeconfig)?.write_all(config.replace(&from, &to).as_bytes())?;
    let kubectl = site.plane.tool_path("kubectl")?;
    let url = format!("http://{}/mcp", outer.mcp);
    let devices: Vec<String> = site
        .devices
        .iter()
        .map(|device| format!("  {}  {}", device.id, device.host.name()))
        .collect();
    Ok(format!(
        "MCP     {url}
key     {key}   (Contain, every device of namespace {tenant})

kubectl --kubeconfig {kubeconfig} get isolations,policies,apikeyscopes -A
        ({kubectl})

devices, of namespace {tenant}
{devices}

{seawall} fleet --socket {admin_socket} list
        (`{seawall} fleet --help` says what else there is: join tokens, tags, revocation)

Claude Code
  claude mcp add --transport http seawall {url} --header \"Authorization: Bearer {key}\"

Other clients, in mcp.json
  {{\"mcpServers\": {{\"seawall\": {{\"type\": \"http\", \"url\": \"{url}\", \"headers\": {{\"Authorization\": \"Bearer {key}\"}}}}}}}}

Clients that speak stdio
  {{\"mcpServers\": {{\"seawall\": {{\"command\": \"{seawall}\", \"args\": [\"mcp\", \"--stdio\"], \"env\": {{\"SEAWALL_URL\": \"{url}\", \"SEAWALL_API_KEY\": \"{key}\"}}}}}}}}

`make down` ends it. Logs: {logs}
",
        kubeconfig = kubeconfig.display(),
        kubectl = kubectl.display(),
        devices = devices.join("\n"),
        admin_socket = site.admin_socket().display(),
        seawall = env!("CARGO_BIN_EXE_seawall"),
        logs = site.dir().display(),
        tenant = crate::site::TENANT,
    ))
}
