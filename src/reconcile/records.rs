//! What the loop keeps in the store: which Isolations are in force, so that deletions while no operator
//! ran are seen too, and which of them are held. The implementation is in `store`.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::holds::Hold;
use crate::domain::world::HeldIsolation;

/// An Isolation that was in force when it was last written down.
#[derive(Clone, Debug, PartialEq)]
pub struct InForce {
    pub isolation: HeldIsolation,
    /// Set when it is gone from the API server and waits for a person.
    pub hold: Option<Hold>,
}

#[async_trait]
pub trait InForceStore: Send + Sync {
    /// By UID.
    async fn in_force(&self) -> anyhow::Result<BTreeMap<String, InForce>>;

    /// Writes and removes, in one transaction.
    async fn save_in_force(
        &self,
        put: &BTreeMap<String, InForce>,
        remove: &[String],
    ) -> anyhow::Result<()>;
}
