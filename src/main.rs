//! The `seawall` command.

fn main() -> std::process::ExitCode {
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("no other TLS provider is installed before main");
    seawall::cli::run(seawall::cli::Cli::of_process())
}
