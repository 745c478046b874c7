//! The log verifies; a copy with one byte changed does not, and the entry is named.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::super::Demo;

pub async fn run(demo: &mut Demo) -> anyhow::Result<String> {
    let log = demo.site.audit_log();
    let said = demo
        .site
        .seawall(&["verify", &log.display().to_string(), "--print"])
        .await?;
    println!("\n{said}");
    let entries = said.lines().filter(|line| line.starts_with('#')).count();

    let copy = demo.site.dir().join("audit-with-one-byte-changed");
    copy_folder(&log, &copy)?;
    let bundle = newest_bundle(&copy)?;
    let mut bytes = fs::read(&bundle)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&bundle, bytes)?;
    let verdict = demo
        .site
        .seawall(&["verify", &copy.display().to_string()])
        .await;
    let words = match verdict {
        Ok(said) => anyhow::bail!("a changed log verified: {said}"),
        Err(error) => format!("{error:#}"),
    };
    let named = words.lines().find(|line| line.contains("entry"));
    let named = named.with_context(|| format!("no entry is named: {words}"))?;
    Ok(format!(
        "{entries} entries printed and verified; changed: {}",
        named.trim()
    ))
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The entry bundle with the most entries.
fn newest_bundle(log: &Path) -> anyhow::Result<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut folders = vec![log.join("tile/entries")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    let size = |path: &PathBuf| fs::metadata(path).map_or(0, |data| data.len());
    found
        .into_iter()
        .max_by_key(size)
        .context("the log has entries")
}
