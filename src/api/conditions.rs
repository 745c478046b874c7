//! Condition types and reasons, and the schema that makes a list of conditions a map by `type`, so
//! that several writers can each own theirs under server-side apply.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{Schema, SchemaGenerator};

/// Valid, understood and allowed.
pub const ACCEPTED: &str = "Accepted";
/// Every enforcement point that is connected has the rules, read back from it at this generation.
pub const PROGRAMMED: &str = "Programmed";
/// Every matched enforcement point has the rules, and for a NetworkPolicy packets were seen treated so.
pub const ENFORCED: &str = "Enforced";
/// Accepted and Programmed; what kstatus, Flux and Argo wait for.
pub const READY: &str = "Ready";
/// The kubelet restarts a container of an isolated pod, and what was in its memory goes.
pub const EVIDENCE_AT_RISK: &str = "EvidenceAtRisk";
/// This can never work as it is written.
pub const STALLED: &str = "Stalled";

/// The schema of `status.conditions`: a list that merges by `type`.
pub fn schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<Vec<Condition>>();
    schema.insert("x-kubernetes-list-type".into(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".into(), vec!["type"].into());
    schema
}
