//! Builds `audit-interop`, a reader of audit logs that is made of Go's own transparency-log packages,
//! into the cache, once. Needs Go and, the first time, the network; without Go there is none, and the
//! tests that want it are passed over.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::cluster::toolset::cache_dir;

const INTEROP: &str = "SEAWALL_E2E_AUDIT_INTEROP";
const SOURCES: [&str; 3] = [
    include_str!("audit-interop/go.mod"),
    include_str!("audit-interop/go.sum"),
    include_str!("audit-interop/main.go"),
];

/// The variable that tells the sandbox where the program is; empty when it can't be had.
pub fn ensure() -> anyhow::Result<(String, String)> {
    let hash = hex::encode(Sha256::digest(SOURCES.concat()));
    let place = cache_dir()?.join(format!("audit-interop-{}", &hash[..16]));
    let program = place.join("audit-interop");
    if !program.is_file() {
        if !has_go() {
            eprintln!(
                "audit-interop: no go on PATH, so the audit log is not read with Go's packages"
            );
            return Ok((INTEROP.into(), String::new()));
        }
        build(&place)?;
    }
    Ok((INTEROP.into(), program.display().to_string()))
}

/// The program, if it could be built outside.
pub fn program() -> Option<PathBuf> {
    std::env::var_os(INTEROP)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

fn has_go() -> bool {
    let mut go = Command::new("go");
    go.arg("version")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    go.status().is_ok_and(|status| status.success())
}

/// Builds in a folder beside and moves it into place whole, as the control plane's programs are.
fn build(place: &Path) -> anyhow::Result<()> {
    if let Some(cache) = place.parent() {
        fs::create_dir_all(cache)?;
    }
    let lock = File::create(place.with_extension("lock"))?;
    lock.lock()?;
    if place.is_dir() {
        return Ok(());
    }
    eprintln!("audit-interop: building it from source, once");
    let work = place.with_extension("building");
    // Left by a build that was interrupted: nobody else is in it while the lock is held.
    let _ = fs::remove_dir_all(&work);
    let built = Command::new("go")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/audit-interop"))
        .args(["build", "-ldflags", "-s -w", "-o"])
        .arg(work.join("audit-interop"))
        .arg(".")
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly -buildvcs=false")
        .env("GOCACHE", work.join("gocache"))
        .output()
        .context("starting go")?;
    fs::remove_dir_all(work.join("gocache"))?;
    if !built.status.success() {
        let said = String::from_utf8_lossy(&built.stderr);
        bail!("building audit-interop failed: {}\n{said}", built.status);
    }
    fs::rename(&work, place)?;
    Ok(())
}
