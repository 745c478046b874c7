//! Starts watches, each with the task that narrows and passes on what it sees, and the appliers that
//! have a watch of their own.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

use super::Operator;
use crate::admission;
use crate::api::stamps;
use crate::domain::cluster::ReplicaSet;
use crate::domain::enforcement::SuspendedUsers;
use crate::domain::names::ObjectKey;
use crate::domain::world::{Protected, Stripping};
use crate::enforce::holds::{StoredHolds, stored as stored_holds};
use crate::enforce::owned::{Applier, Owned, Placed, Wanted, stored};
use crate::enforce::suspended;
use crate::metrics::{KindLabel, PartKindLabel};
use crate::operator::pod_rights::PodRights;
use crate::operator::protected::{self, Addresses, Part, Protecting, Source};
use crate::reconcile::ClusterWatches;
use crate::reconcile::holds::CONFIG_MAP;
use crate::watch::{Change, Kind, Raw, Watch, Watched, cluster, narrow, pod};

/// Changes of one kind that wait for their reader.
const CHANGES: usize = 256;
/// Agents that run have enrolled within this of the operator's start: they try again every five minutes at
/// least. Labels that were taken are not given back.
const AGENTS_RETURN: SignedDuration = SignedDuration::from_secs(10 * 60);

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

    /// Watches what is in the cluster: pods that are not finished, where they run, and what others allow them.
    pub(super) fn watch_cluster(&mut self) -> ClusterWatches {
        let pods = api(&self.client, &ApiResource::erase::<Pod>(&()), None);
        let pods = Watch::all(pods, Kind::Pod, pod::pod).with_fields(pod::NOT_FINISHED);
        let without_agent = self.args.workloads_without_agent;
        ClusterWatches {
            pods: self.spawn_watch(pods),
            namespaces: self.watch_all::<Namespace, _>(Kind::Namespace, cluster::namespace),
            nodes: self.watch_all::<Node, _>(Kind::Node, cluster::node),
            others_policies: self
                .watch_all::<NetworkPolicy, _>(Kind::OthersNetworkPolicy, cluster::others_policy),
            replica_sets: without_agent.then(|| self.watch_replica_sets()),
        }
    }

    /// Watches what made pods. Where that can't be had, everything else goes on.
    fn watch_replica_sets(&mut self) -> mpsc::Receiver<Change<Option<ReplicaSet>>> {
        let resource = ApiResource::erase::<apps::ReplicaSet>(&());
        let sets = api(&self.client, &resource, None);
        let watch = Watch::all(sets, Kind::ReplicaSet, cluster::replica_set);
        let watch = watch.metadata_only(resource);
        let (out, changes) = mpsc::channel(CHANGES);
        let metrics = self.metrics.clone();
        let synced = move |kind: Kind, why_not: Option<&str>| {
            let kind = kind.as_str();
            let synced = metrics.watch_synced.get_or_create(&KindLabel { kind });
            synced.set(i64::from(why_not.is_none()));
        };
        synced(watch.kind, Some("its list is not read yet"));
        self.spawn_watching(watch, out, synced);
        changes
    }

    /// Whether pods may be cut off where no agent runs.
    pub(super) fn watch_pod_rights(&mut self) -> watch::Receiver<Option<Stripping>> {
        let (out, rights) = watch::channel(None);
        if !self.args.workloads_without_agent {
            out.send_replace(Some(Stripping::Off));
            let stop = self.stop.clone();
            // The loop ends when nobody can tell it of rights any more.
            self.tasks.spawn("the rights to pods", async move {
                stop.cancelled().await;
                drop(out);
                Ok(())
            });
            return rights;
        }
        // A store that was lost is no node without an agent: those that run enrol again.
        let returning = match self.args.node_service_account {
            Some(_) => AGENTS_RETURN,
            None => SignedDuration::ZERO,
        };
        let asking = PodRights {
            client: self.client.clone(),
            from: Timestamp::now() + returning,
            out,
        };
        self.tasks
            .spawn("the rights to pods", asking.run(self.stop.clone()));
        rights
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
        self.spawn_watching(watch, out, synced);
        changes
    }

    fn spawn_watching<T: Send + 'static>(
        &mut self,
        watch: Watch<T>,
        out: mpsc::Sender<Change<T>>,
        synced: impl Fn(Kind, Option<&str>) + Send + Sync + 'static,
    ) {
        let stop = self.stop.clone();
        self.tasks.spawn("a watch", async move {
            watch.run(out, synced, stop).await;
            Ok(())
        });
    }

    /// Watches where the API server and the cluster's DNS are. The loop waits for the first answers; a
    /// list that can't be had is one.
    pub(super) fn watch_protected(&mut self) -> watch::Receiver<Option<Vec<Protected>>> {
        let api_server = ObjectKey::new("default", "kubernetes");
        let dns = self.args.cluster_dns.clone();
        let of_dns = format!("kubernetes.io/service-name={}", dns.name);
        let sources = vec![
            self.spawn_protected(Part::ApiServer, services(&self.client, &api_server)),
            // The API server's own slice has the name of its Service, and the right is for that name.
            self.spawn_protected(
                Part::ApiServer,
                slices(&self.client, &api_server.namespace).named(&api_server.name),
            ),
            self.spawn_protected(Part::ClusterDns, services(&self.client, &dns)),
            self.spawn_protected(
                Part::ClusterDns,
                slices(&self.client, &dns.namespace).labelled(&of_dns),
            ),
        ];
        self.health.send_modify(|health| {
            let why = "it is not read yet where the API server and the cluster's DNS are";
            health
                .waiting_for
                .insert(protected::WAITED_FOR, why.to_owned());
        });
        let (out, protected) = watch::channel(None);
        let protecting = Protecting {
            given: self.args.protected.clone(),
            sources,
            metrics: self.metrics.clone(),
            health: self.health.clone(),
            out,
        };
        self.tasks
            .spawn("what is protected", protecting.run(self.stop.clone()));
        protected
    }

    fn spawn_protected(&mut self, part: Part, watch: Watch<Addresses>) -> Source {
        let (out, changes) = mpsc::channel(CHANGES);
        let read = self.metrics.protected_read.clone();
        let synced = move |kind: Kind, why_not: Option<&str>| {
            let label = PartKindLabel {
                part: part.label().part,
                kind: kind.as_str(),
            };
            read.get_or_create(&label).set(i64::from(why_not.is_none()));
        };
        synced(watch.kind, Some("its list is not read yet"));
        self.spawn_watching(watch, out, synced);
        Source { part, changes }
    }

    /// Watches the list of holds.
    pub(super) fn watch_holds(&mut self) -> mpsc::Receiver<Change<StoredHolds>> {
        let maps = self.config_maps();
        self.spawn_watch(Watch::all(maps, Kind::Holds, stored_holds).named(CONFIG_MAP))
    }

    /// Watches the list of the users whose writes are refused.
    pub(super) fn watch_suspended_users(&mut self) -> mpsc::Receiver<Change<SuspendedUsers>> {
        let maps = self.config_maps();
        let watch = Watch::all(maps, Kind::SuspendedUsers, suspended::stored);
        self.spawn_watch(watch.named(suspended::CONFIG_MAP))
    }

    /// Of the system namespace.
    fn config_maps(&self) -> Api<DynamicObject> {
        let namespace = Some(self.args.system_namespace.as_str());
        api(
            &self.client,
            &ApiResource::erase::<ConfigMap>(&()),
            namespace,
        )
    }
}

fn services(client: &Client, service: &ObjectKey) -> Watch<Addresses> {
    let resource = ApiResource::erase::<Service>(&());
    let objects = api(client, &resource, Some(&service.namespace));
    Watch::all(objects, Kind::Service, protected::of_service).named(&service.name)
}

fn slices(client: &Client, namespace: &str) -> Watch<Addresses> {
    let resource = ApiResource::erase::<EndpointSlice>(&());
    let objects = api(client, &resource, Some(namespace));
    Watch::all(objects, Kind::EndpointSlice, protected::of_slice)
}

fn api(client: &Client, resource: &ApiResource, namespace: Option<&str>) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}
