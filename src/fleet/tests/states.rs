use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::agents::{Agent, Device, applied};
use super::lab::Lab;
use crate::domain::enforcement::{DeviceState, Source, SourceKind};
use crate::domain::names::DeviceId;
use crate::fleet::proto::{self, agent_message};
use crate::fleet::waves::WAVE_PATIENCE;
use crate::fleet::witness::Happening;

/// A state that these Isolations, by UID, contributed to.
fn state(isolations: &[&str]) -> Arc<DeviceState> {
    let sources = isolations.iter().map(|uid| Source {
        kind: SourceKind::Isolation,
        namespace: "acme".to_owned(),
        name: (*uid).to_owned(),
        uid: (*uid).to_owned(),
        generation: 1,
    });
    Arc::new(DeviceState {
        sources: sources.collect(),
        ..Default::default()
    })
}

fn for_all(
    devices: &[&Device],
    state: &Arc<DeviceState>,
) -> Vec<BTreeMap<DeviceId, Arc<DeviceState>>> {
    let states = devices.iter().map(|d| (d.id.clone(), Arc::clone(state)));
    vec![states.collect()]
}

async fn connected(lab: &Lab) -> (Device, Agent) {
    let device = Device::new(lab).await;
    let agent = device.hello(lab, None).await;
    lab.until_connected(&device.id, true).await;
    (device, agent)
}

#[tokio::test]
async fn a_state_is_sent_signed_and_counts_as_applied_once_acknowledged() {
    let lab = Lab::begin().await;
    let (device, mut agent) = connected(&lab).await;
    lab.fleet.set_desired(for_all(&[&device], &state(&["one"])));
    let bundle = agent.bundle().await;
    assert_eq!(bundle.device, device.id);
    assert_eq!((bundle.epoch, bundle.revision), (1, 1));
    assert_eq!(bundle.state_hash, bundle.state.hash());
    assert!(lab.fleet.applied()[&device.id].sources.is_empty());
    agent.acknowledge(&bundle, 7).await;
    lab.until(|fleet| fleet.applied()[&device.id].state_hash == bundle.state_hash)
        .await;
    let applied = &lab.fleet.applied()[&device.id];
    assert_eq!(*applied.sources, state(&["one"]).sources);
    assert_eq!(
        applied.connections_cut,
        BTreeMap::from([("one".to_owned(), 7)])
    );
    assert!(lab.fleet.view(Some("acme"))[0].up_to_date);
    assert!(lab.fleet.view(Some("other")).is_empty());
    lab.fleet.set_desired(for_all(&[&device], &state(&["one"])));
    agent.silence(Duration::from_millis(200)).await;
}

#[tokio::test]
async fn an_acknowledgement_says_how_each_isolation_that_is_new_came_into_force() {
    let lab = Lab::begin().await;
    let (device, mut agent) = connected(&lab).await;
    for (isolations, apply_us) in [(&["one"][..], 700), (&["one", "two"], 900)] {
        lab.fleet
            .set_desired(for_all(&[&device], &state(isolations)));
        let bundle = agent.bundle().await;
        let ack = proto::Ack {
            applied: Some(applied(&bundle)),
            apply_us,
            ..Default::default()
        };
        agent.say(agent_message::Message::Ack(ack)).await;
        lab.until(|fleet| fleet.applied()[&device.id].sources.len() == isolations.len())
            .await;
    }
    let delivery = |uid, generation| lab.fleet.delivery(&device.id, uid, generation);
    for (uid, apply_us) in [("one", 700), ("two", 900)] {
        let delivery = delivery(uid, 1).expect("it was acknowledged");
        assert_eq!(delivery.news, [(uid.to_owned(), 1)].into());
        assert_eq!(delivery.on_device.apply, Duration::from_micros(apply_us));
        assert!(delivery.compiled <= delivery.sent && delivery.sent <= delivery.acknowledged);
    }
    assert!(delivery("one", 2).is_none() && delivery("three", 1).is_none());
}

#[tokio::test]
async fn after_a_restart_with_an_unchanged_world_nothing_is_sent_and_everything_is_known() {
    let lab = Lab::begin().await;
    let (device, mut agent) = connected(&lab).await;
    lab.fleet.set_desired(for_all(&[&device], &state(&["one"])));
    let bundle = agent.bundle().await;
    agent.acknowledge(&bundle, 3).await;
    lab.until(|fleet| !fleet.applied()[&device.id].sources.is_empty())
        .await;
    let before = lab.fleet.applied();
    let lab = lab.restart().await;
    lab.fleet.set_desired(for_all(&[&device], &state(&["one"])));
    let while_away = lab.fleet.applied();
    assert_eq!(while_away[&device.id].sources, before[&device.id].sources);

    let mut agent = device.hello(&lab, Some(applied(&bundle))).await;
    agent.silence(Duration::from_millis(300)).await;
    assert_eq!(lab.fleet.applied(), before, "counts and times included");

    lab.fleet
        .set_desired(for_all(&[&device], &state(&["one", "two"])));
    let next = agent.bundle().await;
    assert!((next.epoch, next.revision) > (bundle.epoch, bundle.revision));
    agent.acknowledge(&next, 5).await;
    lab.until(|fleet| fleet.applied()[&device.id].sources.len() == 2)
        .await;
    let cut = &lab.fleet.applied()[&device.id].connections_cut;
    let expected = [("one".to_owned(), 3), ("two".to_owned(), 5)];
    assert_eq!(*cut, BTreeMap::from(expected), "each its own");
}

#[tokio::test]
async fn a_device_that_lost_its_state_is_sent_it_again() {
    let lab = Lab::begin().await;
    let (device, mut agent) = connected(&lab).await;
    lab.fleet.set_desired(for_all(&[&device], &state(&["one"])));
    let bundle = agent.bundle().await;
    agent.acknowledge(&bundle, 0).await;
    lab.until(|fleet| !fleet.applied()[&device.id].sources.is_empty())
        .await;
    let mut agent = device.hello(&lab, None).await;
    assert_eq!(agent.bundle().await, bundle, "the same one, signed once");
    assert!(lab.fleet.applied()[&device.id].sources.is_empty());
}

#[tokio::test]
async fn a_device_speaks_only_for_itself() {
    let lab = Lab::begin().await;
    let (liar, mut agent) = connected(&lab).await;
    let (victim, mut other) = connected(&lab).await;
    let mut wave = for_all(&[&liar], &state(&["one"]));
    wave[0].insert(victim.id.clone(), state(&["two"]));
    lab.fleet.set_desired(wave);
    agent.bundle().await;
    let of_victim = other.bundle().await;
    agent.acknowledge(&of_victim, 9).await;
    lab.until(|fleet| fleet.applied()[&liar.id].state_hash == of_victim.state_hash)
        .await;
    let applied = lab.fleet.applied();
    assert!(applied[&victim.id].sources.is_empty());
    assert!(applied[&liar.id].sources.is_empty(), "nobody sent it that");
    assert!(applied[&liar.id].connections_cut.is_empty());
    assert!(!lab.fleet.view_of(&liar.id).unwrap().up_to_date);
}

#[tokio::test]
async fn the_first_wave_goes_at_once_and_the_next_when_it_has_answered() {
    let lab = Lab::begin().await;
    let (target, mut first) = connected(&lab).await;
    let (peer, mut second) = connected(&lab).await;
    let isolated = state(&["one"]);
    let waves = || {
        let mut waves = for_all(&[&target], &isolated);
        waves.extend(for_all(&[&peer], &isolated));
        waves
    };
    let begun = Instant::now();
    lab.fleet.set_desired(waves());
    let bundle = first.bundle().await;
    // The target does not answer: the peer is told all the same.
    second.bundle().await;
    let waited = begun.elapsed();
    assert!(waited >= WAVE_PATIENCE, "{waited:?}");
    first.acknowledge(&bundle, 0).await;
    lab.until(|fleet| !fleet.applied()[&target.id].sources.is_empty())
        .await;
}

#[tokio::test]
async fn a_slow_agent_delays_nobody_and_gets_the_newest_state_when_it_reads_again() {
    let lab = Lab::begin().await;
    let (slow, mut reader) = connected(&lab).await;
    let (fast, mut agent) = connected(&lab).await;
    let rounds = 60;
    let uid = |round: usize| format!("{round}-{}", "x".repeat(100_000));
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let begun = Instant::now();
        lab.fleet
            .set_desired(for_all(&[&slow, &fast], &state(&[&uid(round)])));
        let bundle = agent.bundle().await;
        assert!(bundle.state.sources.iter().any(|s| s.uid == uid(round)));
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let mut got = 0;
    loop {
        let bundle = reader.bundle().await;
        got += 1;
        if bundle
            .state
            .sources
            .iter()
            .any(|s| s.uid == uid(rounds - 1))
        {
            break;
        }
    }
    // What the connection's buffers took, and the newest; not a queue of all.
    assert!(got < rounds / 2, "{got}");
}

#[tokio::test]
async fn a_refusal_is_reported_and_the_same_state_is_not_sent_at_once_again() {
    let mut lab = Lab::begin().await;
    let (device, mut agent) = connected(&lab).await;
    lab.fleet.set_desired(for_all(&[&device], &state(&["one"])));
    let bundle = agent.bundle().await;
    let refused = proto::Refused {
        epoch: bundle.epoch,
        revision: bundle.revision,
        reason: "apply_failed".to_owned(),
        detail: "nft: busy".to_owned(),
    };
    agent.say(agent_message::Message::Refused(refused)).await;
    let reason = lab.event(|event| match &event.what {
        Happening::BundleRefused { reason, .. } => Some(reason.clone()),
        _ => None,
    });
    assert_eq!(reason.await, "apply_failed");
    let why = lab.fleet.applied()[&device.id].refused.clone();
    assert_eq!(why.as_deref(), Some("apply_failed: nft: busy"));
    lab.fleet.set_desired(for_all(&[&device], &state(&["one"])));
    agent.silence(Duration::from_millis(200)).await;
    agent.acknowledge(&bundle, 0).await;
    lab.until(|fleet| fleet.applied()[&device.id].refused.is_none())
        .await;
}

#[tokio::test]
async fn a_device_that_is_ahead_of_the_store_is_refused_until_a_person_advances_the_epoch() {
    let mut lab = Lab::begin().await;
    let device = Device::new(&lab).await;
    let ahead = proto::Applied {
        epoch: 9,
        revision: 4,
        state_hash: "a".repeat(64),
        ..proto::Applied::default()
    };
    let mut agent = device.hello(&lab, Some(ahead.clone())).await;
    let status = agent.end().await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("advance-epoch 9"), "{status}");
    let epoch = lab.event(|event| match &event.what {
        Happening::DeviceAhead { device_epoch, .. } => Some(*device_epoch),
        _ => None,
    });
    assert_eq!(epoch.await, 9);

    lab.fleet.set_desired(for_all(&[&device], &state(&["one"])));
    assert_eq!(lab.fleet.advance_epoch(9, "os:0").await.unwrap(), 10);
    let mut agent = device.hello(&lab, Some(ahead)).await;
    assert_eq!(agent.bundle().await.epoch, 10);
}

#[tokio::test]
async fn a_quiet_fleet_says_nothing_to_anybody() {
    let mut lab = Lab::begin().await;
    let (device, mut agent) = connected(&lab).await;
    lab.fleet.set_desired(for_all(&[&device], &state(&[])));
    let bundle = agent.bundle().await;
    agent.acknowledge(&bundle, 0).await;
    lab.until(|fleet| fleet.view_of(&device.id).unwrap().up_to_date)
        .await;
    lab.told_so_far();
    let mut changes = lab.fleet.changes();
    changes.mark_unchanged();
    for _ in 0..5 {
        let heartbeat = proto::Heartbeat {
            applied: Some(applied(&bundle)),
            ..proto::Heartbeat::default()
        };
        agent
            .say(agent_message::Message::Heartbeat(heartbeat))
            .await;
    }
    agent.silence(Duration::from_millis(200)).await;
    assert!(!changes.has_changed().unwrap());
    assert!(lab.told_so_far().is_empty());
}
