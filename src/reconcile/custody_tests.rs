use std::time::Duration;

use super::*;
use crate::api::Target;

const THRESHOLD: usize = 5;

/// A World with accepted isolations of these names, all in force.
fn in_force(names: &[&str]) -> (Custody, World) {
    let mut world = World::default();
    for name in names {
        world.isolations.insert(key(name), isolation(name));
    }
    let mut custody = Custody::default();
    assert_eq!(note(&mut custody, &world), !names.is_empty());
    (custody, world)
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("plant", name)
}

fn isolation(name: &str) -> Resource<IsolationSpec> {
    let spec = serde_json::json!({"target": Target::default(), "reason": "test"});
    Resource {
        uid: format!("uid-{name}"),
        generation: 1,
        written_by: None,
        created: None,
        spec: serde_json::from_value(spec).expect("a spec"),
    }
}

fn note(custody: &mut Custody, world: &World) -> bool {
    let verdicts = world.isolations.iter().map(|(key, isolation)| {
        let verdict = IsolationVerdict {
            uid: isolation.uid.clone(),
            generation: isolation.generation,
            ..IsolationVerdict::default()
        };
        (key.clone(), Arc::new(verdict))
    });
    custody.note(world, &verdicts.collect())
}

fn vanish(custody: &mut Custody, world: &mut World, names: &[&str]) {
    for name in names {
        let gone = world.isolations.remove(&key(name)).expect("it was there");
        custody.gone(world, key(name), gone, None, Instant::now());
    }
}

fn settle(custody: &mut Custody, world: &mut World) -> Settlement {
    let at = (Instant::now(), Timestamp::UNIX_EPOCH);
    custody.settle(world, THRESHOLD, None, at)
}

#[test]
fn what_vanished_stays_in_force_until_it_is_settled() {
    let (mut custody, mut world) = in_force(&["a", "b"]);
    vanish(&mut custody, &mut world, &["a"]);
    assert!(world.held.contains_key("uid-a") && custody.due().is_some());
    assert_eq!(custody.pending(&world), ["uid-a".to_owned()].into());
    let settlement = settle(&mut custody, &mut world);
    assert_eq!(settlement.released.len(), 1);
    assert!(world.held.is_empty());
    assert!(note(&mut custody, &world), "the release is written down");
    assert!(!note(&mut custody, &world));
    assert_eq!(custody.in_force().len(), 1);
}

#[test]
fn many_are_held_under_one_id_and_released_by_its_confirmation_alone() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let (mut custody, mut world) = in_force(&names);
    vanish(&mut custody, &mut world, &names);
    let settlement = settle(&mut custody, &mut world);
    let (hold, isolations) = settlement.held.expect("held");
    assert_eq!((isolations.len(), world.held.len()), (6, 6));
    assert!(note(&mut custody, &world), "the hold is written down");
    assert!(custody.confirm(&mut world, "hold_another").is_none());
    let (_, released) = custody.confirm(&mut world, &hold.id).expect("open");
    assert_eq!((released.len(), world.held.len()), (6, 0));
    assert!(note(&mut custody, &world), "the release is written down");
    assert!(custody.confirm(&mut world, &hold.id).is_none(), "once");
}

#[test]
fn what_was_not_in_force_is_not_missed() {
    let (mut custody, mut world) = in_force(&[]);
    world
        .isolations
        .insert(key("waiting"), isolation("waiting"));
    vanish(&mut custody, &mut world, &["waiting"]);
    assert!(world.held.is_empty() && custody.due().is_none());
}

#[test]
fn an_isolation_that_comes_back_with_its_uid_is_neither_pending_nor_held() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let (mut custody, mut world) = in_force(&names);
    vanish(&mut custody, &mut world, &names);
    settle(&mut custody, &mut world);
    world.isolations.insert(key("a"), isolation("a"));
    custody.returned(&mut world);
    assert!(note(&mut custody, &world));
    let holds = custody.holds();
    assert_eq!((holds.len(), holds[0].1.len()), (1, 5));
}

#[test]
fn a_new_leader_sees_what_vanished_before_it_led_and_keeps_open_holds() {
    let (custody, _) = in_force(&["a", "b", "c"]);
    let mut stored = custody.in_force().clone();
    let hold = Hold {
        id: "hold_1".to_owned(),
        since: Timestamp::UNIX_EPOCH,
        why: "many".to_owned(),
    };
    stored.get_mut("uid-b").expect("there").hold = Some(hold);
    let mut world = World::default();
    world.isolations.insert(key("c"), isolation("c"));
    let mut custody = Custody::default();
    custody.restore(&mut world, stored, &BTreeMap::new(), Instant::now());
    let held: Vec<_> = world.held.keys().map(String::as_str).collect();
    assert_eq!(held, ["uid-a", "uid-b"]);
    let released = settle(&mut custody, &mut world).released;
    assert_eq!(released[0].key, key("a"), "few, so it passes");
    assert_eq!(custody.holds()[0].0.id, "hold_1");
}

#[test]
fn an_isolation_that_can_not_be_read_any_more_is_in_force_as_it_was() {
    let (custody, _) = in_force(&["a"]);
    let stored = custody.in_force().clone();
    let malformed = Malformed {
        key: key("a"),
        uid: "uid-a".to_owned(),
        generation: 2,
        resource_version: "9".to_owned(),
        status: None,
        why: "edited".to_owned(),
    };
    let mut world = World::default();
    let mut custody = Custody::default();
    let malformed = [(key("a"), malformed)].into();
    custody.restore(&mut world, stored, &malformed, Instant::now());
    assert!(world.isolations.contains_key(&key("a")) && world.held.is_empty());
    assert!(custody.due().is_none());
}

#[test]
fn while_the_kind_is_being_removed_even_one_is_held() {
    let (mut custody, mut world) = in_force(&["a"]);
    vanish(&mut custody, &mut world, &["a"]);
    let at = (
        Instant::now() + Duration::from_secs(1),
        Timestamp::UNIX_EPOCH,
    );
    let settlement = custody.settle(&mut world, THRESHOLD, Some("the kind goes"), at);
    assert_eq!(
        settlement.held.map(|(hold, _)| hold.why),
        Some("the kind goes".to_owned())
    );
    assert!(settlement.released.is_empty() && world.held.len() == 1);
}
