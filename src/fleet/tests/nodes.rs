use std::sync::Arc;

use async_trait::async_trait;
use rcgen::KeyPair;
use tonic::{Code, Status};

use super::agents::{Device, connect, request};
use super::lab::Lab;
use crate::domain::names::DeviceId;
use crate::fleet::administration::AdministrationError;
use crate::fleet::enrol::newcomer;
use crate::fleet::join_token::JoinToken;
use crate::fleet::nodes::{NodeTokenError, NodeTokens, Nodes};
use crate::fleet::records::{self, DeviceStore};
use crate::fleet::witness::{EnrolmentRefusal, FleetEvent, Happening};

/// An API server that knows the tokens `token-of-NODE`.
struct Tokens;

#[async_trait]
impl NodeTokens for Tokens {
    async fn node_of(&self, token: &str) -> Result<String, NodeTokenError> {
        match token.strip_prefix("token-of-") {
            Some(node) => Ok(node.to_owned()),
            None if token == "later" => Err(NodeTokenError::Unavailable("nobody answers".into())),
            None => Err(NodeTokenError::Refused("it is mallory's".into())),
        }
    }
}

fn nodes() -> Option<Nodes> {
    Some(Nodes::new(Arc::new(Tokens), "seawall-system".to_owned()))
}

/// Of no join token.
fn nobody() -> JoinToken {
    JoinToken {
        id: String::new(),
        secret: [0; 32],
        addresses: Vec::new(),
        ca_certificate: Vec::new(),
    }
}

async fn enrol(lab: &Lab, token: &str) -> Result<Device, Status> {
    let key = KeyPair::generate().unwrap();
    let mut request = request(&nobody(), &key);
    request.node_token = token.to_owned();
    let answer = connect(lab, None).await.unwrap().enroll(request).await?;
    Ok(Device::of(answer.into_inner(), &key))
}

fn refused(event: &FleetEvent) -> Option<(EnrolmentRefusal, Option<String>)> {
    match &event.what {
        Happening::EnrolmentRefused { reason, detail, .. } => Some((*reason, detail.clone())),
        _ => None,
    }
}

#[tokio::test]
async fn a_node_is_a_device_of_the_system_namespace_under_the_name_that_its_token_says() {
    let mut lab = Lab::begin_with(nodes()).await;
    let device = enrol(&lab, "token-of-worker-1").await.unwrap();
    let view = lab.fleet.view_of(&device.id).unwrap();
    assert_eq!(view.tenant, "seawall-system");
    assert_eq!(view.node.as_deref(), Some("worker-1"));
    assert!(view.tags.is_empty());
    let facts = &lab.fleet.devices()[&device.id];
    assert_eq!(facts.node.as_deref(), Some("worker-1"));
    let told = lab.event(|event| match &event.what {
        Happening::Enrolled { node, .. } => Some((node.clone(), event.tenant.clone())),
        _ => None,
    });
    let expected = ("worker-1".to_owned(), "seawall-system".to_owned());
    assert_eq!(told.await, (Some(expected.0), Some(expected.1)));
    let lab = lab.restart_with(nodes()).await;
    let view = lab.fleet.view_of(&device.id).unwrap();
    assert_eq!(view.node.as_deref(), Some("worker-1"), "it is stored");
    let _open = device.hello(&lab, None).await;
    lab.until_connected(&device.id, true).await;
}

#[tokio::test]
async fn a_node_that_enrols_again_is_the_same_device_and_its_old_certificate_counts_no_more() {
    let lab = Lab::begin_with(nodes()).await;
    let first = enrol(&lab, "token-of-worker-1").await.unwrap();
    let mut session = first.hello(&lab, None).await;
    lab.until_connected(&first.id, true).await;
    let second = enrol(&lab, "token-of-worker-1").await.unwrap();
    assert_eq!(second.id, first.id);
    assert!(session.end().await.message().contains("enrolled again"));
    let old = first.open(&lab).await.err().unwrap();
    assert_eq!(old.code(), Code::Unauthenticated, "{old}");
    let _open = second.hello(&lab, None).await;
    lab.until_connected(&second.id, true).await;
    let other = enrol(&lab, "token-of-worker-2").await.unwrap();
    assert_ne!(other.id, first.id);
    assert_eq!(lab.fleet.devices().len(), 2);
    // As the store has it, too.
    let lab = lab.restart_with(nodes()).await;
    assert_eq!(
        first.open(&lab).await.err().unwrap().code(),
        Code::Unauthenticated
    );
    assert!(second.open(&lab).await.is_ok());
}

#[tokio::test]
async fn a_node_whose_enrolment_was_stored_and_never_answered_enrols_all_the_same() {
    let lab = Lab::begin_with(nodes()).await;
    let id = DeviceId::from_ulid(ulid::Ulid::generate());
    let request = request(&nobody(), &KeyPair::generate().unwrap());
    let mut lost = newcomer(&id, &request, None, records::now());
    lost.tenant = "seawall-system".to_owned();
    lost.node = Some("worker-1".to_owned());
    lab.store.insert_node(&lost).await.unwrap();
    assert!(lab.fleet.devices().is_empty(), "the fleet was not told");
    let device = enrol(&lab, "token-of-worker-1").await.unwrap();
    assert_eq!(device.id, lost.id);
    let _open = device.hello(&lab, None).await;
    lab.until_connected(&device.id, true).await;
    assert_eq!(lab.store.devices().await.unwrap().len(), 1);
}

#[tokio::test]
async fn of_ten_that_race_for_one_node_all_are_one_device() {
    let lab = Lab::begin_with(nodes()).await;
    let racing = (0..10).map(|_| enrol(&lab, "token-of-worker-1"));
    let ends = futures::future::join_all(racing).await;
    let ids: std::collections::BTreeSet<_> = ends.into_iter().map(|end| end.unwrap().id).collect();
    assert_eq!((ids.len(), lab.fleet.devices().len()), (1, 1));
}

#[tokio::test]
async fn a_token_of_nobody_is_refused_and_one_that_nobody_can_judge_is_not_for_now() {
    let mut lab = Lab::begin_with(nodes()).await;
    let status = enrol(&lab, "forged").await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("it is mallory's"), "{status}");
    let (reason, detail) = lab.event(refused).await;
    assert_eq!(reason, EnrolmentRefusal::NodeTokenNotAccepted);
    assert!(detail.unwrap().contains("mallory"));
    let status = enrol(&lab, "later").await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("nobody answers"), "{status}");
    let long = format!("token-of-{}", "x".repeat(9000));
    let status = enrol(&lab, &long).await.err().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(lab.fleet.devices().is_empty());
    assert!(lab.told_so_far().iter().all(|what| {
        !matches!(what, Happening::EnrolmentRefused { detail: Some(words), .. } if words.contains("nobody answers"))
    }));
}

#[tokio::test]
async fn where_nodes_do_not_enrol_a_nodes_token_is_refused_with_what_to_do() {
    let lab = Lab::begin().await;
    let status = enrol(&lab, "token-of-worker-1").await.err().unwrap();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(
        status.message().contains("--node-service-account"),
        "{status}"
    );
}

#[tokio::test]
async fn a_revoked_node_stays_out_until_a_person_readmits_it() {
    let mut lab = Lab::begin_with(nodes()).await;
    let device = enrol(&lab, "token-of-worker-1").await.unwrap();
    lab.fleet.revoke(&device.id, false, "os:0").await.unwrap();
    for restarted in [false, true] {
        if restarted {
            lab = lab.restart_with(nodes()).await;
        }
        let status = enrol(&lab, "token-of-worker-1").await.err().unwrap();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(
            status.message().contains("seawall fleet readmit worker-1"),
            "{status}"
        );
    }
    let other = lab.fleet.readmit("worker-2", "os:0").await.unwrap_err();
    assert!(
        matches!(other, AdministrationError::NoSuchNode(_)),
        "{other}"
    );
    let id = lab.fleet.readmit("worker-1", "os:0").await.unwrap();
    assert_eq!(id, device.id);
    let told = lab.event(|event| match &event.what {
        Happening::DeviceReadmitted { node, .. } => Some((node.clone(), event.who.clone())),
        _ => None,
    });
    assert_eq!(told.await, ("worker-1".to_owned(), "os:0".to_owned()));
    let old = device.open(&lab).await.err().unwrap();
    assert_eq!(old.code(), Code::Unauthenticated, "the old certificate");
    let lab = lab.restart_with(nodes()).await;
    let again = enrol(&lab, "token-of-worker-1").await.unwrap();
    assert_eq!(again.id, device.id);
    assert!(again.open(&lab).await.is_ok());
}
