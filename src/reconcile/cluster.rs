//! Facts about the cluster as the watches tell of them. Pods change all the time: what changes no fact
//! says so, and the loop does not turn for it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;

use anyhow::{Context, Result};
use tokio::sync::mpsc;

use crate::domain::cluster::{Namespace, Node, OthersPolicy, Pod, ReplicaSet};
use crate::domain::facts::{Facts, OfTenant};
use crate::domain::names::ObjectKey;
use crate::domain::world::World;
use crate::watch::{Change, Kind};

/// None of an object that is no fact, such as a pod that is finished.
type Changes<T> = mpsc::Receiver<Change<Option<T>>>;

/// Where the facts come from.
pub struct ClusterWatches {
    pub pods: Changes<Pod>,
    pub namespaces: Changes<Namespace>,
    pub nodes: Changes<Node>,
    pub others_policies: Changes<OthersPolicy>,
    /// None where nothing depends on them.
    pub replica_sets: Option<Changes<ReplicaSet>>,
}

pub enum ClusterChange {
    Pod(Change<Option<Pod>>),
    Namespace(Change<Option<Namespace>>),
    Node(Change<Option<Node>>),
    OthersPolicy(Change<Option<OthersPolicy>>),
    ReplicaSet(Change<Option<ReplicaSet>>),
}

impl ClusterWatches {
    /// Fails when a watch ended.
    pub async fn next(&mut self) -> Result<ClusterChange> {
        let replica_sets = async {
            match &mut self.replica_sets {
                Some(replica_sets) => replica_sets.recv().await,
                None => pending().await,
            }
        };
        let change = tokio::select! {
            change = self.pods.recv() => change.map(ClusterChange::Pod),
            change = self.namespaces.recv() => change.map(ClusterChange::Namespace),
            change = self.nodes.recv() => change.map(ClusterChange::Node),
            change = self.others_policies.recv() => change.map(ClusterChange::OthersPolicy),
            change = replica_sets => change.map(ClusterChange::ReplicaSet),
        };
        change.context("a watch ended")
    }

    /// What is there already.
    pub fn try_next(&mut self) -> Option<ClusterChange> {
        let change = self.pods.try_recv().map(ClusterChange::Pod);
        change
            .or_else(|_| self.namespaces.try_recv().map(ClusterChange::Namespace))
            .or_else(|_| self.nodes.try_recv().map(ClusterChange::Node))
            .or_else(|_| {
                let policies = &mut self.others_policies;
                policies.try_recv().map(ClusterChange::OthersPolicy)
            })
            .ok()
            .or_else(|| {
                let sets = self.replica_sets.as_mut()?.try_recv().ok()?;
                Some(ClusterChange::ReplicaSet(sets))
            })
    }
}

/// How far each list is known, beside the World, which has the facts.
#[derive(Debug, Default)]
pub struct Cluster {
    pods: Listed,
    namespaces: Listed,
    nodes: Listed,
    others_policies: Listed,
    /// None where they are not watched. That they can't be had stops nothing but what depends on them.
    replica_sets: Option<Listed>,
}

impl Cluster {
    pub fn of(watches: &ClusterWatches) -> Self {
        Self {
            replica_sets: watches.replica_sets.as_ref().map(|_| Listed::default()),
            ..Self::default()
        }
    }

    /// Brings the World up to date; whether anything in it, or whether it is known, is different now.
    pub fn take(&mut self, world: &mut World, change: ClusterChange) -> bool {
        let name = |key: ObjectKey| key.name;
        match change {
            ClusterChange::Pod(change) => self.pods.take(&mut world.pods, |key| key, change),
            ClusterChange::Namespace(change) => {
                self.namespaces.take(&mut world.namespaces, name, change)
            }
            ClusterChange::Node(change) => self.nodes.take(&mut world.nodes, name, change),
            ClusterChange::OthersPolicy(change) => {
                self.others_policies
                    .take(&mut world.others_policies, |key| key, change)
            }
            ClusterChange::ReplicaSet(change) => {
                let listed = self.replica_sets.get_or_insert_default();
                let first = matches!(change, Change::Lost { .. })
                    && !std::mem::replace(&mut listed.read, true);
                listed.take(&mut world.replica_sets, |key| key, change) | first
            }
        }
    }

    /// Whether every list was read once. A list that is lost later stays as it was last known.
    pub fn was_read(&self) -> bool {
        let all = [
            &self.pods,
            &self.namespaces,
            &self.nodes,
            &self.others_policies,
        ];
        let all = all.into_iter().chain(&self.replica_sets);
        all.into_iter().all(|listed| listed.read)
    }

    /// How many of each kind can't be read, and how many are in the World.
    pub fn counts(&self, world: &World) -> [(Kind, usize, usize); 5] {
        let sets = self.replica_sets.as_ref();
        [
            (Kind::Pod, self.pods.malformed.len(), world.pods.len()),
            (
                Kind::Namespace,
                self.namespaces.malformed.len(),
                world.namespaces.len(),
            ),
            (Kind::Node, self.nodes.malformed.len(), world.nodes.len()),
            (
                Kind::OthersNetworkPolicy,
                self.others_policies.malformed.len(),
                world.others_policies.len(),
            ),
            (
                Kind::ReplicaSet,
                sets.map_or(0, |sets| sets.malformed.len()),
                world.replica_sets.len(),
            ),
        ]
    }
}

/// How far one list is known.
#[derive(Debug, Default)]
struct Listed {
    /// It was read at least once.
    read: bool,
    /// What can't be read, with its UID; what was known of it stays.
    malformed: BTreeMap<ObjectKey, String>,
}

trait Fact: PartialEq {
    /// Whether another object of this UID is not the one that the fact is of.
    fn is_not(&self, _uid: &str) -> bool {
        false
    }

    /// Takes over what is known of the same object from before and is told no more.
    fn follow(&mut self, _before: &Self) {}
}

impl Fact for Namespace {}
impl Fact for Node {}
impl Fact for OthersPolicy {}

impl Fact for ReplicaSet {
    fn is_not(&self, uid: &str) -> bool {
        self.uid != uid
    }
}

impl Fact for Pod {
    fn is_not(&self, uid: &str) -> bool {
        self.uid != uid
    }

    /// The kubelet forgets starts when a container is started again and again.
    fn follow(&mut self, before: &Self) {
        if before.uid == self.uid && before.started.is_some() {
            self.started = self.started.into_iter().chain(before.started).min();
        }
    }
}

impl Listed {
    fn take<K: Ord + Clone, T: Fact + OfTenant<K>>(
        &mut self,
        facts: &mut Facts<K, T>,
        named: impl Fn(ObjectKey) -> K,
        change: Change<Option<T>>,
    ) -> bool {
        match change {
            Change::Apply(key, fact) => {
                self.malformed.remove(&key);
                apply(facts, named(key), fact)
            }
            Change::Delete(key) => {
                self.malformed.remove(&key);
                facts.remove(&named(key)).is_some()
            }
            Change::Malformed(object) => {
                let gone = remove_if_replaced(facts, named(object.key.clone()), &object.uid);
                self.malformed.insert(object.key, object.uid);
                gone
            }
            Change::Reset { objects, malformed } => {
                self.malformed.clear();
                let malformed = malformed.into_iter().map(|object| (object.key, object.uid));
                self.malformed.extend(malformed);
                self.reset(facts, named, objects)
            }
            // Nothing is known to be gone.
            Change::Lost { .. } => false,
        }
    }

    /// The list is complete: exactly what is not in it is gone.
    fn reset<K: Ord + Clone, T: Fact + OfTenant<K>>(
        &mut self,
        facts: &mut Facts<K, T>,
        named: impl Fn(ObjectKey) -> K,
        objects: BTreeMap<ObjectKey, Option<T>>,
    ) -> bool {
        // Before the first list nothing was compiled, so even an empty one is news.
        let mut news = !std::mem::replace(&mut self.read, true);
        let mut vanished: BTreeSet<K> = facts.keys().cloned().collect();
        for (key, uid) in &self.malformed {
            news |= remove_if_replaced(facts, named(key.clone()), uid);
            vanished.remove(&named(key.clone()));
        }
        for (key, fact) in objects {
            let key = named(key);
            vanished.remove(&key);
            news |= apply(facts, key, fact);
        }
        facts.retain(|key, _| !vanished.contains(key)) || news
    }
}

fn apply<K: Ord + Clone, T: Fact + OfTenant<K>>(
    facts: &mut Facts<K, T>,
    key: K,
    fact: Option<T>,
) -> bool {
    let Some(mut fact) = fact else {
        return facts.remove(&key).is_some();
    };
    if let Some(known) = facts.get(&key) {
        fact.follow(known);
        if *known == fact {
            return false;
        }
    }
    facts.insert(key, fact);
    true
}

/// Another object under the name of one that is known means that the known one is gone.
fn remove_if_replaced<K: Ord + Clone, T: Fact + OfTenant<K>>(
    facts: &mut Facts<K, T>,
    key: K,
    uid: &str,
) -> bool {
    let replaced = facts.get(&key).is_some_and(|fact| fact.is_not(uid));
    replaced && facts.remove(&key).is_some()
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
