//! A node's disk, in memory: what is on it survives the node's reboots, and goes with the node.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sandbox::prepare;

/// Mounted in the sandbox; the machine mounts it again where its programs look for it.
pub struct Disk(PathBuf);

impl Disk {
    pub fn make(path: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir(&path)?;
        let disk = Self(path);
        let target = disk.0.to_string_lossy();
        prepare(
            "mount",
            &["-t", "tmpfs", "-o", "mode=755", "tmpfs", &target],
        )?;
        Ok(disk)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It ends with the sandbox at the latest.
        let _ = prepare("umount", &[&self.0.to_string_lossy()]);
        let _ = fs::remove_dir(&self.0);
    }
}
