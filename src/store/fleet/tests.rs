use std::collections::BTreeSet;

use super::*;
use crate::api::TrustLevel;
use crate::fleet::records::{self, AppliedState};
use crate::store::testing::{Scratch, on_each_database};

on_each_database!(
    a_device_reads_back_as_it_was_enrolled_and_saved,
    of_two_that_race_for_the_last_use_one_wins_and_the_other_is_not_stored,
    an_expired_or_revoked_token_gives_no_use_and_keeps_its_count,
    a_device_that_cannot_be_stored_takes_no_use,
    epochs_only_grow_and_pass_what_they_are_told,
    two_processes_never_take_more_uses_of_a_token_than_it_has,
    two_processes_never_begin_the_same_epoch,
    of_two_processes_one_enrols_a_node,
);

fn token(id: &str, uses_left: u32) -> JoinTokenRecord {
    JoinTokenRecord {
        id: id.to_owned(),
        secret_sha256: [3; 32],
        tenant: "acme".to_owned(),
        tags: BTreeMap::from([("kind".to_owned(), "camera".to_owned())]),
        created_at: records::now(),
        created_by: "os:0".to_owned(),
        expires_at: records::now() + jiff::SignedDuration::from_secs(60),
        uses_left,
        revoked_at: None,
    }
}

fn device(n: u8, token: &str) -> DeviceRecord {
    DeviceRecord {
        id: DeviceId::from_ulid(ulid::Ulid::from_parts(0, n.into())),
        tenant: "acme".to_owned(),
        tags: BTreeMap::from([("kind".to_owned(), "camera".to_owned())]),
        trust: TrustLevel::Restricted,
        fingerprint: [n; 32],
        enrolled_at: records::now(),
        token: token.to_owned(),
        node: None,
        revoked_at: None,
        standing: DeviceStanding::default(),
    }
}

async fn a_device_reads_back_as_it_was_enrolled_and_saved(scratch: Scratch) {
    let store = scratch.open().await;
    store.create_join_token(&token("jt_1", 1)).await.unwrap();
    let mut device = device(1, "jt_1");
    assert_eq!(store.enrol(&device).await.unwrap(), TokenUse::Taken);
    assert_eq!(store.devices().await.unwrap(), [device.clone()]);

    let now = records::now();
    device.standing.facts.host_name = "lap'top \"1\"".to_owned();
    device.standing.addresses = BTreeMap::from([("fe80::1".parse().unwrap(), now)]);
    device.standing.connects_from = Some("2001:db8::9".parse().unwrap());
    device.standing.last_seen = Some(now);
    device.standing.connections_cut = BTreeMap::from([("uid".to_owned(), 4)]);
    device.standing.applied = Some(AppliedState {
        epoch: 3,
        revision: 7,
        state_hash: "a".repeat(64),
        at: now,
        isolations: BTreeSet::from(["uid".to_owned()]),
    });
    let saved = [(device.id.clone(), device.standing.clone())];
    store.save_standings(&saved).await.unwrap();
    device.tags.insert("site".to_owned(), "north".to_owned());
    store.set_tags(&device.id, &device.tags).await.unwrap();
    device.revoked_at = Some(now);
    store.revoke_device(&device.id, now).await.unwrap();
    assert_eq!(store.devices().await.unwrap(), [device]);
}

async fn of_two_that_race_for_the_last_use_one_wins_and_the_other_is_not_stored(scratch: Scratch) {
    let store = scratch.open().await;
    store.create_join_token(&token("jt_1", 1)).await.unwrap();
    let (first, second) = (device(1, "jt_1"), device(2, "jt_1"));
    let (first, second) = tokio::join!(store.enrol(&first), store.enrol(&second));
    let mut ends = [first.unwrap(), second.unwrap()];
    ends.sort_by_key(|end| *end == TokenUse::Lost);
    assert_eq!(ends, [TokenUse::Taken, TokenUse::Lost]);
    assert_eq!(store.devices().await.unwrap().len(), 1);
    let left = store.join_token("jt_1").await.unwrap().unwrap();
    assert_eq!(left.uses_left, 0);
}

async fn an_expired_or_revoked_token_gives_no_use_and_keeps_its_count(scratch: Scratch) {
    let store = scratch.open().await;
    let mut expired = token("jt_1", 5);
    expired.expires_at = records::now() - jiff::SignedDuration::from_secs(1);
    store.create_join_token(&expired).await.unwrap();
    store.create_join_token(&token("jt_2", 5)).await.unwrap();
    assert!(
        store
            .revoke_join_token("jt_2", records::now())
            .await
            .unwrap()
    );
    assert!(
        !store
            .revoke_join_token("jt_3", records::now())
            .await
            .unwrap()
    );
    for (n, id) in [(1, "jt_1"), (2, "jt_2"), (3, "jt_3")] {
        assert_eq!(store.enrol(&device(n, id)).await.unwrap(), TokenUse::Lost);
    }
    let tokens = store.join_tokens().await.unwrap();
    assert!(tokens.iter().all(|token| token.uses_left == 5));
    assert!(store.devices().await.unwrap().is_empty());
}

async fn a_device_that_cannot_be_stored_takes_no_use(scratch: Scratch) {
    let store = scratch.open().await;
    store.create_join_token(&token("jt_1", 2)).await.unwrap();
    let first = device(1, "jt_1");
    store.enrol(&first).await.unwrap();
    assert!(store.enrol(&first).await.is_err());
    let left = store.join_token("jt_1").await.unwrap().unwrap();
    assert_eq!(left.uses_left, 1);
}

async fn epochs_only_grow_and_pass_what_they_are_told(scratch: Scratch) {
    let store = scratch.open().await;
    assert_eq!(store.epoch().await.unwrap(), 0);
    assert_eq!(store.next_epoch(0).await.unwrap(), 1);
    assert_eq!(store.next_epoch(40).await.unwrap(), 41);
    assert_eq!(store.next_epoch(2).await.unwrap(), 42);
    assert_eq!(store.epoch().await.unwrap(), 42);
}

/// As many tasks on each of two open stores, which know nothing of each other.
const AT_ONCE: u8 = 12;

async fn two_processes_never_take_more_uses_of_a_token_than_it_has(scratch: Scratch) {
    let stores = [scratch.open().await, scratch.open().await];
    let (uses, tries) = (7, 2 * AT_ONCE);
    stores[0]
        .create_join_token(&token("jt_1", uses))
        .await
        .unwrap();
    let enrolling = (0..tries).map(|n| {
        let store = stores[usize::from(n % 2)].clone();
        tokio::spawn(async move { store.enrol(&device(n, "jt_1")).await.unwrap() })
    });
    let mut taken = 0;
    for end in futures::future::join_all(enrolling).await {
        taken += u32::from(end.unwrap() == TokenUse::Taken);
    }
    assert_eq!(taken, uses);
    assert_eq!(stores[0].devices().await.unwrap().len(), uses as usize);
    let left = stores[1].join_token("jt_1").await.unwrap().unwrap();
    assert_eq!(left.uses_left, 0);
}

async fn two_processes_never_begin_the_same_epoch(scratch: Scratch) {
    let stores = [scratch.open().await, scratch.open().await];
    let tries = 2 * AT_ONCE;
    let beginning = (0..tries).map(|n| {
        let store = stores[usize::from(n % 2)].clone();
        tokio::spawn(async move { store.next_epoch(0).await.unwrap() })
    });
    let begun = futures::future::join_all(beginning).await;
    let mut begun: Vec<u64> = begun.into_iter().map(Result::unwrap).collect();
    begun.sort_unstable();
    assert_eq!(begun, (1..=u64::from(tries)).collect::<Vec<_>>());
}

async fn of_two_processes_one_enrols_a_node(scratch: Scratch) {
    let stores = [scratch.open().await, scratch.open().await];
    let [first, second] = [1, 2].map(|n| DeviceRecord {
        node: Some("worker-1".to_owned()),
        ..device(n, "")
    });
    let (first, second) = tokio::join!(
        stores[0].insert_node(&first),
        stores[1].insert_node(&second)
    );
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    assert_eq!(stores[0].devices().await.unwrap().len(), 1);
}
