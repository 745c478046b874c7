//! The channels of the loop.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::cluster::ClusterWatches;
use super::happening::Happening;
use super::holds::HoldList;
use super::leading::KindCheck;
use super::records::{InForce, InForceStore};
use super::view::View;
use crate::api::{
    ApiKeyScopeSpec, ApiKeyScopeStatus, IsolationSpec, IsolationStatus, PolicySpec,
    policy::PolicyStatus,
};
use crate::domain::enforcement::SuspendedUsers;
use crate::domain::world::{Protected, Stripping, World};
use crate::enforce::access::{RoleBindings, ServiceAccounts};
use crate::enforce::netpol::NetworkPolicies;
use crate::enforce::owned::Wanted;
use crate::enforce::stripped::WantedPods;
use crate::fleet::Fleet;
use crate::health::Health;
use crate::leadership::Mandate;
use crate::watch::{Change, Watched};

pub type Watching<Spec, Status> = mpsc::Receiver<Change<Watched<Spec, Status>>>;

/// Where facts come from.
pub struct Inputs {
    pub policies: Watching<PolicySpec, PolicyStatus>,
    pub isolations: Watching<IsolationSpec, IsolationStatus>,
    pub scopes: Watching<ApiKeyScopeSpec, ApiKeyScopeStatus>,
    pub cluster: ClusterWatches,
    /// The device table, and where bundles go.
    pub fleet: Fleet,
    pub mandate: Mandate,
    /// Ids of holds that a person confirms.
    pub confirmations: mpsc::Receiver<String>,
    /// Who asks for the World as it is, to compile it with a change.
    pub questions: mpsc::Receiver<oneshot::Sender<World>>,
    /// What no agent's resource may cut; `None` until it was asked for once.
    pub protected: watch::Receiver<Option<Vec<Protected>>>,
    /// Whether pods may be cut off where no agent runs; `None` until that was asked once.
    pub stripping: watch::Receiver<Option<Stripping>>,
    pub store: Arc<dyn InForceStore>,
    pub kind_check: KindCheck,
}

/// Who is told.
pub struct Outputs {
    pub view: watch::Sender<Option<Arc<View>>>,
    pub network_policies: watch::Sender<Wanted<NetworkPolicies>>,
    pub service_accounts: watch::Sender<Wanted<ServiceAccounts>>,
    pub role_bindings: watch::Sender<Wanted<RoleBindings>>,
    /// Kubernetes users whose writes are to be refused; `None` until the world is known.
    pub suspended_users: watch::Sender<Option<SuspendedUsers>>,
    /// Pods whose labels are taken away, and those to be released; `None` while this replica doesn't lead.
    pub stripped: watch::Sender<WantedPods>,
    /// What is in force, to be written down.
    pub in_force: watch::Sender<Option<Arc<BTreeMap<String, InForce>>>>,
    /// What is held, for people to see.
    pub holds: watch::Sender<Option<HoldList>>,
    pub health: watch::Sender<Health>,
    pub happenings: mpsc::Sender<Happening>,
}

/// Hands over what is wanted, unless it is what was wanted before.
pub fn send_if_new<T: PartialEq>(channel: &watch::Sender<Option<Arc<T>>>, wanted: T) {
    channel.send_if_modified(|known| {
        if known.as_deref() == Some(&wanted) {
            return false;
        }
        *known = Some(Arc::new(wanted));
        true
    });
}
