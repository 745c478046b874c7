//! Images for nodes that know no registry: archives of programs of this machine with the libraries they
//! load, imported into containerd by `ctr`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An archive in the run's folder.
#[derive(Clone)]
pub struct Image {
    pub archive: PathBuf,
}

/// What an image is made of. Nothing else is in it.
pub struct Recipe<'a> {
    pub name: &'a str,
    /// Programs of this machine, each with its path in the image.
    pub programs: &'a [(PathBuf, &'a str)],
    /// Other files of this machine, each at its own path.
    pub files: &'a [&'a str],
    /// Links in the image: path and what it points to.
    pub links: &'a [(&'a str, &'a str)],
    pub entrypoint: &'a [&'a str],
    /// `uid:gid`
    pub user: &'a str,
}

impl Recipe<'_> {
    /// Builds the archive in `dir`, which has to be empty.
    pub fn build(&self, dir: &Path) -> anyhow::Result<Image> {
        let root = dir.join("root");
        for folder in ["tmp", "etc", "proc", "sys", "dev"] {
            fs::create_dir_all(root.join(folder))?;
        }
        for (program, path) in self.programs {
            add(program, path, &root)?;
            for library in libraries(program)? {
                let path = library.to_str().context("a library's path is a string")?;
                add(&library, path, &root)?;
            }
        }
        for file in self.files {
            let target = inside(&root, file)?;
            fs::copy(file, target).with_context(|| format!("copying {file}"))?;
        }
        for (path, target) in self.links {
            let path = inside(&root, path)?;
            std::os::unix::fs::symlink(target, path)?;
        }
        let archive = self.archive(&root, dir)?;
        fs::remove_dir_all(root)?;
        Ok(Image { archive })
    }

    /// An archive as `docker save` writes it, of one layer.
    fn archive(&self, root: &Path, dir: &Path) -> anyhow::Result<PathBuf> {
        let save = dir.join("save");
        fs::create_dir(&save)?;
        tar(root, &save.join("layer.tar"))?;
        let layer = hex::encode(Sha256::digest(fs::read(save.join("layer.tar"))?));
        let config = serde_json::to_vec(&self.config(&layer))?;
        let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
        fs::write(save.join(&config_name), config)?;
        let manifest = json!([{
            "Config": config_name, "RepoTags": [self.name], "Layers": ["layer.tar"],
        }]);
        fs::write(save.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
        let archive = dir.join("image.tar");
        tar(&save, &archive)?;
        fs::remove_dir_all(save)?;
        Ok(archive)
    }

    fn config(&self, layer: &str) -> Value {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "User": self.user,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        })
    }
}

/// Copies a file of this machine, whatever it is a link to, without symbols for debuggers.
fn add(file: &Path, path: &str, root: &Path) -> anyhow::Result<()> {
    let target = inside(root, path)?;
    if target.exists() {
        return Ok(());
    }
    let strip = Command::new("strip")
        .arg("-o")
        .args([&target, &file.to_path_buf()])
        .stderr(Stdio::null())
        .status();
    if !strip.is_ok_and(|status| status.success()) {
        fs::copy(file, &target).with_context(|| format!("copying {}", file.display()))?;
    }
    Ok(())
}

/// Where the image's path is below `root`; its folder is made.
fn inside(root: &Path, path: &str) -> anyhow::Result<PathBuf> {
    let target = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(target.parent().context("a file is in a folder")?)?;
    Ok(target)
}

/// The libraries that the program loads, the loader among them; none of a static one.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.context("starting ldd (package libc-bin)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    if text.contains("statically linked") || words.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    ensure!(output.status.success(), "ldd {program:?}: {words}");
    if let Some(line) = text.lines().find(|line| line.contains("not found")) {
        bail!("{}: {}", program.display(), line.trim());
    }
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

/// An archive of all in the folder, owned by root.
fn tar(folder: &Path, archive: &Path) -> anyhow::Result<()> {
    let status = Command::new("tar")
        .args(["--owner=0", "--group=0", "--numeric-owner", "--mode=go-w"])
        .arg("-C")
        .arg(folder)
        .arg("-cf")
        .arg(archive)
        .arg(".")
        .status()
        .context("starting tar")?;
    ensure!(status.success(), "tar of {}: {status}", folder.display());
    Ok(())
}
