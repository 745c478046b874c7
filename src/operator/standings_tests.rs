use serde_json::json;

use super::super::users::tests::{applied, compiled, key, of_mallory, refusing, suspended};
use super::*;
use crate::domain::applied::{Obstacle, ObstacleKind};
use crate::domain::compile::Compiled;
use crate::reconcile::tracked::Beside;

fn view(compiled: Compiled) -> View {
    View {
        compiled: compiled.into(),
        directory: Default::default(),
        policies: Default::default(),
        isolations: Default::default(),
        scopes: Default::default(),
        tools: Default::default(),
        malformed: Default::default(),
        holds: Default::default(),
        pending_release: Default::default(),
    }
}

fn query(gone: bool) -> SettledQuery {
    SettledQuery {
        uid: "uid-mallory".into(),
        generation: 1,
        gone,
        of_user: true,
        timeout_ms: 0,
    }
}

fn assess(view: &View, applied: &Applied, gone: bool) -> Option<Assessed> {
    let moment = Moment { view, applied };
    let mut had_it = BTreeSet::new();
    moment.assess(Kind::Isolation, &key(), &query(gone), &mut had_it)
}

fn now(view: &View, applied: &Applied) -> Assessed {
    assess(view, applied, false).expect("it was seen")
}

#[test]
fn a_user_is_waited_for_at_every_connected_device_and_at_the_api_server() {
    let compiled = suspended(json!({"os": ["mallory"]}));
    let cases = [
        (&[1, 2][..], &[][..], true, false),
        (&[1, 2], &[1], true, false),
        (&[1, 2], &[1, 2], false, false),
        (&[1, 2], &[1, 2], true, true),
        // A device that is off is not waited for.
        (&[1], &[1], true, true),
    ];
    for (connected, programmed, refuses, settled) in cases {
        let mut applied = applied(&compiled, connected, programmed);
        if refuses {
            applied.suspended_users = refusing();
        }
        let assessed = now(&view(compiled.clone()), &applied);
        let case = (connected, programmed, refuses);
        assert_eq!(assessed.settled, settled, "{case:?}");
        let standing = assessed.standing;
        assert_eq!(standing.programmed, settled, "{case:?}");
        assert_eq!(
            (standing.matched, standing.programmed_points),
            (2, programmed.len())
        );
        assert_eq!(standing.self_programmed, None);
    }
}

#[test]
fn an_obstacle_at_the_api_server_is_told_and_waited_out() {
    let compiled = suspended(json!({"os": []}));
    let mut applied = applied(&compiled, &[], &[]);
    applied.suspended_users_obstacle = Some(Obstacle {
        kind: ObstacleKind::Failed,
        message: "the API server refused it".into(),
    });
    let assessed = now(&view(compiled), &applied);
    assert!(!assessed.settled && !assessed.standing.programmed);
    let message = assessed.standing.message;
    assert!(message.contains("the API server refused it"), "{message}");
}

#[test]
fn a_user_whom_nothing_can_refuse_is_not_waited_for() {
    let nobody = json!({"os": [], "kubernetes": [], "seawall": ["ghost"]});
    let compiled = suspended(nobody);
    let assessed = now(&view(compiled.clone()), &applied(&compiled, &[1, 2], &[]));
    assert!(assessed.settled && !assessed.standing.programmed);
    assert_eq!(assessed.standing.reason, "NotEnforceable");
}

#[test]
fn a_user_is_told_who_else_suspends_it() {
    let compiled = compiled(&[
        ("plant", "mallory", of_mallory(json!({"os": []}))),
        ("seawall-system", "all", of_mallory(json!({"os": []}))),
    ]);
    let mut applied = applied(&compiled, &[], &[]);
    applied.suspended_users = refusing();
    let standing = now(&view(compiled), &applied).standing;
    assert_eq!(standing.still_isolated_by, ["seawall-system/all"]);
}

#[test]
fn a_user_is_restored_when_no_device_has_it_and_the_api_server_lets_it_write() {
    let before = suspended(json!({"os": ["mallory"]}));
    let after = view(compiled(&[]));
    let mut then = applied(&before, &[1, 2], &[1, 2]);
    then.suspended_users = refusing();
    let gone = |applied: &Applied| assess(&after, applied, true).expect("it is gone");
    assert!(!gone(&then).settled);
    let mut then = applied(&before, &[1, 2], &[]);
    then.suspended_users = refusing();
    let waits = gone(&then);
    assert!(!waits.settled && !waits.standing.programmed);
    assert!(waits.standing.message.contains("let the user write again"));
    then.suspended_users = Default::default();
    assert!(gone(&then).settled);

    // The watch has not told of the deletion yet.
    let mut still = view(before);
    let beside = Beside {
        uid: "uid-mallory".into(),
        generation: 1,
        status: None,
        resource_version: "1".into(),
        seen: jiff::Timestamp::UNIX_EPOCH,
        written_by: None,
        reason: None,
        intent: None,
    };
    still.isolations = std::sync::Arc::new([(key(), beside)].into());
    assert!(assess(&still, &then, true).is_none());
}

#[test]
fn another_user_whom_the_api_server_refuses_keeps_nobody_waiting() {
    let before = suspended(json!({"os": ["mallory"]}));
    let mut alice = of_mallory(json!({"os": []}));
    alice["target"]["user"] = "alice".into();
    let after = view(compiled(&[("plant", "alice", alice)]));
    let mut then = applied(&before, &[1, 2], &[]);
    then.suspended_users
        .add(Some("plant"), ["alice".to_owned()]);
    assert!(assess(&after, &then, true).expect("gone").settled);
}
