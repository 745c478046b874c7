//! The agent's table: that the kernel gives back what was rendered, that bundles which must not change
//! it don't, and that it is repaired when others change it.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use libtest_mimic::Trial;
use seawall::agent::bundle::{SignedBundle, Verifier};
use seawall::agent::enforcer::{Enforcer, Steps};
use seawall::agent::nft::{Nft, Situation};
use seawall::agent::state_directory::StateDirectory;
use seawall::domain::enforcement::{Bundle, DeviceState};
use seawall::domain::names::DeviceId;
use seawall::fleet::keys::BundleKey;
use seawall::fleet::witness::Happening;
use serde_json::json;

use super::{LIMIT, MANAGEMENT_PORT, PORT};
use crate::fleet::{Operator, isolated, peer_of, state};
use crate::harness::case;
use crate::lab::{Host, Lab, Reach, Responder, reach};
use crate::run;

pub fn all() -> Vec<Trial> {
    vec![
        case(
            "the kernel gives back every kind of rule as it was rendered, whatever was there before",
            reads_back,
        ),
        case(
            "a bundle that is forged, older, of an older epoch or for another device changes nothing",
            refused_bundles,
        ),
        case(
            "a transaction that nft refuses or does wrong leaves what was in force, in the kernel and on disk",
            apply_fails,
        ),
        case(
            "a bundle that can't be written to disk is in force and not acknowledged",
            disk_fails,
        ),
        case(
            "whatever somebody does to the table is repaired at once and told",
            tampering,
        ),
        case("tables of others are left alone", other_tables),
    ]
}

/// Runs an agent's inner parts on a host, without a process around them.
async fn on_host<T, Fut>(
    host: &Host,
    body: impl FnOnce() -> Fut + Send + 'static,
) -> anyhow::Result<T>
where
    T: Send + 'static,
    Fut: Future<Output = anyhow::Result<T>>,
{
    host.inside(move || {
        // Its threads and programs are in the namespace, as this thread is.
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(body())
    })
    .await?
}

/// Signs as the operator does.
struct Signer {
    key: BundleKey,
    device: DeviceId,
}

impl Signer {
    fn new() -> Self {
        Self {
            key: BundleKey::generate(),
            device: DeviceId::from_ulid(ulid_number(1)),
        }
    }

    fn bundle(&self, epoch: u64, revision: u64, state: &DeviceState) -> Bundle {
        Bundle {
            device: self.device.clone(),
            epoch,
            revision,
            state_hash: state.hash(),
            issued_at: jiff::Timestamp::now(),
            state: state.clone(),
        }
    }

    fn sign(&self, bundle: &Bundle) -> anyhow::Result<SignedBundle> {
        let payload = serde_json::to_vec(bundle)?;
        Ok(SignedBundle {
            signature: self.key.sign(&payload).to_vec(),
            payload,
        })
    }

    async fn enforcer(&self, nft: Nft, folder: &Path) -> anyhow::Result<Enforcer> {
        let verifier = Verifier {
            device: self.device.clone(),
            keys: vec![ed25519_dalek::VerifyingKey::from_bytes(&self.key.public())?],
        };
        let directory = StateDirectory::open(&folder.join("state"))?;
        let situation = Situation {
            uid: 0,
            pinned: ["10.0.0.2:8443".parse()?].into(),
            ..Situation::default()
        };
        let mut enforcer = Enforcer::new(nft, verifier, situation, directory, Steps::default());
        enforcer.start().await?;
        Ok(enforcer)
    }
}

fn ulid_number(n: u128) -> ulid::Ulid {
    ulid::Ulid::from_parts(1, n)
}

/// Every expression that rules are made of, and the changes that sets and chains can go through.
fn many_states() -> anyhow::Result<Vec<DeviceState>> {
    let rules = json!({
        "operator": ["10.0.0.1:8443", "[fd00::1]:8443"],
        "quarantined": ["10.9.0.7", "fd00::7", "10.9.0.8"],
        "quarantinePaths": [
            {"from": "10.0.9.0/24", "to": ["10.9.0.7", "10.9.0.8", "fd00::7"],
             "ports": [{"protocol": "TCP", "first": 22, "last": 22}]},
            {"from": "10.0.9.0/24", "to": ["10.9.0.7"]},
            {"from": "fd09::/64", "to": ["10.9.0.7", "fd00::7"],
             "ports": [{"protocol": "ICMP", "first": 0, "last": 65535}, {"protocol": "SCTP", "first": 0, "last": 65535}]}],
        "rules": [
            {"id": "t/p/a", "direction": "Egress", "action": "Audit", "peers": "any"},
            {"id": "t/p/b", "direction": "Egress", "action": "Deny",
             "peers": {"networks": ["10.3.0.0/16", "10.5.0.0/16", "10.6.0.0/16", "fd33::/16", "fd99::1/128"]},
             "ports": [{"protocol": "TCP", "first": 22, "last": 22}, {"protocol": "TCP", "first": 23, "last": 23},
                       {"protocol": "TCP", "first": 80, "last": 90}, {"protocol": "UDP", "first": 0, "last": 65535},
                       {"protocol": "ICMP", "first": 0, "last": 65535}, {"protocol": "SCTP", "first": 5, "last": 9}]},
            {"id": "t/p/c", "direction": "Ingress", "action": "Allow", "peers": {"networks": ["0.0.0.0/0", "::/0"]},
             "ports": [{"protocol": "TCP", "first": 0, "last": 65535}]},
            {"id": format!("t/{}/d", "p".repeat(200)), "direction": "Ingress", "action": "Allow", "peers": "any",
             "ports": [{"protocol": "ICMP", "first": 0, "last": 65535}, {"protocol": "UDP", "first": 53, "last": 53}]},
            {"id": "t/p/nobody", "direction": "Ingress", "action": "Deny", "peers": {"networks": []}}],
        "defaults": {"egress": {"id": "t/p", "action": "Deny"}, "ingress": {"id": "t/p", "action": "Allow"}},
        "observedRules": [
            {"id": "t/o/b", "direction": "Egress", "action": "Deny", "peers": "any",
             "ports": [{"protocol": "TCP", "first": 22, "last": 22}], "observing": true},
            {"id": "t/p/b", "direction": "Egress", "action": "Deny", "peers": "any", "observing": false},
            {"id": "t/o/audit", "direction": "Ingress", "action": "Audit", "peers": "any", "observing": true}],
        "observedDefaults": {"egress": {"id": "t/o", "action": "Deny", "observing": true}}});
    let mut other_peers = rules.clone();
    other_peers["quarantined"] = json!(["10.9.0.9", "10.9.0.8", "fd00::9"]);
    other_peers["rules"][1]["peers"] = json!({"networks": ["10.3.0.0/16", "10.5.0.0/16"]});
    let mut isolated = rules.clone();
    isolated["isolation"] = json!({"management": [
        {"network": "10.0.9.0/24", "ports": [{"protocol": "TCP", "first": 22, "last": 22},
                                             {"protocol": "ICMP", "first": 0, "last": 65535}]},
        {"network": "fd09::/64"}]});
    let policies = ["rules", "defaults", "observedRules", "observedDefaults"];
    let mut shop = json!({"sources": [], "members": {"t/a": ["10.244.0.7", "fd44::7"], "t/b": ["10.244.0.8"]}});
    for field in policies {
        shop[field] = rules[field].clone();
    }
    let mut cut = json!({"sources": [], "members": {"t/c": ["10.244.0.9", "fd44::9"]}, "isolation": {
        "probes": {"t/c": [{"protocol": "TCP", "first": 8080, "last": 8080}, {"protocol": "UDP", "first": 1, "last": 9}]}}});
    cut["isolation"]["management"] = isolated["isolation"]["management"].clone();
    let mut wards = rules.clone();
    wards["wards"] = json!({"shop": shop, "with a name that nft would not take": cut});
    // One ward is isolated as well, and one is gone.
    let mut other_wards = wards.clone();
    shop["members"] = json!({});
    cut["members"]["t/a"] = json!(["10.244.0.7", "fd44::7"]);
    other_wards["wards"] = json!({"shop": shop, "with a name that nft would not take": cut});
    let mut isolated_with_wards = wards.clone();
    isolated_with_wards["isolation"] = isolated["isolation"].clone();
    let mut wide = json!({"rules": []});
    let networks: Vec<String> = (0..2000)
        .map(|n| format!("10.{}.{}.{}/32", n / 250, n % 250, (n * 7) % 250))
        .collect();
    wide["rules"] = json!([
        {"id": "t/p/many", "direction": "Egress", "action": "Deny", "peers": {"networks": networks}}]);
    [
        &rules,
        &other_peers,
        &isolated,
        &wide,
        &wards,
        &other_wards,
        &isolated_with_wards,
        &wards,
        &rules,
        &isolated,
        &json!({}),
    ]
    .into_iter()
    .map(|fields| state(fields.clone()))
    .collect()
}

async fn reads_back() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    // Bridged packets pass the usual hooks on one, and a second table is needed on the other.
    reads_back_on(&lab.host("laptop")?).await?;
    let node = lab.host("node")?;
    let settings =
        ["iptables", "ip6tables"].map(|name| format!("net.bridge.bridge-nf-call-{name}=0"));
    for setting in &settings {
        node.run("sysctl", &["-qw", setting], "").await?.success()?;
    }
    reads_back_on(&node).await
}

async fn reads_back_on(host: &Host) -> anyhow::Result<()> {
    let folder = run::scratch("table")?;
    let states = many_states()?;
    on_host(host, move || async move {
        let signer = Signer::new();
        let mut enforcer = signer.enforcer(Nft::find()?, &folder).await?;
        for (n, state) in states.iter().enumerate() {
            let bundle = signer.bundle(1, n as u64 + 1, state);
            let done = enforcer.accept(signer.sign(&bundle)?).await?;
            assert_eq!(done.position.revision, n as u64 + 1);
            let found = enforcer.read_back().await?;
            assert!(found.matches, "state {n}: {}", found.detail);
        }
        // And from nothing, as after a reboot.
        for (n, state) in states.iter().enumerate() {
            let nft = Nft::find()?;
            for family in ["inet", "bridge"] {
                let table = json!({"family": family, "name": "seawall"});
                let remove = json!([{"add": {"table": table}}, {"delete": {"table": table}}]);
                nft.apply(&json!({"nftables": remove})).await?;
            }
            let bundle = signer.bundle(2, n as u64 + 1, state);
            enforcer.accept(signer.sign(&bundle)?).await?;
            let found = enforcer.read_back().await?;
            assert!(found.matches, "state {n} from nothing: {}", found.detail);
        }
        Ok(())
    })
    .await
}

async fn refused_bundles() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, admin) = (lab.host("laptop")?, lab.host("admin")?);
    let folder = run::scratch("table")?;
    let in_force = isolated(&admin, &[MANAGEMENT_PORT])?;
    on_host(&laptop, move || async move {
        let signer = Signer::new();
        let mut enforcer = signer.enforcer(Nft::find()?, &folder).await?;
        let good = signer.sign(&signer.bundle(5, 10, &in_force))?;
        enforcer.accept(good.clone()).await?;
        let file = folder.join("state/bundle.json");
        let on_disk = std::fs::read(&file)?;

        let open = DeviceState::default();
        let stranger = Signer::new();
        let mut other_device = signer.bundle(6, 1, &open);
        other_device.device = DeviceId::from_ulid(ulid_number(2));
        let mut other_state = signer.bundle(6, 1, &in_force);
        other_state.state = open.clone();
        let mut changed = good.clone();
        changed.payload[30] ^= 1;
        let cases = [
            (
                "forged",
                stranger.sign(&signer.bundle(6, 1, &open))?,
                "bad_signature",
            ),
            ("changed", changed, "bad_signature"),
            (
                "older",
                signer.sign(&signer.bundle(5, 9, &open))?,
                "not_newer",
            ),
            (
                "of an older epoch",
                signer.sign(&signer.bundle(4, 99, &open))?,
                "not_newer",
            ),
            (
                "of the same place",
                signer.sign(&signer.bundle(5, 10, &open))?,
                "not_newer",
            ),
            (
                "for another device",
                signer.sign(&other_device)?,
                "other_device",
            ),
            (
                "with another state",
                signer.sign(&other_state)?,
                "malformed",
            ),
        ];
        for (what, bundle, reason) in cases {
            let refusal = enforcer.accept(bundle).await.err();
            let refusal = refusal.with_context(|| format!("a bundle {what} was taken"))?;
            assert_eq!(refusal.reason, reason, "{what}: {refusal}");
            assert_eq!(std::fs::read(&file)?, on_disk, "{what}");
            let found = enforcer.read_back().await?;
            assert!(found.matches, "{what}: {}", found.detail);
            assert_eq!(found.applied.map(|p| p.revision), Some(10), "{what}");
        }
        // The same once more is acknowledged once more.
        let again = enforcer.accept(good).await?;
        assert_eq!(again.position.revision, 10);
        Ok(())
    })
    .await
}

/// An nft that does what the file beside it says: `refuse`, or a `sed` script that its input goes
/// through.
fn unreliable_nft(folder: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (program, mood) = (folder.join("nft"), folder.join("mood"));
    std::fs::write(
        &program,
        format!(
            "#!/bin/sh\n\
             mood=$(cat {mood} 2>/dev/null)\n\
             case \" $* \" in\n\
             *' -f '*) ;;\n\
             *) exec nft \"$@\" ;;\n\
             esac\n\
             case \"$mood\" in\n\
             '') exec nft \"$@\" ;;\n\
             refuse) echo 'Error: Could not process rule: No space left on device' >&2; exit 1 ;;\n\
             *) sed \"$mood\" | nft \"$@\" ;;\n\
             esac\n",
            mood = mood.display()
        ),
    )?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    Ok((program, mood))
}

async fn apply_fails() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, admin) = (lab.host("laptop")?, lab.host("admin")?);
    let folder = run::scratch("table")?;
    let in_force = isolated(&admin, &[MANAGEMENT_PORT])?;
    let next = isolated(&admin, &[4444])?;
    on_host(&laptop, move || async move {
        let (program, mood) = unreliable_nft(&folder)?;
        let signer = Signer::new();
        let mut enforcer = signer.enforcer(Nft::at(program), &folder).await?;
        enforcer
            .accept(signer.sign(&signer.bundle(1, 1, &in_force))?)
            .await?;
        let file = folder.join("state/bundle.json");
        let on_disk = std::fs::read(&file)?;
        for (wrong, reason, words) in [
            ("refuse", "apply_failed", "No space left"),
            // Another port than the bundle's comes to stand in the kernel.
            ("s/4444/4445/g", "read_back_differs", "4445"),
        ] {
            std::fs::write(&mood, wrong)?;
            let refusal = enforcer
                .accept(signer.sign(&signer.bundle(1, 2, &next))?)
                .await
                .err()
                .with_context(|| format!("{wrong}: it was taken"))?;
            assert_eq!(refusal.reason, reason, "{refusal}");
            assert!(refusal.detail.contains(words), "{refusal}");
            assert_eq!(std::fs::read(&file)?, on_disk, "{wrong}");
            std::fs::write(&mood, "")?;
            let found = enforcer.read_back().await?;
            assert!(found.matches, "{wrong}: {}", found.detail);
            assert_eq!(found.applied.map(|p| p.revision), Some(1));
        }
        // Once nft is well again, the same bundle is taken.
        let done = enforcer
            .accept(signer.sign(&signer.bundle(1, 2, &next))?)
            .await?;
        assert_eq!(done.position.revision, 2);
        Ok(())
    })
    .await
}

async fn disk_fails() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, admin) = (lab.host("laptop")?, lab.host("admin")?);
    let folder = run::scratch("table")?;
    let next = isolated(&admin, &[MANAGEMENT_PORT])?;
    on_host(&laptop, move || async move {
        let signer = Signer::new();
        let mut enforcer = signer.enforcer(Nft::find()?, &folder).await?;
        // Where the new file would be written there is something that is no file.
        let obstacle = folder.join("state/.bundle.json.new");
        std::fs::create_dir(&obstacle)?;
        let bundle = signer.sign(&signer.bundle(1, 1, &next))?;
        let refusal = enforcer.accept(bundle.clone()).await.err();
        let refusal = refusal.context("it was acknowledged")?;
        assert_eq!(refusal.reason, "not_persisted", "{refusal}");
        let found = enforcer.read_back().await?;
        assert!(found.matches && enforcer.is_isolated(), "{}", found.detail);
        // With room again, the same bundle is acknowledged and on disk.
        std::fs::remove_dir(&obstacle)?;
        enforcer.accept(bundle).await?;
        assert!(folder.join("state/bundle.json").is_file());
        Ok(())
    })
    .await
}

async fn tampering() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, server, admin) = (lab.host("laptop")?, lab.host("server")?, lab.host("admin")?);
    let operator = Operator::start(&lab).await?;
    let agent = operator.agent(&laptop).await?;
    let service = Responder::start(&laptop, PORT).await?;
    let mut wanted = isolated(&admin, &[MANAGEMENT_PORT])?;
    wanted.quarantined = peer_of(&server, None, &laptop)?.quarantined;
    operator.apply(&agent, wanted).await?;
    let table = agent.table().await?;
    for (script, words) in [
        ("flush ruleset", "the table is gone"),
        ("delete table inet seawall", "the table is gone"),
        ("flush table inet seawall", "chain forward lacks rule 1"),
        ("flush chain inet seawall input", "chain input lacks rule 1"),
        (
            "insert rule inet seawall input accept",
            "chain input, rule 1",
        ),
        ("add rule inet seawall output drop", "rule"),
        (
            "add chain inet seawall early { type filter hook input priority -300; policy accept; }",
            "was added",
        ),
        ("add set inet seawall mine { type ipv4_addr; }", "was added"),
        ("flush set inet seawall quarantine4", "set quarantine4"),
        (
            "add element inet seawall quarantine4 { 10.1.1.1 }",
            "set quarantine4",
        ),
        // nft 1.0.6 prints a word of stray memory for the flag, which may not even be JSON.
        ("add table inet seawall { flags dormant; }", "the table has"),
        (
            "add map inet seawall m { type ipv4_addr : verdict; }",
            "was added",
        ),
    ] {
        laptop
            .nft(script)
            .await
            .with_context(|| script.to_owned())?;
        let (description, repaired, micros) = operator
            .event(script, |happening| match happening {
                Happening::Tampered {
                    description,
                    repaired,
                    repair_us,
                    ..
                } => Some((description.clone(), *repaired, *repair_us)),
                _ => None,
            })
            .await?;
        assert!(repaired, "{script}: {description}");
        assert!(description.contains(words), "{script}: {description}");
        assert!(micros < 2_000_000, "{script}: {micros}");
        assert_eq!(agent.table().await?, table, "{script}");
        let found = operator.read_back(&agent).await?;
        assert!(found.matches, "{script}: {}", found.detail);
    }
    assert_eq!(reach(&server, &service, LIMIT).await?, Reach::NONE);
    Ok(())
}

async fn other_tables() -> anyhow::Result<()> {
    let lab = Lab::new()?;
    let (laptop, admin) = (lab.host("laptop")?, lab.host("admin")?);
    let operator = Operator::start(&lab).await?;
    laptop
        .nft(
            "table inet theirs {
                set hosts { type ipv4_addr; elements = { 10.1.1.1 } }
                chain input { type filter hook input priority 0; policy accept; ip saddr @hosts counter drop; }
            }
            table ip seawall {
                chain input { type filter hook input priority 0; policy accept; }
            }",
        )
        .await?;
    let all = async || {
        let theirs = ["inet theirs", "ip seawall"].map(|name| name.split(' ').collect::<Vec<_>>());
        let mut text = String::new();
        for name in &theirs {
            let mut args = vec!["-a", "list", "table"];
            args.extend(name);
            text += &laptop.run("nft", &args, "").await?.success()?;
        }
        anyhow::Ok(text)
    };
    let before = all().await?;
    let agent = operator.agent(&laptop).await?;
    operator
        .apply(&agent, isolated(&admin, &[MANAGEMENT_PORT])?)
        .await?;
    laptop.nft("delete table inet seawall").await?;
    operator.apply(&agent, DeviceState::default()).await?;
    assert_eq!(all().await?, before);
    Ok(())
}
