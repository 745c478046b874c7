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

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON,
};
use kube::CustomResourceExt;
use serde_json::json;

/// The API group of every custom resource.
pub const GROUP: &str = "seawall.dev";
/// The only version served.
pub const VERSION: &str = "v1alpha1";

/// Every CustomResourceDefinition, in the order in which `crds/` lists them.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let mut all = vec![ApiKeyScope::crd(), Isolation::crd(), Policy::crd()];
    all.iter_mut().for_each(begin_unseen);
    all
}

/// Gives a resource the status of no generation until the operator has seen it: what has no status at all is
/// ready in the eyes of kstatus, and so of Flux.
fn begin_unseen(definition: &mut CustomResourceDefinition) {
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut();
        let schema = schema.and_then(|schema| schema.open_api_v3_schema.as_mut());
        let properties = schema.and_then(|schema| schema.properties.as_mut());
        if let Some(status) = properties.and_then(|properties| properties.get_mut("status")) {
            status.default = Some(JSON(json!({"observedGeneration": -1})));
        }
    }
}
