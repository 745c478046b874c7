//! What the command line means: one variant for each command, each handed to the part it belongs to.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::access::command::KeysArgs;
use crate::agent::AgentArgs;
use crate::audit::cli::VerifyArgs;
use crate::audit::prove::ProveArgs;
use crate::crds::CrdsArgs;
use crate::fleet::cli::FleetArgs;
use crate::mcp::command::McpArgs;
use crate::operator::args::OperatorArgs;
use crate::operator::explain::command::ExplainArgs;
use crate::operator::release::ReleaseArgs;

/// Keeps a breach from spreading: segments and isolates devices and workloads, and proves it.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enforce on this device what the operator says, and prove it.
    Agent(AgentArgs),
    /// Watch the custom resources and make them so, on devices and in the cluster.
    Operator(Box<OperatorArgs>),
    /// Look at releases that are held because they were too many at once, and confirm them.
    Release(ReleaseArgs),
    /// Print the CustomResourceDefinitions, or write them to the files that hold them.
    Crds(CrdsArgs),
    /// Make, list and revoke the keys of AI agents.
    Keys(KeysArgs),
    /// Serve AI agents over the Model Context Protocol.
    Mcp(Box<McpArgs>),
    /// The devices of the fleet, and the tokens with which they enrol.
    Fleet(FleetArgs),
    /// Say whether a connection comes through, and which rule of which resource decides.
    Explain(ExplainArgs),
    /// Check an audit log, or a proof of one of its entries, offline.
    Verify(VerifyArgs),
    /// Print the proof that an entry is in the audit log, for somebody who has not the log.
    Prove(ProveArgs),
}

/// The file name by which kubectl finds a plugin that is called as `kubectl seawall`.
const PLUGIN: &str = "kubectl-seawall";

impl Cli {
    /// Reads the command line, or ends the process with the usage: of `kubectl seawall` where it was called so.
    pub fn of_process() -> Self {
        let args: Vec<OsString> = std::env::args_os().collect();
        let called = args.first().map(Path::new).and_then(Path::file_name);
        let mut command = Self::command();
        if called.is_some_and(|name| name == PLUGIN) {
            command = command.bin_name("kubectl seawall");
        }
        let read = Self::from_arg_matches(&command.get_matches_from(args));
        read.unwrap_or_else(|error| error.exit())
    }
}

/// Runs the command and turns an error into words on standard error.
pub fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Agent(args) => crate::agent::run(args),
        Command::Operator(args) => crate::app::run(*args),
        Command::Release(args) => crate::operator::release::run(&args),
        Command::Crds(args) => crate::crds::run(&args),
        Command::Keys(args) => crate::access::command::run(args),
        Command::Mcp(args) => crate::mcp::command::run(*args),
        Command::Fleet(args) => crate::fleet::cli::run(&args),
        Command::Explain(args) => crate::operator::explain::command::run(args),
        Command::Verify(args) => crate::audit::cli::run(&args),
        Command::Prove(args) => crate::audit::prove::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("seawall: {error:#}");
            ExitCode::FAILURE
        }
    }
}
