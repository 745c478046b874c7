//! The one integration-test binary: tests with real parts, and the runner behind `make demo`, `make up`
//! and `make bench`.
//!
//! It starts three times over. Outside, it finds or builds the control plane's programs, which needs the
//! network, and enters a sandbox of namespaces. There it is the sandbox's first process, which reaps, and
//! below that the process that runs the tests. Nothing that a test starts outlives the sandbox. It is also
//! the first process of each node of a cluster, which reaps there.

mod bench;
mod caller;
mod charts;
mod cluster;
mod demo;
mod differential;
mod fleet;
mod gitops;
mod harness;
mod installed;
mod interop;
mod lab;
mod mounted;
mod operators;
#[allow(dead_code, reason = "the library's tests use the rest of it")]
mod postgres;
mod process;
mod rights;
mod run;
mod sandbox;
mod shared;
mod site;
mod soak;
mod tests;
mod up;

use std::process::ExitCode;

use libtest_mimic::Arguments;

/// First arguments that name a command rather than a filter of tests.
const COMMANDS: [&str; 5] = ["demo", "up", "down", "soak", "bench"];

fn main() -> ExitCode {
    let outcome = match sandbox::stage() {
        sandbox::Stage::Outside => outside(),
        sandbox::Stage::Init => sandbox::init(),
        sandbox::Stage::Inside => Ok(inside()),
        sandbox::Stage::Node => cluster::node::init(),
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
    match command().as_deref() {
        Some("down") => up::down(),
        Some("up") => up::outside(enter_sandbox),
        _ => enter_sandbox(&[]),
    }
}

/// Runs this program again in a sandbox, with these variables.
fn enter_sandbox(variables: &[(String, String)]) -> anyhow::Result<ExitCode> {
    let toolset = cluster::toolset::Toolset::ensure(!is_command())?;
    let run = run::Run::begin()?;
    let mut environment = vec![toolset.to_env()?, run.to_env()];
    environment.extend_from_slice(variables);
    if !is_command() {
        environment.push(interop::AUDIT.ensure()?);
        environment.push(interop::LUA.ensure()?);
    }
    let code = sandbox::enter(&environment)?;
    run.end(code == ExitCode::SUCCESS);
    Ok(code)
}

fn inside() -> ExitCode {
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("no other provider was installed before main");
    if std::env::args().nth(1).as_deref() == Some(fleet::DEADLY_COMMAND) {
        return fleet::run_deadly().unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        });
    }
    match command().as_deref() {
        Some("demo") => return run_command(demo::run()),
        Some("bench") => return run_command(bench::run()),
        Some("up") => return run_command(up::inside()),
        Some("soak") => return run_command(soak::run()),
        _ => {}
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or_else(test_threads);
    let conclusion = libtest_mimic::run(&arguments, tests::all());
    let rights = run_command(rights::judge(&conclusion));
    match conclusion.has_failed() {
        true => conclusion.exit_code(),
        false => rights,
    }
}

/// One more than there are processors: tests of real parts wait most of the time.
fn test_threads() -> Option<usize> {
    let processors = std::thread::available_parallelism().ok()?;
    Some(processors.get() + 1)
}

fn run_command(body: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    harness::runtime().block_on(body).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn command() -> Option<String> {
    std::env::args()
        .nth(1)
        .filter(|first| COMMANDS.contains(&first.as_str()))
}

fn is_command() -> bool {
    command().is_some()
}
