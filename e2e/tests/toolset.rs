//! How the control plane's programs are found.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use libtest_mimic::Trial;

use crate::cluster::build;
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
        case(
            "a program that is nowhere is built once, for all runs that want it",
            built_once,
        ),
        case(
            "a build that fails says why and leaves nothing that looks built",
            build_fails,
        ),
        case(
            "custom resources that a product reads are kept beside its programs",
            definitions,
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

/// A stand-in for `go build` that does `body` after noting that it ran; `$out` is the file to make.
fn stub_go(root: &Path, body: &str) -> anyhow::Result<PathBuf> {
    let path = root.join("go");
    let script = format!(
        r#"#!/bin/sh
        echo "$CGO_ENABLED $GOFLAGS" >> '{}'
        while [ "$1" != -o ]; do shift; done
        out=$2
        mkdir -p "$GOCACHE" "$(dirname "$out")"
        {body}
        "#,
        root.join("calls").display()
    );
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

async fn built_once() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let go = stub_go(root.path(), "sleep 0.2; echo program > \"$out\"")?;
    let cache = root.path().join("cache");
    let interrupted = PRODUCTS[0].cached(&cache).with_extension("building");
    fs::create_dir_all(interrupted.join("bin"))?;
    fs::write(interrupted.join("bin/half"), "")?;

    let runs = [0, 1].map(|_| {
        let (cache, go) = (cache.clone(), go.clone());
        tokio::task::spawn_blocking(move || build::cached(&PRODUCTS[0], &cache, &go))
    });
    for run in runs {
        let bin = run.await??;
        assert_eq!(fs::read_to_string(bin.join("etcd"))?, "program\n");
        assert!(!bin.join("half").exists(), "left by the interrupted one");
        assert!(
            !bin.with_file_name("gocache").exists(),
            "it is of no use again"
        );
    }
    let calls = fs::read_to_string(root.path().join("calls"))?;
    assert_eq!(calls, "0 -mod=readonly -buildvcs=false\n", "one call");
    Ok(())
}

async fn build_fails() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let go = stub_go(root.path(), "echo 'etcd.go:1: no such thing' >&2; exit 1")?;
    let built = build::cached(&PRODUCTS[0], root.path(), &go);
    let words = built.err().context("it fails")?.to_string();
    assert!(words.contains("no such thing"), "{words}");
    assert!(!PRODUCTS[0].cached(root.path()).exists());
    let nowhere = build::cached(&PRODUCTS[0], root.path(), &root.path().join("nowhere"));
    let words = nowhere.err().context("there is no go")?.to_string();
    assert!(words.contains("https://go.dev/dl"), "{words}");
    Ok(())
}

async fn definitions() -> anyhow::Result<()> {
    let root = tempfile::tempdir()?;
    let flux = PRODUCTS.iter().find(|it| it.definitions.is_some());
    let flux = flux.context("a product has custom resources")?;
    let module = root.path().join("module");
    let folder = module.join(flux.definitions.unwrap_or_default());
    fs::create_dir_all(&folder)?;
    let written = folder.join("things.yaml");
    fs::write(&written, "kind: CustomResourceDefinition\n")?;
    // As the module cache has its files.
    fs::set_permissions(&written, fs::Permissions::from_mode(0o444))?;
    let go = stub_go(root.path(), "echo program > \"$out\"")?;
    let script = fs::read_to_string(&go)?;
    let asked = format!("[ \"$1\" != list ] || exec echo '{}'\n", module.display());
    fs::write(
        &go,
        script.replacen("#!/bin/sh\n", &format!("#!/bin/sh\n{asked}"), 1),
    )?;
    let bin = build::cached(flux, &root.path().join("cache"), &go)?;
    let kept = bin.with_file_name(build::DEFINITIONS).join("things.yaml");
    assert_eq!(fs::read_to_string(&kept)?, fs::read_to_string(written)?);
    assert_ne!(
        fs::metadata(kept)?.permissions().mode() & 0o200,
        0,
        "it can be removed"
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
