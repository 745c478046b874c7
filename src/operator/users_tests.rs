use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::domain::applied::{Accounts, DeviceApplied};
use crate::domain::compile::{Compiled, compile};
use crate::domain::enforcement::SuspendedUsers;
use crate::domain::names::DeviceId;
use crate::domain::world::{Device, Resource, Settings, World};

pub fn device(number: u128) -> DeviceId {
    DeviceId::from_ulid(ulid::Ulid::from_parts(1, number))
}

pub fn key() -> ObjectKey {
    ObjectKey::new("plant", "mallory")
}

/// Three devices of the tenant `plant`, of which the third is a node, and these Isolations, each of a namespace.
pub fn compiled(isolations: &[(&str, &str, Value)]) -> Compiled {
    let mut world = World::new(Settings {
        system_namespace: "seawall-system".into(),
        ..Settings::default()
    });
    for number in 1..=3 {
        let enrolled = Device {
            tenant: "plant".into(),
            node: (number == 3).then(|| "node-1".to_owned()),
            ..Device::default()
        };
        world.devices.insert(device(number), enrolled);
    }
    for (namespace, name, spec) in isolations {
        let isolation = Resource {
            uid: format!("uid-{name}"),
            generation: 1,
            written_by: None,
            created: None,
            spec: serde_json::from_value(spec.clone()).expect("a spec"),
        };
        let key = ObjectKey::new(*namespace, *name);
        world.isolations.insert(key, isolation);
    }
    compile(&world, jiff::Timestamp::UNIX_EPOCH)
}

pub fn of_mallory(names: Value) -> Value {
    json!({"target": {"user": "mallory"}, "userNames": names, "reason": "x"})
}

/// `compiled` with the Isolation of mallory alone.
pub fn suspended(names: Value) -> Compiled {
    compiled(&[("plant", "mallory", of_mallory(names))])
}

/// These devices are connected, and these of them have read it back.
pub fn applied(compiled: &Compiled, connected: &[u128], programmed: &[u128]) -> Applied {
    let source = source(&key(), &compiled.verdicts.isolations[&key()]);
    let devices = (1..=3).map(|number| {
        let has = programmed.contains(&number);
        let one = |name: &str| -> BTreeSet<String> { [name.to_owned()].into() };
        let applied = DeviceApplied {
            connected: connected.contains(&number),
            sources: Arc::new(has.then(|| source.clone()).into_iter().collect()),
            accounts: match (has, number) {
                (true, 1) => Accounts {
                    dropped: one("mallory"),
                    spared: one("agent"),
                },
                // Of another user.
                _ => Accounts {
                    dropped: one("alice"),
                    spared: BTreeSet::new(),
                },
            },
            ..DeviceApplied::default()
        };
        (device(number), applied)
    });
    Applied {
        devices: devices.collect(),
        ..Applied::default()
    }
}

/// The API server holds that mallory may not write.
pub fn refusing() -> SuspendedUsers {
    let mut users = SuspendedUsers::default();
    users.add(Some("plant"), ["mallory".to_owned()]);
    users
}

#[test]
fn each_device_says_what_it_drops_and_what_it_leaves_alone() {
    let compiled = suspended(json!({"os": ["mallory", "agent"]}));
    let verdict = &compiled.verdicts.isolations[&key()];
    let mut applied = applied(&compiled, &[1], &[1]);
    let stands = standing(&key(), verdict, &applied).expect("a user");
    assert_eq!(
        (stands.devices, stands.programmed, stands.offline),
        (2, 1, 1)
    );
    assert_eq!(stands.nodes, 1);
    assert_eq!(stands.each[0].device, device(2), "what is missing is first");
    assert!(stands.each[0].dropped.is_empty(), "alice is somebody else");
    assert_eq!(stands.each[1].dropped, ["mallory"]);
    assert_eq!(stands.each[1].spared, ["agent"]);
    assert_eq!(stands.kubernetes, ["mallory"]);
    assert!(!stands.writes_refused);
    let words = stands.outside.join("; ");
    assert!(words.contains("reads from the API server"), "{words}");
    assert!(words.contains("identity provider"), "{words}");
    applied.suspended_users = refusing();
    let stands = standing(&key(), verdict, &applied).expect("a user");
    assert!(stands.writes_refused);
}

#[test]
fn a_user_without_a_kubernetes_name_has_nothing_to_refuse_there() {
    let compiled = suspended(json!({"kubernetes": [], "seawall": []}));
    let verdict = &compiled.verdicts.isolations[&key()];
    let stands = standing(&key(), verdict, &Applied::default()).expect("a user");
    assert!(stands.kubernetes.is_empty() && !stands.writes_refused);
    assert!(!stands.refuses_something());
    let words = stands.outside.join("; ");
    assert!(!words.contains("API server"), "{words}");
}

#[test]
fn what_is_not_written_would_stand_where_devices_are_connected() {
    let compiled = suspended(json!({"os": ["mallory"]}));
    let verdict = &compiled.verdicts.isolations[&key()];
    let stands = would_stand(verdict, &applied(&compiled, &[2], &[])).expect("a user");
    assert_eq!((stands.devices, stands.programmed), (2, 1));
    assert!(stands.writes_refused);
}

#[test]
fn an_answer_names_a_bounded_part_of_the_devices() {
    let user = SuspendedUser::default();
    let each = (0..60).map(|number| AccountStanding {
        device: device(number),
        programmed: number > 0,
        connected: true,
        dropped: Vec::new(),
        spared: Vec::new(),
    });
    let stands = bounded(&user, each.collect(), false);
    assert_eq!((stands.devices, stands.programmed), (60, 59));
    assert_eq!((stands.each.len(), stands.left_out), (50, 10));
    assert_eq!(stands.each[0].device, device(0));
}

#[test]
fn isolations_that_share_a_name_where_both_reach_say_so_of_each_other() {
    let kubernetes = |name: &str| json!({"os": [], "kubernetes": [name], "seawall": []});
    let compiled = compiled(&[
        ("plant", "mallory", of_mallory(json!({"os": ["mallory"]}))),
        (
            "plant",
            "same-account",
            of_mallory(json!({"os": ["mallory", "x"], "kubernetes": [], "seawall": []})),
        ),
        (
            "seawall-system",
            "everywhere",
            of_mallory(kubernetes("mallory")),
        ),
        ("hospital", "elsewhere", of_mallory(kubernetes("mallory"))),
        ("plant", "other-place", of_mallory(kubernetes("x"))),
    ]);
    let others = |namespace: &str, name: &str| -> Vec<String> {
        let verdict = &compiled.verdicts.isolations[&ObjectKey::new(namespace, name)];
        let others = verdict.also_isolated_by.iter();
        others.map(ToString::to_string).collect()
    };
    assert_eq!(
        others("plant", "mallory"),
        ["plant/same-account", "seawall-system/everywhere"]
    );
    assert_eq!(others("plant", "same-account"), ["plant/mallory"]);
    assert_eq!(
        others("seawall-system", "everywhere"),
        ["hospital/elsewhere", "plant/mallory"]
    );
    assert_eq!(
        others("hospital", "elsewhere"),
        ["seawall-system/everywhere"]
    );
    assert!(others("plant", "other-place").is_empty());
}
