//! The operator's keys live in the Secret `seawall-keys` of the system namespace: made once, then read
//! at every start. Two replicas that start together must not each make their own, so every write is
//! based on the version that was read.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::kubernetes::within;
use crate::backoff::Backoff;

pub const SECRET: &str = "seawall-keys";

/// More attempts than replicas that start at one moment.
const ATTEMPTS: usize = 5;
/// How long an API server that does not answer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The Secret's entries. `complete` gets what is there and answers what has to be, or `None` if
/// nothing is missing; it may be asked again when another replica wrote first.
pub async fn load(
    secrets: &Api<Secret>,
    mut complete: impl FnMut(&BTreeMap<String, String>) -> Result<Option<BTreeMap<String, String>>>,
) -> Result<BTreeMap<String, String>> {
    for _ in 0..ATTEMPTS {
        let stored = read(secrets).await?;
        let entries = entries_of(stored.as_ref())?;
        let Some(wanted) = complete(&entries)? else {
            return Ok(entries);
        };
        if store(secrets, stored, &wanted).await? {
            info!(secret = SECRET, "keys are made and stored");
            return Ok(wanted);
        }
    }
    bail!("the Secret {SECRET} changes at every attempt to complete it: look who else writes it")
}

/// An API server that starts beside the operator is waited for; one that refuses is not.
async fn read(secrets: &Api<Secret>) -> Result<Option<Secret>> {
    let deadline = Instant::now() + PATIENCE;
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
    loop {
        let read = within(
            "reading the Secret seawall-keys: the operator needs `get` on it",
            secrets.get_opt(SECRET),
        )
        .await;
        let Err(error) = read else {
            return read;
        };
        if refused(&error) || Instant::now() > deadline {
            return Err(error);
        }
        warn!(error = format!("{error:#}"), "waiting for the API server");
        sleep(backoff.pause()).await;
    }
}

fn refused(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<kube::Error>(),
        Some(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429
    )
}

fn entries_of(secret: Option<&Secret>) -> Result<BTreeMap<String, String>> {
    let data = secret
        .and_then(|secret| secret.data.clone())
        .unwrap_or_default();
    data.into_iter()
        .map(|(name, ByteString(bytes))| {
            let text = String::from_utf8(bytes).with_context(|| {
                format!(
                    "the entry {name} of the Secret {SECRET} is not text: restore it from a backup"
                )
            })?;
            Ok((name, text))
        })
        .collect()
}

/// `false` if somebody else wrote in between.
async fn store(
    secrets: &Api<Secret>,
    stored: Option<Secret>,
    entries: &BTreeMap<String, String>,
) -> Result<bool> {
    let data = entries
        .iter()
        .map(|(name, text)| (name.clone(), ByteString(text.clone().into_bytes())))
        .collect();
    let params = PostParams {
        field_manager: Some("seawall/keys".to_owned()),
        ..PostParams::default()
    };
    let written = match stored {
        Some(mut secret) => {
            secret.data = Some(data);
            secrets.replace(SECRET, &params, &secret).await
        }
        None => {
            let secret = Secret {
                metadata: ObjectMeta {
                    name: Some(SECRET.to_owned()),
                    ..ObjectMeta::default()
                },
                data: Some(data),
                ..Secret::default()
            };
            secrets.create(&params, &secret).await
        }
    };
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error).context(
            "writing the Secret seawall-keys: the chart makes it empty and lets the operator update it",
        ),
    }
}
