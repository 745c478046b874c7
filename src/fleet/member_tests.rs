use std::collections::BTreeMap;

use super::*;
use crate::api::TrustLevel;
use crate::domain::enforcement::{DeviceState, Source, SourceKind, WardGroup};
use crate::domain::names::DeviceId;
use crate::fleet::claims::MOST_CLAIMS;

pub fn member() -> Member {
    Member::new(DeviceRecord {
        id: DeviceId::from_ulid(ulid::Ulid::from_parts(0, 1)),
        tenant: "acme".to_owned(),
        tags: BTreeMap::new(),
        trust: TrustLevel::default(),
        fingerprint: [0; 32],
        enrolled_at: Timestamp::UNIX_EPOCH,
        token: "jt_1".to_owned(),
        node: None,
        revoked_at: None,
        standing: DeviceStanding::default(),
    })
}

fn connected() -> Member {
    let mut member = member();
    member.attach(1, Arc::default(), Instant::now());
    member
}

fn isolated() -> Arc<Desired> {
    Arc::new(Desired::new(DeviceState {
        isolation: Some(Default::default()),
        ..Default::default()
    }))
}

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn held(member: &Member) -> BTreeSet<IpAddr> {
    member.record.standing.addresses.keys().copied().collect()
}

fn desired(isolations: &[&str]) -> Arc<Desired> {
    let sources = isolations.iter().map(|uid| Source {
        kind: SourceKind::Isolation,
        namespace: "acme".to_owned(),
        name: (*uid).to_owned(),
        uid: (*uid).to_owned(),
        generation: 1,
    });
    Arc::new(Desired::new(DeviceState {
        sources: sources.collect(),
        ..Default::default()
    }))
}

fn applied(desired: &Desired, revision: u64) -> proto::Applied {
    proto::Applied {
        epoch: 1,
        revision,
        state_hash: desired.hash.clone(),
        ..proto::Applied::default()
    }
}

/// Has the member apply a state and cut connections for it.
fn apply(member: &mut Member, isolations: &[&str], cut: u32) -> BTreeMap<String, u64> {
    let desired = desired(isolations);
    member.set_desired(Some(desired.clone()));
    member.taken(&desired);
    member.acknowledged(&applied(&desired, 1), cut, Timestamp::UNIX_EPOCH);
    member.applied().connections_cut
}

fn counts<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.map(|(uid, count)| (uid.to_owned(), count)).into()
}

#[test]
fn cut_connections_belong_to_the_isolations_that_came_with_the_state() {
    let mut member = connected();
    assert_eq!(apply(&mut member, &["a"], 4), counts([("a", 4)]));
    let both = apply(&mut member, &["a", "b"], 2);
    assert_eq!(both, counts([("a", 4), ("b", 2)]));
    let again = apply(&mut member, &["a", "b"], 9);
    assert_eq!(again, both, "a repaired table cuts for nobody new");
    assert_eq!(apply(&mut member, &["b"], 0), counts([("b", 2)]));
    assert_eq!(
        apply(&mut member, &["a", "b"], 1)["a"],
        1,
        "a new one counts anew"
    );
}

#[test]
fn a_count_is_not_put_down_to_isolations_that_were_in_force_before_a_restart() {
    let mut member = connected();
    apply(&mut member, &["a"], 4);
    let mut restarted = Member::new(member.record);
    restarted.attach(1, Arc::default(), Instant::now());
    // The first that it hears of is the next state: the one in force was never wanted here.
    assert_eq!(
        apply(&mut restarted, &["a", "b"], 3),
        counts([("a", 4), ("b", 3)])
    );
}

#[test]
fn what_is_applied_or_promised_is_not_promised_again() {
    let mut member = connected();
    let (one, two) = (desired(&["1"]), desired(&["2"]));
    assert!(member.set_desired(Some(one.clone())));
    member.promise(Instant::now());
    assert!(member.is_awaited());
    assert!(!member.set_desired(Some(one.clone())));
    assert!(member.set_desired(Some(two.clone())), "another state");
    assert!(
        !member.set_desired(Some(one.clone())),
        "back before it was sent"
    );
    member.taken(&one);
    member.acknowledged(&applied(&one, 1), 0, Timestamp::UNIX_EPOCH);
    assert!(!member.is_awaited() && !member.set_desired(Some(one.clone())));
    member.set_desired(Some(two.clone()));
    member.promise(Instant::now());
    member.taken(&two);
    assert!(
        member.set_desired(Some(one)),
        "it is told two, and one is wanted"
    );
}

#[test]
fn an_acknowledgement_of_an_older_state_leaves_the_newer_one_awaited() {
    let mut member = connected();
    let (one, two) = (desired(&["1"]), desired(&["2"]));
    for state in [&one, &two] {
        member.set_desired(Some(state.clone()));
        member.promise(Instant::now());
        member.taken(state);
    }
    member.acknowledged(&applied(&one, 1), 0, Timestamp::UNIX_EPOCH);
    assert!(member.is_awaited());
    assert_eq!(*member.applied().sources, one.state.sources);
    assert!(!member.is_up_to_date());
    member.acknowledged(&applied(&two, 2), 0, Timestamp::UNIX_EPOCH);
    assert!(!member.is_awaited() && member.is_up_to_date());
}

#[test]
fn what_is_not_acknowledged_is_sent_again_at_growing_intervals() {
    let mut member = connected();
    let state = desired(&["1"]);
    member.set_desired(Some(state.clone()));
    let begun = Instant::now();
    member.promise(begun);
    member.taken(&state);
    let mut sent = Vec::new();
    for second in 0..120 {
        if member.retry_if_due(begun + Duration::from_secs(second)) {
            sent.push(second);
        }
    }
    assert_eq!(sent[0], 5);
    let gaps: Vec<u64> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.windows(2).all(|pair| pair[1] > pair[0]), "{sent:?}");
    member.acknowledged(&applied(&state, 1), 0, Timestamp::UNIX_EPOCH);
    assert!(!member.retry_if_due(begun + Duration::from_secs(4000)));
}

#[test]
fn a_device_that_is_away_is_promised_nothing() {
    let mut member = member();
    assert!(!member.set_desired(Some(desired(&["1"]))));
    member.promise(Instant::now());
    assert!(!member.is_awaited() && !member.retry_if_due(Instant::now() + LONGEST_RETRY));
}

#[test]
fn what_a_device_says_of_itself_is_told_so_often_and_no_more() {
    let mut member = member();
    let now = Instant::now();
    let told = (0..100).filter(|_| member.may_be_told(now)).count();
    assert_eq!(told, 30);
    assert!(member.may_be_told(now + Duration::from_secs(60)));
}

#[test]
fn an_isolated_device_gives_up_no_address_until_it_is_released() {
    let mut member = connected();
    member.set_desired(Some(desired(&[])));
    member.claim(&addresses(&["10.0.0.1"]), Timestamp::UNIX_EPOCH);
    member.set_desired(Some(isolated()));
    let later = Timestamp::from_second(9).unwrap();
    assert!(!member.claim(&addresses(&[]), later));
    assert!(member.claim(&addresses(&["10.0.0.2"]), later));
    assert_eq!(held(&member), addresses(&["10.0.0.1", "10.0.0.2"]));
    member.set_desired(Some(desired(&[])));
    assert!(member.settle_claims());
    assert_eq!(held(&member), addresses(&["10.0.0.2"]));
    assert!(member.claim(&addresses(&[]), later));
    assert_eq!(held(&member), addresses(&[]));
}

#[test]
fn a_device_that_may_be_isolated_gives_up_nothing_before_that_is_known() {
    let mut member = connected();
    member.claim(&addresses(&["10.0.0.1"]), Timestamp::UNIX_EPOCH);
    let mut restarted = Member::new(member.record);
    assert!(!restarted.claim(&addresses(&[]), Timestamp::UNIX_EPOCH));
    restarted.set_desired(Some(isolated()));
    assert!(!restarted.settle_claims());
    assert_eq!(held(&restarted), addresses(&["10.0.0.1"]));
}

#[test]
fn an_address_that_somebody_else_holds_now_is_given_up_and_one_still_held_is_not() {
    let mut member = connected();
    member.set_desired(Some(isolated()));
    let both = addresses(&["10.0.0.1", "10.0.0.2"]);
    member.claim(&both, Timestamp::UNIX_EPOCH);
    assert!(!member.yield_claims(&both), "it holds them itself");
    member.claim(&addresses(&["10.0.0.2"]), Timestamp::UNIX_EPOCH);
    assert!(member.yield_claims(&both));
    assert_eq!(held(&member), addresses(&["10.0.0.2"]));
}

#[test]
fn claims_that_an_isolated_device_piles_up_are_bounded_and_the_oldest_stay() {
    let mut member = connected();
    member.set_desired(Some(isolated()));
    member.claim(&addresses(&["10.0.0.1"]), Timestamp::UNIX_EPOCH);
    for second in 1..2000_u32 {
        let address = IpAddr::V4((0x0b00_0000 + second).into());
        let at = Timestamp::from_second(second.into()).unwrap();
        member.claim(&BTreeSet::from([address]), at);
    }
    assert_eq!(held(&member).len(), MOST_CLAIMS);
    assert!(held(&member).is_superset(&addresses(&["10.0.0.1"])));
}

#[test]
fn an_isolated_device_comes_from_where_it_came_from_before() {
    let from = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    let mut member = connected();
    member.set_desired(Some(desired(&[])));
    member.comes_from(from("::ffff:10.0.0.1"));
    assert_eq!(member.record.standing.connects_from, from("10.0.0.1"));
    member.set_desired(Some(isolated()));
    member.comes_from(from("192.0.2.10"));
    assert!(!member.settle_claims());
    assert_eq!(member.record.standing.connects_from, from("10.0.0.1"));
    member.set_desired(Some(desired(&[])));
    assert!(member.settle_claims(), "it is free to have moved");
    assert_eq!(member.record.standing.connects_from, from("192.0.2.10"));
}

#[test]
fn after_a_restart_a_device_that_may_be_isolated_comes_from_where_it_did() {
    let mut record = member().record;
    record.standing.connects_from = Some("10.0.0.1".parse().unwrap());
    let mut restarted = Member::new(record);
    restarted.comes_from(Some("192.0.2.10".parse().unwrap()));
    let known = restarted.record.standing.connects_from;
    assert_eq!(known, Some("10.0.0.1".parse().unwrap()));
}

#[test]
fn rules_that_an_agent_brought_about_again_are_told_once_as_news() {
    let mut member = connected();
    let isolated = isolated();
    member.set_desired(Some(isolated.clone()));
    member.taken(&isolated);
    member.acknowledged(&applied(&isolated, 1), 0, Timestamp::UNIX_EPOCH);
    assert_eq!(member.applied().restored_at, None);
    let at = |second| Timestamp::from_second(second).unwrap();
    let told = |ago| proto::Applied {
        restored_ms_ago: Some(ago),
        ..applied(&isolated, 1)
    };
    assert!(member.reported(Some(&told(4_000)), at(104)));
    assert_eq!(member.applied().restored_at, Some(at(100)));
    // A stream later, and the telling took a second.
    assert!(!member.reported(Some(&told(60_000)), at(161)));
    assert_eq!(member.applied().restored_at, Some(at(100)));
    // Another reboot.
    assert!(member.reported(Some(&told(500)), at(300)));
    // More than all time.
    assert!(!member.reported(Some(&told(u64::MAX)), at(300)));
}

#[test]
fn wards_of_a_device_that_had_nothing_before_are_covered_from_its_first_state_on() {
    let group = WardGroup {
        members: BTreeMap::from([("plant/web".to_owned(), addresses(&["10.0.0.1"]))]),
        ..WardGroup::default()
    };
    let desired = Arc::new(Desired::new(DeviceState {
        wards: BTreeMap::from([("w1".to_owned(), group.into())]),
        ..DeviceState::default()
    }));
    let at = Timestamp::from_second(100).unwrap();
    let mut fresh = connected();
    fresh.set_desired(Some(desired.clone()));
    fresh.taken(&desired);
    fresh.acknowledged(&applied(&desired, 1), 0, at);
    assert_eq!(fresh.applied().covered_at.get("plant/web"), Some(&at));
    // What was in force before nobody knows any more: when each was covered isn't known either.
    let mut known = connected();
    known.reported(
        Some(&proto::Applied {
            state_hash: "of another operator's time".to_owned(),
            ..proto::Applied::default()
        }),
        at,
    );
    known.set_desired(Some(desired.clone()));
    known.taken(&desired);
    known.acknowledged(&applied(&desired, 2), 0, at);
    assert_eq!(known.applied().covered_at.get("plant/web"), None);
}
