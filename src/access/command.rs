//! `seawall keys`: makes keys for a scope, lists what a scope holds of them, revokes them. A person
//! runs it with their own rights; the API server refuses who may not write the scope.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, Subcommand};
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;

use super::key;
use crate::api::ApiKeyScope;
use crate::backoff::jittered;
use crate::user_agent::{self, Part};

const FIELD_MANAGER: &str = "seawall/keys";
/// As many as a scope may hold.
const MOST_KEYS: usize = 16;
/// Against others who write the scope at the same time.
const ATTEMPTS: u32 = 8;
/// Enough of a hash to tell keys apart: `sha256:` and 4 digits at least.
const SHORTEST_PREFIX: usize = 4;

#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key for a scope. It is printed once, on standard output, and kept nowhere.
    Create(ScopeArgs),
    /// Show the beginnings of the hashes that a scope holds.
    List(ScopeArgs),
    /// Take a key from a scope: its calls are refused from the next one on.
    Revoke {
        #[command(flatten)]
        scope: ScopeArgs,
        /// The beginning of the key's hash, as `keys list` shows it.
        #[arg(long)]
        hash: String,
    },
    /// Read a key on standard input and print its hash, as a scope holds it.
    Hash,
}

#[derive(Debug, Args)]
struct ScopeArgs {
    /// The scope's namespace.
    #[arg(long, short)]
    namespace: String,
    /// The ApiKeyScope's name, which is the agent's.
    #[arg(long, short)]
    scope: String,
    /// In place of KUBECONFIG and the usual places.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

pub fn run(args: KeysArgs) -> anyhow::Result<ExitCode> {
    if let KeysCommand::Hash = args.command {
        println!("{}", hash_of_input()?);
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        match args.command {
            KeysCommand::Create(scope) => create(&scope).await,
            KeysCommand::List(scope) => list(&scope).await,
            KeysCommand::Revoke { scope, hash } => revoke(&scope, &hash).await,
            KeysCommand::Hash => Ok(()),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn create(args: &ScopeArgs) -> anyhow::Result<()> {
    let (key, hash) = {
        let key = key::generate();
        let hash = key::hash(&key);
        (key, hash)
    };
    edit(args, |hashes| {
        ensure!(
            hashes.len() < MOST_KEYS,
            "the scope holds {MOST_KEYS} keys already: revoke one first"
        );
        hashes.push(hash.clone());
        Ok(())
    })
    .await?;
    println!("{key}");
    eprintln!(
        "This key is shown once. Its hash begins with {}; revoke it with\n  seawall keys revoke -n {} \
         -s {} --hash {}",
        prefix(&hash),
        args.namespace,
        args.scope,
        prefix(&hash)
    );
    Ok(())
}

async fn list(args: &ScopeArgs) -> anyhow::Result<()> {
    let scope = find(&scopes(args).await?, args).await?;
    for hash in &scope.spec.credentials.key_hashes {
        println!("{}", prefix(hash));
    }
    if scope.spec.credentials.key_hashes.is_empty() {
        eprintln!("the scope holds no key: make one with `seawall keys create`");
    }
    Ok(())
}

async fn revoke(args: &ScopeArgs, wanted: &str) -> anyhow::Result<()> {
    let wanted = wanted.strip_prefix("sha256:").unwrap_or(wanted).to_owned();
    ensure!(
        wanted.len() >= SHORTEST_PREFIX,
        "give at least {SHORTEST_PREFIX} digits of the hash, as `seawall keys list` shows it"
    );
    let revoked = edit(args, |hashes| remove(hashes, &wanted)).await?;
    println!("{}", prefix(&revoked));
    Ok(())
}

/// Removes the one hash that begins so.
fn remove(hashes: &mut Vec<String>, wanted: &str) -> anyhow::Result<String> {
    let begins = |hash: &&String| {
        hash.strip_prefix("sha256:")
            .is_some_and(|digits| digits.starts_with(wanted))
    };
    let found: Vec<String> = hashes.iter().filter(begins).cloned().collect();
    match &found[..] {
        [] => {
            bail!("the scope holds no key whose hash begins with {wanted}: see `seawall keys list`")
        }
        [one] => {
            hashes.retain(|hash| hash != one);
            Ok(one.clone())
        }
        _ => bail!("more than one hash begins with {wanted}: give more digits of it"),
    }
}

/// Changes the scope's hashes, in exactly the version that was read; again when others were faster.
async fn edit<T>(
    args: &ScopeArgs,
    change: impl Fn(&mut Vec<String>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let api = scopes(args).await?;
    for attempt in 1..=ATTEMPTS {
        let scope = find(&api, args).await?;
        let mut hashes = scope.spec.credentials.key_hashes.clone();
        let answer = change(&mut hashes)?;
        let patch = json!({
            "metadata": {"resourceVersion": scope.resource_version()},
            "spec": {"credentials": {"keyHashes": hashes}},
        });
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.into()),
            ..PatchParams::default()
        };
        match api.patch(&args.scope, &params, &Patch::Merge(patch)).await {
            Ok(_) => return Ok(answer),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                tokio::time::sleep(jittered(Duration::from_millis(50) * attempt)).await;
            }
            Err(error) => {
                let (namespace, scope) = (&args.namespace, &args.scope);
                let words = format!("cannot change ApiKeyScope {namespace}/{scope}");
                return Err(error).context(words);
            }
        }
    }
    bail!("the scope was changed by others at every attempt: try again")
}

async fn find(api: &Api<ApiKeyScope>, args: &ScopeArgs) -> anyhow::Result<ApiKeyScope> {
    let (namespace, name) = (&args.namespace, &args.scope);
    let found = api.get_opt(name).await;
    let found = found.with_context(|| format!("cannot read ApiKeyScope {namespace}/{name}"))?;
    found.with_context(|| {
        format!("there is no ApiKeyScope {name} in {namespace}: `kubectl get apikeyscopes -A` lists them")
    })
}

async fn scopes(args: &ScopeArgs) -> anyhow::Result<Api<ApiKeyScope>> {
    let mut config = match &args.kubeconfig {
        None => Config::infer()
            .await
            .context("no cluster is configured: give --kubeconfig or set KUBECONFIG")?,
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("cannot use {}", path.display()))?
        }
    };
    config.connect_timeout = Some(Duration::from_secs(10));
    config.read_timeout = Some(Duration::from_secs(30));
    user_agent::tell(&mut config, Part::Command);
    let client = Client::try_from(config).context("cannot make a client of the API server")?;
    Ok(Api::namespaced(client, &args.namespace))
}

/// What people tell keys apart by.
fn prefix(hash: &str) -> &str {
    let digits = hash.strip_prefix("sha256:").unwrap_or(hash);
    digits.get(..12).unwrap_or(digits)
}

fn hash_of_input() -> anyhow::Result<String> {
    if std::io::stdin().is_terminal() {
        eprintln!("Type or paste the key, then Enter:");
    }
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("cannot read standard input")?;
    let key = line.trim();
    ensure!(
        key::is_well_formed(key),
        "that is no key: a key is swk_ and 43 letters, digits, - or _"
    );
    Ok(key::hash(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes() -> Vec<String> {
        ["sha256:aaaa1", "sha256:aaaa2", "sha256:bbbb1"]
            .map(String::from)
            .to_vec()
    }

    #[test]
    fn revoking_takes_the_one_key_whose_hash_begins_so() {
        let mut left = hashes();
        let revoked = remove(&mut left, "aaaa2").expect("one begins so");
        assert_eq!(revoked, "sha256:aaaa2");
        assert_eq!(left, ["sha256:aaaa1", "sha256:bbbb1"]);
    }

    #[test]
    fn revoking_nothing_or_more_than_one_is_refused_and_changes_nothing() {
        for (wanted, words) in [("cccc", "holds no key"), ("aaaa", "more than one")] {
            let mut left = hashes();
            let error = remove(&mut left, wanted).expect_err(wanted);
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(left, hashes());
        }
    }
}
