//! From the API server's AdmissionReview to an entry of the audit log. Pure.

use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, Operation};
use serde_json::{Value, json};

use super::actor::author;
use super::records::ObjectId;
use crate::api::{GROUP, stamps};
use crate::audit::entry::{Body, Entry, ObjectRef, ResourceChange, SpecBody};
use crate::domain::names::ObjectKey;
use crate::watch::Kind;

/// A request that was asked, as it is recorded.
#[derive(Debug, PartialEq)]
pub struct Asked {
    pub entry: Entry,
    /// What it will do to a watched object; None for others.
    pub explains: Option<Explains>,
}

/// A change that a recorded request explains when the watch sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explains {
    pub object: ObjectId,
    pub change: Explained,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Explained {
    /// The object at this generation.
    Written(i64),
    Deleted,
}

pub type Request = AdmissionRequest<DynamicObject>;

/// None for a request that changes nothing and for one that is not ours to record.
pub fn asked(request: &Request, operator: &str) -> Option<Asked> {
    if request.dry_run {
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
    let change = ResourceChange {
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
        dry_run: false,
        spec: said(request).map(SpecBody::Spec),
    };
    let entry = Entry::new(&key.namespace, actor, Body::ResourceChange(change));
    let explains = explains(request, object, key);
    Some(Asked { entry, explains })
}

fn explains(request: &Request, object: &DynamicObject, key: ObjectKey) -> Option<Explains> {
    let kind = match (&*request.kind.group, &*request.kind.kind) {
        (GROUP, "Policy") => Kind::Policy,
        (GROUP, "Isolation") => Kind::Isolation,
        (GROUP, "ApiKeyScope") => Kind::ApiKeyScope,
        _ => return None,
    };
    let change = match request.operation {
        Operation::Delete => Explained::Deleted,
        _ => Explained::Written(object.metadata.generation?),
    };
    Some(Explains {
        object: ObjectId {
            uid: object.metadata.uid.clone()?,
            kind,
            key,
        },
        change,
    })
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
