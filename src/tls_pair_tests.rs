use std::net::SocketAddr;
use std::os::unix::fs::symlink;

use rcgen::{CertificateParams, KeyPair};
use rustls::RootCertStore;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;

/// A certificate and its key, PEM; the certificate is its own authority.
fn made(name: &str, ends: i32) -> (String, String) {
    made_for(name, 1975, ends)
}

/// Good from the beginning of one year to that of another.
fn made_for(name: &str, begins: i32, ends: i32) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
    params.not_before = rcgen::date_time_ymd(begins, 1, 1);
    params.not_after = rcgen::date_time_ymd(ends, 1, 1);
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

/// A folder as the kubelet makes it: the files are links into the folder that `..data` points to.
struct Mounted {
    dir: tempfile::TempDir,
    swaps: usize,
}

impl Mounted {
    fn new(certificate: &str, key: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        for file in ["tls.crt", "tls.key"] {
            symlink(format!("..data/{file}"), dir.path().join(file)).expect("a link");
        }
        let mut mounted = Self { dir, swaps: 0 };
        mounted.swap(certificate, key);
        mounted
    }

    fn swap(&mut self, certificate: &str, key: &str) {
        self.swaps += 1;
        let folder = format!("..{}", self.swaps);
        let path = self.dir.path().join(&folder);
        std::fs::create_dir(&path).expect("a folder");
        std::fs::write(path.join("tls.crt"), certificate).expect("a file");
        std::fs::write(path.join("tls.key"), key).expect("a file");
        symlink(&folder, self.dir.path().join("..next")).expect("a link");
        let data = self.dir.path().join("..data");
        std::fs::rename(self.dir.path().join("..next"), data).expect("a swap");
    }

    fn pair(&self) -> TlsPair {
        TlsPair {
            certificate: self.dir.path().join("tls.crt"),
            key: self.dir.path().join("tls.key"),
        }
    }

    async fn refusal(&self) -> String {
        match self.pair().serve(&[b"http/1.1"]).await {
            Ok(_) => panic!("it is served"),
            Err(error) => format!("{error:#}"),
        }
    }
}

#[tokio::test]
async fn a_pair_that_cannot_be_served_is_told_by_its_file() {
    let (certificate, key) = made("one.example.com", 4000);
    let (_, other) = made("other.example.com", 4000);
    let half = &certificate[..certificate.len() / 2];
    for (certificate, key, words) in [
        ("", key.as_str(), "tls.crt holds no certificate in PEM"),
        (half, &key, "tls.crt is not whole"),
        (&certificate, "", "tls.key holds no private key in PEM"),
        (&certificate, &other, "tls.key is not the key"),
        (&key, &key, "tls.crt holds no certificate"),
    ] {
        let said = Mounted::new(certificate, key).refusal().await;
        assert!(said.contains(words), "{words}: {said}");
    }
    let mounted = Mounted::new(&certificate, &key);
    std::fs::remove_file(mounted.dir.path().join("tls.key")).expect("it was there");
    let said = mounted.refusal().await;
    assert!(
        said.contains("cannot read") && said.contains("tls.key"),
        "{said}"
    );
}

/// Whether a client that trusts this certificate alone takes what the server shows.
async fn shows(at: SocketAddr, name: &str, certificate: &str) -> bool {
    let mut roots = RootCertStore::empty();
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
    roots.add(der).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let tcp = TcpStream::connect(at).await.expect("it listens");
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, tcp).await.is_ok()
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited for {what}");
}

#[tokio::test]
async fn a_new_pair_is_taken_and_a_broken_one_never_takes_its_place() {
    let (first, first_key) = made("first.example.com", 4000);
    let (second, second_key) = made("second.example.com", 4000);
    let (ended, ended_key) = made("ended.example.com", 2000);
    let (later, later_key) = made_for("later.example.com", 3000, 4000);
    let mut mounted = Mounted::new(&first, &first_key);
    let served = mounted.pair().serve(&[b"http/1.1"]).await.expect("served");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let at = listener.local_addr().expect("an address");
    let server = axum_server::from_tcp_rustls(listener, served.config.clone()).expect("a server");
    let serving = tokio::spawn(server.serve(axum::Router::new().into_make_service()));
    let (gauges, stop) = (Gauges::default(), CancellationToken::new());
    let following = tokio::spawn({
        let (gauges, stop) = (gauges.clone(), stop.clone());
        async move { served.follow(&gauges, &stop).await }
    });
    assert!(shows(at, "first.example.com", &first).await);
    assert!(!shows(at, "first.example.com", &second).await);

    let half = &second[..second.len() / 2];
    for (certificate, key) in [
        (half, &second_key),
        (&second, &first_key),
        (&ended, &ended_key),
        (&later, &later_key),
    ] {
        mounted.swap(certificate, key);
        eventually("the gauge to say so", async || gauges.refused.get() == 1).await;
        assert!(shows(at, "first.example.com", &first).await);
        mounted.swap(&first, &first_key);
        eventually("the gauge to be back", async || gauges.refused.get() == 0).await;
    }
    mounted.swap(&second, &second_key);
    eventually("the second", async || {
        shows(at, "second.example.com", &second).await
    })
    .await;
    assert!(!shows(at, "first.example.com", &first).await);
    assert_eq!(gauges.refused.get(), 0);
    let year_4000 = 64_060_588_800;
    assert_eq!(gauges.not_after.get(), year_4000);
    stop.cancel();
    following.await.expect("it ends");
    serving.abort();
}
