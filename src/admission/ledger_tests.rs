use super::*;
use crate::audit::entry::{Actor, ActorKind};

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
        spec: Some(format!("spec {generation}")),
    }
}

fn request(user: &str, verb: &str, wants: Wants) -> Request {
    Request {
        id: format!("{user} {verb} {wants:?}"),
        actor: Actor::new(ActorKind::Person, user),
        user: user.to_owned(),
        verb: verb.to_owned(),
        wants,
    }
}

/// A write of a spec.
fn writes(user: &str, generation: i64, spec: &str) -> Request {
    let wants = Wants::Written {
        generation,
        spec: Some(spec.to_owned()),
    };
    request(user, "update", wants)
}

/// A write of what `shown` shows.
fn written(uid: &str, generation: i64) -> (ObjectId, Request) {
    let spec = format!("spec {generation}");
    (object(uid), writes("alice", generation, &spec))
}

fn deletes(user: &str) -> Request {
    let wants = Wants::Deleted {
        marked: false,
        told: false,
    };
    request(user, "delete", wants)
}

fn deleted(uid: &str) -> (ObjectId, Request) {
    (object(uid), deletes("alice"))
}

/// What is found, each as `user verb generation`, `not seen: …`, or `gap generation`; all of it is told.
fn told(ledger: &mut Ledger, now: Timestamp) -> Vec<String> {
    let mut found = ledger.due(now);
    found.extend(ledger.lapse(now));
    let words = |finding: &Finding| match finding {
        Finding::Unexplained(it) if it.deleted => "gap deleted".to_owned(),
        Finding::Unexplained(it) => format!("gap {}", it.generation),
        Finding::NotSeen(it) => {
            format!(
                "not seen: {} {}: {}",
                it.request.user, it.request.verb, it.why
            )
        }
        Finding::Happened(it) => {
            let users: Vec<_> = it.requests.iter().map(|request| &*request.user).collect();
            let generation = it.generation.map(|generation| format!(" {generation}"));
            let verb = &it.requests[0].verb;
            format!(
                "{} {verb}{}",
                users.join("+"),
                generation.unwrap_or_default()
            )
        }
    };
    let words = found.iter().map(words).collect();
    found.iter().for_each(|finding| ledger.settled(finding));
    words
}

/// Gaps alone; the rest is told.
fn gaps(ledger: &mut Ledger, now: Timestamp) -> Vec<Unexplained> {
    let mut gaps = Vec::new();
    for finding in ledger.due(now) {
        match finding {
            Finding::Unexplained(gap) => gaps.push(gap),
            other => ledger.settled(&other),
        }
    }
    gaps
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

fn record(ledger: &mut Ledger, (object, request): (ObjectId, Request), now: Timestamp) {
    ledger.recorded(object, request, now);
}

fn key() -> ObjectKey {
    ObjectKey::new("plant", "i")
}

#[test]
fn a_change_whose_request_was_recorded_is_explained() {
    let mut ledger = watching();
    record(&mut ledger, written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    record(&mut ledger, deleted("a"), at(5));
    ledger.gone(KIND, &key(), at(5));
    assert_eq!(gaps(&mut ledger, at(60)), []);
}

#[test]
fn a_request_that_is_recorded_after_the_watch_explains_it_if_it_is_not_too_late() {
    let mut ledger = watching();
    ledger.shown(KIND, shown("a", 1), at(1));
    assert_eq!(gaps(&mut ledger, at(2)), []);
    record(&mut ledger, written("a", 1), at(2));
    assert_eq!(gaps(&mut ledger, at(4)), []);
    ledger.shown(KIND, shown("a", 2), at(10));
    assert_eq!(gaps(&mut ledger, at(12)).len(), 1);
    record(&mut ledger, written("a", 2), at(13));
    assert_eq!(gaps(&mut ledger, at(20)), []);
}

#[test]
fn a_change_that_nobody_recorded_is_unexplained_once_after_its_wait() {
    let mut ledger = watching();
    ledger.shown(KIND, shown("a", 1), at(1));
    assert_eq!(ledger.due_at(), Some(at(3)));
    assert_eq!(gaps(&mut ledger, at(2)), []);
    let expected = Unexplained {
        object: object("a"),
        generation: 1,
        deleted: false,
        from: at(1),
        to: at(1),
        cause: Cause::NotTold,
    };
    assert_eq!(gaps(&mut ledger, at(3)), [expected]);
    ledger.shown(KIND, shown("a", 1), at(4));
    assert_eq!(gaps(&mut ledger, at(10)), []);
}

#[test]
fn a_deletion_that_nobody_recorded_is_unexplained_although_the_writes_are_not() {
    let mut ledger = watching();
    record(&mut ledger, written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    ledger.gone(KIND, &key(), at(5));
    let unexplained = gaps(&mut ledger, at(7));
    assert_eq!(unexplained.len(), 1);
    assert!(unexplained[0].deleted);
}

#[test]
fn a_generation_between_two_that_are_recorded_is_not_overlooked() {
    let mut ledger = watching();
    record(&mut ledger, written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    gaps(&mut ledger, at(5));
    record(&mut ledger, written("a", 3), at(6));
    ledger.shown(KIND, shown("a", 3), at(6));
    assert_eq!(gaps(&mut ledger, at(9))[0].generation, 3);
    record(&mut ledger, written("a", 4), at(10));
    record(&mut ledger, written("a", 5), at(10));
    ledger.shown(KIND, shown("a", 5), at(11));
    assert_eq!(gaps(&mut ledger, at(20)), []);
}

#[test]
fn an_object_that_was_replaced_under_its_name_is_a_deletion_and_a_creation() {
    let mut ledger = watching();
    record(&mut ledger, written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    record(&mut ledger, written("b", 1), at(5));
    ledger.shown(KIND, shown("b", 1), at(5));
    let unexplained = gaps(&mut ledger, at(9));
    assert_eq!(unexplained.len(), 1);
    assert_eq!(
        (&*unexplained[0].object.uid, unexplained[0].deleted),
        ("a", true)
    );
}

/// One with an object that alice made, at generation 1.
fn with_one() -> Ledger {
    let mut ledger = watching();
    record(&mut ledger, written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    assert_eq!(told(&mut ledger, at(4)), ["alice update 1"]);
    ledger
}

/// The object at a generation that its being marked for deletion made: the spec is the same.
fn marked(generation: i64) -> Shown {
    Shown {
        generation,
        ..shown("a", generation - 1)
    }
}

#[test]
fn a_finalizer_makes_a_deletion_one_generation_and_the_deletion_later() {
    let mut ledger = with_one();
    record(&mut ledger, deleted("a"), at(5));
    ledger.shown(KIND, marked(2), at(5));
    assert_eq!(told(&mut ledger, at(9)), [] as [&str; 0]);
    let kept = "not seen: alice delete: it is marked for deletion, and a finalizer keeps it";
    assert_eq!(told(&mut ledger, at(200)), [kept]);
    let mut next = restarted(&mut ledger, at(200), at(201));
    next.list(KIND, vec![marked(2)], at(201));
    assert_eq!(told(&mut next, at(400)), [] as [&str; 0], "once is enough");
    next.gone(KIND, &key(), at(3000));
    assert_eq!(told(&mut next, at(3003)), ["alice delete"]);
    assert_eq!(next.take_changes(), (Vec::new(), vec!["a".to_owned()]));
}

#[test]
fn a_deletion_that_is_pending_explains_no_change_of_the_spec() {
    let mut ledger = with_one();
    record(&mut ledger, deleted("a"), at(5));
    ledger.shown(KIND, marked(2), at(5));
    // The webhook is not told of what bob does.
    ledger.shown(KIND, shown("a", 3), at(6));
    assert_eq!(told(&mut ledger, at(10)), ["gap 3"]);
    ledger.shown(KIND, shown("a", 4), at(11));
    assert_eq!(told(&mut ledger, at(15)), ["gap 4"]);
    // And of this it is.
    record(&mut ledger, written("a", 5), at(16));
    ledger.shown(KIND, shown("a", 5), at(16));
    ledger.gone(KIND, &key(), at(17));
    assert_eq!(
        told(&mut ledger, at(20)),
        ["alice update 5", "alice delete"]
    );
}

#[test]
fn a_deletion_that_was_refused_explains_no_change_of_the_spec() {
    let mut ledger = with_one();
    record(&mut ledger, deleted("a"), at(5));
    ledger.shown(KIND, shown("a", 2), at(6));
    assert_eq!(told(&mut ledger, at(10)), ["gap 2"]);
    let refused = "not seen: alice delete: as a rule it was refused";
    assert_eq!(told(&mut ledger, at(200)), [refused]);
    ledger.gone(KIND, &key(), at(201));
    assert_eq!(told(&mut ledger, at(210)), ["gap deleted"]);
}

#[test]
fn a_mark_and_a_change_that_a_new_list_shows_at_once_need_both_requests() {
    let mut both = with_one();
    record(&mut both, deleted("a"), at(5));
    record(&mut both, written("a", 3), at(5));
    both.list(KIND, vec![shown("a", 3)], at(6));
    assert_eq!(told(&mut both, at(10)), ["alice update 3"]);
    let mut one = with_one();
    record(&mut one, deleted("a"), at(5));
    one.list(KIND, vec![shown("a", 3)], at(6));
    assert_eq!(told(&mut one, at(10)), ["gap 3"]);
}

#[test]
fn a_creation_that_was_refused_is_told_as_not_seen_and_forgotten() {
    let mut ledger = with_one();
    // The name is taken, so that this uid never comes to be.
    record(&mut ledger, written("b", 1), at(5));
    assert_eq!(told(&mut ledger, at(60)), [] as [&str; 0]);
    let refused = "not seen: alice update: as a rule it was refused";
    assert_eq!(told(&mut ledger, at(126)), [refused]);
    assert_eq!(told(&mut ledger, at(500)), [] as [&str; 0]);
    assert!(ledger.take_changes().1.contains(&"b".to_owned()));
}

#[test]
fn of_two_who_want_the_same_generation_the_spec_tells_whose_it_is() {
    let mut ledger = with_one();
    ledger.recorded(object("a"), writes("eve", 2, "hers"), at(5));
    record(&mut ledger, written("a", 2), at(5));
    ledger.shown(KIND, shown("a", 2), at(5));
    let lost = "not seen: eve update: another change was stored in its place";
    assert_eq!(told(&mut ledger, at(8)), [lost, "alice update 2"]);
    // Both want the same, so that either can have made it.
    ledger.recorded(object("a"), writes("eve", 3, "spec 3"), at(9));
    record(&mut ledger, written("a", 3), at(9));
    ledger.shown(KIND, shown("a", 3), at(9));
    assert_eq!(told(&mut ledger, at(12)), ["eve+alice update 3"]);
}

#[test]
fn another_spec_than_was_asked_for_is_a_gap() {
    let mut ledger = with_one();
    ledger.recorded(object("a"), writes("alice", 2, "hers"), at(5));
    ledger.shown(KIND, shown("a", 2), at(5));
    let lost = "not seen: alice update: another change was stored in its place";
    assert_eq!(told(&mut ledger, at(8)), [lost, "gap 2"]);
}

#[test]
fn a_request_that_is_recorded_after_its_change_was_called_a_gap_is_told_to_have_happened() {
    let mut ledger = with_one();
    ledger.shown(KIND, shown("a", 2), at(5));
    assert_eq!(told(&mut ledger, at(8)), ["gap 2"]);
    record(&mut ledger, written("a", 2), at(9));
    ledger.recorded(object("a"), writes("eve", 2, "hers"), at(9));
    let lost = "not seen: eve update: another change was stored in its place";
    assert_eq!(told(&mut ledger, at(9)), ["alice update 2", lost]);
}

#[test]
fn what_happened_and_is_not_in_the_audit_log_yet_is_told_by_the_next_operator_without_a_gap() {
    let mut ledger = with_one();
    record(&mut ledger, written("a", 2), at(5));
    record(&mut ledger, written("a", 3), at(5));
    ledger.shown(KIND, shown("a", 2), at(5));
    ledger.shown(KIND, shown("a", 3), at(5));
    let found = ledger.due(at(8));
    assert_eq!(found.len(), 2);
    ledger.settled(&found[0]);
    let mut next = restarted(&mut ledger, at(9), at(10));
    next.list(KIND, vec![shown("a", 3)], at(10));
    let again = ["alice update 2", "alice update 3"];
    assert_eq!(told(&mut next, at(15)), again);
    let mut last = restarted(&mut next, at(16), at(17));
    last.list(KIND, vec![shown("a", 3)], at(17));
    assert_eq!(told(&mut last, at(400)), [] as [&str; 0]);
}

#[test]
fn a_request_that_came_to_nothing_explains_nothing_later() {
    let mut ledger = watching();
    record(&mut ledger, written("a", 1), at(1));
    assert_eq!(told(&mut ledger, at(700)).len(), 1);
    ledger.shown(KIND, shown("a", 1), at(701));
    assert_eq!(told(&mut ledger, at(800)), ["gap 1"]);
}

#[test]
fn what_was_there_before_the_record_began_is_said_to_be() {
    let mut ledger = Ledger::restore(Memory::default(), at(0));
    ledger.list(KIND, vec![shown("a", 7)], at(0));
    let unexplained = gaps(&mut ledger, at(5));
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
    record(&mut ledger, written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    assert_eq!(gaps(&mut ledger, at(5)), []);

    let mut unchanged = restarted(&mut ledger, at(10), at(100));
    unchanged.list(KIND, vec![shown("a", 1)], at(100));
    assert_eq!(gaps(&mut unchanged, at(105)), []);

    let memory = Memory {
        objects: vec![SeenObject {
            object: object("a"),
            seen: 1,
            asked: Vec::new(),
        }],
        watched_until: Some(at(10)),
    };
    let mut changed = Ledger::restore(memory, at(100));
    changed.list(KIND, vec![shown("a", 2)], at(100));
    let unexplained = gaps(&mut changed, at(105));
    assert_eq!(unexplained[0].cause, Cause::Away);
    assert_eq!((unexplained[0].from, unexplained[0].to), (at(10), at(100)));
    // A later list of the same process is not about the time away.
    changed.list(KIND, Vec::new(), at(200));
    assert_eq!(gaps(&mut changed, at(205))[0].cause, Cause::NotTold);
}

#[test]
fn a_change_that_was_recorded_just_before_the_operator_ended_is_told_after() {
    let mut ledger = watching();
    record(&mut ledger, written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    gaps(&mut ledger, at(5));
    record(&mut ledger, written("a", 2), at(6));
    let mut next = restarted(&mut ledger, at(6), at(100));
    next.list(KIND, vec![shown("a", 2)], at(100));
    assert_eq!(gaps(&mut next, at(105)), []);

    record(&mut next, deleted("a"), at(110));
    let mut last = restarted(&mut next, at(110), at(200));
    last.list(KIND, Vec::new(), at(200));
    assert_eq!(gaps(&mut last, at(205)), []);
    let (put, removed) = last.take_changes();
    assert_eq!((put, removed), (Vec::new(), vec!["a".to_owned()]));
}

#[test]
fn a_change_that_still_waits_when_the_operator_ends_is_judged_by_the_next() {
    let mut ledger = watching();
    record(&mut ledger, written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    gaps(&mut ledger, at(5));
    ledger.shown(KIND, shown("a", 2), at(6));
    let mut next = restarted(&mut ledger, at(6), at(7));
    next.list(KIND, vec![shown("a", 2)], at(7));
    assert_eq!(gaps(&mut next, at(10)).len(), 1);
}

#[test]
fn a_gap_that_is_not_in_the_audit_log_yet_is_found_again_by_the_next_operator() {
    let mut ledger = watching();
    record(&mut ledger, written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    gaps(&mut ledger, at(5));
    ledger.shown(KIND, shown("a", 2), at(6));
    assert_eq!(gaps(&mut ledger, at(10)).len(), 1);
    let mut next = restarted(&mut ledger, at(10), at(20));
    next.list(KIND, vec![shown("a", 2)], at(20));
    let unexplained = gaps(&mut next, at(25));
    assert_eq!(unexplained.len(), 1);
    next.settled(&Finding::Unexplained(unexplained[0].clone()));
    let mut last = restarted(&mut next, at(30), at(40));
    last.list(KIND, vec![shown("a", 2)], at(40));
    assert_eq!(gaps(&mut last, at(45)), []);
}

#[test]
fn a_deletion_is_forgotten_when_the_audit_log_has_its_gap() {
    let mut ledger = watching();
    record(&mut ledger, written("a", 1), at(1));
    ledger.shown(KIND, shown("a", 1), at(1));
    gaps(&mut ledger, at(5));
    ledger.take_changes();
    ledger.gone(KIND, &key(), at(6));
    let unexplained = gaps(&mut ledger, at(10));
    assert_eq!(ledger.take_changes().1, Vec::<String>::new());
    ledger.settled(&Finding::Unexplained(unexplained[0].clone()));
    assert_eq!(ledger.take_changes().1, ["a"]);
}
