//! The command lines of the control plane's processes.

use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use super::pki::{IdentityFiles, TokenSigner};
use super::toolset::Toolset;

/// Where the Services of a control plane have their addresses.
pub const SERVICES: &str = "10.40.0.0/16";

/// A TCP port of loopback that is free and that no other call was given.
pub fn free_port() -> anyhow::Result<u16> {
    static GIVEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut given = GIVEN.lock().expect("nobody panics holding it");
    loop {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        if !given.contains(&port) {
            given.push(port);
            return Ok(port);
        }
    }
}

pub fn etcd(tools: &Toolset, data: &Path, client: &str, peer: &str) -> anyhow::Result<Command> {
    let mut command = tools.command("etcd")?;
    command
        .arg("--name=e2e")
        .arg(format!("--data-dir={}", data.display()))
        .arg(format!("--listen-client-urls={client}"))
        .arg(format!("--advertise-client-urls={client}"))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .arg(format!("--initial-cluster=e2e={peer}"))
        .arg("--log-level=warn");
    Ok(command)
}

pub struct ApiServer<'a> {
    pub etcd: &'a str,
    pub address: IpAddr,
    pub port: u16,
    pub serving: &'a IdentityFiles,
    pub client_authority: &'a Path,
    pub token_signer: &'a TokenSigner,
    pub audit_policy: &'a Path,
    pub audit_log: &'a Path,
    /// How kubelets know the API server, where there are any.
    pub kubelet_client: Option<&'a IdentityFiles>,
    pub extra: &'a [String],
}

impl ApiServer<'_> {
    pub fn command(&self, tools: &Toolset) -> anyhow::Result<Command> {
        let mut command = tools.command("kube-apiserver")?;
        command
            .arg(format!("--etcd-servers={}", self.etcd))
            .arg(format!("--bind-address={}", self.address))
            // Without it the API server looks for a default route, which the sandbox has not.
            .arg(format!("--advertise-address={}", self.address))
            .arg(format!("--secure-port={}", self.port))
            .arg(format!(
                "--tls-cert-file={}",
                self.serving.certificate.display()
            ))
            .arg(format!(
                "--tls-private-key-file={}",
                self.serving.key.display()
            ))
            .arg(format!(
                "--client-ca-file={}",
                self.client_authority.display()
            ))
            .arg("--authorization-mode=Node,RBAC")
            .arg(format!("--service-cluster-ip-range={SERVICES}"))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!(
                "--service-account-signing-key-file={}",
                self.token_signer.private.display()
            ))
            .arg(format!(
                "--service-account-key-file={}",
                self.token_signer.public.display()
            ))
            .arg("--kubelet-preferred-address-types=InternalIP,Hostname")
            .arg("--allow-privileged=true")
            .arg(format!(
                "--audit-policy-file={}",
                self.audit_policy.display()
            ))
            .arg(format!("--audit-log-path={}", self.audit_log.display()))
            // Each line is there when the request is done; and one file, whatever its size (in MB).
            .arg("--audit-log-mode=blocking")
            .arg("--audit-log-maxsize=10000")
            .args(self.node_flags())
            .args(self.extra);
        Ok(command)
    }

    fn node_flags(&self) -> Vec<String> {
        let Some(client) = self.kubelet_client else {
            // A loopback address can't be an endpoint of the Service `kubernetes`.
            return vec!["--endpoint-reconciler-type=none".into()];
        };
        vec![
            "--endpoint-reconciler-type=lease".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            format!(
                "--kubelet-certificate-authority={}",
                self.client_authority.display()
            ),
            format!(
                "--kubelet-client-certificate={}",
                client.certificate.display()
            ),
            format!("--kubelet-client-key={}", client.key.display()),
        ]
    }
}

pub struct ControllerManager<'a> {
    pub kubeconfig: &'a Path,
    pub port: u16,
    pub serving: &'a IdentityFiles,
    pub authority: &'a Path,
    pub token_signer: &'a TokenSigner,
}

impl ControllerManager<'_> {
    pub fn command(&self, tools: &Toolset) -> anyhow::Result<Command> {
        let kubeconfig = self.kubeconfig.display();
        let mut command = tools.command("kube-controller-manager")?;
        command
            .arg(format!("--kubeconfig={kubeconfig}"))
            .arg(format!("--authentication-kubeconfig={kubeconfig}"))
            .arg(format!("--authorization-kubeconfig={kubeconfig}"))
            .arg("--bind-address=127.0.0.1")
            .arg(format!("--secure-port={}", self.port))
            .arg(format!(
                "--tls-cert-file={}",
                self.serving.certificate.display()
            ))
            .arg(format!(
                "--tls-private-key-file={}",
                self.serving.key.display()
            ))
            .arg(format!("--root-ca-file={}", self.authority.display()))
            .arg(format!(
                "--service-account-private-key-file={}",
                self.token_signer.private.display()
            ))
            // Each controller with its own rights, as in a real cluster.
            .arg("--use-service-account-credentials=true")
            .arg("--leader-elect=false")
            // With the defaults the first ServiceAccount takes 8 s.
            .arg("--kube-api-qps=300")
            .arg("--kube-api-burst=600")
            .arg("--concurrent-namespace-syncs=20")
            .arg("--concurrent-serviceaccount-token-syncs=10");
        Ok(command)
    }
}
