//! The resources that agents write: their names, the stamps that say who wrote them and why, and who
//! wrote the ones that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::FIELD_MANAGER;
use super::answer::Failure;
use super::call::{Action, Call};
use crate::access::Principal;
use crate::api::stamps;
use crate::domain::names::DeviceId;
use crate::local::types::Touched;

/// Objects in one request to the API server.
const CHUNK: u32 = 500;

/// A kind that agents read and write in their tenant's namespace.
pub trait Written:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// The API server itself enforces it, beside the devices.
    fn is_of_user(&self) -> bool {
        false
    }
}

impl Written for crate::api::Isolation {
    fn is_of_user(&self) -> bool {
        self.spec.target.user.is_some()
    }
}
impl Written for crate::api::Policy {}

/// The kind's objects in the tenant's namespace, read and written as the agent.
pub fn api<K: Written>(call: &Call) -> Result<Api<K>, Failure> {
    Ok(Api::namespaced(call.cluster()?, &call.principal.tenant))
}

/// All of them, by name.
pub async fn all<K: Written>(call: &Call) -> Result<Vec<K>, Failure> {
    let api = api::<K>(call)?;
    let mut params = ListParams::default().limit(CHUNK);
    let mut found = Vec::new();
    loop {
        let page = api.list(&params).await?;
        let next = page.metadata.continue_.filter(|next| !next.is_empty());
        found.extend(page.items);
        match next {
            Some(next) => params = params.continue_token(&next),
            None => break,
        }
    }
    found.sort_by_key(|object: &K| object.name_any());
    Ok(found)
}

/// Name and annotations of what an agent writes.
pub fn stamped(call: &Call, action: &Action, name: &str, reason: &str) -> ObjectMeta {
    let stamps = [
        (stamps::SOURCE, stamps::SOURCE_MCP_AGENT),
        (stamps::WRITTEN_BY, &call.principal.user),
        (stamps::REASON, reason),
        (stamps::INTENT, &action.intent),
    ];
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some(call.principal.tenant.clone()),
        annotations: Some(BTreeMap::from(
            stamps.map(|(name, value)| (name.to_owned(), value.to_owned())),
        )),
        ..ObjectMeta::default()
    }
}

/// The agent that the object's stamp names; none for what a person or GitOps wrote.
pub fn written_by<K: Resource>(object: &K) -> Option<&str> {
    let annotations = object.meta().annotations.as_ref()?;
    annotations.get(stamps::WRITTEN_BY).map(String::as_str)
}

/// Why the agent wrote it, as its stamp tells.
pub fn reason<K: Resource>(object: &K) -> Option<&str> {
    let annotations = object.meta().annotations.as_ref()?;
    annotations.get(stamps::REASON).map(String::as_str)
}

pub fn is_own<K: Resource>(principal: &Principal, object: &K) -> bool {
    written_by(object) == Some(&principal.user)
}

/// Who wrote it, for people: the agent's name, or that it was none.
pub fn author<K: Resource>(object: &K) -> String {
    match written_by(object).map(|user| (user, stamps::scope_of_user(user))) {
        Some((_, Some((_, agent)))) => in_words(agent),
        Some((user, None)) => user.to_owned(),
        None => "a person or GitOps".into(),
    }
}

/// This agent, as [`author`] calls it.
pub fn agent_name(principal: &Principal) -> String {
    in_words(&principal.agent)
}

fn in_words(agent: &str) -> String {
    format!("agent {agent}")
}

/// The object, for the audit log. A dry run's has a uid that nothing has.
pub fn touched<K: Written>(object: &K, dry_run: bool) -> Touched {
    let meta = object.meta();
    Touched {
        kind: K::kind(&()).into(),
        name: object.name_any(),
        uid: meta.uid.clone().filter(|_| !dry_run),
        generation: meta.generation.filter(|_| !dry_run),
    }
}

pub async fn create<K: Written>(api: &Api<K>, object: &K, dry_run: bool) -> kube::Result<K> {
    let params = PostParams {
        dry_run,
        field_manager: Some(FIELD_MANAGER.into()),
    };
    api.create(&params, object).await
}

/// Changes fields of the spec of exactly this object. Its version may move meanwhile: the operator writes
/// statuses, and the stamp that says whose it is can't be changed.
pub async fn change<K: Written>(
    api: &Api<K>,
    object: &K,
    spec: serde_json::Value,
    dry_run: bool,
) -> kube::Result<K> {
    let patch = json!({
        "metadata": {"uid": object.uid()},
        "spec": spec,
    });
    let params = PatchParams {
        dry_run,
        field_manager: Some(FIELD_MANAGER.into()),
        ..PatchParams::default()
    };
    api.patch(&object.name_any(), &params, &Patch::Merge(patch))
        .await
}

/// Deletes exactly this object, not another that took its name.
pub async fn delete<K: Written>(api: &Api<K>, object: &K, dry_run: bool) -> kube::Result<()> {
    let params = DeleteParams {
        dry_run,
        preconditions: Some(Preconditions {
            uid: object.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    api.delete(&object.name_any(), &params).await.map(drop)
}

/// Whether a wish to last until `wanted` is more than `there`; none lasts until deleted.
pub fn is_longer(wanted: Option<Timestamp>, there: Option<Timestamp>) -> bool {
    match (wanted, there) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(wanted), Some(there)) => wanted > there,
    }
}

/// The one Isolation of a device that an agent writes.
pub fn isolation_name(user: &str, device: &DeviceId) -> String {
    format!("isolate-{}-{}", device.in_resource_name(), digest(&[user]))
}

/// The one Isolation of a pod that an agent writes.
pub fn pod_isolation_name(user: &str, pod: &str) -> String {
    let readable = in_a_label(pod);
    let readable = readable[..readable.len().min(MOST_READABLE)].trim_end_matches('-');
    format!("isolate-pod-{readable}-{}", digest(&[user, "pod", pod]))
}

/// The one Isolation of the pods with these labels that an agent writes.
pub fn pods_isolation_name(user: &str, labels: &BTreeMap<String, String>) -> String {
    let mut parts = vec![user.to_owned(), "labels".to_owned()];
    parts.extend(labels.iter().map(|(name, value)| format!("{name}={value}")));
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    format!("isolate-pods-{}", digest(&parts))
}

/// The one Isolation of a user that an agent writes for these names, of each place.
pub fn user_isolation_name(user: &str, id: &str, names: [&BTreeSet<String>; 3]) -> String {
    let mut parts = vec![user, "user", id];
    for names in names {
        // No name has a line of its own that is empty.
        parts.push("");
        parts.extend(names.iter().map(String::as_str));
    }
    let readable = in_a_label(id).to_ascii_lowercase();
    let readable: String = readable.chars().take(MOST_READABLE).collect();
    let readable = readable.trim_end_matches('-');
    format!("suspend-user-{readable}-{}", digest(&parts))
}

/// Of a pod's name in the name of its Isolation.
const MOST_READABLE: usize = 40;

fn in_a_label(text: &str) -> String {
    let allowed = |c: char| match c.is_ascii_alphanumeric() {
        true => c,
        false => '-',
    };
    text.chars().map(allowed).collect()
}

/// The one Policy by which an agent blocks a network for these devices; none means the fleet.
pub fn block_name(user: &str, network: &IpNet, devices: &BTreeSet<DeviceId>) -> String {
    let readable = in_a_label(&network.to_string());
    let network = network.to_string();
    let mut parts = vec![user, &network];
    parts.extend(devices.iter().map(DeviceId::as_str));
    format!("{BLOCK_PREFIX}{readable}-{}", digest(&parts))
}

pub const BLOCK_PREFIX: &str = "block-";

fn digest(parts: &[&str]) -> String {
    let mut hash = hex::encode(Sha256::digest(parts.join("\n")));
    hash.truncate(8);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u128) -> DeviceId {
        DeviceId::from_ulid(ulid::Ulid::from_parts(1, number))
    }

    /// A DNS label, as the strictest users of names want it.
    fn is_label(name: &str) -> bool {
        name.len() <= 63
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-')
    }

    #[test]
    fn names_are_labels_that_differ_by_agent_target_and_network() {
        let networks = [
            "203.0.113.7/32",
            "2001:db8::/32",
            "2001:db8:1111:2222:3333:4444:5555:6666/128",
        ];
        let mut names = BTreeSet::new();
        for user in ["a", "b"] {
            for number in [1, 2] {
                names.insert(isolation_name(user, &device(number)));
            }
            for network in networks {
                let network = network.parse().expect("a network");
                for devices in [BTreeSet::new(), [device(1)].into()] {
                    names.insert(block_name(user, &network, &devices));
                }
            }
        }
        assert_eq!(names.len(), 16);
        let long = "a".repeat(39) + ".b-" + &"c".repeat(200);
        for user in ["a", "b"] {
            for pod in ["web-0", "web.0", &long] {
                names.insert(pod_isolation_name(user, pod));
            }
            for labels in [&[("app", "web")][..], &[("app", "web"), ("tier", "front")]] {
                let owned = |(n, v): &(&str, &str)| ((*n).to_owned(), (*v).to_owned());
                let labels = labels.iter().map(owned).collect();
                names.insert(pods_isolation_name(user, &labels));
            }
        }
        assert_eq!(names.len(), 16 + 10);
        for name in names {
            assert!(is_label(&name), "{name}");
        }
    }

    #[test]
    fn until_deleted_is_longer_than_any_time() {
        let at = |second| Timestamp::from_second(second).ok();
        assert!(!is_longer(None, None));
        assert!(!is_longer(at(1), None));
        assert!(is_longer(None, at(1)));
        assert!(is_longer(at(2), at(1)));
        assert!(!is_longer(at(1), at(1)));
    }
}
