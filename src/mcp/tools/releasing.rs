//! What tools that release have in common, whatever the target: whose Isolations there are, their deletion,
//! and what stays.

use kube::ResourceExt;
use schemars::JsonSchema;
use serde::Serialize;

use super::settle;
use crate::access::{Intent, Target};
use crate::api::Isolation;
use crate::local::Kind;
use crate::local::types::Touched;
use crate::mcp::answer::Failure;
use crate::mcp::call::Call;
use crate::mcp::resources;

/// The Isolations of one target.
pub struct Found {
    /// This agent wrote them.
    pub own: Vec<Isolation>,
    pub others: Vec<Isolation>,
}

/// An Isolation that keeps the target isolated.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Remaining {
    pub name: String,
    /// Who can delete it.
    pub written_by: String,
}

impl From<&Isolation> for Remaining {
    fn from(isolation: &Isolation) -> Self {
        Self {
            name: isolation.name_any(),
            written_by: resources::author(isolation),
        }
    }
}

/// What became of the agent's own.
pub struct Released {
    pub names: Vec<String>,
    /// No connected device enforces them any more.
    pub lifted: bool,
    pub message: String,
    pub resources: Vec<Touched>,
}

impl Found {
    /// All of the tenant that are of the target.
    pub async fn of(call: &Call, is_of: impl Fn(&Isolation) -> bool) -> Result<Self, Failure> {
        let all = resources::all::<Isolation>(call).await?;
        let (own, others) = all
            .into_iter()
            .filter(is_of)
            .partition(|isolation| resources::is_own(&call.principal, isolation));
        Ok(Self { own, others })
    }

    /// Where only others isolate the target, that is what is refused.
    pub async fn permit(&self, call: &Call, dry_run: bool) -> Result<(), Failure> {
        if let ([], [other, ..]) = (&self.own[..], &self.others[..]) {
            let name = format!("Isolation {}", other.name_any());
            permit(call, name, other, false).await?;
        }
        for isolation in &self.own {
            permit(call, isolation.name_any(), isolation, dry_run).await?;
        }
        Ok(())
    }

    /// Deletes the agent's own and waits until they are lifted.
    pub async fn release(&self, call: &Call, dry_run: bool) -> Result<Released, Failure> {
        let api = resources::api::<Isolation>(call)?;
        for isolation in &self.own {
            resources::delete(&api, isolation, dry_run).await?;
        }
        let touched = self.own.iter().map(|own| resources::touched(own, dry_run));
        let mut released = Released {
            names: self.own.iter().map(ResourceExt::name_any).collect(),
            lifted: !dry_run,
            message: String::new(),
            resources: touched.collect(),
        };
        for isolation in self.own.iter().filter(|_| !dry_run) {
            let standing = settle::lifted(call, Kind::Isolation, isolation).await;
            released.lifted &= standing.as_ref().is_some_and(|it| it.programmed);
            if let Some(standing) = standing {
                released.message = standing.message;
            }
        }
        Ok(released)
    }
}

async fn permit(
    call: &Call,
    name: String,
    isolation: &Isolation,
    dry_run: bool,
) -> Result<(), Failure> {
    let by = resources::written_by(isolation).map(str::to_owned);
    let intent = Intent {
        target: Target::Written { name, by },
        dry_run,
        ..Intent::of(call.tool)
    };
    call.permit(&intent).await
}
