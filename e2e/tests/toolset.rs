//! How the control plane's programs are found.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;

use crate::cluster::toolset::{PRODUCTS, installed};
use crate::harness::case;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "a program of another minor version is named and passed over",
            another_minor,
        ),
        case(
            "a program that tells no version is named and passed over",
            no_version,
        ),
        case("every product's module pins its version", every_product),
    ]
}

/// A folder with a program `etcd` that prints `says`.
fn dir_with_etcd(root: &Path, name: &str, says: &str) -> anyhow::Result<PathBuf> {
    let dir = root.join(name);
    fs::create_dir(&dir)?;
    let path = dir.join("etcd");
    fs::write(&path, format!("#!/bin/sh\necho '{says}'\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

async fn another_minor() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let old = dir_with_etcd(root.path(), "old", "etcd Version: 3.4.23")?;
    let right = dir_with_etcd(root.path(), "right", "etcd Version: 3.6.1")?;
    let later = dir_with_etcd(root.path(), "later", "etcd Version: 3.6.9")?;
    let etcd = &PRODUCTS[0].programs[0];
    let dirs = [old.clone(), right.clone(), later];
    let (found, passed_over) = installed(etcd, "v3.6.16", &dirs);
    assert_eq!(
        found,
        Some(right.join("etcd")),
        "the first of the right minor"
    );
    let [word] = &passed_over[..] else {
        anyhow::bail!("one was passed over: {passed_over:?}");
    };
    assert!(
        word.contains("it is 3.4.23, and v3.6.16 is wanted"),
        "{word}"
    );
    assert_eq!(installed(etcd, "v3.6.16", &[old]).0, None);
    Ok(())
}

async fn no_version() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let mute = dir_with_etcd(root.path(), "mute", "a dispatcher, not etcd")?;
    let (found, passed_over) = installed(&PRODUCTS[0].programs[0], "v3.6.16", &[mute]);
    assert_eq!(found, None);
    assert!(
        passed_over[0].contains("no version that it tells"),
        "{passed_over:?}"
    );
    Ok(())
}

async fn every_product() -> anyhow::Result<()> {
    let cache = Path::new("/cache");
    for product in &PRODUCTS {
        let version = product.version();
        assert!(version.starts_with('v'), "{}: {version}", product.name);
        let dir = product.cached(cache);
        let name = dir.file_name().and_then(|name| name.to_str());
        let (prefix, hash) = name
            .and_then(|name| name.rsplit_once('-'))
            .unwrap_or_default();
        assert_eq!((prefix, hash.len()), (product.name, 16));
    }
    Ok(())
}
