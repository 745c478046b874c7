//! Writing the files of a log directory, step by step.
//!
//! Owns the lock, the open journal and the rules of what is durable when. What is written is
//! decided by [`super::writer`]. In tests each step can fail, and what was not synced can be lost,
//! as in a crash (see [`faults`]).

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub const JOURNAL: &str = "journal";
pub const CHECKPOINT: &str = "checkpoint";
pub const VKEY: &str = "vkey";
pub const LOCK: &str = "lock";
/// Ending of files that are being written; left over ones are removed at start.
pub const TEMPORARY: &str = ".tmp";

/// A log directory that this process alone may write to.
pub struct Disk {
    root: PathBuf,
    journal: Option<File>,
    /// Held for its lock.
    _lock: File,
    #[cfg(test)]
    pub faults: faults::Faults,
}

impl Disk {
    /// Creates the directory when it is missing, its owner's alone, and takes the lock. `WouldBlock` means that
    /// another writer holds it.
    pub fn lock(root: &Path) -> io::Result<Self> {
        if root.is_dir() {
            shut(root)?;
        } else {
            DirBuilder::new()
                .recursive(true)
                .mode(PRIVATE)
                .create(root)?;
            File::open(std::path::absolute(root)?.parent().unwrap_or(root))?.sync_all()?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(Self {
            root: root.to_owned(),
            journal: None,
            _lock: lock,
            #[cfg(test)]
            faults: faults::Faults::default(),
        })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes a whole file in place of the one there, durable only after [`Disk::sync`]. A reader
    /// sees the old or the new bytes.
    pub fn replace(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let (temporary, target) = self.stage(path, bytes)?;
        #[cfg(test)]
        self.faults.before_rename(&target)?;
        fs::rename(temporary, target)
    }

    /// Like [`Disk::replace`], durable when it returns; a crash leaves the old or the new bytes.
    pub fn replace_durably(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let (temporary, target) = self.stage(path, bytes)?;
        flush(&File::open(&temporary)?, File::sync_all)?;
        #[cfg(test)]
        self.faults.step()?;
        fs::rename(temporary, &target)?;
        match target.parent() {
            Some(directory) => flush(&File::open(directory)?, File::sync_all),
            None => Ok(()),
        }
    }

    fn stage(&mut self, path: &str, bytes: &[u8]) -> io::Result<(PathBuf, PathBuf)> {
        let target = self.root.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut temporary = target.clone().into_os_string();
        temporary.push(TEMPORARY);
        let mut file = File::create(&temporary)?;
        #[cfg(test)]
        self.faults.write(&mut file, bytes)?;
        file.write_all(bytes)?;
        Ok((temporary.into(), target))
    }

    /// Makes files and the names of their directories durable. A file that is gone was replaced by
    /// a better one.
    pub fn sync<'a>(&mut self, paths: impl IntoIterator<Item = &'a str>) -> io::Result<()> {
        let mut directories = std::collections::BTreeSet::new();
        for path in paths {
            let path = self.root.join(path);
            #[cfg(test)]
            self.faults.step()?;
            match File::open(&path) {
                Ok(file) => flush(&file, File::sync_all)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            #[cfg(test)]
            self.faults.synced(&path);
            let ancestors = path.ancestors().skip(1);
            directories.extend(
                ancestors
                    .take_while(|directory| directory.starts_with(&self.root))
                    .map(Path::to_owned),
            );
        }
        directories
            .iter()
            .try_for_each(|directory| flush(&File::open(directory)?, File::sync_all))
    }

    /// Removes a file or a directory of files; one that isn't there is fine.
    pub fn remove(&mut self, path: &str) -> io::Result<()> {
        #[cfg(test)]
        self.faults.step()?;
        let path = self.root.join(path);
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Puts a new journal in place of the one there; durable when it returns.
    pub fn replace_journal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.replace_durably(JOURNAL, bytes)?;
        let path = self.root.join(JOURNAL);
        self.journal = Some(OpenOptions::new().append(true).open(path)?);
        Ok(())
    }

    /// Appends to the journal, durable when it returns. On an error nothing of `bytes` is left in
    /// it; where that couldn't be ensured, the failure says that the journal is not usable.
    pub fn append_journal(&mut self, bytes: &[u8]) -> Result<(), AppendFailure> {
        let unusable = |error| AppendFailure {
            error,
            journal_usable: false,
        };
        let file = self.journal.as_mut().expect("a journal was opened");
        let length = file.metadata().map_err(unusable)?.len();
        #[cfg(test)]
        let allowed = self.faults.write(file, bytes);
        #[cfg(not(test))]
        let allowed = Ok(());
        let written = allowed.and_then(|()| file.write_all(bytes));
        if let Err(error) = written {
            let journal_usable = file
                .set_len(length)
                .and_then(|()| flush(file, File::sync_all))
                .is_ok();
            #[cfg(test)]
            let journal_usable = journal_usable && !self.faults.is_dead();
            return Err(AppendFailure {
                error,
                journal_usable,
            });
        }
        // After a failed fsync nobody knows what is on the disk, nor does a second one tell.
        #[cfg(test)]
        self.faults
            .before_journal_sync(&self.root.join(JOURNAL), length)
            .map_err(unusable)?;
        flush(file, File::sync_data).map_err(unusable)?;
        #[cfg(test)]
        self.faults.synced(&self.root.join(JOURNAL));
        Ok(())
    }
}

/// Entries have what agents asked for, in full: nobody else enters the directory.
const PRIVATE: u32 = 0o700;

/// Takes a directory that was made for all from others, if it is ours: on a volume it may be nobody's
/// to change.
fn shut(root: &Path) -> io::Result<()> {
    if fs::metadata(root)?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    match fs::set_permissions(root, Permissions::from_mode(PRIVATE)) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

/// Tests of this process don't wait for the disk: what a crash would take is told by [`faults`].
fn flush(file: &File, how: fn(&File) -> io::Result<()>) -> io::Result<()> {
    #[cfg(test)]
    if !faults::WAIT_FOR_THE_DISK.load(std::sync::atomic::Ordering::Relaxed) {
        return Ok(());
    }
    how(file)
}

pub struct AppendFailure {
    pub error: io::Error,
    pub journal_usable: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_its_owners_alone_also_one_that_was_made_for_all() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("audit");
        let mode = || fs::metadata(&root).unwrap().permissions().mode() & 0o777;
        drop(Disk::lock(&root).unwrap());
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
        drop(Disk::lock(&root).unwrap());
        assert_eq!(mode(), 0o700);
    }
}

#[cfg(test)]
pub mod faults {
    //! Fails the n-th step of a [`super::Disk`], as a full disk or as the death of the process,
    //! and takes back what was not synced, as a power cut may.

    use std::collections::BTreeMap;
    use std::fs::{self, File};
    use std::io::{self, Write};
    use std::path::{Path, PathBuf};
    use std::sync::atomic::AtomicBool;
    use std::sync::{Arc, Mutex};

    /// For measurements.
    pub static WAIT_FOR_THE_DISK: AtomicBool = AtomicBool::new(false);

    #[derive(Clone, Default)]
    pub struct Faults(Arc<Mutex<State>>);

    #[derive(Default)]
    struct State {
        steps: u32,
        plan: Option<Plan>,
        dead: bool,
        /// What power loss may bring back: the last durable bytes of files written since.
        unsynced: BTreeMap<PathBuf, Option<Vec<u8>>>,
    }

    #[derive(Clone, Copy)]
    pub enum Plan {
        /// The process dies at this step.
        DieAt(u32),
        /// Writes find the disk full from this step on, until the plan is changed.
        FullFrom(u32),
    }

    /// What a crash does with bytes that were not synced.
    #[derive(Clone, Copy, Debug)]
    pub enum Unsynced {
        Kept,
        Lost,
        Torn,
    }

    impl Faults {
        pub fn plan(&self, plan: Option<Plan>) {
            self.0.lock().unwrap().plan = plan;
        }

        pub fn steps(&self) -> u32 {
            self.0.lock().unwrap().steps
        }

        pub fn is_dead(&self) -> bool {
            self.0.lock().unwrap().dead
        }

        pub fn step(&self) -> io::Result<()> {
            let mut state = self.0.lock().unwrap();
            state.steps += 1;
            match state.plan {
                Some(Plan::DieAt(step)) if state.steps >= step => {
                    state.dead = true;
                    Err(io::Error::other("the process died here"))
                }
                _ => Ok(()),
            }
        }

        /// A step that writes; a failing one writes half.
        pub fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
            let died = self.step();
            let state = self.0.lock().unwrap();
            let full = match state.plan {
                Some(Plan::FullFrom(step)) if state.steps >= step => {
                    Err(io::ErrorKind::StorageFull.into())
                }
                _ => Ok(()),
            };
            let failure = died.and(full);
            if failure.is_err() {
                file.write_all(&bytes[..bytes.len() / 2])?;
            }
            failure
        }

        pub fn before_rename(&self, target: &Path) -> io::Result<()> {
            self.step()?;
            let mut state = self.0.lock().unwrap();
            let before = || fs::read(target).ok();
            state
                .unsynced
                .entry(target.to_owned())
                .or_insert_with(before);
            Ok(())
        }

        pub fn before_journal_sync(&self, journal: &Path, length: u64) -> io::Result<()> {
            let mut bytes = fs::read(journal)?;
            bytes.truncate(length as usize);
            let mut state = self.0.lock().unwrap();
            state
                .unsynced
                .entry(journal.to_owned())
                .or_insert(Some(bytes));
            drop(state);
            self.step()
        }

        pub fn synced(&self, path: &Path) {
            self.0.lock().unwrap().unsynced.remove(path);
        }

        /// Takes back or tears what was not synced.
        pub fn crash(&self, how: Unsynced) {
            let state = self.0.lock().unwrap();
            for (path, durable) in &state.unsynced {
                match (how, durable) {
                    (Unsynced::Kept, _) => {}
                    (Unsynced::Lost, Some(bytes)) => fs::write(path, bytes).unwrap(),
                    (Unsynced::Lost, None) => drop(fs::remove_file(path)),
                    (Unsynced::Torn, durable) => {
                        let Ok(now) = fs::read(path) else { continue };
                        let floor = match durable {
                            Some(before) if now.starts_with(before) => before.len(),
                            _ => 0,
                        };
                        let torn = floor + (now.len() - floor) / 2;
                        fs::write(path, &now[..torn]).unwrap();
                    }
                }
            }
        }
    }
}
