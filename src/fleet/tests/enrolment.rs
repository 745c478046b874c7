use std::time::Duration;

use rcgen::KeyPair;
use tonic::Code;

use super::agents::{Device, connect, request};
use super::lab::Lab;
use crate::fleet::administration::NewJoinToken;
use crate::fleet::join_token::JoinToken;
use crate::fleet::witness::{EnrolmentRefusal, Happening};

#[tokio::test]
async fn a_device_gets_its_identity_tenant_and_tags_from_the_server() {
    let mut lab = Lab::begin().await;
    let device = Device::new(&lab).await;
    let view = lab.fleet.view_of(&device.id).unwrap();
    assert_eq!(view.tenant, "acme");
    assert_eq!(view.tags["kind"], "laptop");
    assert_eq!(view.host_name, "laptop", "control characters are gone");
    assert_eq!(view.addresses, ["10.0.0.1"]);
    assert_eq!(view.connects_from.as_deref(), Some("127.0.0.1"));
    assert!(!view.connected);
    let enrolled = lab.event(|event| match &event.what {
        Happening::Enrolled { device, .. } => Some((device.clone(), event.tenant.clone())),
        _ => None,
    });
    assert_eq!(enrolled.await, (device.id, Some("acme".to_owned())));
}

#[tokio::test]
async fn a_wrong_secret_and_an_unknown_token_are_told_the_same() {
    let mut lab = Lab::begin().await;
    let good = lab.token(1).await;
    let wrong = JoinToken {
        secret: [0; 32],
        ..good.clone()
    };
    let unknown = JoinToken {
        id: "jt_other".to_owned(),
        ..good.clone()
    };
    let wrong = Device::enrol(&lab, &wrong).await.err().unwrap();
    let unknown = Device::enrol(&lab, &unknown).await.err().unwrap();
    assert_eq!(wrong.code(), Code::Unauthenticated);
    assert_eq!(wrong.message(), unknown.message());
    assert!(wrong.message().contains("paste it whole"), "{wrong}");
    let refused = |event: &crate::fleet::witness::FleetEvent| match &event.what {
        Happening::EnrolmentRefused { reason, .. } => Some((*reason, event.tenant.clone())),
        _ => None,
    };
    let expected = (EnrolmentRefusal::NotAccepted, None);
    assert_eq!(lab.event(refused).await, expected);
    assert_eq!(lab.event(refused).await, expected);
    assert!(Device::enrol(&lab, &good).await.is_ok(), "it lost no use");
}

#[tokio::test]
async fn an_expired_a_revoked_and_a_used_token_say_what_they_are_and_what_to_do() {
    let lab = Lab::begin().await;
    let used = lab.token(1).await;
    Device::enrol(&lab, &used).await.unwrap();
    let revoked = lab.token(1).await;
    let revoking = lab.fleet.revoke_join_token(&revoked.id, "os:0");
    revoking.await.unwrap();
    let brief = NewJoinToken {
        tenant: "acme".to_owned(),
        tags: Default::default(),
        uses: 1,
        ttl: Duration::from_secs(1),
    };
    let (_, expired) = lab.fleet.create_join_token(brief, "os:0").await.unwrap();
    let expired = JoinToken::decode(&expired).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for (token, words) in [
        (used, "used up"),
        (revoked, "revoked"),
        (expired, "expired"),
    ] {
        let status = Device::enrol(&lab, &token).await.err().unwrap();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(words), "{status}");
        assert!(status.message().contains("join-token create"), "{status}");
    }
    assert_eq!(lab.fleet.devices().len(), 1);
}

#[tokio::test]
async fn of_ten_that_race_with_a_token_for_one_only_one_enrols() {
    let lab = Lab::begin().await;
    let token = lab.token(1).await;
    let racing = (0..10).map(|_| Device::enrol(&lab, &token));
    let ends = futures::future::join_all(racing).await;
    assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1);
    assert_eq!(lab.fleet.devices().len(), 1);
    let refused = ends.iter().filter_map(|end| end.as_ref().err());
    for status in refused {
        assert!(status.message().contains("used up"), "{status}");
    }
}

#[tokio::test]
async fn a_bad_certificate_request_is_refused_and_takes_no_use() {
    let lab = Lab::begin().await;
    let token = lab.token(1).await;
    let key = KeyPair::generate().unwrap();
    let mut client = connect(&lab, None).await.unwrap();
    for certificate_request in [Vec::new(), vec![0x30; 9000], b"nonsense".to_vec()] {
        let request = crate::fleet::proto::EnrollRequest {
            certificate_request,
            ..request(&token, &key)
        };
        let status = client.enroll(request).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    assert!(Device::enrol(&lab, &token).await.is_ok());
}

#[tokio::test]
async fn guessing_is_slowed_and_enrolling_from_the_same_address_is_not() {
    let lab = Lab::begin().await;
    let token = lab.token(30).await;
    for _ in 0..30 {
        Device::enrol(&lab, &token).await.unwrap();
    }
    let guess = JoinToken {
        secret: [0; 32],
        ..token.clone()
    };
    let mut codes = Vec::new();
    for _ in 0..12 {
        codes.push(Device::enrol(&lab, &guess).await.err().unwrap());
    }
    let slowed = codes.last().unwrap();
    assert_eq!(slowed.code(), Code::ResourceExhausted);
    assert!(slowed.message().contains("seconds"), "{slowed}");
    let another = lab.token(1).await;
    assert!(Device::enrol(&lab, &another).await.is_ok());
}

#[tokio::test]
async fn a_replica_that_does_not_lead_enrols_nobody() {
    let lab = Lab::begin().await;
    let token = lab.token(1).await;
    lab.fleet.pause();
    let status = Device::enrol(&lab, &token).await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    lab.fleet.lead().await.unwrap();
    assert!(Device::enrol(&lab, &token).await.is_ok());
}
