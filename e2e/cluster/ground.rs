//! What the processes of one control plane have in common, and how each of them is started on it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Options;
use super::audit;
use super::components::{self, ApiServer, ControllerManager, free_port};
use super::kubeconfig::{Credential, Server};
use super::pki::{Authority, IdentityFiles, TokenSigner};
use super::toolset::Toolset;
use crate::process::Daemon;
use crate::run;

pub struct Ground {
    pub tools: Toolset,
    /// The folder of this control plane in the run.
    pub dir: PathBuf,
    pub authority: Authority,
    /// The authority's certificate, for programs that want a file.
    authority_file: PathBuf,
    token_signer: TokenSigner,
    options: Options,
}

impl Ground {
    pub fn lay(options: Options) -> anyhow::Result<Self> {
        let dir = run::scratch("control-plane")?;
        let authority = Authority::generate()?;
        let authority_file = dir.join("ca.crt");
        fs::write(&authority_file, authority.certificate())?;
        Ok(Self {
            tools: Toolset::from_env()?,
            token_signer: TokenSigner::generate(&dir)?,
            authority,
            authority_file,
            options,
            dir,
        })
    }

    /// Starts etcd; the other value is the URL for its client.
    pub fn start_etcd(&self) -> anyhow::Result<(Daemon, String)> {
        let client = format!("http://127.0.0.1:{}", free_port()?);
        let peer = format!("http://127.0.0.1:{}", free_port()?);
        let data = self.dir.join(run::DATA);
        let mut command = components::etcd(&self.tools, &data, &client, &peer)?;
        let etcd = Daemon::spawn("etcd", &mut command, &self.dir)?;
        Ok((etcd, client))
    }

    /// Starts the API server; the other value is where clients find it once it is ready.
    pub fn start_api_server(&self, etcd: &str) -> anyhow::Result<(Daemon, Server)> {
        let name = "kube-apiserver";
        let address = self.options.address;
        let port = free_port()?;
        let serving = self.authority.server(name, address)?;
        let kubelet_client = match self.options.nodes {
            true => Some(self.kubelet_client()?),
            false => None,
        };
        let audit_policy = self.dir.join("audit-policy.json");
        fs::write(&audit_policy, serde_json::to_vec(&audit::policy())?)?;
        let api_server = ApiServer {
            etcd,
            address,
            port,
            serving: &serving.write(&self.dir, name)?,
            client_authority: &self.authority_file,
            token_signer: &self.token_signer,
            audit_policy: &audit_policy,
            audit_log: &audit_log(&self.dir),
            kubelet_client: kubelet_client.as_ref(),
            extra: &self.options.api_server,
        };
        let server = Server {
            url: format!("https://{}", SocketAddr::new(address, port)),
            authority: self.authority.certificate().to_owned(),
        };
        let mut command = api_server.command(&self.tools)?;
        Ok((Daemon::spawn(name, &mut command, &self.dir)?, server))
    }

    /// What the API server asks kubelets with.
    fn kubelet_client(&self) -> anyhow::Result<IdentityFiles> {
        let name = "kube-apiserver-kubelet-client";
        let identity = self.authority.client(name, &["system:masters"])?;
        identity.write(&self.dir, name)
    }

    /// Starts the controllers, which give up when the API server isn't ready soon.
    pub fn start_controller_manager(&self, server: &Server) -> anyhow::Result<Daemon> {
        let name = "kube-controller-manager";
        let serving = self.authority.server(name, self.options.address)?;
        let controller_manager = ControllerManager {
            kubeconfig: &self.kubeconfig(server, name, "system:kube-controller-manager", &[])?,
            port: free_port()?,
            serving: &serving.write(&self.dir, name)?,
            authority: &self.authority_file,
            token_signer: &self.token_signer,
        };
        let mut command = controller_manager.command(&self.tools)?;
        Daemon::spawn(name, &mut command, &self.dir)
    }

    /// A kubeconfig file for a user known by a client certificate.
    pub fn kubeconfig(
        &self,
        server: &Server,
        name: &str,
        user: &str,
        groups: &[&str],
    ) -> anyhow::Result<PathBuf> {
        let identity = self.authority.client(user, groups)?;
        server.kubeconfig(&self.dir, name, &Credential::Certificate(&identity))
    }
}

/// Where the API server's audit log is in the control plane's folder.
pub fn audit_log(dir: &Path) -> PathBuf {
    dir.join("audit.log")
}
