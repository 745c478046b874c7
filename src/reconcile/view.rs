//! What the loop shows to the rest of the process after each turn: what was compiled, and what stands
//! beside the resources. Readers hold it as long as they like; the loop goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::tracked::Beside;
use crate::access::Directory;
use crate::api::policy::PolicyStatus;
use crate::api::{ApiKeyScopeStatus, IsolationStatus};
use crate::domain::compile::Compiled;
use crate::domain::names::ObjectKey;
use crate::watch::{Kind, Malformed};

#[derive(Clone, Debug)]
pub struct View {
    pub compiled: Arc<Compiled>,
    pub directory: Arc<Directory>,
    pub policies: Arc<BTreeMap<ObjectKey, Beside<PolicyStatus>>>,
    pub isolations: Arc<BTreeMap<ObjectKey, Beside<IsolationStatus>>>,
    pub scopes: Arc<BTreeMap<ObjectKey, Beside<ApiKeyScopeStatus>>>,
    /// The tools that each scope's agent sees.
    pub tools: Arc<BTreeMap<ObjectKey, Vec<String>>>,
    pub malformed: Arc<Vec<(Kind, Malformed)>>,
    /// Ids of holds by the UID of each Isolation that they keep in force.
    pub holds: Arc<BTreeMap<String, String>>,
    /// UIDs of Isolations that are gone and whose release is not settled yet.
    pub pending_release: Arc<BTreeSet<String>>,
}
