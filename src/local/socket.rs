//! The Unix socket of the local API: mode 0600 from its first moment, and no file of anybody else's
//! is removed to make room for it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Listens at `path`. A socket that nobody listens on any more is replaced; anything else is left
/// and is an error.
pub async fn bind(path: &Path) -> io::Result<UnixListener> {
    make_room(path).await?;
    // Made in a folder that nobody else can enter and then moved: between making a socket and setting
    // its mode, others could connect.
    let private = private_folder(path)?;
    let inner = private.join("s");
    let bound = UnixListener::bind(&inner).and_then(|listener| {
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o600))?;
        fs::rename(&inner, path)?;
        Ok(listener)
    });
    let _ = fs::remove_file(&inner);
    let _ = fs::remove_dir(&private);
    bound
}

async fn make_room(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?.file_type(),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} is there and is no socket: move it away", path.display()),
        ));
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("somebody listens on {} already", path.display()),
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

fn private_folder(path: &Path) -> io::Result<PathBuf> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let name = format!(".seawall-{:08x}", rand::random::<u32>());
    let folder = parent.unwrap_or(Path::new(".")).join(name);
    fs::DirBuilder::new().mode(0o700).create(&folder)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_its_owners_alone_and_nothing_else_is_left_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("operator.sock");
        let _listener = bind(&path).await.expect("bound");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
        UnixStream::connect(&path).await.expect("somebody listens");
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_on_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("operator.sock");
        drop(bind(&path).await.expect("bound"));
        let _listener = bind(&path).await.expect("bound again");
        let error = bind(&path).await.expect_err("somebody listens");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("operator.sock");
        fs::write(&path, "precious").expect("written");
        assert!(bind(&path).await.is_err());
        assert_eq!(fs::read(&path).expect("there"), b"precious");
    }
}
