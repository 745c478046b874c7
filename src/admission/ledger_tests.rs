use super::*;

const KIND: Kind = Kind::Isolation;

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_000_000 + seconds)
}

fn object(uid: &str) -> ObjectId {
    ObjectId {
        uid: uid.to_owned(),
        kind: KIND,
        key: ObjectKey::new("plant", "i"),
    }
}

fn shown(uid: &str, generation: i64) -> Shown {
    Shown {
        key: ObjectKey::new("plant", "i"),
        uid: uid.to_owned(),
        generation,
    }
}

fn written(uid: &str, generation: i64) -> Explains {
    Explains {
        object: object(uid),
        change: Explained::Written(generation),
    }
}

fn deleted(uid: &str) -> Explains {
    Explains {
        object: object(uid),
        change: Explained::Deleted,
    }
}

/// One that watches since long ago and has seen an empty list.
fn watching() -> Ledger {
    let memory = Memory {
        objects: Vec::new(),
        watched_until: Some(at(-10)),
    };
    let mut ledger = Ledger::restore(memory, at(0));
    ledger.list(KIND, Vec::new(), at(0));
    ledger
}

fn key() -> ObjectKey {
    ObjectKey::new("plant", "i")
}

#[test]
fn a_change_whose_request_was_recorded_is_explained() {
    let mut ledger = watching();
    ledger.recorded(written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    ledger.recorded(deleted("a"), at(5));
    ledger.gone(KIND, &key(), at(5));
    assert_eq!(ledger.due(at(60)), []);
}

#[test]
fn a_request_that_is_recorded_after_the_watch_explains_it_if_it_is_not_too_late() {
    let mut ledger = watching();
    ledger.shown(KIND, shown("a", 1), at(1));
    assert_eq!(ledger.due(at(2)), []);
    ledger.recorded(written("a", 1), at(2));
    assert_eq!(ledger.due(at(4)), []);
    ledger.shown(KIND, shown("a", 2), at(10));
    assert_eq!(ledger.due(at(12)).len(), 1);
    ledger.recorded(written("a", 2), at(13));
    assert_eq!(ledger.due(at(20)), []);
}

#[test]
fn a_change_that_nobody_recorded_is_unexplained_once_after_its_wait() {
    let mut ledger = watching();
    ledger.shown(KIND, shown("a", 1), at(1));
    assert_eq!(ledger.due_at(), Some(at(3)));
    assert_eq!(ledger.due(at(2)), []);
    let expected = Unexplained {
        object: object("a"),
        generation: 1,
        deleted: false,
        from: at(1),
        to: at(1),
        cause: Cause::NotTold,
    };
    assert_eq!(ledger.due(at(3)), [expected]);
    ledger.shown(KIND, shown("a", 1), at(4));
    assert_eq!(ledger.due(at(10)), []);
}

#[test]
fn a_deletion_that_nobody_recorded_is_unexplained_although_the_writes_are_not() {
    let mut ledger = watching();
    ledger.recorded(written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    ledger.gone(KIND, &key(), at(5));
    let unexplained = ledger.due(at(7));
    assert_eq!(unexplained.len(), 1);
    assert!(unexplained[0].deleted);
}

#[test]
fn a_generation_between_two_that_are_recorded_is_not_overlooked() {
    let mut ledger = watching();
    ledger.recorded(written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    ledger.due(at(5));
    ledger.recorded(written("a", 3), at(6));
    ledger.shown(KIND, shown("a", 3), at(6));
    assert_eq!(ledger.due(at(9))[0].generation, 3);
    ledger.recorded(written("a", 4), at(10));
    ledger.recorded(written("a", 5), at(10));
    ledger.shown(KIND, shown("a", 5), at(11));
    assert_eq!(ledger.due(at(20)), []);
}

#[test]
fn an_object_that_was_replaced_under_its_name_is_a_deletion_and_a_creation() {
    let mut ledger = watching();
    ledger.recorded(written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    ledger.recorded(written("b", 1), at(5));
    ledger.shown(KIND, shown("b", 1), at(5));
    let unexplained = ledger.due(at(9));
    assert_eq!(unexplained.len(), 1);
    assert_eq!(
        (&*unexplained[0].object.uid, unexplained[0].deleted),
        ("a", true)
    );
}

#[test]
fn what_follows_from_a_deletion_that_was_asked_for_is_explained() {
    let mut ledger = watching();
    ledger.recorded(written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    // A finalizer keeps it for a while: its generation rises, and nobody asks again.
    ledger.recorded(deleted("a"), at(2));
    ledger.shown(KIND, shown("a", 2), at(2));
    ledger.gone(KIND, &key(), at(30));
    assert_eq!(ledger.due(at(60)), []);
}

#[test]
fn a_request_that_came_to_nothing_explains_nothing_later() {
    let mut ledger = watching();
    ledger.recorded(written("a", 1), at(1));
    ledger.lapse(at(700));
    ledger.shown(KIND, shown("a", 1), at(701));
    assert_eq!(ledger.due(at(800)).len(), 1);
}

#[test]
fn what_was_there_before_the_record_began_is_said_to_be() {
    let mut ledger = Ledger::restore(Memory::default(), at(0));
    ledger.list(KIND, vec![shown("a", 7)], at(0));
    let unexplained = ledger.due(at(5));
    assert_eq!(unexplained[0].cause, Cause::BeforeTheRecord);
    assert_eq!(unexplained[0].generation, 7);
}

/// What the next process gets to know.
fn restarted(ledger: &mut Ledger, until: Timestamp, now: Timestamp) -> Ledger {
    let (objects, _) = ledger.take_changes();
    let memory = Memory {
        objects,
        watched_until: Some(until),
    };
    Ledger::restore(memory, now)
}

#[test]
fn changes_while_no_operator_ran_are_unexplained_since_it_last_watched() {
    let mut ledger = watching();
    ledger.recorded(written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    assert_eq!(ledger.due(at(5)), []);

    let mut unchanged = restarted(&mut ledger, at(10), at(100));
    unchanged.list(KIND, vec![shown("a", 1)], at(100));
    assert_eq!(unchanged.due(at(105)), []);

    let memory = Memory {
        objects: vec![SeenObject {
            object: object("a"),
            seen: 1,
            explained: 1,
            deletion_asked: false,
        }],
        watched_until: Some(at(10)),
    };
    let mut changed = Ledger::restore(memory, at(100));
    changed.list(KIND, vec![shown("a", 2)], at(100));
    let unexplained = changed.due(at(105));
    assert_eq!(unexplained[0].cause, Cause::Away);
    assert_eq!((unexplained[0].from, unexplained[0].to), (at(10), at(100)));
    // A later list of the same process is not about the time away.
    changed.list(KIND, Vec::new(), at(200));
    assert_eq!(changed.due(at(205))[0].cause, Cause::NotTold);
}

#[test]
fn a_change_that_was_recorded_just_before_the_operator_ended_is_explained_after() {
    let mut ledger = watching();
    ledger.recorded(written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    ledger.due(at(5));
    ledger.recorded(written("a", 2), at(6));
    let mut next = restarted(&mut ledger, at(6), at(100));
    next.list(KIND, vec![shown("a", 2)], at(100));
    assert_eq!(next.due(at(105)), []);

    next.recorded(deleted("a"), at(110));
    let mut last = restarted(&mut next, at(110), at(200));
    last.list(KIND, Vec::new(), at(200));
    assert_eq!(last.due(at(205)), []);
    let (put, removed) = last.take_changes();
    assert_eq!((put, removed), (Vec::new(), vec!["a".to_owned()]));
}

#[test]
fn a_change_that_still_waits_when_the_operator_ends_is_judged_by_the_next() {
    let mut ledger = watching();
    ledger.recorded(written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    ledger.due(at(5));
    ledger.shown(KIND, shown("a", 2), at(6));
    let mut next = restarted(&mut ledger, at(6), at(7));
    next.list(KIND, vec![shown("a", 2)], at(7));
    assert_eq!(next.due(at(10)).len(), 1);
}

#[test]
fn a_gap_that_is_not_in_the_audit_log_yet_is_found_again_by_the_next_operator() {
    let mut ledger = watching();
    ledger.recorded(written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    ledger.due(at(5));
    ledger.shown(KIND, shown("a", 2), at(6));
    assert_eq!(ledger.due(at(10)).len(), 1);
    let mut next = restarted(&mut ledger, at(10), at(20));
    next.list(KIND, vec![shown("a", 2)], at(20));
    let unexplained = next.due(at(25));
    assert_eq!(unexplained.len(), 1);
    next.settled(&unexplained[0]);
    let mut last = restarted(&mut next, at(30), at(40));
    last.list(KIND, vec![shown("a", 2)], at(40));
    assert_eq!(last.due(at(45)), []);
}

#[test]
fn a_deletion_is_forgotten_when_the_audit_log_has_its_gap() {
    let mut ledger = watching();
    ledger.recorded(written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    ledger.due(at(5));
    ledger.take_changes();
    ledger.gone(KIND, &key(), at(6));
    let unexplained = ledger.due(at(10));
    assert_eq!(ledger.take_changes().1, Vec::<String>::new());
    ledger.settled(&unexplained[0]);
    assert_eq!(ledger.take_changes().1, ["a"]);
}
