//! NetworkPolicies: the part of Policies that any CNI enforces. `compile` says what each holds; here
//! is only what the object looks like.

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use kube::discovery::ApiResource;
use serde_json::{Value, json};

use super::owned::Owned;
use crate::api::stamps;
use crate::watch::Kind;

pub struct NetworkPolicies;

impl Owned for NetworkPolicies {
    type Content = NetworkPolicySpec;
    const KIND: Kind = Kind::NetworkPolicy;
    const MANAGER: &'static str = stamps::NETWORK_POLICY_MANAGER;
    // A pod that one policy isolates and the next one allows must not be open in between.
    const DELETES_FIRST: bool = false;

    fn resource() -> ApiResource {
        ApiResource::erase::<NetworkPolicy>(&())
    }

    fn body(content: &NetworkPolicySpec) -> Value {
        json!({ "spec": content })
    }

    fn content(data: &Value) -> Result<NetworkPolicySpec, String> {
        serde_json::from_value(data["spec"].clone()).map_err(|error| error.to_string())
    }
}
