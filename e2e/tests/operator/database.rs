//! The operator on a PostgreSQL server that is verified by TLS, and that comes and goes.

use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use seawall::fleet::records::DeviceStore;
use seawall::reconcile::records::InForceStore;
use seawall::store::Store;
use serde_json::{Value, json};

use crate::cluster::pki::Authority;
use crate::harness::{case, eventually};
use crate::operators::{Device, Fixture, PATIENCE};
use crate::postgres::Postgres;
use crate::run;

const TENANT: &str = "plant";
const PASSWORD: &str = "opensesame";

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "PostgreSQL, verified by TLS: it is waited for, and what was there is there after the operator was killed",
            waited_for_and_kept,
        ),
        case(
            "PostgreSQL goes away or freezes, and comes back: isolations take force meanwhile, and nothing is lost",
            goes_away,
        ),
        case(
            "a PostgreSQL server of another authority, or under another name, is not believed",
            not_believed,
        ),
        case(
            "an operator that is given a password as an argument refuses to start",
            no_password_in_arguments,
        ),
    ]
}

/// A server with a certificate of an authority of its own, and an operator's database in it.
struct Server {
    postgres: Postgres,
    url_file: PathBuf,
    authority: PathBuf,
    url: String,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let dir = run::scratch("postgres")?;
        let data = dir.join(run::DATA);
        fs::create_dir(&data)?;
        let authority = Authority::generate()?;
        let server = authority.server("postgres", Ipv4Addr::LOCALHOST.into())?;
        let files = server.write(&data, "server")?;
        fs::set_permissions(&files.key, Permissions::from_mode(0o600))?;
        let options = [
            "ssl=on".to_owned(),
            // Its certificate is for the first of them.
            "listen_addresses=127.0.0.1,127.0.0.2".to_owned(),
            format!("ssl_cert_file={}", files.certificate.display()),
            format!("ssl_key_file={}", files.key.display()),
        ];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let postgres = Postgres::start(&data, &options)?;
        let role = format!("CREATE ROLE seawall LOGIN PASSWORD '{PASSWORD}'");
        postgres.sql("postgres", &role)?;
        postgres.sql("postgres", "CREATE DATABASE seawall OWNER seawall")?;
        let url = format!(
            "postgres://seawall:{PASSWORD}@127.0.0.1:{}/seawall",
            postgres.port
        );
        let (url_file, ca) = (dir.join("url"), dir.join("ca.crt"));
        fs::write(&url_file, &url)?;
        fs::write(&ca, authority.certificate())?;
        Ok(Self {
            postgres,
            url: format!("{url}?sslrootcert={}", ca.display()),
            url_file,
            authority: ca,
        })
    }

    /// The flags of an operator on it, as the chart gives them.
    fn flags(&self) -> [String; 2] {
        [
            format!("--database-url-file={}", self.url_file.display()),
            format!("--database-ca-file={}", self.authority.display()),
        ]
    }

    async fn store(&self) -> anyhow::Result<Store> {
        Store::open(&self.url).await
    }

    async fn wait_in_force(&self, store: &Store, count: usize) -> anyhow::Result<()> {
        eventually("what is in force to be written down", PATIENCE, || async {
            Ok((store.in_force().await?.len() == count).then_some(()))
        })
        .await
    }
}

fn isolation(device: &Device) -> Value {
    json!({
        "apiVersion": "seawall.dev/v1alpha1", "kind": "Isolation",
        "metadata": {"name": device.id.replace('_', "-"), "namespace": TENANT},
        "spec": {"target": {"device": device.id}, "reason": "test"},
    })
}

async fn isolate(fixture: &Fixture, device: &Device) -> anyhow::Result<()> {
    fixture.apply(&isolation(device)).await?;
    eventually("the device to be isolated", PATIENCE, || async {
        Ok(device.is_isolated().then_some(()))
    })
    .await
}

/// Waits until `/ready` answers so.
async fn wait_answer(fixture: &Fixture, status: u16, words: &str) -> anyhow::Result<String> {
    let what = format!("/ready to answer {status} and {words:?}");
    eventually(&what, PATIENCE, || async {
        // It may not listen yet.
        let Ok((found, text)) = fixture.health(0, "/ready").await else {
            return Ok(None);
        };
        Ok((found == status && text.contains(words)).then_some(text))
    })
    .await
    .with_context(|| fixture.log(0).unwrap_or_default())
}

async fn waited_for_and_kept() -> anyhow::Result<()> {
    let mut server = Server::start()?;
    let flags = server.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut fixture = Fixture::prepare().await?;
    fixture.plane.kubectl(&["create", "ns", TENANT]).await?;

    server.postgres.stop()?;
    fixture.add_operator(&flags)?;
    wait_answer(&fixture, 503, "database: the PostgreSQL database").await?;
    ensure!(fixture.health(0, "/live").await?.0 == 200);
    server.postgres.resume()?;
    fixture.wait_ready(0).await?;
    fixture.wait_leading(0).await?;
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE usename = 'seawall' AND application_name = 'seawall'";
    ensure!(server.postgres.sql("seawall", encrypted)? == "t");

    let token = fixture.join_token(0, TENANT, 2, &[]).await?;
    let device = Device::enrol(&token, "10.9.0.1").await?;
    isolate(&fixture, &device).await?;
    let store = server.store().await?;
    server.wait_in_force(&store, 1).await?;
    let epoch = store.epoch().await?;

    fixture.kill(0)?;
    fixture.start_operator(0, &flags)?;
    fixture.wait_ready(0).await?;
    fixture.wait_leading(0).await?;
    ensure!(store.epoch().await? == epoch + 1);
    ensure!(store.in_force().await?.len() == 1 && device.is_isolated());
    let listed = fixture.seawall(&["fleet", "list"]).await?;
    ensure!(listed.contains(&device.id), "{listed}");
    // The token has one use left, and no more.
    Device::enrol(&token, "10.9.0.2").await?;
    ensure!(Device::enrol(&token, "10.9.0.3").await.is_err());
    ensure!(store.devices().await?.len() == 2);

    ensure!(!fixture.home(0).join("data/seawall.db").exists());
    let log = fixture.log(0)?;
    ensure!(log.contains("waiting for the database"), "{log}");
    ensure!(!log.contains(PASSWORD), "{log}");
    Ok(())
}

async fn goes_away() -> anyhow::Result<()> {
    let mut server = Server::start()?;
    let flags = server.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut fixture = Fixture::prepare().await?;
    fixture.plane.kubectl(&["create", "ns", TENANT]).await?;
    fixture.add_operator(&flags)?;
    fixture.wait_ready(0).await?;
    fixture.wait_leading(0).await?;
    let token = fixture.join_token(0, TENANT, 3, &[]).await?;
    let first = Device::enrol(&token, "10.9.0.1").await?;
    let second = Device::enrol(&token, "10.9.0.2").await?;
    isolate(&fixture, &first).await?;

    server.postgres.stop()?;
    let said = wait_answer(&fixture, 200, "database: it is away").await?;
    ensure!(said.starts_with("ready\n"), "{said}");
    let (_, metrics) = fixture.health(0, "/metrics").await?;
    ensure!(metrics.contains("seawall_database_up 0"), "{metrics}");
    isolate(&fixture, &second).await?;
    let refused = Device::enrol(&token, "10.9.0.3").await.err();
    let refused = format!("{:#}", refused.context("nobody enrols without it")?);
    ensure!(refused.contains("store does not answer"), "{refused}");
    ensure!(fixture.leads(0).await?, "{}", fixture.log(0)?);

    server.postgres.resume()?;
    eventually("/ready to say nothing of it", PATIENCE, || async {
        Ok((fixture.health(0, "/ready").await?.1 == "ready\n").then_some(()))
    })
    .await?;
    let (_, metrics) = fixture.health(0, "/metrics").await?;
    ensure!(metrics.contains("seawall_database_up 1"), "{metrics}");
    let store = server.store().await?;
    server.wait_in_force(&store, 2).await?;
    let written = "every device's isolation to be written with its standing";
    eventually(written, PATIENCE, || async {
        let devices = store.devices().await?;
        let applied = devices.iter().filter(|it| it.standing.applied.is_some());
        Ok((applied.count() == 2).then_some(()))
    })
    .await?;
    // The use that was asked for in vain is still there.
    let third = Device::enrol(&token, "10.9.0.3").await?;

    server.postgres.freeze(true)?;
    isolate(&fixture, &third).await?;
    wait_answer(&fixture, 200, "database: it is away").await?;
    server.postgres.freeze(false)?;
    server.wait_in_force(&store, 3).await?;
    let log = fixture.log(0)?;
    ensure!(log.contains("the database is back"), "{log}");
    ensure!(!log.contains(PASSWORD), "{log}");
    Ok(())
}

async fn not_believed() -> anyhow::Result<()> {
    let server = Server::start()?;
    server.store().await?;
    let other = run::scratch("authority")?.join("ca.crt");
    fs::write(&other, Authority::generate()?.certificate())?;
    let (place, _) = server.url.split_once('?').context("it has parameters")?;
    let name = server.url.replace("@127.0.0.1:", "@127.0.0.2:");
    for (url, words) in [
        (place.to_owned(), "invalid peer certificate: UnknownIssuer"),
        (
            format!("{place}?sslrootcert={}", other.display()),
            // It has the same name as the right one.
            "invalid peer certificate: BadSignature",
        ),
        (name.clone(), "not valid for name"),
    ] {
        let error = Store::open(&url).await.err();
        let error = format!("{:#}", error.with_context(|| format!("{words}: believed"))?);
        ensure!(error.contains(words), "{error}");
        ensure!(!error.contains(PASSWORD), "{error}");
    }
    // The authority alone is asked for, and it is right.
    Store::open(&format!("{name}&sslmode=verify-ca")).await?;
    Ok(())
}

async fn no_password_in_arguments() -> anyhow::Result<()> {
    let mut fixture = Fixture::prepare().await?;
    let url = format!("--database-url=postgres://seawall:{PASSWORD}@127.0.0.1/seawall");
    fixture.add_operator(&[&url])?;
    eventually("the operator to refuse", PATIENCE, || async {
        Ok(fixture.log(0)?.contains("is shown by ps").then_some(()))
    })
    .await?;
    let log = fixture.log(0)?;
    ensure!(!log.contains(PASSWORD), "{log}");
    Ok(())
}
