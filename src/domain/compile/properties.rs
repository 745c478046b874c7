//! What holds for every World, shown on many that nobody thought of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{Compiled, compile};
use crate::api::policy::{DefaultAction, Defaults};
use crate::api::{
    Action, ApiKeyScopeSpec, DeviceSelector, Direction, IsolationSpec, ManagementPath, Mode, Peers,
    PolicyRule, PolicySpec, PortRange, Protocol, Subjects, Target, TrustLevel,
};
use crate::domain::compile::management::{management, within};
use crate::domain::enforcement::ManagementRule;
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::verdict::Acceptance;
use crate::domain::world::{Device, HeldIsolation, Protected, Resource, Settings, World};

pub(super) const SYSTEM: &str = "seawall-system";
const NAMESPACES: [&str; 3] = ["harbour", "plant", SYSTEM];
const ADDRESSES: [&str; 8] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.3",
    "10.0.9.1",
    "10.96.0.1",
    "192.0.2.10",
    "fe80::1",
    "127.0.0.1",
];
const NETWORKS: [&str; 6] = [
    "10.0.0.0/24",
    "10.0.0.2/32",
    "10.0.9.0/24",
    "10.0.0.0/8",
    "192.0.2.0/24",
    "2001:db8::/32",
];

pub(super) fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

pub(super) fn now() -> Timestamp {
    second(1_000)
}

pub(super) fn id(n: u8) -> DeviceId {
    DeviceId::from_ulid(ulid::Ulid::from_parts(0, n.into()))
}

fn namespace() -> impl Strategy<Value = String> {
    prop::sample::select(&NAMESPACES[..]).prop_map(str::to_owned)
}

fn device() -> impl Strategy<Value = Device> {
    let addresses = prop::collection::btree_map(
        prop::sample::select(&ADDRESSES[..])
            .prop_map(|address| address.parse().expect("an address")),
        (0i64..900).prop_map(second),
        0..4,
    );
    let tags = prop::collection::btree_map("(kind|site)", "(camera|north)", 0..3);
    let trust = prop::sample::select(&[TrustLevel::Standard, TrustLevel::Untrusted][..]);
    (
        0usize..2,
        tags,
        trust,
        addresses,
        prop::option::of(prop::sample::select(&ADDRESSES[..])),
    )
        .prop_map(|(tenant, tags, trust, addresses, from)| Device {
            tenant: NAMESPACES[tenant].to_owned(),
            tags,
            trust,
            addresses,
            addresses_left_out: 0,
            connects_from: from.map(|from| from.parse().expect("an address")),
            node: None,
        })
}

fn port() -> impl Strategy<Value = PortRange> {
    let protocol = prop::sample::select(&[Protocol::Tcp, Protocol::Udp][..]);
    (protocol, prop::option::of((1i32..100, 0i32..20))).prop_map(|(protocol, port)| PortRange {
        protocol,
        port: port.map(|(first, _)| first),
        end_port: port.map(|(first, more)| first + more),
    })
}

fn network() -> impl Strategy<Value = String> {
    prop::sample::select(&NETWORKS[..]).prop_map(str::to_owned)
}

fn device_ids() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec((0u8..8).prop_map(|n| id(n).to_string()), 0..3)
}

fn selector() -> impl Strategy<Value = DeviceSelector> {
    let tags = prop::collection::btree_map("(kind|site)", "(camera|north)", 0..2);
    (device_ids(), tags).prop_map(|(ids, tags)| DeviceSelector {
        ids,
        tags,
        trust_levels: Vec::new(),
    })
}

fn end() -> impl Strategy<Value = Option<Timestamp>> {
    prop::option::of((900i64..1_100).prop_map(second))
}

fn isolation() -> impl Strategy<Value = IsolationSpec> {
    let ports = prop::collection::vec(port(), 0..3);
    let path = (network(), ports).prop_map(|(cidr, ports)| ManagementPath { cidr, ports });
    (0u8..8, prop::collection::vec(path, 0..3), end()).prop_map(
        |(device, management, expires_at)| IsolationSpec {
            target: Target {
                device: Some(id(device).to_string()),
                ..Target::default()
            },
            user_names: None,
            reason: "beaconing".to_owned(),
            management,
            incident: None,
            probes: Default::default(),
            expires_at,
        },
    )
}

fn rule() -> impl Strategy<Value = PolicyRule> {
    let peers = prop_oneof![
        Just(Peers {
            any: true,
            ..Peers::default()
        }),
        (
            prop::collection::vec(network(), 0..3),
            prop::option::of(selector())
        )
            .prop_map(|(cidrs, devices)| Peers {
                cidrs,
                devices,
                ..Peers::default()
            }),
    ];
    (
        "[a-d]",
        prop::sample::select(&[Direction::Egress, Direction::Ingress][..]),
        prop::sample::select(&[Action::Allow, Action::Deny, Action::Audit][..]),
        peers,
        prop::collection::vec(port(), 0..3),
    )
        .prop_map(|(name, direction, action, peers, ports)| PolicyRule {
            name,
            direction,
            action,
            peers,
            ports,
        })
}

fn policy() -> impl Strategy<Value = PolicySpec> {
    let action = || {
        let actions = prop::sample::select(&[DefaultAction::Allow, DefaultAction::Deny][..]);
        prop::option::of(actions)
    };
    let subjects = prop_oneof![
        Just(Subjects {
            all: true,
            ..Subjects::default()
        }),
        selector().prop_map(|devices| Subjects {
            devices: Some(devices),
            ..Subjects::default()
        }),
    ];
    (
        prop::bool::weighted(0.3),
        0i32..3,
        subjects,
        prop::collection::vec(rule(), 0..4),
        prop::option::of((action(), action())),
        end(),
    )
        .prop_map(
            |(observe, priority, subjects, rules, default, expires_at)| PolicySpec {
                description: String::new(),
                mode: if observe {
                    Mode::Observe
                } else {
                    Mode::Enforce
                },
                disabled: false,
                priority,
                subjects,
                rules,
                default: default.map(|(egress, ingress)| Defaults { egress, ingress }),
                expires_at,
            },
        )
}

fn listed<Spec: std::fmt::Debug>(
    spec: impl Strategy<Value = Spec>,
) -> impl Strategy<Value = BTreeMap<ObjectKey, Resource<Spec>>> {
    let resource = (namespace(), "[a-d]", prop::bool::weighted(0.2), spec);
    prop::collection::vec(resource, 0..5).prop_map(|resources| {
        let resources = resources.into_iter().enumerate();
        let resource =
            |(n, (namespace, name, agent, spec)): (usize, (String, String, bool, Spec))| {
                let resource = Resource {
                    uid: format!("{name}-{n}"),
                    generation: 1,
                    written_by: agent
                        .then(|| "system:serviceaccount:seawall-agents:plant.bot".to_owned()),
                    created: None,
                    spec,
                };
                (ObjectKey::new(namespace, name), resource)
            };
        resources.map(resource).collect()
    })
}

pub(super) fn world() -> impl Strategy<Value = World> {
    let devices = prop::collection::btree_map((0u8..8).prop_map(id), device(), 0..7);
    let held = prop::option::weighted(0.3, (namespace(), isolation()));
    (devices, listed(isolation()), listed(policy()), held).prop_map(
        |(devices, isolations, policies, held)| World {
            settings: Settings {
                system_namespace: SYSTEM.to_owned(),
                operator: ["192.0.2.10:7443".parse().expect("an address")].into(),
                protected: vec![Protected {
                    what: "the API server".to_owned(),
                    network: "10.96.0.1/32".parse().expect("a network"),
                }],
            },
            policies: policies.into(),
            isolations: isolations.into(),
            devices: devices.into(),
            held: held
                .into_iter()
                .map(|(namespace, spec)| {
                    let isolation = Resource {
                        uid: "gone".to_owned(),
                        generation: 1,
                        written_by: None,
                        created: None,
                        spec,
                    };
                    let key = ObjectKey::new(namespace, "gone");
                    ("gone".to_owned(), HeldIsolation { key, isolation })
                })
                .collect(),
            ..World::default()
        },
    )
}

/// The same World, with every list that means a set the other way round.
fn turned(mut world: World) -> World {
    let turn_selector = |selector: &mut DeviceSelector| selector.ids.reverse();
    for isolation in world.isolations.values_mut() {
        isolation.spec.management.reverse();
        for path in &mut isolation.spec.management {
            path.ports.reverse();
        }
    }
    for policy in world.policies.values_mut() {
        policy
            .spec
            .subjects
            .devices
            .iter_mut()
            .for_each(turn_selector);
        for rule in &mut policy.spec.rules {
            rule.peers.cidrs.reverse();
            rule.peers.devices.iter_mut().for_each(turn_selector);
            rule.ports.reverse();
        }
    }
    world
}

/// Every claim of the address, whoever makes it.
fn claimants(world: &World, address: IpAddr) -> usize {
    let devices = world.devices.values();
    devices
        .filter(|device| device.addresses.contains_key(&address))
        .count()
}

/// Whether an isolation of the device names a network that the address is in, from where the device does
/// not connect.
fn may_be_management(world: &World, device: &DeviceId, address: IpAddr) -> bool {
    let isolations = world.isolations.values().map(|isolation| &isolation.spec);
    let held = world.held.values().map(|held| &held.isolation.spec);
    world.devices[device].connects_from != Some(address)
        && isolations
            .chain(held)
            .filter(|spec| spec.target.device.as_deref() == Some(device.as_str()))
            .flat_map(|spec| management(&spec.management))
            .any(|rule| rule.network.contains(&address))
}

/// A device can't have the management host's packets dropped by claiming its address.
fn chosen_by_the_target(world: &World, compiled: &Compiled) -> bool {
    in_force(world, compiled).any(|(key, device, spec)| {
        let verdict = &compiled.verdicts.isolations[key];
        let alone = verdict.also_isolated_by.is_empty();
        let claimed = world.devices[device].addresses.keys();
        let mut claimed = claimed.filter(|address| {
            let in_network = |rule: &ManagementRule| rule.network.contains(*address);
            alone
                && claimants(world, **address) == 1
                && world.devices[device].connects_from != Some(**address)
                && management(&spec.management).iter().any(in_network)
        });
        claimed.any(|address| {
            let states = verdict
                .peers
                .iter()
                .map(|peer| &compiled.enforcement.devices[peer]);
            let mut dropped = states.map(|state| state.quarantined.contains(address));
            dropped.any(|dropped| dropped)
        })
    })
}

/// Each isolation in force, by its target and its key, with the paths that it names.
fn in_force<'w>(
    world: &'w World,
    compiled: &'w Compiled,
) -> impl Iterator<Item = (&'w ObjectKey, &'w DeviceId, &'w IsolationSpec)> {
    world.isolations.iter().filter_map(|(key, isolation)| {
        let verdict = &compiled.verdicts.isolations[key];
        let device = verdict.device.as_ref()?;
        (verdict.acceptance == Acceptance::Accepted).then_some((key, device, &isolation.spec))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_same_facts_in_another_order_come_to_the_same(world in world()) {
        let compiled = compile(&world, now());
        prop_assert_eq!(&compiled, &compile(&world, now()));
        prop_assert_eq!(compiled, compile(&turned(world), now()));
    }

    #[test]
    fn the_operator_is_reachable_in_every_state(world in world()) {
        let compiled = compile(&world, now());
        prop_assert_eq!(compiled.enforcement.devices.len(), world.devices.len());
        for state in compiled.enforcement.devices.values() {
            prop_assert_eq!(&state.operator, &world.settings.operator);
            prop_assert!(!state.quarantined.contains(&"192.0.2.10".parse::<IpAddr>().unwrap()));
            prop_assert!(!state.quarantined.contains(&"10.96.0.1".parse::<IpAddr>().unwrap()));
        }
    }

    #[test]
    fn an_isolated_device_is_cut_from_both_sides(world in world()) {
        let compiled = compile(&world, now());
        let states = &compiled.enforcement.devices;
        for (key, device, _) in in_force(&world, &compiled) {
            let verdict = &compiled.verdicts.isolations[key];
            prop_assert!(states[device].isolation.is_some());
            prop_assert!(!verdict.peers.contains(device));
            for (peer, facts) in &world.devices {
                let of_tenant = key.namespace == SYSTEM || facts.tenant == key.namespace;
                prop_assert_eq!(verdict.peers.contains(peer), of_tenant && peer != device);
            }
            let own = world.devices[device].addresses.keys();
            let free = own.filter(|address| claimants(&world, **address) == 1);
            for address in free.filter(|address| !address.is_loopback()) {
                let protected = ["192.0.2.10", "10.96.0.1"].contains(&address.to_string().as_str());
                let spared = may_be_management(&world, device, *address);
                for peer in &verdict.peers {
                    let dropped = states[peer].quarantined.contains(address);
                    prop_assert!(protected || spared || dropped);
                }
            }
        }
    }

    #[test]
    fn nobody_drops_an_address_that_it_claims_itself(world in world()) {
        let compiled = compile(&world, now());
        for (id, state) in &compiled.enforcement.devices {
            let own: BTreeSet<IpAddr> = world.devices[id].addresses.keys().copied().collect();
            prop_assert!(own.is_disjoint(&state.quarantined));
        }
    }

    #[test]
    fn the_target_does_not_choose_whose_management_ends(world in world()) {
        let compiled = compile(&world, now());
        prop_assert!(!chosen_by_the_target(&world, &compiled));
    }

    #[test]
    fn lifting_one_isolation_opens_no_more_than_the_others_allow(world in world()) {
        let before = compile(&world, now());
        for lifted in world.isolations.keys() {
            let mut after = world.clone();
            after.isolations.remove(lifted);
            let compiled = compile(&after, now());
            for (key, device, spec) in in_force(&after, &compiled) {
                let state = &compiled.enforcement.devices[device];
                let left = state.isolation.as_ref().expect("still isolated");
                prop_assert!(within(&left.management, &management(&spec.management)));
                for peer in &compiled.verdicts.isolations[key].peers {
                    let dropped = &compiled.enforcement.devices[peer].quarantined;
                    let mut own = world.devices[device].addresses.keys();
                    let was = &before.enforcement.devices[peer].quarantined;
                    let kept = own.all(|address| {
                        claimants(&world, *address) > 1
                            || was.contains(address) == dropped.contains(address)
                            || may_be_management(&after, device, *address)
                    });
                    prop_assert!(kept);
                }
            }
        }
    }

    #[test]
    fn what_a_tenant_writes_changes_nothing_on_another_tenants_devices(world in world()) {
        let compiled = compile(&world, now());
        let mut without = world.clone();
        without.policies.retain(|key, _| key.namespace != "plant");
        without.isolations.retain(|key, _| key.namespace != "plant");
        without.held.retain(|_, held| held.key.namespace != "plant");
        let without = compile(&without, now());
        for (id, device) in &world.devices {
            if device.tenant != "plant" {
                let (with, without) = (&compiled.enforcement, &without.enforcement);
                prop_assert_eq!(&with.devices[id], &without.devices[id]);
            }
        }
    }

    #[test]
    fn what_does_not_matter_leaves_every_hash_as_it_was(world in world()) {
        let compiled = compile(&world, now());
        let mut other = world.clone();
        for policy in other.policies.values_mut() {
            policy.spec.description = "for people".to_owned();
        }
        for isolation in other.isolations.values_mut() {
            isolation.spec.reason = "another".to_owned();
        }
        let spec: ApiKeyScopeSpec =
            serde_json::from_value(serde_json::json!({"access": "Manage"})).unwrap();
        let scope = Resource { uid: "s".to_owned(), generation: 1, written_by: None, created: None, spec };
        other.scopes.insert(ObjectKey::new("plant", "bot"), scope);
        let other = compile(&other, now());
        for (id, state) in &compiled.enforcement.devices {
            prop_assert_eq!(state.hash(), other.enforcement.devices[id].hash());
        }
    }

    #[test]
    fn nothing_changes_by_time_alone_before_it_is_time_to_look_again(world in world()) {
        let compiled = compile(&world, now());
        let long = now() + SignedDuration::from_secs(100_000);
        let last = compiled.wake_at.map_or(long, |at| at - SignedDuration::from_nanos(1));
        prop_assert_eq!(&compiled, &compile(&world, last));
        if let Some(at) = compiled.wake_at {
            prop_assert_ne!(&compiled, &compile(&world, at));
        }
    }
}
