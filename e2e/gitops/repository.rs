//! A git repository, and a server for it on loopback: `git http-backend` behind HTTP, as git's own
//! documentation sets it up.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::process;

/// No request of a fetch is longer.
const LONGEST: usize = 1 << 20;

/// A work tree that is pushed to what is served.
pub struct Repository {
    work: PathBuf,
    pub url: String,
    server: JoinHandle<()>,
    writing: Mutex<()>,
}

impl Repository {
    pub async fn serve(dir: &Path) -> anyhow::Result<Self> {
        let (root, work) = (dir.join("git"), dir.join("work"));
        std::fs::create_dir_all(&root)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}/fleet.git", listener.local_addr()?);
        let bare = root.join("fleet.git").display().to_string();
        let tree = work.display().to_string();
        git(dir, &["init", "--quiet", "--bare", "-b", "main", &bare]).await?;
        git(dir, &["init", "--quiet", "-b", "main", &tree]).await?;
        git(&work, &["remote", "add", "origin", &bare]).await?;
        let router = Router::new().fallback(backend).with_state(root);
        let server = tokio::spawn(async move {
            // It ends with its task, not by itself.
            let _ = axum::serve(listener, router).await;
        });
        let writing = Mutex::default();
        Ok(Self {
            work,
            url,
            server,
            writing,
        })
    }

    /// Writes files, or removes those of which there is no text, and pushes them as one commit, which it answers with.
    pub async fn commit(
        &self,
        message: &str,
        files: &[(&str, Option<String>)],
    ) -> anyhow::Result<String> {
        // Tests share the work tree.
        let _alone = self.writing.lock().await;
        for (path, text) in files {
            let path = self.work.join(path);
            let folder = path.parent().context("a file is in a folder")?;
            std::fs::create_dir_all(folder)?;
            match text {
                Some(text) => std::fs::write(path, text)?,
                None => std::fs::remove_file(path)?,
            }
        }
        git(&self.work, &["add", "--all"]).await?;
        git(&self.work, &["commit", "--quiet", "-m", message]).await?;
        git(&self.work, &["push", "--quiet", "origin", "main"]).await?;
        let commit = git(&self.work, &["rev-parse", "HEAD"]).await?;
        Ok(commit.trim().to_owned())
    }

    /// Whether a revision, as Flux writes it (`main@sha1:…`), is the commit or comes after it.
    pub async fn has(&self, revision: &str, commit: &str) -> anyhow::Result<bool> {
        let (_, hash) = revision.rsplit_once(':').context("a revision has a hash")?;
        let range = format!("{hash}..{commit}");
        let more = git(&self.work, &["rev-list", "--count", &range]).await?;
        Ok(more.trim() == "0")
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn git(dir: &Path, args: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new("git");
    command.current_dir(dir).args(args);
    alone(&mut command);
    let limit = std::time::Duration::from_secs(30);
    process::run(command, "", limit).await?.success()
}

/// Nothing of the person's own configuration.
fn alone(command: &mut Command) {
    for (name, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_AUTHOR_NAME", "Plant A"),
        ("GIT_AUTHOR_EMAIL", "plant-a@example.com"),
        ("GIT_COMMITTER_NAME", "Plant A"),
        ("GIT_COMMITTER_EMAIL", "plant-a@example.com"),
    ] {
        command.env(name, value);
    }
}

async fn backend(State(root): State<PathBuf>, request: Request) -> Response<Body> {
    match answer(&root, request).await {
        Ok(answer) => answer,
        Err(error) => {
            let mut answer = Response::new(Body::from(format!("{error:#}")));
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            answer
        }
    }
}

/// One request, by the common gateway interface.
async fn answer(root: &Path, request: Request) -> anyhow::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, LONGEST).await?;
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("CONTENT_TYPE", header("content-type").unwrap_or_default())
        .env(
            "HTTP_CONTENT_ENCODING",
            header("content-encoding").unwrap_or_default(),
        )
        .env("GIT_PROTOCOL", header("git-protocol").unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    alone(&mut command);
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("stdin was piped")?;
    let feed = async move { stdin.write_all(&body).await };
    let (_, output) = tokio::join!(feed, child.wait_with_output());
    parsed(&output?.stdout)
}

/// Headers, an empty line, the body.
fn parsed(output: &[u8]) -> anyhow::Result<Response<Body>> {
    let end = output.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.context("git http-backend answers with headers")?;
    let mut answer = Response::builder();
    for line in std::str::from_utf8(&output[..end])?.lines() {
        let (name, value) = line.split_once(": ").context("a header has a value")?;
        answer = match name {
            "Status" => answer.status(value.split(' ').next().unwrap_or_default()),
            _ => answer.header(name, value),
        };
    }
    ensure!(answer.headers_ref().is_some(), "headers of http-backend");
    Ok(answer.body(Body::from(output[end + 4..].to_vec()))?)
}
