//! The golden cases of `tests/golden`: one file for each, named by what it shows. Facts and resources go
//! in; what has to be in force, the verdicts, and, where a case says what was acknowledged, the statuses
//! come out, and are compared whole. `UPDATE_GOLDEN=1` writes what comes out into the files: read the
//! difference before you keep it.

mod asked;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use kube::ResourceExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{ApiKeyScope, Isolation, Policy, stamps};
use crate::domain::applied::{Accounts, Applied, Datapath, DeviceApplied, WardApplied};
use crate::domain::cluster::{Namespace, Node, OthersPolicy, Pod, ReplicaSet};
use crate::domain::compile::{Compiled, compile};
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::world::{Device, HeldIsolation, Resource, Settings, Stripping, World};
use crate::yaml;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    title: String,
    /// The rule that decides it.
    cites: String,
    now: Timestamp,
    #[serde(default = "settings")]
    settings: Settings,
    #[serde(default)]
    devices: BTreeMap<DeviceId, Device>,
    /// By `namespace/pod`.
    #[serde(default)]
    pods: BTreeMap<String, Pod>,
    #[serde(default)]
    namespaces: BTreeMap<String, Namespace>,
    #[serde(default)]
    nodes: BTreeMap<String, Node>,
    /// Those that others wrote, by `namespace/policy`.
    #[serde(default)]
    network_policies: BTreeMap<String, OthersPolicy>,
    /// By `namespace/replicaset`.
    #[serde(default)]
    replica_sets: BTreeMap<String, ReplicaSet>,
    #[serde(default)]
    stripping: Stripping,
    #[serde(default)]
    objects: Vec<Value>,
    /// Isolations that are gone and kept in force.
    #[serde(default)]
    held: Vec<Value>,
    /// Absent, no statuses are made.
    applied: Option<Acknowledged>,
    /// Who reaches whom, in the cases of `tests/golden-explain`.
    #[serde(default)]
    ask: Vec<asked::Asked>,
    #[serde(default)]
    expect: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Acknowledged {
    #[serde(default)]
    devices: BTreeMap<DeviceId, Acknowledgement>,
    /// NetworkPolicies, ServiceAccounts and bindings are stored as compiled.
    #[serde(default)]
    stored: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Acknowledgement {
    #[serde(default)]
    connected: bool,
    /// What is compiled was read back.
    #[serde(default)]
    read_back: bool,
    refused: Option<String>,
    /// By the UID of the Isolation.
    #[serde(default)]
    connections_cut: BTreeMap<String, u64>,
    /// Packets that were seen, by the group of wards.
    #[serde(default)]
    seen: BTreeMap<String, u64>,
    #[serde(default)]
    datapath: Datapath,
    /// Of suspended users, those that exist there.
    #[serde(default)]
    accounts: BTreeSet<String>,
    /// Those that are root there.
    #[serde(default)]
    spared_accounts: BTreeSet<String>,
    /// By `namespace/pod`.
    #[serde(default)]
    covered_at: BTreeMap<String, Timestamp>,
}

const GOLDEN: &str = "tests/golden";

fn settings() -> Settings {
    Settings {
        system_namespace: "seawall-system".into(),
        operator: ["192.0.2.10:7443".parse().expect("an address")].into(),
        protected: Vec::new(),
    }
}

fn cases(folder: &str) -> BTreeMap<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = std::fs::read_dir(folder).expect("the folder of golden cases");
    let files = files.map(|file| file.expect("a file of the folder").path());
    files
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a readable case");
            (path, text)
        })
        .collect()
}

fn parse(path: &Path, text: &str) -> Case {
    yaml::from_str(text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read<K: DeserializeOwned>(object: &Value) -> K {
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object}"))
}

/// UID and generation where the case does not care are the name and 1.
fn resource<K: ResourceExt, Spec>(object: &K, spec: Spec) -> (ObjectKey, Resource<Spec>) {
    let key = ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any());
    let resource = Resource {
        uid: object.uid().unwrap_or_else(|| key.name.clone()),
        generation: object.meta().generation.unwrap_or(1),
        written_by: object.annotations().get(stamps::WRITTEN_BY).cloned(),
        created: object.creation_timestamp().map(|time| time.0),
        spec,
    };
    (key, resource)
}

/// Facts of a case by their keys in the World.
fn keyed<T: Clone>(facts: &BTreeMap<String, T>) -> BTreeMap<ObjectKey, T> {
    let keyed = facts.iter().map(|(key, fact)| {
        let (namespace, name) = key.split_once('/').expect("namespace/name");
        (ObjectKey::new(namespace, name), fact.clone())
    });
    keyed.collect()
}

fn world(case: &Case) -> World {
    let mut world = World::new(case.settings.clone());
    world.devices = case.devices.clone().into();
    world.pods = keyed(&case.pods).into();
    world.namespaces = case.namespaces.clone().into();
    world.nodes = case.nodes.clone().into();
    world.others_policies = keyed(&case.network_policies).into();
    world.replica_sets = keyed(&case.replica_sets).into();
    world.stripping = case.stripping.clone();
    for object in &case.objects {
        match object["kind"].as_str() {
            Some("Policy") => {
                let object: Policy = read(object);
                let (key, resource) = resource(&object, object.spec.clone());
                world.policies.insert(key, resource);
            }
            Some("Isolation") => {
                let (key, resource) = isolation(object);
                world.isolations.insert(key, resource);
            }
            Some("ApiKeyScope") => {
                let object: ApiKeyScope = read(object);
                let (key, resource) = resource(&object, object.spec.clone());
                world.scopes.insert(key, resource);
            }
            kind => panic!("{kind:?} is no kind of a golden case"),
        }
    }
    for object in &case.held {
        let (key, isolation) = isolation(object);
        let held = HeldIsolation { key, isolation };
        world.held.insert(held.isolation.uid.clone(), held);
    }
    world
}

fn isolation(object: &Value) -> (ObjectKey, Resource<crate::api::IsolationSpec>) {
    let object: Isolation = read(object);
    resource(&object, object.spec.clone())
}

fn applied_of(compiled: &Compiled, acknowledged: &Acknowledged, now: Timestamp) -> Applied {
    let enforcement = &compiled.enforcement;
    let devices = acknowledged.devices.iter().map(|(id, said)| {
        let state = said.read_back.then(|| &enforcement.devices[id]);
        let device = DeviceApplied {
            connected: said.connected,
            sources: Arc::new(state.map_or_else(BTreeSet::new, |state| state.sources.clone())),
            state_hash: state.map_or_else(String::new, |state| state.hash()),
            at: state.map(|_| now),
            refused: said.refused.clone(),
            connections_cut: said.connections_cut.clone(),
            wards: Arc::new(
                state
                    .map(|state| WardApplied::all(state))
                    .unwrap_or_default(),
            ),
            covered_at: Arc::new(said.covered_at.clone()),
            restored_at: None,
            seen: said.seen.clone(),
            datapath: said.datapath,
            accounts: Accounts {
                dropped: said.accounts.clone(),
                spared: said.spared_accounts.clone(),
            },
        };
        (id.clone(), device)
    });
    let mut applied = Applied {
        devices: devices.collect(),
        ..Applied::default()
    };
    if acknowledged.stored {
        applied.network_policies = enforcement.network_policies.keys().cloned().collect();
        applied.access = enforcement.access.keys().cloned().collect();
        applied.suspended_users = enforcement.suspended_users.clone();
    }
    applied
}

/// What comes out, in the form of the files.
fn outcome(case: &Case) -> Value {
    let compiled = compile(&world(case), case.now);
    for state in compiled.enforcement.devices.values() {
        assert_eq!(state.operator, case.settings.operator, "in every state");
    }
    let mut outcome = view::compiled(&compiled);
    if let Some(acknowledged) = &case.applied {
        let applied = applied_of(&compiled, acknowledged, case.now);
        outcome["statuses"] = view::statuses(&compiled, &applied, case.now);
    }
    outcome
}

#[test]
fn every_golden_case_comes_out_as_it_is_written() {
    compare(GOLDEN, outcome);
}

/// Compares what comes out with what is written, or writes it.
fn compare(folder: &str, outcome: impl Fn(&Case) -> Value) {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for (path, text) in cases(folder) {
        let case = parse(&path, &text);
        let outcome = outcome(&case);
        if outcome == case.expect {
            continue;
        }
        let written = yaml::to_string(&serde_json::json!({"expect": outcome})).expect("YAML");
        if update {
            let head = text.split("\nexpect:").next().unwrap_or(&text);
            let text = format!("{}\n{written}", head.trim_end());
            std::fs::write(&path, text).expect("a writable case");
        } else {
            wrong.push(format!("{} comes out as\n{written}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_golden_case_says_what_it_shows_and_which_rule_it_rests_on() {
    let cases = cases(GOLDEN);
    assert!(cases.len() >= 40, "only {} cases were found", cases.len());
    let mut titles = BTreeSet::new();
    for (path, text) in cases {
        let case = parse(&path, &text);
        assert!(!case.cites.trim().is_empty(), "{}", path.display());
        assert!(titles.insert(case.title), "{}: title twice", path.display());
        assert!(
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        );
    }
}

#[test]
fn a_status_made_again_of_unchanged_facts_is_the_same_to_the_byte() {
    for (path, text) in cases(GOLDEN) {
        let case = parse(&path, &text);
        let Some(acknowledged) = &case.applied else {
            continue;
        };
        let compiled = compile(&world(&case), case.now);
        let applied = applied_of(&compiled, acknowledged, case.now);
        let first = view::Statuses::of(&compiled, &applied, None, case.now);
        let later = case.now + jiff::SignedDuration::from_secs(3600);
        let again = view::Statuses::of(&compiled, &applied, Some(&first), later);
        assert_eq!(first.json(), again.json(), "{}", path.display());
    }
}
