//! Programs of Go that tests ask: `audit-interop`, a reader of audit logs that is made of Go's own
//! transparency-log packages, and `argo-lua`, which runs Lua as Argo CD does. Built into the cache, once. Needs
//! Go and, the first time, the network; without Go there are none, and the tests that want them are passed over.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::cluster::toolset::cache_dir;

pub struct GoProgram {
    /// Its folder, too.
    name: &'static str,
    /// Tells the sandbox where it is; empty when it can't be had.
    variable: &'static str,
    sources: [&'static str; 3],
}

pub const AUDIT: GoProgram = GoProgram {
    name: "audit-interop",
    variable: "SEAWALL_E2E_AUDIT_INTEROP",
    sources: [
        include_str!("audit-interop/go.mod"),
        include_str!("audit-interop/go.sum"),
        include_str!("audit-interop/main.go"),
    ],
};

pub const LUA: GoProgram = GoProgram {
    name: "argo-lua",
    variable: "SEAWALL_E2E_ARGO_LUA",
    sources: [
        include_str!("argo-lua/go.mod"),
        include_str!("argo-lua/go.sum"),
        include_str!("argo-lua/main.go"),
    ],
};

impl GoProgram {
    /// The variable for the sandbox.
    pub fn ensure(&self) -> anyhow::Result<(String, String)> {
        let hash = hex::encode(Sha256::digest(self.sources.concat()));
        let place = cache_dir()?.join(format!("{}-{}", self.name, &hash[..16]));
        let program = place.join(self.name);
        if !program.is_file() {
            if !has_go() {
                eprintln!("{}: no go on PATH, so tests go without it", self.name);
                return Ok((self.variable.into(), String::new()));
            }
            self.build(&place)?;
        }
        Ok((self.variable.into(), program.display().to_string()))
    }

    /// The program, if it could be built outside.
    pub fn program(&self) -> Option<PathBuf> {
        std::env::var_os(self.variable)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    }

    /// Builds in a folder beside and moves it into place whole, as the control plane's programs are.
    fn build(&self, place: &Path) -> anyhow::Result<()> {
        if let Some(cache) = place.parent() {
            fs::create_dir_all(cache)?;
        }
        let lock = File::create(place.with_extension("lock"))?;
        lock.lock()?;
        if place.is_dir() {
            return Ok(());
        }
        let name = self.name;
        eprintln!("{name}: building it from source, once");
        let work = place.with_extension("building");
        // Left by a build that was interrupted: nobody else is in it while the lock is held.
        let _ = fs::remove_dir_all(&work);
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e").join(name);
        let built = Command::new("go")
            .current_dir(sources)
            .args(["build", "-ldflags", "-s -w", "-o"])
            .arg(work.join(name))
            .arg(".")
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly -buildvcs=false")
            .env("GOCACHE", work.join("gocache"))
            .output()
            .context("starting go")?;
        fs::remove_dir_all(work.join("gocache"))?;
        if !built.status.success() {
            let said = String::from_utf8_lossy(&built.stderr);
            bail!("building {name} failed: {}\n{said}", built.status);
        }
        fs::rename(&work, place)?;
        Ok(())
    }
}

fn has_go() -> bool {
    let mut go = Command::new("go");
    go.arg("version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    go.status().is_ok_and(|status| status.success())
}
