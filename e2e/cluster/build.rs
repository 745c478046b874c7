//! Builds a product of the control plane from its pinned Go module into the cache, once.
//!
//! It is built in a folder beside and moved into place whole, so a build that was interrupted leaves
//! nothing that looks finished. A lock file keeps two runs from building the same twice.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::toolset::{Product, Program};

/// How often a build says that it is alive.
const PROGRESS: Duration = Duration::from_secs(15);

/// Where a product's custom resources are kept, beside its programs.
pub const DEFINITIONS: &str = "definitions";

/// The folder of the product's programs in the cache, which `go` fills first where it is empty.
pub fn cached(product: &Product, cache: &Path, go: &Path) -> anyhow::Result<PathBuf> {
    let place = product.cached(cache);
    let bin = place.join("bin");
    if bin.is_dir() {
        return Ok(bin);
    }
    fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
    let lock = File::create(place.with_extension("lock"))?;
    if lock.try_lock().is_err() {
        eprintln!("{}: another run is building it; waiting", product.name);
        lock.lock()?;
    }
    if !bin.is_dir() {
        let work = place.with_extension("building");
        // Left by a build that was interrupted: nobody else is in it while the lock is held.
        let _ = remove(&work);
        let built = build(product, go, &work.join("bin"), &work.join("gocache"));
        // Go's build cache grows to 4 GB and is of no use again.
        remove(&work.join("gocache"))?;
        built?;
        if product.programs.is_empty() {
            fs::create_dir_all(work.join("bin"))?;
            fetch(product, go)?;
        }
        if let Some(folder) = product.definitions {
            keep_definitions(product, go, folder, &work.join(DEFINITIONS))?;
        }
        fs::rename(&work, &place)?;
    }
    Ok(bin)
}

fn build(product: &Product, go: &Path, bin: &Path, gocache: &Path) -> anyhow::Result<()> {
    let version = product.version();
    let variables: String = product
        .version_variables
        .iter()
        .map(|variable| format!(" -X {variable}={version}"))
        .collect();
    for program in product.programs {
        let mut command = Command::new(go);
        command
            .current_dir(module_dir(product))
            .args(["build", "-v", "-ldflags", &format!("-s -w{variables}")])
            .arg("-o")
            .arg(bin.join(program.name))
            .arg(program.package)
            .env("CGO_ENABLED", "0")
            .env("GOFLAGS", "-mod=readonly -buildvcs=false")
            .env("GOCACHE", gocache);
        run(program, version, command)?;
    }
    Ok(())
}

/// Has the module where a build would have put it.
fn fetch(product: &Product, go: &Path) -> anyhow::Result<()> {
    let said = Command::new(go)
        .current_dir(module_dir(product))
        .args(["mod", "download", product.module()])
        .env("GOFLAGS", "-mod=readonly")
        .output()
        .context("starting go: install it from https://go.dev/dl")?;
    let words = String::from_utf8_lossy(&said.stderr);
    anyhow::ensure!(said.status.success(), "{}: {words}", product.name);
    Ok(())
}

/// Copies the custom resources out of the module that was just built.
fn keep_definitions(product: &Product, go: &Path, folder: &str, to: &Path) -> anyhow::Result<()> {
    let said = Command::new(go)
        .current_dir(module_dir(product))
        .args(["list", "-m", "-f", "{{.Dir}}", product.module()])
        .env("GOFLAGS", "-mod=readonly")
        .output()?;
    let module = String::from_utf8(said.stdout)?;
    let from = Path::new(module.trim()).join(folder);
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(&from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        // Not `copy`: files of the module cache can't be written, nor easily removed.
        fs::write(to.join(entry.file_name()), fs::read(entry.path())?)?;
    }
    Ok(())
}

fn module_dir(product: &Product) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("e2e/cluster/tools")
        .join(product.name)
}

/// Runs `go build -v`, which prints a line for each package that it has compiled.
fn run(program: &Program, version: &'static str, mut command: Command) -> anyhow::Result<()> {
    let name = program.name;
    eprintln!("{name} {version}: building it from source, once; all of them take 5 to 15 minutes");
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting go, which builds the control plane's programs: install it from https://go.dev/dl")?;

    let packages = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let ticker = {
        let (packages, done) = (packages.clone(), done.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                std::thread::park_timeout(PROGRESS);
                let (secs, count) = (began.elapsed().as_secs(), packages.load(Ordering::Relaxed));
                let phase = if count == 0 {
                    "downloading"
                } else {
                    "compiling"
                };
                if !done.load(Ordering::Relaxed) {
                    eprintln!("{name} {version}: {phase}, {count} packages, {secs} s");
                }
            }
        })
    };

    let mut said = Vec::new();
    for line in BufReader::new(child.stderr.take().context("stderr was piped")?).lines() {
        let line = line?;
        // A package's name has neither a space nor a colon; everything else is a message.
        if line.contains([' ', ':', '\t']) {
            said.push(line);
        } else {
            packages.fetch_add(1, Ordering::Relaxed);
        }
    }
    let status = child.wait()?;
    done.store(true, Ordering::Relaxed);
    ticker.thread().unpark();
    ticker.join().expect("the ticker only prints");
    if !status.success() {
        let said = said[said.len().saturating_sub(20)..].join("\n");
        bail!("building {name} {version} failed: {status}\n{said}");
    }
    eprintln!("{name} {version}: built in {} s", began.elapsed().as_secs());
    Ok(())
}

/// Removes a folder if it is there.
fn remove(dir: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
