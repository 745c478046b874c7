//! `seawall mcp`: the server, with `--stdio` the bridge to one, and `config` for clients of one.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use http::Uri;
use kube::Config;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::bridge::{self, BridgeArgs};
use super::cluster::Cluster;
use super::config::{self, ConfigArgs};
use super::server::{PROTOCOLS, Server, Settings};
use crate::local::client::Client;
use crate::tls_pair::{Served, TlsPair};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct McpArgs {
    #[command(subcommand)]
    command: Option<McpCommand>,

    /// Carry the protocol between standard input and output and the server at --url.
    #[arg(long)]
    stdio: bool,

    #[command(flatten)]
    bridge: BridgeArgs,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
enum McpCommand {
    /// Print what to paste into a client's configuration.
    Config(ConfigArgs),
}

#[derive(Debug, Args)]
struct ServerArgs {
    /// Where /mcp, /live, /ready and /metrics are served; port 0 takes a free one, which the log tells.
    #[arg(long, env = "SEAWALL_MCP_LISTEN", default_value = "0.0.0.0:8090")]
    listen: SocketAddr,

    /// The operator's Unix socket.
    #[arg(
        long,
        env = "SEAWALL_LOCAL_SOCKET",
        default_value = "/run/seawall/local.sock"
    )]
    local_socket: PathBuf,

    /// The file that holds this server's token for the API server; it is read again as it is renewed.
    #[arg(long, env = "SEAWALL_MCP_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// The API server, with --token-file; in a pod it is known.
    #[arg(long, env = "SEAWALL_API_SERVER", requires = "token_file")]
    api_server: Option<Uri>,

    /// Certificates of the API server's authority, PEM, with --token-file.
    #[arg(
        long,
        env = "SEAWALL_API_SERVER_CA_FILE",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
    )]
    api_server_ca_file: PathBuf,

    /// A kubeconfig in place of --token-file, for development: its user must be able to impersonate
    /// the agents' ServiceAccounts.
    #[arg(long, conflicts_with_all = ["token_file", "api_server"])]
    kubeconfig: Option<PathBuf>,

    /// A name, or name:port, by which clients reach this server; repeatable. Loopback always works.
    #[arg(
        long = "allowed-host",
        env = "SEAWALL_MCP_ALLOWED_HOSTS",
        value_delimiter = ','
    )]
    allowed_hosts: Vec<String>,

    /// An origin, such as https://console.example.com:443, whose pages may use this server;
    /// repeatable. Pages of this machine always may.
    #[arg(
        long = "allowed-origin",
        env = "SEAWALL_MCP_ALLOWED_ORIGINS",
        value_delimiter = ','
    )]
    allowed_origins: Vec<String>,

    /// The server's certificate and those between it and its authority, PEM: HTTPS is served. Read again
    /// when the file changes.
    #[arg(
        long,
        env = "SEAWALL_MCP_TLS_CERTIFICATE_FILE",
        requires = "tls_key_file"
    )]
    tls_certificate_file: Option<PathBuf>,

    /// The key of --tls-certificate-file, PEM.
    #[arg(
        long,
        env = "SEAWALL_MCP_TLS_KEY_FILE",
        requires = "tls_certificate_file"
    )]
    tls_key_file: Option<PathBuf>,
}

pub fn run(args: McpArgs) -> anyhow::Result<ExitCode> {
    if let Some(McpCommand::Config(args)) = &args.command {
        return config::run(args);
    }
    start_log();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let cancel = CancellationToken::new();
    let code = runtime.block_on(async {
        let stopped = stop_on_signals(cancel.clone())?;
        if args.stdio {
            return bridge::run(args.bridge, cancel).await;
        }
        let served = serve(args.server, cancel.clone()).await;
        cancel.cancel();
        stopped
            .await
            .context("the task that waits for signals died")?;
        served.map(|()| ExitCode::SUCCESS)
    });
    // A read of standard input can't be cancelled, and nothing is lost with it.
    runtime.shutdown_background();
    code
}

/// To standard error: on a terminal for people, else JSON. rmcp tells of each request at INFO.
fn start_log() {
    let default = "warn,seawall=info";
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second start in one process keeps the first.
    let _ = if std::io::stderr().is_terminal() {
        log.try_init()
    } else {
        log.json().flatten_event(true).try_init()
    };
}

fn stop_on_signals(cancel: CancellationToken) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = cancel.cancelled() => {}
        }
        cancel.cancel();
    }))
}

async fn serve(args: ServerArgs, cancel: CancellationToken) -> anyhow::Result<()> {
    // Before anything is waited for: a wrong file is told at once.
    let tls = tls(&args).await?;
    let operator = Client::new(&args.local_socket).context("cannot make a client of the socket")?;
    let cluster = Cluster::new(api_server(&args).await?)?;
    let settings = Settings {
        hosts: args.allowed_hosts,
        origins: args.allowed_origins,
    };
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr().context("a listener has an address")?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!(%address, "serving MCP at {scheme}://{address}/mcp");
    Server::new(settings, operator, cluster, cancel)
        .serve(listener, tls)
        .await
}

async fn tls(args: &ServerArgs) -> anyhow::Result<Option<Served>> {
    let pair = TlsPair::given(
        args.tls_certificate_file.as_ref(),
        args.tls_key_file.as_ref(),
    );
    let Some(pair) = pair else { return Ok(None) };
    let served = pair.serve(&PROTOCOLS).await;
    served
        .map(Some)
        .context("HTTPS needs --tls-certificate-file and --tls-key-file with a pair in PEM")
}

/// How the API server is reached, and as whom.
async fn api_server(args: &ServerArgs) -> anyhow::Result<Config> {
    if let Some(path) = &args.kubeconfig {
        let kubeconfig = Kubeconfig::read_from(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        return Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .with_context(|| format!("cannot use {}", path.display()));
    }
    let Some(token_file) = &args.token_file else {
        bail!("give --token-file, or --kubeconfig for development: this server writes as agents");
    };
    let server = match &args.api_server {
        Some(server) => server.clone(),
        None => in_cluster()?,
    };
    let mut config = Config::new(server);
    config.root_cert = Some(certificates(&args.api_server_ca_file)?);
    config.auth_info = AuthInfo {
        token_file: Some(token_file.display().to_string()),
        ..AuthInfo::default()
    };
    wait_for(token_file).await?;
    Ok(config)
}

fn in_cluster() -> anyhow::Result<Uri> {
    let variable = |name: &str| {
        std::env::var(name).with_context(|| {
            format!("{name} is not set, as it is in a pod: give --api-server https://host:port")
        })
    };
    let host = variable("KUBERNETES_SERVICE_HOST")?;
    let port = variable("KUBERNETES_SERVICE_PORT")?;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    let uri = format!("https://{host}:{port}");
    uri.parse().with_context(|| format!("{uri} is no address"))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .with_context(|| format!("cannot read {}", path.display()))?
        .map(|certificate| certificate.map(|der| der.to_vec()))
        .collect();
    certificates.with_context(|| format!("{} holds no certificates in PEM", path.display()))
}

/// The operator makes the token when it has started, which may be after this server.
async fn wait_for(path: &Path) -> anyhow::Result<()> {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);
    let there = async {
        while !tokio::fs::try_exists(path).await.unwrap_or(false) {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, there)
        .await
        .with_context(|| format!("{} is not there: the operator makes it", path.display()))
}
