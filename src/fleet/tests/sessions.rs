use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use tonic::Code;
use tonic::transport::Identity;

use super::agents::{Agent, Device, connect, facts, pem};
use super::lab::Lab;
use crate::domain::enforcement::DeviceState;
use crate::fleet::keys::OperatorKeys;
use crate::fleet::proto::{self, agent_message, operator_message};
use crate::fleet::records::DeviceStore;
use crate::fleet::witness::Happening;

#[tokio::test]
async fn a_session_without_a_certificate_is_refused() {
    let lab = Lab::begin().await;
    let mut client = connect(&lab, None).await.unwrap();
    let status = client.session(futures::stream::pending()).await;
    assert_eq!(status.err().unwrap().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_certificate_of_ours_that_belongs_to_no_device_is_refused_and_told() {
    let mut lab = Lab::begin().await;
    let device = Device::new(&lab).await;
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    // Signed by our authority and in the device's name, but not the one it was given.
    let forged = lab.keys.authority.device_certificate(&device.id, csr.der());
    let forged = pem("CERTIFICATE", &forged.unwrap());
    let stranger = Device {
        identity: Identity::from_pem(forged, key.serialize_pem()),
        ..device
    };
    let status = stranger.open(&lab).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("enrol"), "{status}");
    let told = lab.event(|event| match &event.what {
        Happening::SessionRefused { device, .. } => Some(device.clone()),
        _ => None,
    });
    assert_eq!(told.await, None);
}

#[tokio::test]
async fn a_certificate_of_another_authority_gets_no_connection() {
    let lab = Lab::begin().await;
    let device = Device::new(&lab).await;
    let other = OperatorKeys::generate().unwrap();
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let forged = other.authority.device_certificate(&device.id, csr.der());
    let identity = Identity::from_pem(pem("CERTIFICATE", &forged.unwrap()), key.serialize_pem());
    // With TLS 1.3 the client learns it at its first request.
    if let Ok(mut client) = connect(&lab, Some(identity)).await {
        let session = client.session(futures::stream::pending()).await;
        assert!(session.is_err());
    }
    assert!(!lab.fleet.applied()[&device.id].connected);
}

#[tokio::test]
async fn a_newer_session_of_a_device_takes_the_place_of_the_older() {
    let lab = Lab::begin().await;
    let device = Device::new(&lab).await;
    let mut older = device.hello(&lab, None).await;
    lab.until_connected(&device.id, true).await;
    let mut newer = device.hello(&lab, None).await;
    assert_eq!(older.end().await.code(), Code::Aborted);
    assert!(lab.fleet.applied()[&device.id].connected);
    newer.silence(Duration::from_millis(100)).await;
    drop(newer);
    lab.until_connected(&device.id, false).await;
}

#[tokio::test]
async fn revocation_ends_the_stream_at_once_and_for_good() {
    let mut lab = Lab::begin().await;
    let device = Device::new(&lab).await;
    let mut agent = device.hello(&lab, None).await;
    lab.until_connected(&device.id, true).await;
    lab.fleet
        .revoke(&device.id, false, "os:1000")
        .await
        .unwrap();
    assert_eq!(agent.end().await.code(), Code::PermissionDenied);
    let status = device.open(&lab).await.err().unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("revoked"), "{status}");
    let by = lab.event(|event| match &event.what {
        Happening::DeviceRevoked { .. } => Some(event.who.clone()),
        _ => None,
    });
    assert_eq!(by.await, "os:1000");

    let lab = lab.restart().await;
    assert!(lab.fleet.devices().is_empty());
    let status = device.open(&lab).await.err().unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn losing_leadership_ends_streams_and_serves_nobody_until_it_is_back() {
    let lab = Lab::begin().await;
    let device = Device::new(&lab).await;
    let mut agent = device.hello(&lab, None).await;
    lab.until_connected(&device.id, true).await;
    lab.fleet.pause();
    assert_eq!(agent.end().await.code(), Code::Unavailable);
    let status = device.open(&lab).await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(lab.fleet.lead().await.unwrap(), 2);
    let _agent = device.hello(&lab, None).await;
    lab.until_connected(&device.id, true).await;
}

#[tokio::test]
async fn what_is_no_hello_or_no_hash_or_too_much_ends_the_stream() {
    let lab = Lab::begin().await;
    let device = Device::new(&lab).await;
    let heartbeat = || agent_message::Message::Heartbeat(proto::Heartbeat::default());

    let mut mute = device.open(&lab).await.unwrap();
    mute.say(heartbeat()).await;
    assert_eq!(mute.end().await.code(), Code::InvalidArgument);

    let mut liar = device.hello(&lab, None).await;
    let ack = proto::Ack {
        applied: Some(proto::Applied {
            state_hash: "not a hash".to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    liar.say(agent_message::Message::Ack(ack)).await;
    assert_eq!(liar.end().await.code(), Code::InvalidArgument);

    let mut chatterer = device.hello(&lab, None).await;
    chatterer.chatter(heartbeat()).await;
    assert_eq!(chatterer.end().await.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn an_address_keeps_the_time_of_its_first_claim_until_it_is_given_up() {
    let lab = Lab::begin().await;
    let device = Device::new(&lab).await;
    let agent = device.hello(&lab, None).await;
    lab.until_connected(&device.id, true).await;
    let nothing = BTreeMap::from([(device.id.clone(), Arc::<DeviceState>::default())]);
    lab.fleet.set_desired(vec![nothing]);
    let addresses = |lab: &Lab| lab.fleet.devices()[&device.id].addresses.clone();
    let says = async |texts: &[&str]| {
        agent.say(agent_message::Message::Facts(facts(texts))).await;
        lab.until(|fleet| fleet.devices()[&device.id].addresses.len() == texts.len())
            .await;
    };
    let first = addresses(&lab);
    says(&["10.0.0.1", "fd00::1"]).await;
    let both = addresses(&lab);
    let v4 = "10.0.0.1".parse().unwrap();
    assert_eq!(both[&v4], first[&v4]);
    says(&["fd00::1", "10.0.0.2", "10.0.0.3"]).await;
    assert!(!addresses(&lab).contains_key(&v4));
    says(&["10.0.0.1"]).await;
    assert!(addresses(&lab)[&v4] > first[&v4], "it was given up between");
    let last = addresses(&lab);
    drop(agent);
    let lab = lab.restart().await;
    assert_eq!(lab.fleet.devices()[&device.id].addresses, last);
}

#[tokio::test]
async fn being_seen_alone_is_written_to_the_store_once_a_minute() {
    let lab = Lab::begin().await;
    let device = Device::new(&lab).await;
    let agent = device.hello(&lab, None).await;
    lab.until_connected(&device.id, true).await;
    let stored = async || lab.store.devices().await.unwrap()[0].standing.last_seen;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let first = stored().await;
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let heartbeat = proto::Heartbeat::default();
        agent
            .say(agent_message::Message::Heartbeat(heartbeat))
            .await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(stored().await, first);
    let seen = lab.fleet.view_of(&device.id).unwrap().last_seen;
    assert!(seen > first, "{seen:?}");
}

#[tokio::test]
async fn a_tampered_table_is_told_in_clean_words_and_bounded() {
    let mut lab = Lab::begin().await;
    let device = Device::new(&lab).await;
    let agent = device.hello(&lab, None).await;
    let tampered = proto::Tampered {
        what: format!("flushed\u{7}\n{}", "x".repeat(5000)),
        repaired: true,
        repair_us: 900,
    };
    agent.say(agent_message::Message::Tampered(tampered)).await;
    let description = lab.event(|event| match &event.what {
        Happening::Tampered { description, .. } => Some(description.clone()),
        _ => None,
    });
    let description = description.await;
    assert!(description.starts_with("flushedxxx"));
    assert_eq!(description.chars().count(), 512);
}

#[tokio::test]
async fn a_read_back_asks_the_device_now_and_says_who_did_not_answer() {
    let lab = Lab::begin().await;
    let [honest, deaf, away] = [
        Device::new(&lab).await,
        Device::new(&lab).await,
        Device::new(&lab).await,
    ];
    let mut agent = honest.hello(&lab, None).await;
    let _silent = deaf.hello(&lab, None).await;
    lab.until_connected(&honest.id, true).await;
    lab.until_connected(&deaf.id, true).await;
    let all = BTreeSet::from([honest.id.clone(), deaf.id.clone(), away.id.clone()]);
    let asked = lab.fleet.read_back(&all, Duration::from_millis(500));
    let (answers, ()) = tokio::join!(asked, answer(&mut agent, false));
    let of = |device: &Device| answers.iter().find(|a| a.device == device.id).unwrap();
    assert!(!of(&honest).matches);
    assert!(
        of(&honest).detail.contains("a rule is missing"),
        "{answers:?}"
    );
    assert!(of(&deaf).connected && of(&deaf).detail.contains("in time"));
    assert!(!of(&away).connected && !of(&away).matches);
}

async fn answer(agent: &mut Agent, matches: bool) {
    let operator_message::Message::Verify(verify) = agent.next().await.unwrap() else {
        panic!("not a question");
    };
    let forged = proto::ReadBack {
        nonce: "another".to_owned(),
        matches: true,
        ..Default::default()
    };
    agent.say(agent_message::Message::ReadBack(forged)).await;
    let read_back = proto::ReadBack {
        nonce: verify.nonce,
        matches,
        detail: "a rule is missing".to_owned(),
        ..Default::default()
    };
    agent.say(agent_message::Message::ReadBack(read_back)).await;
}
