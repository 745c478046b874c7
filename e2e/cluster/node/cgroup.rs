//! Control groups of a run's nodes. They belong to no namespace of the sandbox, so they are what can be
//! left behind, and are removed by name: by a node that ends, and for all of a run when it has ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

const ROOT: &str = "/sys/fs/cgroup";

/// Control groups that have one parent of this name in every hierarchy.
pub struct Cgroup(String);

impl Cgroup {
    /// The one that all nodes of the run in this folder share.
    pub fn of_run(run: &Path) -> Self {
        let name = run.file_name().unwrap_or_default().to_string_lossy();
        Self(format!("seawall-e2e-{name}"))
    }

    pub fn child(&self, name: &str) -> Self {
        Self(format!("{}/{name}", self.0))
    }

    /// As programs are told it: from the hierarchies' roots on.
    pub fn path(&self) -> String {
        format!("/{}", self.0)
    }

    /// Fails where control groups can't be made.
    pub fn probe() -> anyhow::Result<()> {
        let probe = Self(format!("seawall-e2e-probe-{}", std::process::id()));
        let made = probe.make();
        probe.remove()?;
        made
    }

    pub fn make(&self) -> anyhow::Result<()> {
        for hierarchy in hierarchies() {
            let dir = hierarchy.join(&self.0);
            let failed = || format!("making the control group {}", dir.display());
            fs::create_dir_all(&dir).with_context(failed)?;
            let relative = Path::new(&self.0).ancestors().skip(1);
            let mut parents: Vec<_> = relative.map(|path| hierarchy.join(path)).collect();
            parents.reverse();
            for parent in parents {
                hand_down_controllers(&parent).with_context(failed)?;
            }
        }
        Ok(())
    }

    /// Whether it is in any hierarchy.
    pub fn exists(&self) -> bool {
        hierarchies().iter().any(|dir| dir.join(&self.0).exists())
    }

    /// Removes them, once all that ran in them has ended.
    pub fn remove(&self) -> io::Result<()> {
        for hierarchy in hierarchies() {
            remove_tree(&hierarchy.join(&self.0))?;
        }
        Ok(())
    }
}

/// One with version 2 of control groups, one for each controller with version 1.
fn hierarchies() -> Vec<PathBuf> {
    let is_hierarchy = |dir: &Path| dir.join("cgroup.procs").exists();
    if is_hierarchy(ROOT.as_ref()) {
        return vec![ROOT.into()];
    }
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let dirs = entries.map(|entry| entry.path());
    // Several controllers of one hierarchy have links to it.
    dirs.filter(|dir| is_hierarchy(dir) && !dir.is_symlink())
        .collect()
}

/// With version 2, groups have the controllers that their parent hands down.
fn hand_down_controllers(parent: &Path) -> io::Result<()> {
    let Ok(controllers) = fs::read_to_string(parent.join("cgroup.controllers")) else {
        return Ok(());
    };
    let file = parent.join("cgroup.subtree_control");
    let handed_down = fs::read_to_string(&file)?;
    let missing: Vec<String> = controllers
        .split_whitespace()
        .filter(|name| handed_down.split_whitespace().all(|other| other != *name))
        .map(|name| format!("+{name}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    fs::write(file, missing.join(" "))
}

/// Its folders can be removed, the files in them can't and needn't.
fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    // A process that was killed is in it for a moment more.
    let mut tries = 100;
    loop {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries > 0 => {
                tries -= 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            outcome => return outcome,
        }
    }
}
