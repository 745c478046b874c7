//! A World of the size that the custom resources are good for: 10,000 policies over 10,000 devices and
//! 10,000 pods, in a hundred tenants of the same shape. Generated, and always the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use seawall::api::{
    Action, Defaults, DeviceSelector, Direction, IsolationSpec, ManagementPath, Peers, PolicyRule,
    PolicySpec, PortRange, Protocol, Subjects, Target, WorkloadSelector,
};
use seawall::domain::cluster::{Namespace, Pod};
use seawall::domain::names::{DeviceId, ObjectKey};
use seawall::domain::world::{Device, Resource, Settings, World};
use serde_json::json;

pub const TENANTS: usize = 100;
/// In each tenant; ten of them carry the same tag or label, and half of the policies are for pods.
const EACH: usize = 100;
const ALIKE: usize = 10;
const PODS_A_NODE: usize = 50;

const SYSTEM: &str = "seawall-system";

/// The whole of it.
pub fn world() -> World {
    let mut world = World::new(Settings {
        system_namespace: SYSTEM.to_owned(),
        ..Settings::default()
    });
    for tenant in 0..TENANTS {
        let namespace = tenant_name(tenant);
        world
            .namespaces
            .insert(namespace.clone(), Namespace::default());
        for number in 0..EACH {
            let (id, device) = device(tenant, number);
            world.devices.insert(id, device);
            let name = format!("p{number:03}");
            let key = ObjectKey::new(&namespace, &name);
            world.pods.insert(key.clone(), pod(tenant, number));
            world
                .policies
                .insert(key, policy(tenant, number, "10.9.0.0/16"));
        }
    }
    for node in 0..TENANTS * EACH / PODS_A_NODE {
        let (id, device) = node_agent(node);
        world.devices.insert(id, device);
    }
    world
}

fn tenant_name(tenant: usize) -> String {
    format!("tenant-{tenant:03}")
}

/// The policy's key, and the policy with another network in its first rule.
pub fn changed_policy(
    tenant: usize,
    number: usize,
    cidr: &str,
) -> (ObjectKey, Resource<PolicySpec>) {
    let key = ObjectKey::new(tenant_name(tenant), format!("p{number:03}"));
    (key, policy(tenant, number, cidr))
}

/// An Isolation of one device of a tenant.
pub fn isolation(tenant: usize, number: usize) -> (ObjectKey, Resource<IsolationSpec>) {
    let (device, _) = device(tenant, number);
    let spec = IsolationSpec {
        target: Target {
            device: Some(device.to_string()),
            ..Target::default()
        },
        reason: "measured".to_owned(),
        management: vec![ManagementPath {
            cidr: "10.250.0.0/24".to_owned(),
            ports: vec![port(22)],
        }],
        ..serde_json::from_value(json!({"target": {}, "reason": ""})).expect("an Isolation's spec")
    };
    let key = ObjectKey::new(tenant_name(tenant), format!("i{number:03}"));
    (key, resource(1_000_000 + tenant * EACH + number, spec))
}

fn device(tenant: usize, number: usize) -> (DeviceId, Device) {
    let place = tenant * EACH + number;
    let device = Device {
        tenant: tenant_name(tenant),
        tags: BTreeMap::from([
            ("kind".to_owned(), format!("k{}", number / ALIKE)),
            ("site".to_owned(), format!("s{}", number % ALIKE)),
        ]),
        addresses: BTreeMap::from([(address(10, place), Timestamp::UNIX_EPOCH)]),
        ..Device::default()
    };
    (id(place), device)
}

fn node_agent(number: usize) -> (DeviceId, Device) {
    let device = Device {
        tenant: SYSTEM.to_owned(),
        addresses: BTreeMap::from([(address(172, number), Timestamp::UNIX_EPOCH)]),
        node: Some(node_name(number)),
        ..Device::default()
    };
    (id(TENANTS * EACH + number), device)
}

fn node_name(number: usize) -> String {
    format!("node-{number:03}")
}

fn id(number: usize) -> DeviceId {
    DeviceId::from_ulid(ulid::Ulid::from_parts(1, number as u128))
}

fn address(network: u8, place: usize) -> IpAddr {
    let [_, high, middle, low] = u32::try_from(place + 1).expect("small").to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(network, high.max(1), middle, low))
}

fn pod(tenant: usize, number: usize) -> Pod {
    let place = tenant * EACH + number;
    Pod {
        uid: format!("pod-{place}"),
        labels: BTreeMap::from([
            ("app".to_owned(), format!("a{}", number / ALIKE)),
            ("tier".to_owned(), format!("t{}", number % ALIKE)),
        ]),
        // A tenant's pods are on many nodes.
        node: Some(node_name(place % (TENANTS * EACH / PODS_A_NODE))),
        addresses: BTreeSet::from([address(100, place)]),
        ..Pod::default()
    }
}

/// Half of them for devices with a tag, half for pods with a label, three rules each: a network, others
/// of the tenant, and everybody at one port.
fn policy(tenant: usize, number: usize, cidr: &str) -> Resource<PolicySpec> {
    let kind = number / ALIKE;
    let for_pods = number % 2 == 1;
    let (subjects, others) = match for_pods {
        true => (
            Subjects {
                workloads: Some(pods(kind)),
                ..Subjects::default()
            },
            Peers {
                workloads: Some(pods((kind + 1) % ALIKE)),
                ..Peers::default()
            },
        ),
        false => (
            Subjects {
                devices: Some(devices(kind)),
                ..Subjects::default()
            },
            Peers {
                devices: Some(devices((kind + 1) % ALIKE)),
                ..Peers::default()
            },
        ),
    };
    let network = Peers {
        cidrs: vec![cidr.to_owned()],
        ..Peers::default()
    };
    let anybody = Peers {
        any: true,
        ..Peers::default()
    };
    let rule = |name: &str, direction, action, peers, at| PolicyRule {
        name: name.to_owned(),
        direction,
        action,
        peers,
        ports: vec![port(at)],
    };
    let spec = PolicySpec {
        description: String::new(),
        mode: Default::default(),
        disabled: false,
        priority: 100 + i32::try_from(number).expect("small"),
        subjects,
        rules: vec![
            rule("network", Direction::Egress, Action::Deny, network, 445),
            rule("others", Direction::Ingress, Action::Allow, others, 5432),
            rule("anybody", Direction::Egress, Action::Allow, anybody, 443),
        ],
        default: None::<Defaults>,
        expires_at: None,
    };
    resource(tenant * EACH + number, spec)
}

fn devices(kind: usize) -> DeviceSelector {
    DeviceSelector {
        tags: BTreeMap::from([("kind".to_owned(), format!("k{kind}"))]),
        ..DeviceSelector::default()
    }
}

fn pods(kind: usize) -> WorkloadSelector {
    WorkloadSelector {
        pod_selector: LabelSelector {
            match_labels: Some(BTreeMap::from([("app".to_owned(), format!("a{kind}"))])),
            match_expressions: None,
        },
    }
}

fn port(port: u16) -> PortRange {
    serde_json::from_value(json!({"protocol": Protocol::Tcp, "port": port})).expect("a port")
}

fn resource<Spec>(number: usize, spec: Spec) -> Resource<Spec> {
    Resource {
        uid: format!("uid-{number}"),
        generation: 1,
        written_by: None,
        created: None,
        spec,
    }
}
