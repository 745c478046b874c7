use serde_json::{Value, json};

use super::*;
use crate::api::stamps;
use crate::domain::applied::{Datapath, WardApplied};
use crate::domain::compile::compile;
use crate::domain::enforcement::DeviceState;
use crate::domain::names::DeviceId;
use crate::domain::world::{Device, Resource, Settings, Stripping};

/// Node `node-1` has an agent, `node-2` has none; `shop/web-1` runs there. Isolations `web` of all web pods and
/// `web-0` are in force.
pub struct Cluster {
    pub world: World,
    pub compiled: Compiled,
    pub device: DeviceId,
}

pub fn cluster() -> Cluster {
    let mut world = World::new(Settings {
        system_namespace: "seawall-system".into(),
        ..Settings::default()
    });
    let device = DeviceId::from_ulid(ulid::Ulid::from_parts(1, 1));
    let agent = Device {
        tenant: "seawall-system".into(),
        node: Some("node-1".into()),
        ..Device::default()
    };
    world.devices.insert(device.clone(), agent);
    for (key, pod) in [
        (
            ("shop", "web-0"),
            json!({"node": "node-1", "labels": {"app": "web"}, "addresses": ["10.1.0.5"], "restartsWhenUnreachable": true, "controller": {"kind": "ReplicaSet", "name": "web"}}),
        ),
        (
            ("shop", "web-1"),
            json!({"node": "node-2", "labels": {"app": "web"}, "addresses": ["10.1.0.6"]}),
        ),
        (("shop", "web-2"), json!({"labels": {"app": "web"}})),
        (
            ("shop", "db-0"),
            json!({"node": "node-1", "labels": {"app": "db"}, "addresses": ["10.1.0.8"]}),
        ),
        (
            ("plant", "plc-0"),
            json!({"node": "node-1", "labels": {"app": "web"}, "addresses": ["10.1.0.9"]}),
        ),
    ] {
        let pod = serde_json::from_value(pod).expect("a pod");
        world.pods.insert(ObjectKey::new(key.0, key.1), pod);
    }
    for (namespace, name, workload) in [
        (
            "shop",
            "web",
            json!({"podSelector": {"matchLabels": {"app": "web"}}}),
        ),
        ("shop", "web-0", json!({"pod": "web-0"})),
        ("plant", "plc", json!({"pod": "plc-0"})),
    ] {
        let isolation = Resource {
            uid: format!("uid-{name}"),
            generation: 1,
            written_by: None,
            created: None,
            spec: serde_json::from_value(json!({"target": {"workload": workload}, "reason": "x"}))
                .expect("a spec"),
        };
        world
            .isolations
            .insert(ObjectKey::new(namespace, name), isolation);
    }
    let compiled = compile(&world, jiff::Timestamp::UNIX_EPOCH);
    Cluster {
        world,
        compiled,
        device,
    }
}

impl Cluster {
    /// What the node's agent has read back: all of it, or nothing.
    pub fn applied(&self, connected: bool, read_back: bool) -> Applied {
        let state: &DeviceState = &self.compiled.enforcement.devices[&self.device];
        let wards = match read_back {
            true => WardApplied::all(state),
            false => BTreeMap::new(),
        };
        let device = DeviceApplied {
            connected,
            wards: wards.into(),
            datapath: Datapath::Passes,
            ..DeviceApplied::default()
        };
        Applied {
            devices: [(self.device.clone(), device)].into(),
            ..Applied::default()
        }
    }

    fn standing(&self, applied: &Applied) -> PodsStanding {
        let key = ObjectKey::new("shop", "web");
        let verdict = &self.compiled.verdicts.isolations[&key];
        standing(&key, verdict, applied).expect("one of pods")
    }
}

fn said(standing: &PodsStanding) -> Vec<(&str, bool, &str)> {
    let pods = standing.pods.iter();
    pods.map(|it| (it.pod.as_str(), it.covered, it.why.as_str()))
        .collect()
}

const NO_AGENT: &str = "no agent runs on node node-2 of pod web-1";
const NOBODYS: &str = "no agent runs on node node-2 of pod web-1, and without one, a pod is cut off only if it is a Deployment's, for its replacement runs when it is deleted: nothing made web-1 that would replace it";

/// `shop/web-1` is of the Deployment `web`.
fn of_a_deployment() -> Cluster {
    let mut cluster = cluster();
    let set = json!({"uid": "rs", "deployment": "web"});
    let key = ObjectKey::new("shop", "web-5d9");
    let set = serde_json::from_value(set).expect("a ReplicaSet");
    cluster.world.replica_sets.insert(key, set);
    cluster.world.stripping = Stripping::From(jiff::Timestamp::UNIX_EPOCH);
    let web = ObjectKey::new("shop", "web-1");
    let pod = cluster.world.pods.get_mut(&web).expect("it runs");
    pod.uid = "u".into();
    let owner = json!({"kind": "ReplicaSet", "name": "web-5d9", "uid": "rs"});
    pod.controller = serde_json::from_value(owner).expect("a controller");
    cluster.compiled = compile(&cluster.world, jiff::Timestamp::UNIX_EPOCH);
    cluster
}

#[test]
fn a_pod_without_an_agent_is_covered_when_its_labels_are_gone_and_its_policy_is_stored() {
    let mut cluster = of_a_deployment();
    let mut applied = cluster.applied(true, true);
    let web = |cluster: &Cluster, applied: &Applied| {
        let standing = cluster.standing(applied);
        let mut pods = standing.pods.iter();
        let pod = pods.find(|pod| pod.pod == "web-1").expect("it is chosen");
        (
            pod.covered,
            pod.replaced_by.clone(),
            pod.why.clone(),
            standing.by_policy,
        )
    };
    let by = Some("web".to_owned());
    let waits = (false, by.clone(), TO_BE_STRIPPED.to_owned(), 0);
    assert_eq!(web(&cluster, &applied), waits);
    let key = ObjectKey::new("shop", "web-1");
    let pod = cluster.world.pods.get_mut(&key).expect("it runs");
    let mark =
        json!({"mark": {"pod": "u", "deployment": "web", "labels": pod.labels, "isolations": {}}});
    pod.stripped = serde_json::from_value(mark).expect("a mark");
    pod.labels = [(stamps::ISOLATED.to_owned(), "u".to_owned())].into();
    pod.controller = None;
    cluster.compiled = compile(&cluster.world, jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(web(&cluster, &applied), waits, "the policy is not stored");
    let policy = ObjectKey::new("shop", "seawall.isolated.u");
    applied.network_policies.insert(policy);
    let stored = (true, by.clone(), UNSEEN.to_owned(), 1);
    assert_eq!(web(&cluster, &applied), stored);
    let pods = of_tenant(
        &cluster.compiled,
        &BTreeMap::new(),
        &cluster.world,
        &applied,
        "shop",
    );
    let pod = pods
        .iter()
        .find(|pod| pod.name == "web-1")
        .expect("it is listed");
    assert_eq!((&pod.replaced_by, pod.labels["app"].as_str()), (&by, "web"));
    assert_eq!(pod.isolated_by, ["web"]);
}

#[test]
fn what_would_become_of_a_pod_without_an_agent_is_told_before() {
    let cluster = of_a_deployment();
    let key = ObjectKey::new("shop", "web");
    let verdict = &cluster.compiled.verdicts.isolations[&key];
    let would = would_stand(verdict, &cluster.applied(true, true)).expect("one of pods");
    let pod = would
        .pods
        .iter()
        .find(|pod| pod.pod == "web-1")
        .expect("it is chosen");
    assert!(
        pod.covered && pod.why.contains("release deletes it"),
        "{pod:?}"
    );
    assert_eq!(
        (pod.replaced_by.as_deref(), would.by_policy),
        (Some("web"), 1)
    );
}

#[test]
fn each_pod_of_an_isolation_is_covered_or_says_what_is_missing() {
    let cluster = cluster();
    let standing = cluster.standing(&cluster.applied(true, true));
    let expected = [
        ("web-1", false, NOBODYS),
        ("web-2", false, NO_ADDRESS),
        ("web-0", true, ""),
    ];
    assert_eq!(said(&standing), expected);
    assert_eq!(
        (standing.chosen, standing.covered, standing.left_out),
        (3, 1, 0)
    );
    assert_eq!(standing.evidence_at_risk, ["web-0"]);
    for (connected, read_back, covered, why) in [
        (true, false, false, WAITING),
        (false, false, false, OFFLINE),
        (false, true, true, UNWATCHED),
    ] {
        let standing = cluster.standing(&cluster.applied(connected, read_back));
        assert!(
            said(&standing).contains(&("web-0", covered, why)),
            "{standing:?}"
        );
    }
    let mut bypassed = cluster.applied(true, true);
    for device in bypassed.devices.values_mut() {
        device.datapath = Datapath::Bypasses;
    }
    let standing = cluster.standing(&bypassed);
    assert!(said(&standing).contains(&("web-0", false, BYPASSED)));
    assert_eq!(standing.covered, 0);
}

#[test]
fn before_it_is_written_a_pod_counts_when_its_nodes_agent_is_connected() {
    let cluster = cluster();
    let verdict = &cluster.compiled.verdicts.isolations[&ObjectKey::new("shop", "web")];
    for (connected, covered) in [(true, 1), (false, 0)] {
        let would = would_stand(verdict, &cluster.applied(connected, false));
        assert_eq!(would.map(|would| would.covered), Some(covered));
    }
    let of_a_device = IsolationVerdict::default();
    assert_eq!(would_stand(&of_a_device, &Applied::default()), None);
}

#[test]
fn many_pods_are_named_in_part_those_that_are_not_covered_first() {
    let mut verdict = IsolationVerdict {
        workloads: Some(Workloads::default()),
        ..IsolationVerdict::default()
    };
    let workloads = verdict.workloads.get_or_insert_default();
    for number in 0..200 {
        let pod = ObjectKey::new("shop", format!("web-{number:03}"));
        workloads.without_address.insert(pod);
    }
    let would = would_stand(&verdict, &Applied::default()).expect("one of pods");
    assert_eq!(
        (would.chosen, would.pods.len(), would.left_out),
        (200, MOST, 200 - MOST)
    );
}

fn listed(holds: Value) -> Vec<WorkloadView> {
    let cluster = cluster();
    let holds = serde_json::from_value(holds).expect("holds");
    let applied = cluster.applied(true, true);
    of_tenant(&cluster.compiled, &holds, &cluster.world, &applied, "shop")
}

#[test]
fn a_tenants_pods_are_listed_and_no_others_with_who_covers_and_isolates_them() {
    let pods = listed(json!({"uid-web": "hold-1"}));
    let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(names, ["db-0", "web-0", "web-1", "web-2"]);
    let web = &pods[1];
    assert!(web.covered && web.obstacle.is_empty(), "{web:?}");
    assert_eq!(web.isolated_by, ["web", "web-0"]);
    assert_eq!(web.controller.as_deref(), Some("ReplicaSet/web"));
    let held: Vec<&str> = web.held.iter().map(|it| it.isolation.as_str()).collect();
    assert_eq!(held, ["web"]);
    assert!(pods[0].covered && pods[0].isolated_by.is_empty());
    assert!(!pods[2].covered);
    assert_eq!(pods[2].obstacle, NO_AGENT);
    assert_eq!(pods[2].isolated_by, ["web"]);
    assert_eq!(pods[3].obstacle, "it has no address yet");
}
