use std::time::SystemTime;

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::domain::names::DeviceId;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate and its key.
fn certificate(good_for: Duration) -> (String, String) {
    let mut params = CertificateParams::default();
    params.not_after = (SystemTime::now() + good_for).into();
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

struct Published {
    root: tempfile::TempDir,
    node: Node,
    authority: String,
}

/// What an operator published, and a token.
fn published() -> Published {
    let root = tempfile::tempdir().expect("a directory");
    let node = Node {
        token_file: root.path().join("token"),
        operator: root.path().to_owned(),
    };
    let (authority, _) = certificate(100 * DAY);
    let published = Published {
        root,
        node,
        authority,
    };
    published.write(AUTHORITY, &published.authority);
    published.write(ADDRESSES, "10.244.1.9:8443\n10.96.3.4:8443\n");
    published.write("token", "header.claims.signature\n");
    published
}

impl Published {
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.root.path().join(name), text).expect("written");
    }

    fn renewal(&self, good_for: Duration) -> Renewal {
        let (certificate, key) = certificate(good_for);
        Renewal {
            node: self.node.clone(),
            directory: StateDirectory::open(self.root.path()).expect("a directory"),
            credentials: Credentials {
                certificate,
                key,
                authority: self.authority.clone(),
            },
            unknown: Arc::default(),
            renewed: Arc::default(),
        }
    }
}

#[test]
fn a_node_is_invited_by_what_is_published_and_shows_its_pods_token() {
    let published = published();
    let invitation = published.node.invitation().expect("complete");
    assert_eq!(invitation.addresses, ["10.244.1.9:8443", "10.96.3.4:8443"]);
    assert_eq!(invitation.authority, published.authority);
    assert!(matches!(invitation.proof, Proof::Node(token) if token == "header.claims.signature"));
}

#[test]
fn what_is_not_published_yet_is_waited_for_with_words() {
    let published = published();
    for (name, text, words) in [
        (ADDRESSES, "\n", "names no address"),
        (AUTHORITY, "nonsense", "no certificate in PEM"),
    ] {
        let before = std::fs::read_to_string(published.root.path().join(name)).expect("there");
        published.write(name, text);
        let error = published.node.invitation().err().expect(words);
        assert!(format!("{error:#}").contains(words), "{error:#}");
        published.write(name, &before);
    }
    std::fs::remove_file(&published.node.token_file).expect("removed");
    let error = published.node.invitation().err().expect("no token");
    assert!(
        format!("{error:#}").contains("ConfigMap seawall-fleet"),
        "{error:#}"
    );
}

#[test]
fn a_certificate_is_renewed_long_before_it_ends_and_when_the_authority_is_another() {
    let published = published();
    let now = jiff::Timestamp::now();
    assert!(!published.renewal(365 * DAY).is_due(now));
    assert!(published.renewal(100 * DAY).is_due(now));
    let mut torn = published.renewal(365 * DAY);
    torn.credentials.key = certificate(DAY).1;
    assert!(torn.is_due(now), "of another key");
    let renewal = published.renewal(365 * DAY);
    let later = now + jiff::SignedDuration::from_hours(24 * 366);
    assert!(renewal.is_due(later), "it is over");
    published.write(AUTHORITY, &certificate(DAY).0);
    assert!(renewal.is_due(now), "another authority");
    std::fs::remove_file(published.root.path().join(AUTHORITY)).expect("removed");
    assert!(!renewal.is_due(now), "nothing is known of another");
}

#[test]
fn a_node_takes_over_new_addresses_and_never_the_identity_of_an_ordinary_device() {
    let published = published();
    let state = tempfile::tempdir().expect("a directory");
    let directory = StateDirectory::open(state.path()).expect("a directory");
    let identity = |node| Identity {
        device: DeviceId::from_ulid(ulid::Ulid::from_parts(1, 1)),
        tenant: "seawall-system".into(),
        operator: vec!["10.244.1.5:8443".into()],
        bundle_keys: Vec::new(),
        node,
    };
    let moved = published.node.moved(identity(true), &directory);
    let moved = moved.expect("a node's");
    assert_eq!(moved.operator, ["10.244.1.9:8443", "10.96.3.4:8443"]);
    assert_eq!(Identity::load(&directory).expect("readable"), Some(moved));
    published.write(ADDRESSES, "");
    let stays = published.node.moved(identity(true), &directory);
    assert_eq!(stays.expect("a node's"), identity(true));
    let error = published.node.moved(identity(false), &directory);
    let error = error.expect_err("a laptop's").to_string();
    assert!(error.contains("another --state-dir"), "{error}");
}
