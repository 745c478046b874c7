//! One watch: list, watch, resume, list again, for as long as the process lives.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::Api;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::discovery::ApiResource;
use kube::runtime::watcher::{self, Event};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Change, Kind, Malformed, Raw, key_of};
use crate::backoff::Backoff;
use crate::domain::names::ObjectKey;

/// The API server ends a watch after this, and the watch resumes where it was; 5 s later a connection
/// that died silently is given up. kube's default, 290 s, is too long to be blind.
const IDLE_SECONDS: u32 = 25;

/// What to watch, and how its objects are read.
pub struct Watch<T> {
    pub api: Api<DynamicObject>,
    pub kind: Kind,
    /// Which objects of the kind.
    pub config: watcher::Config,
    /// Nothing but the metadata of this kind is asked for, in all namespaces.
    pub metadata_only: Option<ApiResource>,
    pub narrow: fn(Raw) -> Result<T, String>,
}

impl<T> Watch<T> {
    /// All objects of the kind.
    pub fn all(api: Api<DynamicObject>, kind: Kind, narrow: fn(Raw) -> Result<T, String>) -> Self {
        Self {
            api,
            kind,
            config: watcher::Config::default().timeout(IDLE_SECONDS),
            metadata_only: None,
            narrow,
        }
    }

    /// Nothing of the objects but their metadata.
    pub fn metadata_only(mut self, resource: ApiResource) -> Self {
        self.metadata_only = Some(resource);
        self
    }

    fn events(&self) -> BoxStream<'static, watcher::Result<Event<DynamicObject>>> {
        let (api, config) = (self.api.clone(), self.config.clone());
        let Some(resource) = &self.metadata_only else {
            return watcher::watcher(api, config).boxed();
        };
        let client = api.into_client();
        let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(client, resource);
        let events = watcher::watcher(api, config);
        events.map(|event| event.map(with_no_data)).boxed()
    }

    /// Only objects that carry the labels.
    pub fn labelled(mut self, labels: &str) -> Self {
        self.config = self.config.labels(labels);
        self
    }

    /// Only objects of these fields.
    pub fn with_fields(mut self, fields: &str) -> Self {
        self.config = self.config.fields(fields);
        self
    }

    /// Only the object of this name.
    pub fn named(self, name: &str) -> Self {
        self.with_fields(&format!("metadata.name={name}"))
    }

    /// Sends every change until `stop` or until nobody listens; `synced` hears whether the list is
    /// known, or why not.
    pub async fn run(
        self,
        out: mpsc::Sender<Change<T>>,
        synced: impl Fn(Kind, Option<&str>),
        stop: CancellationToken,
    ) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(15));
        let mut said = None;
        while !stop.is_cancelled() && !out.is_closed() {
            let until_lost = self.until_lost(&mut backoff, &mut said, &out, &synced);
            stop.run_until_cancelled(until_lost).await;
            stop.run_until_cancelled(sleep(backoff.pause())).await;
        }
    }

    /// Lists and watches until the list can't be had: then nothing of this watch can be resumed. `said`
    /// is why the last one could not: what stays as it was is one line in the log.
    async fn until_lost(
        &self,
        backoff: &mut Backoff,
        said: &mut Option<String>,
        out: &mpsc::Sender<Change<T>>,
        synced: &impl Fn(Kind, Option<&str>),
    ) {
        let mut events = self.events();
        let mut listing = Listing::default();
        while let Some(event) = events.next().await {
            let change = match event {
                Ok(event) => {
                    if !matches!(event, Event::Init) {
                        backoff.reset();
                    }
                    listing.step(self.kind, event, self.narrow)
                }
                Err(error) => match failure(self.kind, &error) {
                    Some(why) => {
                        if said.as_ref() != Some(&why) {
                            warn!(kind = self.kind.as_str(), "{why}");
                            *said = Some(why.clone());
                        }
                        synced(self.kind, Some(&why));
                        let _ = out.send(Change::Lost { why }).await;
                        return;
                    }
                    None => {
                        sleep(backoff.pause()).await;
                        None
                    }
                },
            };
            let complete = matches!(change, Some(Change::Reset { .. }));
            if let Some(change) = change
                && out.send(change).await.is_err()
            {
                return;
            }
            if complete {
                *said = None;
                synced(self.kind, None);
            }
        }
    }
}

fn with_no_data(event: Event<PartialObjectMeta<DynamicObject>>) -> Event<DynamicObject> {
    let object = |object: PartialObjectMeta<DynamicObject>| DynamicObject {
        types: object.types,
        metadata: object.metadata,
        data: Value::Null,
    };
    match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(partial) => Event::InitApply(object(partial)),
        Event::Apply(partial) => Event::Apply(object(partial)),
        Event::Delete(partial) => Event::Delete(object(partial)),
    }
}

/// A failed watch is resumed; only when the list can't be had, or the kind is gone (then a resumed
/// watch would miss what vanished with it), is anything unknown: then it says why.
fn failure(kind: Kind, error: &watcher::Error) -> Option<String> {
    let why = explain(kind, error);
    let lost = match error {
        watcher::Error::InitialListFailed(_) => true,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    };
    if lost {
        return Some(why);
    }
    info!(kind = kind.as_str(), "{why}; resuming");
    None
}

/// Between `Init` and `InitDone`, the list so far.
struct Listing<T> {
    objects: BTreeMap<ObjectKey, T>,
    malformed: Vec<Malformed>,
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            malformed: Vec::new(),
        }
    }
}

impl<T> Listing<T> {
    fn step(
        &mut self,
        kind: Kind,
        event: Event<DynamicObject>,
        narrow: fn(Raw) -> Result<T, String>,
    ) -> Option<Change<T>> {
        match event {
            Event::Init => {
                self.objects.clear();
                self.malformed.clear();
                None
            }
            Event::InitApply(object) => {
                match read(kind, object, narrow) {
                    Ok((key, object)) => {
                        self.objects.insert(key, object);
                    }
                    Err(malformed) => self.malformed.push(*malformed),
                }
                None
            }
            Event::InitDone => {
                debug!(kind = kind.as_str(), objects = self.objects.len(), "synced");
                Some(Change::Reset {
                    objects: std::mem::take(&mut self.objects),
                    malformed: std::mem::take(&mut self.malformed),
                })
            }
            Event::Apply(object) => Some(match read(kind, object, narrow) {
                Ok((key, object)) => Change::Apply(key, object),
                Err(malformed) => Change::Malformed(*malformed),
            }),
            Event::Delete(object) => Some(Change::Delete(key_of(&object.metadata))),
        }
    }
}

fn read<T>(
    kind: Kind,
    object: DynamicObject,
    narrow: fn(Raw) -> Result<T, String>,
) -> Result<(ObjectKey, T), Box<Malformed>> {
    let key = key_of(&object.metadata);
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let generation = object.metadata.generation.unwrap_or_default();
    let resource_version = object.metadata.resource_version.clone().unwrap_or_default();
    let status = object.data.get("status").cloned();
    narrow(Raw {
        metadata: object.metadata,
        data: object.data,
    })
    .map(|narrowed| (key.clone(), narrowed))
    .map_err(|why| {
        warn!(
            kind = kind.as_str(),
            object = %key,
            "this object is skipped, and what was known of it stays in force: {why}"
        );
        Box::new(Malformed {
            key,
            uid,
            generation,
            resource_version,
            status,
            why,
        })
    })
}

/// What a person does about it.
fn explain(kind: Kind, error: &watcher::Error) -> String {
    let elsewhere = matches!(kind, Kind::Service | Kind::EndpointSlice);
    let kind = kind.as_str();
    if let watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status)) = error
    {
        match status.code {
            404 => {
                return format!(
                    "the API server does not know the kind {kind}: install Seawall's CustomResourceDefinitions (chart seawall-crds, or `seawall crds | kubectl apply -f -`); until then nothing is changed"
                );
            }
            401 => {
                return format!(
                    "the API server does not accept the operator's credentials for {kind}: check its ServiceAccount token or kubeconfig"
                );
            }
            403 if elsewhere => {
                return format!(
                    "the operator may not list and watch {kind} where the API server or the cluster's DNS is: bind the chart's Roles seawall-api-server and seawall-cluster-dns, or name the addresses with --protected ({})",
                    status.message
                );
            }
            403 => {
                return format!(
                    "the operator may not list and watch {kind}: bind the chart's ClusterRole `seawall` to its ServiceAccount ({})",
                    status.message
                );
            }
            _ => {}
        }
    }
    format!("the watch of {kind} failed: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(name: &str, value: serde_json::Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "seawall.dev/v1alpha1", "kind": "Policy",
            "metadata": {"namespace": "plant", "name": name, "uid": name, "generation": 1},
            "spec": value,
        }))
        .expect("an object")
    }

    fn a_number(raw: Raw) -> Result<i64, String> {
        raw.data["spec"].as_i64().ok_or("not a number".to_owned())
    }

    fn step(listing: &mut Listing<i64>, event: Event<DynamicObject>) -> Option<Change<i64>> {
        listing.step(Kind::Policy, event, a_number)
    }

    #[test]
    fn a_list_is_passed_on_only_when_it_is_complete_and_tells_what_it_could_not_read() {
        let mut listing = Listing::default();
        assert!(step(&mut listing, Event::Init).is_none());
        assert!(step(&mut listing, Event::InitApply(object("a", json!(1)))).is_none());
        assert!(step(&mut listing, Event::InitApply(object("b", json!("x")))).is_none());
        let Some(Change::Reset { objects, malformed }) = step(&mut listing, Event::InitDone) else {
            panic!("the end of the list is a reset");
        };
        assert_eq!(objects, [(ObjectKey::new("plant", "a"), 1)].into());
        assert_eq!(malformed[0].key, ObjectKey::new("plant", "b"));
    }

    #[test]
    fn a_list_that_broke_off_leaves_nothing_behind_in_the_next() {
        let mut listing = Listing::default();
        step(&mut listing, Event::Init);
        step(&mut listing, Event::InitApply(object("a", json!(1))));
        step(&mut listing, Event::Init);
        let Some(Change::Reset { objects, .. }) = step(&mut listing, Event::InitDone) else {
            panic!("the end of the list is a reset");
        };
        assert!(objects.is_empty());
    }

    #[test]
    fn a_malformed_object_does_not_end_the_watch() {
        let mut listing = Listing::default();
        let change = step(
            &mut listing,
            Event::Apply(object("a", json!({"no": "number"}))),
        );
        assert!(matches!(change, Some(Change::Malformed(_))));
        let change = step(&mut listing, Event::Apply(object("a", json!(2))));
        assert!(matches!(change, Some(Change::Apply(_, 2))));
    }

    #[test]
    fn a_missing_kind_is_lost_and_a_broken_watch_is_not() {
        let missing = || {
            kube::Error::Api(Box::new(kube::core::Status {
                code: 404,
                ..kube::core::Status::default()
            }))
        };
        for error in [
            watcher::Error::InitialListFailed(missing()),
            watcher::Error::WatchStartFailed(missing()),
        ] {
            let why = failure(Kind::Policy, &error).expect("a list that can't be had is lost");
            assert!(why.contains("CustomResourceDefinitions"), "{why}");
        }
        let gone = watcher::Error::WatchError(Box::new(kube::core::Status {
            code: 410,
            ..kube::core::Status::default()
        }));
        assert!(failure(Kind::Policy, &gone).is_none());
    }
}
