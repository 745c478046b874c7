//! The bundle on disk: what the next start brings about.

use anyhow::Context;
use tokio::task::JoinHandle;

use super::steps::{Step, Steps};
use crate::agent::bundle::{SignedBundle, Verifier};
use crate::agent::state_directory::{Secrecy, StateDirectory};
use crate::domain::enforcement::Bundle;

/// Its name in the state directory.
pub const BUNDLE: &str = "bundle.json";

/// The last part of writing, which goes on meanwhile.
#[must_use]
pub struct Syncing(JoinHandle<anyhow::Result<()>>);

/// Whether it was written, to the end.
pub async fn synced(replaced: anyhow::Result<Syncing>) -> anyhow::Result<()> {
    replaced?.0.await?
}

pub struct Stored {
    directory: StateDirectory,
}

impl Stored {
    pub fn new(directory: StateDirectory) -> Self {
        Self { directory }
    }

    /// None when there is none; an error when there is one that is not believed.
    pub fn load(&self, verifier: &Verifier) -> anyhow::Result<Option<(SignedBundle, Bundle)>> {
        let Some(bytes) = self.directory.read(BUNDLE)? else {
            return Ok(None);
        };
        let path = self.directory.path(BUNDLE);
        let signed = SignedBundle::from_file(&bytes)
            .with_context(|| format!("{} is damaged", path.display()))?;
        let bundle = verifier
            .verify(&signed)
            .with_context(|| path.display().to_string())?;
        Ok(Some((signed, bundle)))
    }

    /// Makes it the one that the next start of the agent finds. That a power cut leaves it there too is
    /// what [`Syncing`] waits for, which the rules, gone with the power, need not.
    pub async fn replace(&self, signed: &SignedBundle, steps: &Steps) -> anyhow::Result<Syncing> {
        let (directory, bytes) = (self.directory.clone(), signed.to_file());
        let prepare = move || directory.prepare(BUNDLE, &bytes, Secrecy::OwnerOnly);
        let prepared = tokio::task::spawn_blocking(prepare).await??;
        steps.reached(Step::Written);
        let renamed = prepared.rename()?;
        steps.reached(Step::Persisted);
        Ok(Syncing(tokio::task::spawn_blocking(move || renamed.sync())))
    }

    /// What was there before a bundle that failed.
    pub fn put_back(&self, before: Option<&SignedBundle>) -> anyhow::Result<()> {
        match before {
            Some(signed) => self
                .directory
                .replace(BUNDLE, &signed.to_file(), Secrecy::OwnerOnly),
            None => self.directory.remove(BUNDLE),
        }
    }
}
