use jiff::Timestamp;

use super::*;
use crate::watch::Malformed;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("plant", name)
}

fn pod(uid: &str, started: i64) -> Pod {
    Pod {
        uid: uid.to_owned(),
        started: Timestamp::from_second(started).ok(),
        ..Pod::default()
    }
}

fn malformed(name: &str, uid: &str) -> Malformed {
    Malformed {
        key: key(name),
        uid: uid.to_owned(),
        generation: 0,
        resource_version: "9".to_owned(),
        status: None,
        why: "no".to_owned(),
    }
}

fn list(pods: &[(&str, Option<Pod>)], malformed: Vec<Malformed>) -> ClusterChange {
    let objects = pods.iter().map(|(name, pod)| (key(name), pod.clone()));
    ClusterChange::Pod(Change::Reset {
        objects: objects.collect(),
        malformed,
    })
}

fn apply(name: &str, pod: Option<Pod>) -> ClusterChange {
    ClusterChange::Pod(Change::Apply(key(name), pod))
}

/// A World that knows these pods, each with its name as its UID.
fn known(names: &[&str]) -> (Cluster, World) {
    let (mut cluster, mut world) = (Cluster::default(), World::default());
    let pods: Vec<_> = names.iter().map(|n| (*n, Some(pod(n, 5)))).collect();
    assert!(cluster.take(&mut world, list(&pods, Vec::new())));
    (cluster, world)
}

fn names(world: &World) -> Vec<&str> {
    world.pods.keys().map(|key| key.name.as_str()).collect()
}

#[test]
fn what_changes_no_fact_is_no_news() {
    let (mut cluster, mut world) = known(&["a", "b"]);
    assert!(!cluster.take(&mut world, apply("a", Some(pod("a", 5)))));
    let again = [("a", Some(pod("a", 5))), ("b", Some(pod("b", 5)))];
    assert!(!cluster.take(&mut world, list(&again, Vec::new())));
    assert!(!cluster.take(&mut world, apply("done", None)));
    let mut moved = pod("a", 5);
    moved.node = Some("worker-1".to_owned());
    assert!(cluster.take(&mut world, apply("a", Some(moved))));
}

#[test]
fn a_list_removes_exactly_what_vanished_and_what_is_finished() {
    let (mut cluster, mut world) = known(&["a", "b", "c", "d"]);
    let left = [("a", Some(pod("a", 5))), ("b", None)];
    assert!(cluster.take(&mut world, list(&left, vec![malformed("d", "d")])));
    assert_eq!(names(&world), ["a", "d"]);
    let gone = ClusterChange::Pod(Change::Delete(key("a")));
    assert!(cluster.take(&mut world, gone));
    assert!(cluster.take(&mut world, apply("d", None)));
    assert!(world.pods.is_empty());
}

#[test]
fn what_can_not_be_read_keeps_its_last_form_unless_it_is_another_object() {
    let (mut cluster, mut world) = known(&["a", "b"]);
    let spoilt = |name, uid| ClusterChange::Pod(Change::Malformed(malformed(name, uid)));
    assert!(!cluster.take(&mut world, spoilt("a", "a")));
    assert_eq!(names(&world), ["a", "b"]);
    assert_eq!(cluster.counts(&world)[0], (Kind::Pod, 1, 2));
    assert!(cluster.take(&mut world, spoilt("a", "another")));
    assert_eq!(names(&world), ["b"], "its address may be anybody's now");
    let listed = list(&[], vec![malformed("b", "another")]);
    assert!(cluster.take(&mut world, listed));
    assert!(world.pods.is_empty());
    cluster.take(&mut world, apply("b", Some(pod("another", 7))));
    assert_eq!(cluster.counts(&world)[0], (Kind::Pod, 0, 1));
}

#[test]
fn nothing_is_known_until_every_list_was_read_and_a_lost_one_stays_as_it_was() {
    let (mut cluster, mut world) = known(&["a"]);
    assert!(!cluster.was_read());
    let (objects, malformed) = (BTreeMap::new(), Vec::new());
    assert!(cluster.take(
        &mut world,
        ClusterChange::Namespace(Change::Reset { objects, malformed })
    ));
    let (objects, malformed) = (BTreeMap::new(), Vec::new());
    cluster.take(
        &mut world,
        ClusterChange::Node(Change::Reset { objects, malformed }),
    );
    assert!(!cluster.was_read(), "the NetworkPolicies are not known");
    let (objects, malformed) = (BTreeMap::new(), Vec::new());
    cluster.take(
        &mut world,
        ClusterChange::OthersPolicy(Change::Reset { objects, malformed }),
    );
    assert!(cluster.was_read());
    let why = "forbidden".to_owned();
    assert!(!cluster.take(&mut world, ClusterChange::Pod(Change::Lost { why })));
    assert!(cluster.was_read() && names(&world) == ["a"]);
}

#[test]
fn when_a_pod_began_is_remembered_as_long_as_it_is_the_same_pod() {
    let (mut cluster, mut world) = known(&["a"]);
    assert!(!cluster.take(&mut world, apply("a", Some(pod("a", 60)))));
    let mut unknown = pod("a", 0);
    unknown.started = None;
    assert!(!cluster.take(&mut world, apply("a", Some(unknown))));
    assert!(cluster.take(&mut world, apply("a", Some(pod("a", 2)))));
    assert!(cluster.take(&mut world, apply("a", Some(pod("new", 90)))));
    assert_eq!(
        world.pods[&key("a")].started,
        Timestamp::from_second(90).ok()
    );
}
