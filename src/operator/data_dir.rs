//! The data directory: one process at a time, and a name that outlives processes.
//!
//! The lock lives as long as the process, so who holds it knows that every earlier process on this
//! directory is dead; `leadership` uses that to take over a dead predecessor's lease at once.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// A locked data directory.
pub struct DataDir {
    path: PathBuf,
    /// Random, made with the directory; with the inode of the lock, so that a copy of the directory,
    /// such as a restored backup beside a running operator, is another one.
    id: String,
    /// The kernel frees the lock when the process ends, however it ends.
    _lock: Flock<File>,
}

impl DataDir {
    /// Creates the directory if need be, and locks it.
    pub fn open(path: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("creating the data directory {}: give --data-dir a directory that the operator may write", path.display()))?;
        let file = path.join("operator.lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&file)
            .with_context(|| format!("opening {}", file.display()))?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
                "another operator runs on {}: stop it, or give this one a --data-dir of its own",
                path.display()
            ),
            Err((_, error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        };
        let name = id_of(&mut lock).context("reading the data directory's name")?;
        let inode = lock.metadata().context("reading the lock's inode")?.ino();
        Ok(Self {
            id: format!("{name}-{inode:x}"),
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn id(&self) -> &str {
        &self.id
    }
}

/// The name in the lock file, written at first use.
fn id_of(file: &mut File) -> std::io::Result<String> {
    let mut id = String::new();
    file.read_to_string(&mut id)?;
    if id.trim().len() == ulid::ULID_LEN {
        return Ok(id.trim().to_owned());
    }
    let id = ulid::Ulid::generate().to_string().to_lowercase();
    file.seek(SeekFrom::Start(0))?;
    file.set_len(0)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_name_and_takes_one_operator_at_a_time() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        let path = scratch.path().join("data");
        let first = DataDir::open(&path).expect("free");
        let mode = std::fs::metadata(&path).expect("made").mode();
        assert_eq!(mode & 0o777, 0o700);
        let id = first.id().to_owned();
        let refused = DataDir::open(&path).err().expect("locked").to_string();
        assert!(refused.contains("another operator runs"), "{refused}");
        drop(first);
        assert_eq!(DataDir::open(&path).expect("free again").id(), id);
    }
}
