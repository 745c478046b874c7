//! The Unix socket itself: who may open it, and who is on the other end.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower_http::limit::RequestBodyLimitLayer;

const LONGEST_BODY: usize = 64 * 1024;
const GOODBYE_PATIENCE: Duration = Duration::from_secs(3);

/// The user on the other end, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller(Option<u32>);

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(uid) => write!(f, "os:{uid}"),
            None => f.write_str("os:unknown"),
        }
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|peer| peer.uid()))
    }
}

/// Makes the socket, in the place of one that an earlier process left. It appears at its path with its
/// mode already set: there is no moment in which others could open it.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)
        .with_context(|| format!("creating {}", directory.display()))?;
    let draft = path.with_extension(format!("{}.draft", std::process::id()));
    let making = || format!("making the socket {}", path.display());
    if let Err(error) = std::fs::remove_file(&draft)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(making);
    }
    let listener = UnixListener::bind(&draft).with_context(making)?;
    let owner_only = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&draft, owner_only).with_context(making)?;
    std::fs::rename(&draft, path).with_context(making)?;
    Ok(listener)
}

/// Serves `router` on the socket until `stop`, then removes it.
pub async fn serve(path: &Path, router: Router, stop: CancellationToken) -> anyhow::Result<()> {
    let listener = bind(path)?;
    let service = router
        .layer(RequestBodyLimitLayer::new(LONGEST_BODY))
        .into_make_service_with_connect_info::<Caller>();
    let server = axum::serve(listener, service)
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    tokio::pin!(server);
    let served = tokio::select! {
        served = &mut server => served,
        () = stop.cancelled() => timeout(GOODBYE_PATIENCE, server).await.unwrap_or(Ok(())),
    };
    let _ = std::fs::remove_file(path);
    served.with_context(|| format!("serving {}", path.display()))
}
