//! The one integration-test binary: tests with real parts, and the runner behind `make demo`, `make up`
//! and `make bench`.
//!
//! It starts three times over. Outside, it finds or builds the control plane's programs, which needs the
//! network, and enters a sandbox of namespaces. There it is the sandbox's first process, which reaps, and
//! below that the process that runs the tests. Nothing that a test starts outlives the sandbox.

mod caller;
mod charts;
mod cluster;
mod harness;
mod interop;
mod lab;
mod process;
mod run;
mod sandbox;
mod tests;

use std::process::ExitCode;

use libtest_mimic::Arguments;

/// First arguments that name a command rather than a filter of tests.
const COMMANDS: [&str; 5] = ["demo", "up", "down", "soak", "bench"];

fn main() -> ExitCode {
    let outcome = match sandbox::stage() {
        sandbox::Stage::Outside => outside(),
        sandbox::Stage::Init => sandbox::init(),
        sandbox::Stage::Inside => Ok(inside()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

fn outside() -> anyhow::Result<ExitCode> {
    if !is_command() && Arguments::from_args().list {
        return Ok(libtest_mimic::run(&Arguments::from_args(), tests::all()).exit_code());
    }
    let toolset = cluster::toolset::Toolset::ensure()?;
    let run = run::Run::begin()?;
    let mut env = vec![toolset.to_env()?, run.to_env()];
    if !is_command() {
        env.push(interop::ensure()?);
    }
    let code = sandbox::enter(&env)?;
    run.end(code == ExitCode::SUCCESS);
    Ok(code)
}

fn inside() -> ExitCode {
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("no other provider was installed before main");
    if let Some(command) = command() {
        eprintln!("error: `{command}` is not there yet");
        return ExitCode::from(2);
    }
    libtest_mimic::run(&Arguments::from_args(), tests::all()).exit_code()
}

fn command() -> Option<String> {
    std::env::args()
        .nth(1)
        .filter(|first| COMMANDS.contains(&first.as_str()))
}

fn is_command() -> bool {
    command().is_some()
}
