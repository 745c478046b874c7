//! `seawall mcp config`: what a client's configuration has to hold to reach the server. It prints that and
//! nothing else, to be pasted; where it belongs is told on standard error. The key is left to the client's own
//! way of keeping secrets; where a client has none, it is the one of `SEAWALL_API_KEY`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

/// In place of a key that is not known.
const NO_KEY: &str = "swk_PASTE_YOUR_KEY_HERE";

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Whose configuration.
    #[arg(long, value_enum)]
    client: Client,

    /// The server's endpoint, such as https://mcp.example.com/mcp.
    #[arg(long, env = "SEAWALL_URL")]
    url: reqwest::Url,

    /// What the client calls the server.
    #[arg(long, default_value = "seawall")]
    name: String,

    /// Certificates, PEM, that the bridge shall trust beside the system's; for claude-desktop.
    #[arg(long, env = "SEAWALL_CA_FILE")]
    ca_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Client {
    ClaudeCode,
    ClaudeDesktop,
    Cursor,
    Vscode,
}

pub fn run(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let key = std::env::var("SEAWALL_API_KEY").ok();
    let key = key.as_deref().map(str::trim).filter(|key| !key.is_empty());
    let (paste, words) = config(args, key)?;
    println!("{paste}");
    for line in words {
        eprintln!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

/// What is to be pasted, and what a person has to know of it.
fn config(args: &ConfigArgs, key: Option<&str>) -> anyhow::Result<(String, Vec<String>)> {
    check(args)?;
    let (url, name) = (args.url.as_str(), &*args.name);
    let mut words = Vec::new();
    if args.url.scheme() == "http" && !is_loopback(&args.url) {
        words.push(format!(
            "warning: the key would cross the network in the clear; use https for {url}"
        ));
    }
    let remote = |bearer: &str| json!({"url": url, "headers": {"Authorization": bearer}});
    let paste = match args.client {
        Client::ClaudeCode => {
            words.push(
                "Type it in a shell in which SEAWALL_API_KEY is set to a key that `seawall keys create` made."
                    .to_owned(),
            );
            format!(
                "claude mcp add --transport http {name} '{url}' --header \"Authorization: Bearer $SEAWALL_API_KEY\""
            )
        }
        Client::ClaudeDesktop => {
            words.push(
                "Put it into claude_desktop_config.json (Settings, Developer, Edit Config), and start Claude Desktop again."
                    .to_owned(),
            );
            if key.is_none() {
                words.push(format!(
                    "Replace {NO_KEY} with a key that `seawall keys create` made; with SEAWALL_API_KEY set, it is put in here."
                ));
            }
            pretty(&json!({"mcpServers": {name: bridge(args, key.unwrap_or(NO_KEY))?}}))
        }
        Client::Cursor => {
            words.push(
                "Put it into ~/.cursor/mcp.json; Cursor reads the key from SEAWALL_API_KEY of its own environment."
                    .to_owned(),
            );
            let server = remote("Bearer ${env:SEAWALL_API_KEY}");
            pretty(&json!({"mcpServers": {name: server}}))
        }
        Client::Vscode => {
            words.push(
                "Put it into .vscode/mcp.json; VS Code asks for the key when the server is first started, and keeps it."
                    .to_owned(),
            );
            let mut server = remote("Bearer ${input:seawall-key}");
            server["type"] = json!("http");
            let input = json!({"type": "promptString", "id": "seawall-key", "password": true,
                "description": "Key of the ApiKeyScope that the agent acts under"});
            pretty(&json!({"inputs": [input], "servers": {name: server}}))
        }
    };
    Ok((paste, words))
}

/// The bridge over standard input and output, as this program runs it.
fn bridge(args: &ConfigArgs, key: &str) -> anyhow::Result<Value> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let mut env = json!({"SEAWALL_URL": args.url.as_str(), "SEAWALL_API_KEY": key});
    if let Some(file) = &args.ca_file {
        let file = std::path::absolute(file)
            .with_context(|| format!("--ca-file {} is no path", file.display()))?;
        env["SEAWALL_CA_FILE"] = json!(file);
    }
    Ok(json!({"command": program, "args": ["mcp", "--stdio"], "env": env}))
}

fn check(args: &ConfigArgs) -> anyhow::Result<()> {
    let url = &args.url;
    if !["http", "https"].contains(&url.scheme()) || !url.path().ends_with("/mcp") {
        bail!("--url {url} is no endpoint: write one such as https://mcp.example.com/mcp");
    }
    // It would stand in files and in shells' histories.
    if !url.username().is_empty() || url.password().is_some() {
        bail!("--url holds a name or a password: take them out, the key goes in a header");
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let begins = args.name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if !begins || !args.name.chars().all(fits) {
        bail!(
            "--name {:?} is no name that every client takes: use letters, digits, - and _, beginning with a letter or digit",
            args.name
        );
    }
    Ok(())
}

fn is_loopback(url: &reqwest::Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_matches(['[', ']']);
        let address = host.parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("JSON is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://mcp.example.com/mcp";

    fn args(client: Client, url: &str) -> ConfigArgs {
        ConfigArgs {
            client,
            url: url.parse().expect("a URL"),
            name: "seawall".to_owned(),
            ca_file: None,
        }
    }

    fn pasted(client: Client, key: Option<&str>) -> Value {
        let (paste, _) = config(&args(client, URL), key).expect("a configuration");
        serde_json::from_str(&paste).expect("JSON and nothing else")
    }

    #[test]
    fn clients_that_keep_secrets_are_given_none() {
        let key = Some("swk_secret");
        for client in [Client::ClaudeCode, Client::Cursor, Client::Vscode] {
            let (paste, words) = config(&args(client, URL), key).expect("a configuration");
            assert!(!paste.contains("swk_secret"), "{paste}");
            assert!(!words.concat().contains("swk_secret"), "{words:?}");
        }
        let cursor = &pasted(Client::Cursor, key)["mcpServers"]["seawall"];
        assert_eq!(cursor["url"], URL);
        assert_eq!(
            cursor["headers"]["Authorization"],
            "Bearer ${env:SEAWALL_API_KEY}"
        );
        let vscode = pasted(Client::Vscode, key);
        assert_eq!(vscode["servers"]["seawall"]["type"], "http");
        let asks = format!(
            "${{input:{}}}",
            vscode["inputs"][0]["id"].as_str().expect("text")
        );
        let header = &vscode["servers"]["seawall"]["headers"]["Authorization"];
        assert_eq!(*header, format!("Bearer {asks}"));
        assert_eq!(vscode["inputs"][0]["password"], true);
    }

    #[test]
    fn claude_desktop_starts_the_bridge_with_the_key_that_is_known() {
        let server = &pasted(Client::ClaudeDesktop, Some("swk_1"))["mcpServers"]["seawall"];
        assert_eq!(server["args"], json!(["mcp", "--stdio"]));
        assert_eq!(
            server["env"],
            json!({"SEAWALL_URL": URL, "SEAWALL_API_KEY": "swk_1"})
        );
        let without = args(Client::ClaudeDesktop, URL);
        let (paste, words) = config(&without, None).expect("a configuration");
        assert!(
            paste.contains(NO_KEY) && words.concat().contains(NO_KEY),
            "{words:?}"
        );
    }

    #[test]
    fn what_can_not_work_is_refused_with_what_to_write() {
        for (url, words) in [
            ("https://mcp.example.com/", "https://mcp.example.com/mcp"),
            ("ftp://mcp.example.com/mcp", "https://mcp.example.com/mcp"),
            ("https://me:secret@mcp.example.com/mcp", "take them out"),
        ] {
            let error = config(&args(Client::Cursor, url), None).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains(words) && !error.contains("secret"),
                "{error}"
            );
        }
        let mut named = args(Client::ClaudeCode, URL);
        named.name = "x'; rm -rf ~; '".to_owned();
        let error = config(&named, None).unwrap_err().to_string();
        assert!(error.contains("letters, digits"), "{error}");
    }

    #[test]
    fn a_key_in_the_clear_is_warned_of_but_not_on_loopback() {
        let warns = |url: &str| {
            let (_, words) = config(&args(Client::Cursor, url), None).expect("a configuration");
            words.iter().any(|line| line.starts_with("warning"))
        };
        assert!(warns("http://10.0.0.1:8090/mcp") && warns("http://mcp.example.com/mcp"));
        assert!(!warns("http://127.0.0.1:8090/mcp") && !warns("http://[::1]:8090/mcp"));
        assert!(!warns("http://localhost:8090/mcp") && !warns(URL));
    }
}
