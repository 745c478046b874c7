//! A real control plane: etcd, kube-apiserver and kube-controller-manager with real certificates, RBAC and
//! an audit log, as many side by side as a test wants. kubectl and helm to drive it.
//!
//! It owns its processes and its folder in the run. It has no node unless a `NodeCluster` is made of it:
//! what most tests call the operator runs beside it, with the ServiceAccount's token.

pub mod audit;
pub mod build;
mod components;
mod ground;
mod kubeconfig;
pub mod node;
pub mod pki;
mod resources;
pub mod toolset;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::OnceCell;

use crate::process::{self, Daemon, Outcome};
use audit::AuditLog;
pub use components::{SERVICES, free_port};
use ground::Ground;
pub use ground::audit_log;
use kubeconfig::{Credential, Server};

/// Longer than the slowest start that was seen on a machine that builds something else meanwhile.
const READY: Duration = Duration::from_secs(90);

/// No command of kubectl or helm waits longer.
const COMMAND: Duration = Duration::from_secs(90);

/// What a control plane may have that differs from the next.
pub struct Options {
    /// Where the API server listens. Loopback, unless hosts of a lab are to reach it.
    pub address: IpAddr,
    /// Nodes are to join: kubelets are asked with a certificate, and pods find the API server at the
    /// address of the Service `kubernetes`. The address must not be a loopback one.
    pub nodes: bool,
    /// More arguments for the API server.
    pub api_server: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            nodes: false,
            api_server: Vec::new(),
        }
    }
}

pub struct ControlPlane {
    // Dropped from top to bottom: nobody is left without what it talks to.
    controller_manager: Daemon,
    api_server: Daemon,
    etcd: Daemon,
    ground: Ground,
    server: Server,
    admin_kubeconfig: PathBuf,
    admin: kube::Client,
}

impl ControlPlane {
    /// Starts one and waits until it is ready: the API server says so and the controllers have given the
    /// namespace `default` its ServiceAccount.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let ground = Ground::lay(options)?;
        let (etcd, etcd_url) = ground.start_etcd()?;
        let (api_server, server) = ground.start_api_server(&etcd_url)?;
        let admin_kubeconfig = ground.kubeconfig(&server, "admin", "admin", &["system:masters"])?;
        let admin = kubeconfig::client(&admin_kubeconfig).await?;
        let mut started = [etcd, api_server];
        wait_ready(&mut started, &admin).await?;
        let [etcd, api_server] = started;
        let mut this = Self {
            controller_manager: ground.start_controller_manager(&server)?,
            api_server,
            etcd,
            ground,
            server,
            admin_kubeconfig,
            admin,
        };
        this.wait_controllers().await?;
        Ok(this)
    }

    /// One that tests share, each in namespaces of its own. Started by the first that asks.
    pub async fn shared() -> anyhow::Result<&'static Self> {
        static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
        SHARED
            .get_or_try_init(|| Self::start(Options::default()))
            .await
    }

    /// Where its files and logs are.
    pub fn dir(&self) -> &Path {
        &self.ground.dir
    }

    pub fn server_url(&self) -> &str {
        &self.server.url
    }

    /// Where the API server listens.
    pub fn server_address(&self) -> anyhow::Result<std::net::SocketAddr> {
        Ok(self.server.url.trim_start_matches("https://").parse()?)
    }

    /// Where the program is, for people who want to start it themselves.
    pub fn tool_path(&self, program: &str) -> anyhow::Result<PathBuf> {
        Ok(self.ground.tools.command(program)?.get_program().into())
    }

    /// The folder of the custom resources that the program reads.
    pub fn definitions(&self, program: &str) -> anyhow::Result<PathBuf> {
        self.ground.tools.definitions(program)
    }

    /// A client with every right.
    pub fn admin(&self) -> kube::Client {
        self.admin.clone()
    }

    pub fn admin_kubeconfig(&self) -> &Path {
        &self.admin_kubeconfig
    }

    pub fn audit(&self) -> AuditLog {
        AuditLog::at(&audit_log(&self.ground.dir))
    }

    /// The process ids of its parts.
    pub fn pids(&self) -> [u32; 3] {
        [&self.etcd, &self.api_server, &self.controller_manager].map(Daemon::pid)
    }

    /// kubectl as the administrator; its output, or what it said when it failed.
    pub async fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        let outcome = self.kubectl_as(&self.admin_kubeconfig, args, "").await?;
        outcome.success()
    }

    /// kubectl as whoever the kubeconfig speaks for, with `input` for `-f -`.
    pub async fn kubectl_as(
        &self,
        kubeconfig: &Path,
        args: &[&str],
        input: &str,
    ) -> anyhow::Result<Outcome> {
        let mut command = self.tool("kubectl", kubeconfig)?;
        command.args(args);
        process::run(command, input, COMMAND).await
    }

    /// helm as the administrator.
    pub async fn helm(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = self.tool("helm", &self.admin_kubeconfig)?;
        command.args(args);
        process::run(command, "", COMMAND).await?.success()
    }

    /// A token of the ServiceAccount, which must exist, good for an hour.
    pub async fn token_for(&self, namespace: &str, account: &str) -> anyhow::Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin(), namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(3600),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .with_context(|| format!("a token for ServiceAccount {namespace}/{account}"))?;
        let token = answer.status.and_then(|status| status.token);
        token.context("a token request is answered with a token")
    }

    /// A kubeconfig file that speaks as the ServiceAccount.
    pub async fn kubeconfig_for(&self, namespace: &str, account: &str) -> anyhow::Result<PathBuf> {
        let token = self.token_for(namespace, account).await?;
        let name = format!("{namespace}.{account}");
        self.server
            .kubeconfig(&self.ground.dir, &name, &Credential::Token(&token))
    }

    /// A client that speaks as the ServiceAccount.
    pub async fn client_for(&self, namespace: &str, account: &str) -> anyhow::Result<kube::Client> {
        kubeconfig::client(&self.kubeconfig_for(namespace, account).await?).await
    }

    /// A kubeconfig file for a person, who has the rights that RBAC gives the name and the groups.
    pub fn kubeconfig_for_person(&self, name: &str, groups: &[&str]) -> anyhow::Result<PathBuf> {
        self.ground.kubeconfig(&self.server, name, name, groups)
    }

    fn tool(&self, program: &str, kubeconfig: &Path) -> anyhow::Result<Command> {
        let mut command = self.ground.tools.command(program)?;
        // Nothing of the person's own configuration, and nothing left in the home folder.
        command
            .env("KUBECONFIG", kubeconfig)
            .env("KUBECACHEDIR", self.ground.dir.join("kubectl-cache"))
            .env("HELM_CACHE_HOME", self.ground.dir.join("helm/cache"))
            .env("HELM_CONFIG_HOME", self.ground.dir.join("helm/config"))
            .env("HELM_DATA_HOME", self.ground.dir.join("helm/data"));
        Ok(command)
    }

    async fn wait_controllers(&mut self) -> anyhow::Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin(), "default");
        let deadline = Instant::now() + READY;
        while accounts.get_opt("default").await?.is_none() {
            self.controller_manager.check()?;
            let late = || self.controller_manager.log_tail();
            anyhow::ensure!(Instant::now() < deadline, "no controllers yet\n{}", late());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// Waits until the API server is ready. Fails with the logs when a process ends or time is up.
async fn wait_ready(started: &mut [Daemon; 2], admin: &kube::Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY;
    loop {
        let request = http::Request::get("/readyz").body(Vec::new())?;
        let Err(answer) = admin.request_text(request).await else {
            return Ok(());
        };
        for daemon in started.iter_mut() {
            daemon.check()?;
        }
        if Instant::now() > deadline {
            let tails = started.iter().map(Daemon::log_tail).collect::<Vec<_>>();
            anyhow::bail!(
                "no API server after {READY:?}: {answer}\n{}",
                tails.join("\n")
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
