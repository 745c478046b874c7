//! Starts watches, each with the task that narrows and passes on what it sees, and the appliers that
//! have a watch of their own.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

use super::Operator;
use crate::admission;
use crate::api::stamps;
use crate::enforce::holds::{StoredHolds, stored as stored_holds};
use crate::enforce::owned::{Applier, Owned, Placed, Wanted, stored};
use crate::metrics::KindLabel;
use crate::reconcile::holds::CONFIG_MAP;
use crate::watch::{Change, Kind, Raw, Watch, Watched, narrow};

/// Changes of one kind that wait for their reader.
const CHANGES: usize = 256;

impl Operator {
    /// The applier of one kind: where it hears what is wanted, and where it tells what is in place.
    pub(super) fn applier<K: Owned>(
        &mut self,
        name: &'static str,
        namespace: Option<&str>,
    ) -> (watch::Sender<Wanted<K>>, watch::Receiver<Placed>) {
        let ours = format!("{}={}", stamps::MANAGED_BY, stamps::MANAGED_BY_SEAWALL);
        let objects = api(&self.client, &K::resource(), namespace);
        let watch = Watch::all(objects, K::KIND, stored::<K>).labelled(&ours);
        let (wanted, wanted_latest) = watch::channel(None);
        let (placed, placed_latest) = watch::channel(Placed::default());
        let applier = Applier::<K> {
            client: self.client.clone(),
            wanted: wanted_latest,
            changes: self.spawn_watch(watch),
            mandate: self.mandate.clone(),
            placed,
        };
        self.tasks.spawn(name, applier.run(self.stop.clone()));
        (wanted, placed_latest)
    }

    /// Watches one of our kinds in every namespace, and has the observer see each change first.
    pub(super) fn watch_observed<K, Spec, Status>(
        &mut self,
        kind: Kind,
        observer: Option<&admission::Observer>,
    ) -> mpsc::Receiver<Change<Watched<Spec, Status>>>
    where
        K: kube::Resource<DynamicType = ()>,
        Spec: Serialize + DeserializeOwned + Send + 'static,
        Status: DeserializeOwned + Send + 'static,
    {
        let changes = self.watch_all::<K, _>(kind, narrow);
        let Some(observer) = observer else {
            return changes;
        };
        let (out, observed) = mpsc::channel(CHANGES);
        let observing = admission::observed(kind, changes, out, observer.clone());
        self.tasks.spawn("the observer of changes", async move {
            observing.await;
            Ok(())
        });
        observed
    }

    /// Watches one of our kinds in every namespace.
    fn watch_all<K, T>(
        &mut self,
        kind: Kind,
        narrow: fn(Raw) -> Result<T, String>,
    ) -> mpsc::Receiver<Change<T>>
    where
        K: kube::Resource<DynamicType = ()>,
        T: Send + 'static,
    {
        let objects = api(&self.client, &ApiResource::erase::<K>(&()), None);
        self.spawn_watch(Watch::all(objects, kind, narrow))
    }

    /// Starts a watch; until its first list is read, the process is not ready.
    fn spawn_watch<T: Send + 'static>(&mut self, watch: Watch<T>) -> mpsc::Receiver<Change<T>> {
        let (out, changes) = mpsc::channel(CHANGES);
        let (health, metrics) = (self.health.clone(), self.metrics.clone());
        let synced = move |kind: Kind, why_not: Option<&str>| {
            let kind = kind.as_str();
            health.send_modify(|health| match why_not {
                Some(why) => {
                    health.waiting_for.insert(kind, why.to_owned());
                }
                None => {
                    health.waiting_for.remove(kind);
                }
            });
            let synced = metrics.watch_synced.get_or_create(&KindLabel { kind });
            synced.set(i64::from(why_not.is_none()));
        };
        synced(watch.kind, Some("its list is not read yet"));
        let stop = self.stop.clone();
        self.tasks.spawn("a watch", async move {
            watch.run(out, synced, stop).await;
            Ok(())
        });
        changes
    }

    /// Watches the list of holds.
    pub(super) fn watch_holds(&mut self) -> mpsc::Receiver<Change<StoredHolds>> {
        let namespace = Some(self.args.system_namespace.as_str());
        let maps = api(
            &self.client,
            &ApiResource::erase::<ConfigMap>(&()),
            namespace,
        );
        self.spawn_watch(Watch::all(maps, Kind::Holds, stored_holds).named(CONFIG_MAP))
    }
}

fn api(client: &Client, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}
