//! `seawall agent run`: the agent as a process. Everything that runs is joined here; any task that ends
//! before it is told to ends the process, for its supervisor to start it again. The rules stay in force
//! without it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::bundle::Verifier;
use super::drift::{TableWatch, watch_addresses};
use super::enforcer::{self, Enforcer, Steps};
use super::enroll::{EnrollError, Invitation, enroll};
use super::facts;
use super::identity::{Credentials, Identity};
use super::nft::{Nft, Situation};
use super::node::{Node, Renewal};
use super::session::Session;
use super::state_directory::StateDirectory;
use super::status::StatusFile;
use crate::backoff::Backoff;
use crate::fleet::join_token::JoinToken;

/// Reports of tampering that wait for a stream; more are told as one.
const TAMPERING: usize = 16;

/// What the process is started with.
pub struct Options {
    pub state_directory: PathBuf,
    /// Read when the device has not enrolled yet.
    pub join_token_file: Option<PathBuf>,
    /// On a node of the cluster, how it enrols.
    pub node: Option<Node>,
    /// For tests that kill the agent between steps.
    pub steps: Steps,
}

/// Runs until `stop`, or until a task ends.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let directory = StateDirectory::open(&options.state_directory)?;
    let _lock = directory.lock()?;
    let nft = Nft::find()?;
    nft.check().await?;
    // Again with its new identity, when a node enrolled anew.
    while live(&options, &directory, &nft, &stop).await? {}
    Ok(())
}

/// The agent with one identity; whether there is another to go on with.
async fn live(
    options: &Options,
    directory: &StateDirectory,
    nft: &Nft,
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    let Some(identity) = identity(directory, options, stop).await? else {
        return Ok(false);
    };
    let stop = &stop.child_token();
    let (directory, nft) = (directory.clone(), nft.clone());
    let credentials = Credentials::load(&directory)?;
    let uid = nix::unistd::geteuid().as_raw();

    // Before the rules, so that no change after them is missed.
    let table_watch = TableWatch::begin()?;
    let writers = nft.writers();
    let enforcer = enforce(&identity, nft, directory.clone(), options.steps.clone()).await?;

    let (tampered_found, tampered) = mpsc::channel(TAMPERING);
    let (facts_known, facts_seen) = watch::channel(facts::gather());
    let (handle, actor) = enforcer::spawn(enforcer, tampered_found, stop.clone());
    let (unknown, renewed) = (Arc::<Notify>::default(), Arc::<AtomicBool>::default());
    let renewal = options.node.clone().map(|node| Renewal {
        node,
        directory: directory.clone(),
        credentials: credentials.clone(),
        unknown: Arc::clone(&unknown),
        renewed: Arc::clone(&renewed),
    });
    let session = Session {
        identity,
        credentials,
        enforcer: handle.clone(),
        facts: facts_seen,
        tampered,
        status: StatusFile::new(directory, uid),
        unknown,
    };
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    tasks.spawn(async {
        actor.await;
        Ok(())
    });
    tasks.spawn(table_watch.run(writers, handle.changed.clone(), stop.clone()));
    tasks.spawn(watch_addresses(facts_known, stop.clone()));
    let session_stop = stop.clone();
    tasks.spawn(async move {
        session.run(session_stop).await;
        Ok(())
    });
    if let Some(renewal) = renewal {
        tasks.spawn(renewal.run(stop.clone()));
    }
    drop(handle);
    join_all(tasks, stop).await?;
    Ok(renewed.load(Ordering::Relaxed))
}

/// Brings about what is on disk.
async fn enforce(
    identity: &Identity,
    nft: Nft,
    directory: StateDirectory,
    steps: Steps,
) -> anyhow::Result<Enforcer> {
    let verifier = Verifier {
        device: identity.device.clone(),
        keys: identity.verifying_keys()?,
    };
    let situation = Situation {
        uid: nix::unistd::geteuid().as_raw(),
        pinned: identity.pinned(),
        ..Situation::default()
    };
    let mut enforcer = Enforcer::new(nft, verifier, situation, directory, steps);
    enforcer.start().await?;
    tracing::info!(
        device = %identity.device,
        tenant = identity.tenant,
        isolated = enforcer.is_isolated(),
        "the agent runs; {}",
        match enforcer.applied() {
            Some(_) => "what it was last told is in force",
            None => "nothing is in force yet",
        }
    );
    Ok(enforcer)
}

async fn join_all(
    mut tasks: JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let early = !stop.is_cancelled();
        stop.cancel();
        let ended = match ended {
            Ok(Ok(())) if early => Err(anyhow::anyhow!("a part of the agent ended by itself")),
            Ok(result) => result,
            Err(error) => Err(anyhow::Error::new(error).context("a part of the agent failed")),
        };
        outcome = outcome.and(ended);
    }
    outcome
}

/// Who this is; enrolled now when it wasn't yet. None when it was told to stop meanwhile.
async fn identity(
    directory: &StateDirectory,
    options: &Options,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Identity>> {
    if let Some(identity) = Identity::load(directory)? {
        return match &options.node {
            Some(node) => node.moved(identity, directory).map(Some),
            None => Ok(Some(identity)),
        };
    }
    let mut backoff = Backoff::new(
        std::time::Duration::from_secs(1),
        std::time::Duration::from_secs(30),
    );
    loop {
        let words = match invitation(options) {
            Ok(invitation) => match enroll(directory, &invitation).await {
                Ok(identity) => {
                    tracing::info!(device = %identity.device, tenant = identity.tenant, "enrolled");
                    return Ok(Some(identity));
                }
                Err(error @ EnrollError::Unreachable(_)) => error.to_string(),
                Err(error) => return Err(error.into()),
            },
            // The operator may not have published yet where it is.
            Err(error) if options.node.is_some() => format!("{error:#}"),
            Err(error) => return Err(error),
        };
        tracing::warn!("not enrolled yet, trying again: {words}");
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(backoff.spread_pause()) => {}
        }
    }
}

fn invitation(options: &Options) -> anyhow::Result<Invitation> {
    match (&options.node, &options.join_token_file) {
        (Some(node), _) => node.invitation(),
        (None, Some(file)) => Ok(read_token(file)?.into()),
        (None, None) => bail!(
            "this device has not enrolled: give --join-token-file, or run `seawall agent enroll` first"
        ),
    }
}

/// From a file, or from standard input for `-`, so that it isn't seen in the list of processes.
pub fn read_token(file: &std::path::Path) -> anyhow::Result<JoinToken> {
    let text = match file.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin().lock()),
        false => std::fs::read_to_string(file),
    };
    let text = text.with_context(|| {
        format!(
            "cannot read the join token from {}: give a file that holds it, or - for standard input",
            file.display()
        )
    })?;
    Ok(JoinToken::decode(&text)?)
}

/// SIGTERM and SIGINT stop the agent; its rules stay in force.
pub fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = stop.cancelled() => {}
        }
        stop.cancel();
    })
}
