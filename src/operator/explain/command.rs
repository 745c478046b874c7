//! The command: asks the operator over its admin socket, and says by its exit code what came of it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::table::table;
use crate::domain::explain::{Explanation, Place, Port, Question, Verdict};
use crate::fleet::admin::DEFAULT_SOCKET;
use crate::fleet::admin::client::AdminClient;

#[derive(Debug, Args)]
#[command(
    after_help = "Ends with 0 when it reaches, with 1 when it is blocked, and with 2 when that is not known or can't be asked."
)]
pub struct ExplainArgs {
    /// Who opens the connection: pod/NAMESPACE/NAME, device/dev_…, node/NAME or an address.
    #[arg(long)]
    from: Place,
    /// Who listens, written the same way.
    #[arg(long)]
    to: Place,
    /// The port and protocol, such as 5432/TCP, dns/UDP (a name that the pod gives its port), or ICMP.
    #[arg(long, value_parser = Question::port_and_protocol)]
    port: (Option<Port>, crate::api::Protocol),
    /// How the answer is written.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// The operator's admin socket.
    #[arg(long, default_value = DEFAULT_SOCKET, env = "SEAWALL_ADMIN_SOCKET")]
    socket: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    #[default]
    Table,
    Json,
}

/// What the exit code says when there is no answer.
const NOT_KNOWN: u8 = 2;

pub fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let output = args.output;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answer = runtime.block_on(ask(args)).and_then(|answer| {
        let text = match output {
            Output::Table => table(&answer),
            Output::Json => serde_json::to_string_pretty(&answer)? + "\n",
        };
        print(&text)?;
        Ok(answer.verdict)
    });
    Ok(match answer {
        Ok(verdict) => ExitCode::from(code(verdict)),
        Err(error) => {
            eprintln!("seawall: {error:#}");
            ExitCode::from(NOT_KNOWN)
        }
    })
}

fn code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Reaches => 0,
        Verdict::Blocked => 1,
        Verdict::Unknown => NOT_KNOWN,
    }
}

async fn ask(args: ExplainArgs) -> anyhow::Result<Explanation> {
    let (port, protocol) = args.port;
    let question = Question {
        from: args.from,
        to: args.to,
        protocol,
        port,
        tenant: None,
    };
    AdminClient::new(&args.socket)?.explain(&question).await
}

fn print(text: &str) -> std::io::Result<()> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        // Who reads it has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
