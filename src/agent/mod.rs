//! The device agent: keeps one nftables table as the operator's signed bundles say, cuts open
//! connections, reads back, and reports. It decides nothing: what is in a bundle was compiled by the
//! operator, and nothing else is accepted.

pub mod bundle;
pub mod conntrack;
mod datapath;
mod drift;
pub mod enforcer;
mod enroll;
mod facts;
pub mod identity;
mod interfaces;
pub mod nft;
pub mod node;
mod operator_channel;
mod run;
mod session;
pub mod state_directory;
mod status;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

pub use run::{Options, run as run_until};

use enroll::{EnrollError, Invitation};
use identity::Identity;
use node::NodeArgs;
use state_directory::StateDirectory;

/// The operator said no: another token is needed, trying again is no use.
const REFUSED: u8 = 2;

#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Where the agent keeps its identity and the last bundle.
    #[arg(
        long,
        global = true,
        value_name = "DIRECTORY",
        env = "SEAWALL_STATE_DIR",
        default_value = "/var/lib/seawall"
    )]
    state_dir: PathBuf,
    #[command(subcommand)]
    command: AgentCommand,
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Enforce what the operator says, until stopped; the rules stay in force afterwards.
    Run {
        /// Enrol with the join token in this file when the device has not enrolled yet.
        #[arg(long, value_name = "FILE")]
        join_token_file: Option<PathBuf>,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Exchange a join token, or a node's token, for an identity, once.
    Enroll {
        /// The file that holds the join token; - reads standard input.
        #[arg(
            long,
            value_name = "FILE",
            required_unless_present = "node_token_file",
            conflicts_with = "node_token_file"
        )]
        join_token_file: Option<PathBuf>,
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Show who this device is, whether it is connected, and whether the kernel holds what it should.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub fn run(args: AgentArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the agent's threads")?;
    match args.command {
        AgentCommand::Run {
            join_token_file,
            node,
        } => {
            log_to_standard_error();
            let options = Options {
                state_directory: args.state_dir,
                join_token_file,
                node: node.node(),
                steps: enforcer::Steps::default(),
            };
            runtime.block_on(async {
                let stop = CancellationToken::new();
                let signals = run::stop_on_signals(stop.clone())?;
                let (outcome, ()) = tokio::join!(
                    async {
                        let outcome = run::run(options, stop.clone()).await;
                        stop.cancel();
                        outcome
                    },
                    signals
                );
                outcome.map(|()| ExitCode::SUCCESS)
            })
        }
        AgentCommand::Enroll {
            join_token_file,
            node,
        } => {
            let invite = || match (node.node(), join_token_file) {
                (Some(node), _) => node.invitation(),
                (None, Some(file)) => Ok(run::read_token(&file)?.into()),
                (None, None) => bail!("give --join-token-file, or --node-token-file on a node"),
            };
            runtime.block_on(enroll_once(&args.state_dir, invite))
        }
        AgentCommand::Status { json } => runtime.block_on(status::print(&args.state_dir, json)),
    }
}

async fn enroll_once(
    state_directory: &std::path::Path,
    invite: impl FnOnce() -> anyhow::Result<Invitation>,
) -> anyhow::Result<ExitCode> {
    let directory = StateDirectory::open(state_directory)?;
    let _lock = directory.lock()?;
    if let Some(identity) = Identity::load(&directory)? {
        bail!(
            "this device has already enrolled, as {} of {}: to enrol anew, stop the agent, remove {} and have the old device removed",
            identity.device,
            identity.tenant,
            state_directory.display()
        );
    }
    match enroll::enroll(&directory, &invite()?).await {
        Ok(identity) => {
            println!("enrolled as {} of {}", identity.device, identity.tenant);
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ EnrollError::Refused(_)) => {
            eprintln!("seawall: {error}");
            Ok(ExitCode::from(REFUSED))
        }
        Err(error) => Err(error.into()),
    }
}

fn log_to_standard_error() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,seawall=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .init();
}
