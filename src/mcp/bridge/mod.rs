//! `seawall mcp --stdio`: carries the protocol between a program that starts its MCP servers as
//! processes and a server's Streamable HTTP endpoint. It serves nothing itself: what it reads on standard
//! input it posts, what the server answers or sends it prints on standard output. Words for people go to
//! standard error. [`message`] reads what has to be known of a message, [`upstream`] speaks HTTP.

mod message;
mod upstream;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;

use message::{Message, error_line};
use upstream::Upstream;

/// The longest line that is read; the server takes less.
const LONGEST_LINE: usize = 4 * 1024 * 1024;
/// Lines that wait to be printed.
const WAITING: usize = 256;
/// Requests that are on their way at one time.
const MOST_AT_ONCE: usize = 64;
/// For answers that are on their way when standard input ends.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub struct BridgeArgs {
    /// The server's endpoint, with --stdio, such as https://seawall.example.com/mcp; the key is read
    /// from SEAWALL_API_KEY.
    #[arg(long, env = "SEAWALL_URL")]
    pub url: Option<reqwest::Url>,

    /// Certificates, PEM, to trust beside the system's, with --stdio.
    #[arg(long, env = "SEAWALL_CA_FILE")]
    pub ca_file: Option<std::path::PathBuf>,
}

pub async fn run(args: BridgeArgs, cancel: CancellationToken) -> anyhow::Result<ExitCode> {
    let Some(url) = args.url else {
        bail!("set SEAWALL_URL, or give --url: the server's endpoint, ending in /mcp");
    };
    // Never an argument: others on the machine see a command line.
    let key = std::env::var("SEAWALL_API_KEY").ok();
    let Some(key) = key.filter(|key| !key.trim().is_empty()) else {
        bail!("set SEAWALL_API_KEY to a key that a person made with `seawall keys create`");
    };
    let (out, lines) = mpsc::channel(WAITING);
    let upstream = Upstream::new(url, key.trim(), args.ca_file.as_deref(), out.clone())?;
    let printer = tokio::spawn(print(lines));
    let carried = carry(Arc::new(upstream), out, cancel).await;
    // The printer ends when all who print have ended.
    printer.await.context("the task that prints died")??;
    carried.map(|()| ExitCode::SUCCESS)
}

/// Until standard input ends.
async fn carry(
    upstream: Arc<Upstream>,
    out: mpsc::Sender<String>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let codec = LinesCodec::new_with_max_length(LONGEST_LINE);
    let mut input = FramedRead::new(tokio::io::stdin(), codec);
    let mut requests = JoinSet::new();
    let mut stream = JoinSet::new();
    loop {
        let line = tokio::select! {
            line = input.next() => line,
            () = cancel.cancelled() => None,
            Some(ended) = requests.join_next() => {
                ended.context("a request's task died")?;
                continue;
            }
        };
        let message = match line {
            None => break,
            Some(Ok(line)) if line.trim().is_empty() => continue,
            Some(Ok(line)) => Message::read(line),
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => Err(error_line(
                None,
                -32600,
                "a message is longer than 4 MiB, which no server takes",
            )),
            Some(Err(LinesCodecError::Io(error))) => {
                return Err(error).context("cannot read standard input");
            }
        };
        match message {
            Err(line) => say(&out, line).await,
            Ok(message) => {
                forward(&upstream, message, &mut requests, &mut stream).await?;
            }
        }
    }
    drop(out);
    finish(upstream, requests, stream).await
}

/// Requests run beside each other; what has an order is awaited.
async fn forward(
    upstream: &Arc<Upstream>,
    message: Message,
    requests: &mut JoinSet<()>,
    stream: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let begins = message.begins_session();
    let ordered = begins || message.id.is_none();
    if ordered {
        let began = message.ends_handshake();
        upstream.carry(message).await;
        if began && stream.is_empty() {
            let upstream = upstream.clone();
            stream.spawn(async move { upstream.listen().await });
        }
        return Ok(());
    }
    while requests.len() >= MOST_AT_ONCE {
        if let Some(ended) = requests.join_next().await {
            ended.context("a request's task died")?;
        }
    }
    let upstream = upstream.clone();
    requests.spawn(async move { upstream.carry(message).await });
    Ok(())
}

async fn finish(
    upstream: Arc<Upstream>,
    mut requests: JoinSet<()>,
    mut stream: JoinSet<()>,
) -> anyhow::Result<()> {
    let answered = async {
        while let Some(ended) = requests.join_next().await {
            ended.context("a request's task died")?;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(GRACE, answered).await {
        Ok(answered) => answered?,
        Err(_) => {
            eprintln!("seawall: some requests were not answered before the end");
            requests.shutdown().await;
        }
    }
    stream.shutdown().await;
    upstream.end_session().await;
    Ok(())
}

async fn say(out: &mpsc::Sender<String>, line: String) {
    // Only a closed standard output makes this fail, and then nobody reads.
    let _ = out.send(line).await;
}

async fn print(mut lines: mpsc::Receiver<String>) -> anyhow::Result<()> {
    let mut out = tokio::io::stdout();
    while let Some(mut line) = lines.recv().await {
        line.push('\n');
        let written = async {
            out.write_all(line.as_bytes()).await?;
            out.flush().await
        };
        written.await.context("cannot write standard output")?;
    }
    Ok(())
}
