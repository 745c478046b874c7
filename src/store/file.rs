//! Who may read the database: it holds what is in force and the hashes of join tokens, and is its
//! owner's alone.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tracing::warn;

const PRIVATE: u32 = 0o600;

/// Makes the file of a database that may be made, and takes one that is there from others. SQLite
/// gives the files beside it the mode that this one has.
pub fn make_private(file: &Path, may_make: bool) -> io::Result<()> {
    if may_make {
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(PRIVATE)
            .open(file);
        match made {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    for file in [file.to_owned(), beside(file, "-wal"), beside(file, "-shm")] {
        tighten(&file)?;
    }
    Ok(())
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(ending);
    name.into()
}

fn tighten(file: &Path) -> io::Result<()> {
    let mode = match fs::metadata(file) {
        Ok(found) => found.permissions().mode(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if mode & 0o077 == 0 {
        return Ok(());
    }
    // On a volume whose files are another user's there is nothing to be done, and it works.
    if let Err(error) = fs::set_permissions(file, Permissions::from_mode(PRIVATE)) {
        warn!(file = %file.display(), %error, "others may read this file, and its mode can't be changed");
    }
    Ok(())
}
