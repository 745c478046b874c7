//! A Secret of the type kubernetes.io/tls, mounted as the kubelet mounts it: the files are links into the folder
//! that the link `..data` names, and a new version takes its place at once.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::pki::{Authority, Identity};
use crate::harness::eventually;
use crate::run;
use crate::site::Site;

const PATIENCE: Duration = Duration::from_secs(60);

pub struct MountedSecret {
    dir: PathBuf,
    versions: usize,
}

impl MountedSecret {
    pub fn new(pair: &Identity) -> anyhow::Result<Self> {
        let dir = run::scratch("secret")?;
        for file in ["tls.crt", "tls.key"] {
            symlink(format!("..data/{file}"), dir.join(file))?;
        }
        let mut mounted = Self { dir, versions: 0 };
        mounted.swap(pair)?;
        Ok(mounted)
    }

    pub fn swap(&mut self, pair: &Identity) -> anyhow::Result<()> {
        self.versions += 1;
        let folder = format!("..version-{}", self.versions);
        fs::create_dir(self.dir.join(&folder))?;
        fs::write(self.dir.join(&folder).join("tls.crt"), &pair.certificate)?;
        fs::write(self.dir.join(&folder).join("tls.key"), &pair.key)?;
        symlink(&folder, self.dir.join("..next"))?;
        fs::rename(self.dir.join("..next"), self.dir.join("..data"))?;
        Ok(())
    }

    /// Swaps, and waits until the site's operator says that it serves the new one.
    pub async fn renew(&mut self, site: &Site, pair: &Identity) -> anyhow::Result<()> {
        self.swap(pair)?;
        let log = site.dir().join("operator.log");
        eventually("the renewed certificate", PATIENCE, || async {
            let said = fs::read_to_string(&log)?;
            Ok(said.contains("a new certificate is served").then_some(()))
        })
        .await
    }

    pub fn certificate(&self) -> String {
        self.dir.join("tls.crt").display().to_string()
    }

    pub fn key(&self) -> String {
        self.dir.join("tls.key").display().to_string()
    }
}

/// An HTTP client that trusts these authorities and no other.
pub fn trusting(authorities: &[&Authority]) -> anyhow::Result<reqwest::Client> {
    let mut roots = Vec::new();
    for authority in authorities {
        let pem = authority.certificate().as_bytes();
        roots.push(reqwest::Certificate::from_pem(pem)?);
    }
    Ok(reqwest::Client::builder().tls_certs_only(roots).build()?)
}
