//! From the API server's AdmissionReview to an entry of the audit log. Pure.

use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, Operation};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::actor::author;
use super::records::{ObjectId, Wants};
use crate::api::{ApiKeyScopeSpec, GROUP, IsolationSpec, PolicySpec, stamps};
use crate::audit::entry::{Body, ChangeRequest, Entry, ObjectRef, SpecBody, canonical_json};
use crate::domain::names::ObjectKey;
use crate::watch::Kind;

/// A request, as it is recorded.
#[derive(Debug, PartialEq)]
pub struct Asked {
    pub entry: Entry,
    /// What it does to a watched object if it is not refused; None where no watch can show that.
    pub wants: Option<(ObjectId, Wants)>,
}

pub type Request = AdmissionRequest<DynamicObject>;

/// None for a request that changes nothing and for one that is not ours to record.
pub fn asked(request: &Request, operator: &str) -> Option<Asked> {
    if request.dry_run || changes_nothing(request) {
        return None;
    }
    let verb = match request.operation {
        Operation::Create => "create",
        Operation::Update => "update",
        Operation::Delete => "delete",
        Operation::Connect => return None,
    };
    let object = request.object.as_ref().or(request.old_object.as_ref())?;
    let namespace = request.namespace.clone().unwrap_or_default();
    let name = object.metadata.name.clone();
    let key = ObjectKey::new(namespace, name.unwrap_or_else(|| request.name.clone()));
    let user = request.user_info.username.clone().unwrap_or_default();
    let actor = author(&user, manager(request).as_deref(), operator);
    let kind = watched(request);
    let metadata_only = kind.is_some() && keeps_the_spec(request);
    let asked = ChangeRequest {
        user,
        groups: request.user_info.groups.clone().unwrap_or_default(),
        verb: verb.to_owned(),
        object: ObjectRef {
            kind: request.kind.kind.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: object.metadata.uid.clone(),
            generation: object.metadata.generation,
        },
        metadata_only,
        spec: said(request).map(SpecBody::Spec),
    };
    let entry = Entry::new(&key.namespace, actor, Body::ChangeRequest(asked));
    let wants = kind
        .filter(|_| !metadata_only)
        .and_then(|kind| wants(request, object, kind, key));
    Some(Asked { entry, wants })
}

fn watched(request: &Request) -> Option<Kind> {
    match (&*request.kind.group, &*request.kind.kind) {
        (GROUP, "Policy") => Some(Kind::Policy),
        (GROUP, "Isolation") => Some(Kind::Isolation),
        (GROUP, "ApiKeyScope") => Some(Kind::ApiKeyScope),
        _ => None,
    }
}

fn wants(
    request: &Request,
    object: &DynamicObject,
    kind: Kind,
    key: ObjectKey,
) -> Option<(ObjectId, Wants)> {
    let wants = match request.operation {
        Operation::Delete => Wants::Deleted {
            marked: false,
            told: false,
        },
        _ => Wants::Written {
            generation: object.metadata.generation?,
            spec: object.data.get("spec").and_then(|spec| match kind {
                Kind::Policy => digest_as::<PolicySpec>(spec),
                Kind::Isolation => digest_as::<IsolationSpec>(spec),
                Kind::ApiKeyScope => digest_as::<ApiKeyScopeSpec>(spec),
                _ => None,
            }),
        },
    };
    let uid = object.metadata.uid.clone()?;
    Some((ObjectId { uid, kind, key }, wants))
}

/// The same for a spec in a request and for the one that a watch shows.
pub fn digest<Spec: Serialize>(spec: &Spec) -> Option<String> {
    let spec = serde_json::to_value(spec).ok()?;
    Some(hex::encode(Sha256::digest(canonical_json(&spec))))
}

fn digest_as<Spec: Serialize + DeserializeOwned>(spec: &Value) -> Option<String> {
    digest(&Spec::deserialize(spec).ok()?)
}

/// The API server raises the generation with each change of a spec.
fn keeps_the_spec(request: &Request) -> bool {
    let generation = |object: &Option<DynamicObject>| {
        let object = object.as_ref();
        object.and_then(|object| object.metadata.generation)
    };
    request.operation == Operation::Update
        && generation(&request.object).is_some()
        && generation(&request.object) == generation(&request.old_object)
}

/// An update to what is there already: GitOps controllers apply the same again and again.
fn changes_nothing(request: &Request) -> bool {
    let (Some(new), Some(old)) = (&request.object, &request.old_object) else {
        return false;
    };
    let plain = |object: &DynamicObject| {
        let mut object = object.clone();
        object.metadata.managed_fields = None;
        object.metadata.resource_version = None;
        (object.metadata, object.data)
    };
    request.operation == Operation::Update && plain(new) == plain(old)
}

/// What the request says: the new spec; of the list of holds, which one is confirmed.
fn said(request: &Request) -> Option<Value> {
    let object = request.object.as_ref()?;
    if request.kind.group == GROUP {
        return object.data.get("spec").cloned();
    }
    let annotations = object.metadata.annotations.as_ref()?;
    let confirmed = annotations.get(stamps::CONFIRM)?;
    Some(json!({ "confirm": confirmed }))
}

/// The field manager of the request: as its options say, else the one that wrote the object last.
fn manager(request: &Request) -> Option<String> {
    let options = request.options.as_ref().map(|options| &options.0);
    let named = options.and_then(|options| options["fieldManager"].as_str());
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        return Some(named.to_owned());
    }
    let object = request.object.as_ref()?;
    let managers = object.metadata.managed_fields.as_deref()?;
    let last = managers
        .iter()
        .filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty())
        .max_by_key(|entry| entry.time.as_ref().map(|time| time.0))?;
    last.manager.clone()
}
