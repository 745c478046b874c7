//! The operator's API on a Unix socket, for the sidecar alone: who a key belongs to, the audit log,
//! and what devices say. [`types`] and [`pods`] are what goes over it, [`router`] serves it, [`client`] asks it,
//! [`socket`] is where it listens. What it answers from is the operator's: it fills [`Sources`].

pub mod client;
pub mod pods;
pub mod router;
pub mod socket;
pub mod types;
pub mod users;

use std::sync::Arc;

use async_trait::async_trait;

use crate::access::Directory;
use crate::domain::explain::{Explanation, Question};
use crate::domain::names::ObjectKey;
use pods::WorkloadView;
use types::{
    AgentRecord, Appended, AuditPage, AuditQuery, DeviceView, HeldIsolation, Preview, Previewed,
    Problem, SettledQuery, Standing, VerifyReport, VerifyRequest,
};

/// What the local API answers from.
#[derive(Clone)]
pub struct Sources {
    pub scopes: Arc<dyn Scopes>,
    pub devices: Arc<dyn Devices>,
    pub enforcement: Arc<dyn Standings>,
    pub audit: Arc<dyn AuditTrail>,
}

/// Scopes as the last compile left them.
pub trait Scopes: Send + Sync {
    /// Nothing before the first compile.
    fn directory(&self) -> Option<Arc<Directory>>;

    /// A key of this scope was used now.
    fn used(&self, scope: &ObjectKey);
}

/// The fleet as people and agents see it.
pub trait Devices: Send + Sync {
    /// Ordered by id. `None` before the device table was read.
    fn of_tenant(&self, tenant: &str) -> Option<Vec<DeviceView>>;
}

/// A kind of resource that settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Isolation,
    Policy,
}

/// What is in force, and what would be.
#[async_trait]
pub trait Standings: Send + Sync {
    /// Answers when the resource stands as it should, or with how it stands when `timeout_ms` is over.
    /// A resource that the operator has not seen yet is waited for too.
    async fn settled(
        &self,
        kind: Kind,
        resource: &ObjectKey,
        query: &SettledQuery,
    ) -> Result<Standing, Problem>;

    /// Compiles the world with this resource in it, and writes nothing.
    async fn preview(&self, tenant: &str, preview: &Preview) -> Result<Previewed, Problem>;

    /// Who reaches whom, and what decides it, as far as the question's tenant sees it.
    async fn explain(&self, question: Question) -> Result<Explanation, Problem>;

    /// Has devices read back now, for themselves and for pods of the tenant.
    async fn verify(&self, tenant: &str, request: &VerifyRequest) -> Result<VerifyReport, Problem>;

    /// Isolations of the tenant that were deleted and are held in force, ordered by name.
    fn held(&self, tenant: &str) -> Result<Vec<HeldIsolation>, Problem>;

    /// The pods of the tenant, ordered by name.
    async fn workloads(&self, tenant: &str) -> Result<Vec<WorkloadView>, Problem>;
}

/// The audit log.
#[async_trait]
pub trait AuditTrail: Send + Sync {
    /// Returns once the entry is durable.
    async fn append(&self, tenant: &str, record: AgentRecord) -> Result<Appended, Problem>;

    async fn search(&self, tenant: &str, query: &AuditQuery) -> Result<AuditPage, Problem>;
}

impl Problem {
    /// What can't be answered now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            code: types::UNAVAILABLE.into(),
            message: message.into(),
        }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self {
            code: types::NOT_FOUND.into(),
            message: message.into(),
        }
    }
}
