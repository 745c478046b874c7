use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::client::AdminClient;
use super::*;
use crate::domain::enforcement::{DeviceState, SelfIsolation};
use crate::domain::names::DeviceId;
use crate::fleet::tests::agents::Device;
use crate::fleet::tests::lab::Lab;
use crate::fleet::witness::Happening;

/// The lab's fleet behind a socket of its own.
struct Admin {
    client: AdminClient,
    directory: TempDir,
    stop: CancellationToken,
    server: JoinHandle<anyhow::Result<()>>,
}

async fn admin(lab: &Lab) -> Admin {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/admin.sock");
    let stop = CancellationToken::new();
    let server = {
        let (path, router, stop) = (path.clone(), router(lab.fleet.clone()), stop.clone());
        tokio::spawn(async move { socket::serve(&path, router, stop).await })
    };
    while !path.exists() {
        tokio::task::yield_now().await;
    }
    Admin {
        client: AdminClient::new(&path).unwrap(),
        directory,
        stop,
        server,
    }
}

fn request(tenant: &str) -> JoinTokenRequest {
    JoinTokenRequest {
        tenant: tenant.to_owned(),
        tags: BTreeMap::from([("kind".to_owned(), "laptop".to_owned())]),
        uses: 2,
        ttl_seconds: 600,
    }
}

#[tokio::test]
async fn a_person_makes_a_token_that_a_device_enrols_with_and_the_log_knows_who() {
    let mut lab = Lab::begin().await;
    let admin = admin(&lab).await;
    let new = admin.client.create_join_token(&request("acme")).await;
    let new = new.unwrap();
    let me = format!("os:{}", nix::unistd::getuid());
    assert_eq!(new.view.created_by, me);
    let token = crate::fleet::join_token::JoinToken::decode(&new.token).unwrap();
    let device = Device::enrol(&lab, &token).await.unwrap();
    let who = lab.event(|event| match &event.what {
        Happening::JoinTokenCreated { .. } => Some(event.who.clone()),
        _ => None,
    });
    assert_eq!(who.await, me);

    let tokens = admin.client.join_tokens(Some("acme")).await.unwrap();
    assert_eq!((tokens.len(), tokens[0].uses_left), (1, 1));
    assert!(
        admin
            .client
            .join_tokens(Some("other"))
            .await
            .unwrap()
            .is_empty()
    );
    let listed = admin.client.devices(None).await.unwrap();
    assert_eq!(listed[0].id, device.id);
    let detail = admin.client.device(&device.id).await.unwrap();
    assert_eq!(detail.view, listed[0]);
    assert!(!serde_json::to_string(&tokens).unwrap().contains("secret"));

    admin.client.revoke_join_token(&token.id).await.unwrap();
    let refused = Device::enrol(&lab, &token).await.err().unwrap();
    assert!(refused.message().contains("revoked"), "{refused}");
}

fn isolated() -> DeviceState {
    DeviceState {
        isolation: Some(SelfIsolation::default()),
        ..DeviceState::default()
    }
}

#[tokio::test]
async fn tags_are_changed_and_a_device_is_revoked_by_a_person() {
    let lab = Lab::begin().await;
    let admin = admin(&lab).await;
    let device = Device::new(&lab).await;
    let tagging = Tagging {
        set: BTreeMap::from([("site".to_owned(), "north".to_owned())]),
        remove: BTreeSet::from(["kind".to_owned()]),
    };
    let tags = admin.client.tag(&device.id, &tagging).await.unwrap();
    assert_eq!(tags, tagging.set);
    assert_eq!(lab.fleet.devices()[&device.id].tags, tags);
    lab.fleet
        .set_desired(vec![[(device.id.clone(), isolated().into())].into()]);
    let isolated = admin.client.revoke(&device.id, false).await.unwrap_err();
    assert!(isolated.to_string().contains("--release"), "{isolated}");
    assert_eq!(lab.fleet.devices().len(), 1);
    admin.client.revoke(&device.id, true).await.unwrap();
    assert!(lab.fleet.devices().is_empty());
    let again = admin.client.revoke(&device.id, false).await.unwrap_err();
    assert!(again.to_string().contains("seawall fleet list"), "{again}");
}

#[tokio::test]
async fn what_is_wrong_is_answered_with_what_to_do() {
    let lab = Lab::begin().await;
    let admin = admin(&lab).await;
    let unknown = DeviceId::from_ulid(ulid::Ulid::from_parts(1, 1));
    let errors = [
        (admin.client.device(&unknown).await.err(), "fleet list"),
        (
            admin.client.revoke_join_token("jt_x").await.err(),
            "join-token list",
        ),
        (
            admin
                .client
                .create_join_token(&request("No Namespace"))
                .await
                .err(),
            "has to be a namespace",
        ),
        (
            admin.client.advance_epoch(u64::MAX).await.err(),
            "is no epoch",
        ),
    ];
    for (error, words) in errors {
        let error = error.unwrap().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_goes_with_the_operator() {
    let lab = Lab::begin().await;
    let admin = admin(&lab).await;
    let path = admin.directory.path().join("run/admin.sock");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(admin.client.devices(None).await.unwrap().is_empty());
    admin.stop.cancel();
    admin.server.await.unwrap().unwrap();
    assert!(!path.exists());
    let error = admin.client.devices(None).await.unwrap_err();
    assert!(error.to_string().contains("kubectl exec"), "{error}");
}

#[tokio::test]
async fn a_socket_that_a_killed_operator_left_is_replaced() {
    let lab = Lab::begin().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    drop(socket::bind(&path).unwrap());
    assert!(path.exists(), "nobody removed it");
    let stop = CancellationToken::new();
    let serving = socket::serve(&path, router(lab.fleet.clone()), stop.clone());
    let asking = async {
        let client = AdminClient::new(&path).unwrap();
        let answer = client.devices(None).await;
        stop.cancel();
        answer
    };
    let (served, answer) = tokio::join!(serving, asking);
    served.unwrap();
    assert!(answer.unwrap().is_empty());
}
