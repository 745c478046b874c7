//! Kubeconfig files: written for kubectl, helm and the operator, and read back for clients, so that a
//! test and the program that it drives use the same.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::pki::Identity;

/// Where the API server is and how it is known.
pub struct Server {
    pub url: String,
    /// PEM
    pub authority: String,
}

/// Who a kubeconfig speaks as.
pub enum Credential<'a> {
    Certificate(&'a Identity),
    Token(&'a str),
}

impl Server {
    /// Writes `<dir>/<name>.kubeconfig`.
    pub fn kubeconfig(
        &self,
        dir: &Path,
        name: &str,
        credential: &Credential<'_>,
    ) -> anyhow::Result<PathBuf> {
        let user = match credential {
            Credential::Certificate(identity) => json!({
                "client-certificate-data": STANDARD.encode(&identity.certificate),
                "client-key-data": STANDARD.encode(&identity.key),
            }),
            Credential::Token(token) => json!({ "token": token }),
        };
        let path = dir.join(format!("{name}.kubeconfig"));
        // Another test may be reading the one of the same name: it sees this one whole or not at all.
        let mut file = NamedTempFile::new_in(dir)?;
        // JSON is YAML.
        serde_json::to_writer_pretty(&mut file, &self.document(name, user))?;
        file.persist(&path)?;
        Ok(path)
    }

    fn document(&self, name: &str, user: Value) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "seawall-e2e", "cluster": {
                "server": self.url,
                "certificate-authority-data": STANDARD.encode(&self.authority),
            }}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": name, "context": {"cluster": "seawall-e2e", "user": name}}],
            "current-context": name,
        })
    }
}

/// A client that speaks as the kubeconfig's user.
pub async fn client(kubeconfig: &Path) -> anyhow::Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    Ok(kube::Client::try_from(config)?)
}
