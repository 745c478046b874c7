//! The custom resources of `seawall.dev/v1alpha1`: types, bounds and the CEL rules that let the API
//! server refuse a wrong resource in words that say what to write. No behaviour lives here; `domain`
//! gives these types their meaning, and `seawall crds` prints them as CustomResourceDefinitions.

pub mod api_key_scope;
pub mod conditions;
pub mod isolation;
pub mod network;
pub mod policy;
pub mod selectors;
pub mod stamps;

pub use api_key_scope::{Access, ApiKeyScope, ApiKeyScopeSpec, ApiKeyScopeStatus};
pub use isolation::{
    Isolation, IsolationSpec, IsolationStatus, Phase, Probes, Target, UserNames, WorkloadTarget,
};
pub use network::{ManagementPath, PortRange, Protocol};
pub use policy::{
    Action, Defaults, Direction, Mode, Peers, Policy, PolicyRule, PolicySpec, PolicyStatus,
    Subjects,
};
pub use selectors::{DeviceSelector, TrustLevel, WorkloadSelector};

/// The API group of every custom resource.
pub const GROUP: &str = "seawall.dev";
/// The only version served.
pub const VERSION: &str = "v1alpha1";

/// Every CustomResourceDefinition, in the order in which `crds/` lists them.
pub fn definitions()
-> Vec<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition>
{
    use kube::CustomResourceExt;
    vec![ApiKeyScope::crd(), Isolation::crd(), Policy::crd()]
}
