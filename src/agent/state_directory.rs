//! The agent's files: who it is, its key, the last bundle, and what `seawall agent status` shows. A
//! file is replaced whole or not at all, also when the power goes.
//!
//! | file | holds |
//! | --- | --- |
//! | `identity.json` | device id, tenant, addresses of the operator, keys that sign bundles |
//! | `client.crt`, `client.key`, `ca.crt` | PEM; the key is readable by the owner alone |
//! | `bundle.json` | the last bundle as it was signed |
//! | `status.json` | what the running agent says of itself |
//! | `lock` | held by the one agent that runs |

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Nothing that the agent keeps is bigger: a bundle of a hundred thousand networks has 5 MB.
const LARGEST: u64 = 256 * 1024 * 1024;

#[derive(Clone, Debug)]
pub struct StateDirectory {
    path: PathBuf,
}

/// Held while an agent runs on a state directory.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    OwnerOnly,
    Readable,
}

impl StateDirectory {
    /// Makes it, for the owner alone, when it isn't there.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| {
                format!(
                    "cannot make the state directory {}: make it, writable for the agent's user, or name another with --state-dir",
                    path.display()
                )
            })?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Without making it: for commands that only look.
    pub fn existing(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The lock of the one agent that may run; refused with words while another does.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.path("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| {
                format!(
                    "cannot write in the state directory {}: run the agent as the user that owns it",
                    self.path.display()
                )
            })?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => bail!(
                "another agent runs on {}: stop it first, or name another directory with --state-dir",
                self.path.display()
            ),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Whether an agent runs on it now.
    pub fn is_locked(&self) -> bool {
        File::open(self.path("lock"))
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// None when there is no such file.
    pub fn read(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let path = self.path(name);
        match std::fs::metadata(&path) {
            Ok(found) if found.len() > LARGEST => {
                bail!("{} is too big to be the agent's: remove it", path.display())
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        }
        let bytes = std::fs::read(&path).with_context(|| {
            format!(
                "cannot read {}: run the agent as the user that owns it",
                path.display()
            )
        })?;
        Ok(Some(bytes))
    }

    /// Writes beside the file and syncs; [`Prepared::commit`] gives it its name. Between the two the old
    /// content is in force.
    pub fn prepare(&self, name: &str, bytes: &[u8], secrecy: Secrecy) -> anyhow::Result<Prepared> {
        let temporary = self.path(&format!(".{name}.new"));
        let mode = match secrecy {
            Secrecy::OwnerOnly => 0o600,
            Secrecy::Readable => 0o644,
        };
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(mode)
                .open(&temporary)?;
            // One that a crash left may have had other permissions.
            file.set_permissions(Permissions::from_mode(mode))?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().with_context(|| {
            format!(
                "cannot write {}: is the disk full or read-only?",
                temporary.display()
            )
        })?;
        Ok(Prepared {
            directory: self.path.clone(),
            temporary,
            name: self.path(name),
        })
    }

    pub fn replace(&self, name: &str, bytes: &[u8], secrecy: Secrecy) -> anyhow::Result<()> {
        self.prepare(name, bytes, secrecy)?.commit()
    }

    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.path(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => sync_directory(&self.path),
        }
    }
}

/// Content that is safely on the disk, and not yet the file's.
#[derive(Debug)]
#[must_use]
pub struct Prepared {
    directory: PathBuf,
    temporary: PathBuf,
    name: PathBuf,
}

/// Content that is the file's for everybody who opens it, and after a power cut perhaps not yet.
#[derive(Debug)]
#[must_use]
pub struct Renamed {
    directory: PathBuf,
}

impl Prepared {
    pub fn commit(self) -> anyhow::Result<()> {
        self.rename()?.sync()
    }

    pub fn rename(self) -> anyhow::Result<Renamed> {
        std::fs::rename(&self.temporary, &self.name)
            .with_context(|| format!("cannot replace {}", self.name.display()))?;
        Ok(Renamed {
            directory: self.directory,
        })
    }
}

impl Renamed {
    pub fn sync(self) -> anyhow::Result<()> {
        sync_directory(&self.directory)
    }
}

fn sync_directory(path: &Path) -> anyhow::Result<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .with_context(|| format!("cannot sync {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, StateDirectory) {
        let root = tempfile::tempdir().expect("a directory");
        let state = StateDirectory::open(&root.path().join("seawall")).expect("it is made");
        (root, state)
    }

    #[test]
    fn a_file_that_was_prepared_and_not_committed_leaves_the_old_one() {
        let (_root, state) = directory();
        state
            .replace("bundle.json", b"one", Secrecy::OwnerOnly)
            .expect("written");
        let prepared = state
            .prepare("bundle.json", b"two", Secrecy::OwnerOnly)
            .expect("prepared");
        assert_eq!(
            state.read("bundle.json").expect("readable").as_deref(),
            Some(&b"one"[..])
        );
        prepared.commit().expect("committed");
        assert_eq!(
            state.read("bundle.json").expect("readable").as_deref(),
            Some(&b"two"[..])
        );
    }

    #[test]
    fn keys_are_for_the_owner_alone_even_over_a_left_over_file() {
        let (root, state) = directory();
        std::fs::write(root.path().join("seawall/.client.key.new"), b"x").expect("written");
        state
            .replace("client.key", b"secret", Secrecy::OwnerOnly)
            .expect("written");
        let mode =
            |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&state.path("client.key")), 0o600);
        assert_eq!(mode(&root.path().join("seawall")), 0o700);
    }

    #[test]
    fn a_second_agent_on_the_same_directory_is_refused() {
        let (_root, state) = directory();
        assert!(!state.is_locked());
        let lock = state.lock().expect("the first");
        let error = state.lock().expect_err("the second").to_string();
        assert!(error.contains("another agent runs"), "{error}");
        assert!(state.is_locked());
        drop(lock);
        assert!(!state.is_locked());
        state.lock().expect("after the first ended");
    }

    #[test]
    fn a_file_that_is_not_there_is_none_and_may_be_removed() {
        let (_root, state) = directory();
        assert_eq!(state.read("bundle.json").expect("no error"), None);
        state.remove("bundle.json").expect("no error");
    }
}
