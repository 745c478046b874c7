use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::api::{ApiKeyScopeSpec, Subjects, WorkloadSelector, WorkloadTarget};
use crate::domain::cluster::{Node, Pod};
use crate::domain::compile::properties::{SYSTEM, id, now, second, world};
use crate::domain::world::{Device, Resource};

const NODES: [&str; 2] = ["worker-1", "worker-2"];

/// Pods of both tenants on nodes of which one has an agent.
fn pods() -> impl Strategy<Value = BTreeMap<ObjectKey, Pod>> {
    let key = ("(harbour|plant)", "[a-d]").prop_map(|(ns, name)| ObjectKey::new(ns, name));
    let pod = ("[ab]", 0usize..2, 1u8..9).prop_map(|(app, node, address)| Pod {
        uid: format!("{app}-{node}-{address}"),
        labels: BTreeMap::from([("app".to_owned(), app)]),
        node: Some(NODES[node].to_owned()),
        addresses: BTreeSet::from([IpAddr::from([10, 1, 0, address])]),
        ..Pod::default()
    });
    prop::collection::btree_map(key, pod, 0..6)
}

/// Of all namespaces, for devices that may be another's, with keys that others may hold too.
fn scopes() -> impl Strategy<Value = BTreeMap<ObjectKey, Resource<ApiKeyScopeSpec>>> {
    let key = ("(harbour|plant|seawall-system)", "[ab]");
    let key = key.prop_map(|(ns, name)| ObjectKey::new(ns, name));
    let ids = prop::collection::vec((0u8..8).prop_map(|n| id(n).to_string()), 0..3);
    let scope = (ids, "[12]", any::<bool>()).prop_map(|(ids, hash, all)| {
        let spec = json!({"access": "Contain", "credentials": {"keyHashes": [hash]},
            "targets": {"devices": {"ids": ids, "all": all}}});
        resource(&hash, spec)
    });
    prop::collection::btree_map(key, scope, 0..4)
}

fn resource<Spec: DeserializeOwned>(uid: &str, spec: Value) -> Resource<Spec> {
    Resource {
        uid: uid.to_owned(),
        generation: 1,
        written_by: None,
        created: None,
        spec: serde_json::from_value(spec).expect("a spec"),
    }
}

fn labelled(app: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some(BTreeMap::from([("app".to_owned(), app.to_owned())])),
        match_expressions: None,
    }
}

/// With a node's device, pods, and every other resource about pods.
fn full() -> impl Strategy<Value = World> {
    let of_cluster = (prop::bool::weighted(0.2), any::<[bool; 2]>());
    (world(), pods(), scopes(), of_cluster).prop_map(
        |(mut world, pods, scopes, (system, agents))| {
            world.pods = pods.into();
            world.scopes = scopes.into();
            for (number, node) in (100..).zip(NODES) {
                let agent = Device {
                    tenant: SYSTEM.to_owned(),
                    node: Some(node.to_owned()),
                    ..Device::default()
                };
                if agents[usize::from(number - 100u8)] {
                    world.devices.insert(id(number), agent);
                    world.nodes.insert(node.to_owned(), Node::default());
                }
            }
            for (key, policy) in all(&world.policies) {
                if ["a", "b"].contains(&&*key.name) {
                    let mut policy = policy;
                    let pod_selector = labelled(&key.name);
                    policy.spec.subjects = Subjects {
                        workloads: Some(WorkloadSelector { pod_selector }),
                        ..Subjects::default()
                    };
                    world.policies.insert(key, policy);
                }
            }
            for (key, isolation) in all(&world.isolations) {
                if key.name == "a" {
                    let mut isolation = isolation;
                    isolation.spec.target.device = None;
                    isolation.spec.target.workload = Some(WorkloadTarget {
                        pod: None,
                        pod_selector: Some(labelled("a")),
                    });
                    world.isolations.insert(key, isolation);
                }
            }
            if !system {
                without_system(&mut world);
            }
            world
        },
    )
}

fn all<K: Clone + Ord, V: Clone>(facts: &BTreeMap<K, V>) -> Vec<(K, V)> {
    let facts = facts.iter();
    facts.map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn without_system(world: &mut World) {
    world.policies.retain(|key, _| key.namespace != SYSTEM);
    world.isolations.retain(|key, _| key.namespace != SYSTEM);
    world.held.retain(|_, held| held.key.namespace != SYSTEM);
}

/// One fact of a kind becomes as it is in the other World, or goes where it isn't there.
fn change(world: &mut World, other: &World, kind: u8, which: usize) {
    macro_rules! change {
        ($facts:ident) => {{
            let keys: BTreeSet<_> = world.$facts.keys().chain(other.$facts.keys()).collect();
            let Some(key) = keys
                .iter()
                .nth(which % keys.len().max(1))
                .map(|k| (*k).clone())
            else {
                return;
            };
            match other.$facts.get(&key) {
                Some(fact) => drop(world.$facts.insert(key, fact.clone())),
                None => drop(world.$facts.remove(&key)),
            }
        }};
    }
    match kind {
        0 => change!(policies),
        1 => change!(isolations),
        2 => change!(devices),
        3 => change!(pods),
        4 => change!(held),
        5 => change!(scopes),
        _ => change!(nodes),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn step_by_step_it_is_what_the_whole_would_be(
        mut world in full(),
        other in full(),
        steps in prop::collection::vec((0u8..7, 0usize..16, 0i64..8), 1..12),
    ) {
        let mut compiler = Compiler::default();
        compiler.compile(&mut world, now());
        for (kind, which, later) in steps {
            change(&mut world, &other, kind, which);
            let at = now() + jiff::SignedDuration::from_secs(later * 10);
            let step = compiler.compile(&mut world, at);
            let whole = compile(&world, at);
            prop_assert_eq!(&step.enforcement, &whole.enforcement);
            prop_assert_eq!(&step.verdicts, &whole.verdicts);
            // It may wake for what is gone, and never too late.
            let woken = whole.wake_at.is_none_or(|whole| step.wake_at.is_some_and(|at| at <= whole));
            prop_assert!(woken, "{:?} and {:?}", step.wake_at, whole.wake_at);
        }
    }
}

/// A change costs its tenant: the others' states are the same in memory.
#[test]
fn a_change_leaves_other_tenants_states_as_they_are() {
    let mut world = World::default();
    world.settings.system_namespace = SYSTEM.to_owned();
    for (number, tenant) in ["harbour", "plant"].into_iter().enumerate() {
        let device = Device {
            tenant: tenant.to_owned(),
            addresses: BTreeMap::from([(IpAddr::from([10, 0, 0, number as u8 + 1]), second(0))]),
            ..Device::default()
        };
        world.devices.insert(id(number as u8), device);
    }
    let mut compiler = Compiler::default();
    let before = compiler.compile(&mut world, now());
    let mut moved = world.devices[&id(0)].clone();
    moved.addresses.clear();
    world.devices.insert(id(0), moved);
    let after = compiler.compile(&mut world, now());
    for number in 0..2 {
        let of = |compiled: &Compiled| Arc::clone(&compiled.enforcement.devices[&id(number)]);
        assert!(Arc::ptr_eq(&of(&before), &of(&after)), "{number}");
    }
    assert_eq!(compiler.last.map(|last| last.compiled), Some(after));
}

/// A scope of the system namespace that names a tenant's device is refused, and must not have the nodes'
/// devices compiled for that namespace alone.
#[test]
fn nodes_keep_every_tenants_pods_when_a_device_goes_that_the_system_names() {
    let mut world = World::default();
    world.settings.system_namespace = SYSTEM.to_owned();
    let device = |tenant: &str, node: Option<&str>| Device {
        tenant: tenant.to_owned(),
        node: node.map(str::to_owned),
        ..Device::default()
    };
    world.devices.insert(id(0), device("plant", None));
    world
        .devices
        .insert(id(100), device(SYSTEM, Some(NODES[0])));
    let pod = Pod {
        node: Some(NODES[0].to_owned()),
        addresses: BTreeSet::from([IpAddr::from([10, 1, 0, 1])]),
        ..Pod::default()
    };
    world.pods.insert(ObjectKey::new("harbour", "web"), pod);
    let spec = json!({"target": {"workload": {"pod": "web"}}, "reason": "beaconing"});
    let isolation = resource("1", spec);
    world
        .isolations
        .insert(ObjectKey::new("harbour", "cut"), isolation);
    let spec = json!({"access": "Contain", "targets": {"devices": {"ids": [id(0)]}}});
    let scope = resource("2", spec);
    world.scopes.insert(ObjectKey::new(SYSTEM, "bot"), scope);
    let mut compiler = Compiler::default();
    let wards = |compiled: &Compiled| compiled.enforcement.devices[&id(100)].wards.len();
    assert_eq!(wards(&compiler.compile(&mut world, now())), 1);
    world.devices.remove(&id(0));
    assert_eq!(wards(&compiler.compile(&mut world, now())), 1);
}
