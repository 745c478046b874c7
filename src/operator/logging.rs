//! The process's log: readable on a terminal, JSON for collectors; `RUST_LOG` says how much.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::args::LogFormat;

/// Without `RUST_LOG`: our own news, and of libraries only what is wrong. kube logs its own failed
/// requests as errors, and every one of them is ours to retry and to say in better words.
const DEFAULT: &str =
    "warn,seawall=info,kube_client::client::builder=off,kube_runtime::watcher=off";

pub fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second start in one process, as tests may do, keeps the first.
    let _ = if json {
        log.json().flatten_event(true).try_init()
    } else {
        log.try_init()
    };
}
