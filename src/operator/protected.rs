//! What no agent's resource may cut: the networks given by flag, and the addresses of the API server
//! and of the cluster's DNS, which are watched.
//!
//! An answer takes nothing away that was known: where a list can't be had, or has no address in it any
//! more (an API server that ends takes itself out of its own list), the last addresses stay protected
//! until others take their place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Result, ensure};
use futures::StreamExt;
use futures::stream::select_all;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::discovery::v1::Endpoint;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::domain::names::ObjectKey;
use crate::domain::world::Protected;
use crate::health::Health;
use crate::metrics::{Metrics, PartLabel};
use crate::watch::{Change, Raw};

/// What the loop waits for in `/ready` until every list was read or refused once.
pub const WAITED_FOR: &str = "protected addresses";

/// What depends on no rule of an agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    ApiServer,
    ClusterDns,
}

impl Part {
    /// In verdicts and in the log.
    fn in_words(self) -> &'static str {
        match self {
            Self::ApiServer => "the API server",
            Self::ClusterDns => "the cluster's DNS",
        }
    }

    /// In metrics.
    pub fn label(self) -> PartLabel {
        PartLabel {
            part: match self {
                Self::ApiServer => "api_server",
                Self::ClusterDns => "cluster_dns",
            },
        }
    }
}

/// One list of objects with addresses in them.
pub struct Source {
    pub part: Part,
    pub changes: mpsc::Receiver<Change<Addresses>>,
}

pub type Addresses = BTreeSet<IpAddr>;

/// Publishes what is protected, first when every source has answered.
pub struct Protecting {
    /// By flag.
    pub given: Vec<Protected>,
    pub sources: Vec<Source>,
    pub metrics: Metrics,
    pub health: watch::Sender<Health>,
    pub out: watch::Sender<Option<Vec<Protected>>>,
}

impl Protecting {
    pub async fn run(self, stop: CancellationToken) -> Result<()> {
        let mut all = Vec::new();
        let mut streams = Vec::new();
        for (index, source) in self.sources.into_iter().enumerate() {
            all.push(Known::of(source.part));
            let changes = ReceiverStream::new(source.changes);
            streams.push(changes.map(move |change| (index, change)).boxed());
        }
        let mut changes = select_all(streams);
        while let Some(next) = stop.run_until_cancelled(changes.next()).await {
            let Some((index, change)) = next else {
                // Asked to stop, the watches may end between the two looks of one poll.
                ensure!(stop.is_cancelled(), "its watches ended");
                return Ok(());
            };
            if let Some(known) = all.get_mut(index) {
                known.take(change);
            }
            if !all.iter().all(|known| known.answered) {
                continue;
            }
            self.out.send_if_modified(|published| {
                let addresses = by_part(&all);
                let wanted = protected(&self.given, &addresses);
                if published.as_ref() == Some(&wanted) {
                    return false;
                }
                tell(&addresses, &self.metrics);
                *published = Some(wanted);
                true
            });
            self.health.send_if_modified(|health| {
                let waited = health.waiting_for.remove(WAITED_FOR);
                waited.is_some()
            });
        }
        Ok(())
    }
}

/// What one source said so far.
struct Known {
    part: Part,
    /// It was read, or could not be.
    answered: bool,
    objects: BTreeMap<ObjectKey, Addresses>,
    /// The last addresses that were not none.
    addresses: Addresses,
}

impl Known {
    fn of(part: Part) -> Self {
        Self {
            part,
            answered: false,
            objects: BTreeMap::new(),
            addresses: Addresses::new(),
        }
    }

    fn take(&mut self, change: Change<Addresses>) {
        match change {
            Change::Apply(key, addresses) => {
                self.objects.insert(key, addresses);
            }
            Change::Delete(key) => {
                self.objects.remove(&key);
            }
            Change::Reset { objects, malformed } => {
                self.answered = true;
                let there = |key: &ObjectKey| malformed.iter().any(|object| object.key == *key);
                self.objects.retain(|key, _| there(key));
                self.objects.extend(objects);
            }
            // What can't be read any more keeps its last readable form.
            Change::Malformed(_) => {}
            // The watch has said why, and tries again.
            Change::Lost { .. } => self.answered = true,
        }
        let now: Addresses = self.objects.values().flatten().copied().collect();
        if !now.is_empty() {
            self.addresses = now;
        }
    }
}

fn by_part(all: &[Known]) -> BTreeMap<Part, Addresses> {
    let mut parts: BTreeMap<Part, Addresses> = BTreeMap::new();
    for known in all {
        parts
            .entry(known.part)
            .or_default()
            .extend(&known.addresses);
    }
    parts
}

fn protected(given: &[Protected], addresses: &BTreeMap<Part, Addresses>) -> Vec<Protected> {
    let mut protected = given.to_vec();
    for (part, addresses) in addresses {
        protected.extend(addresses.iter().map(|address| Protected {
            what: part.in_words().to_owned(),
            network: IpNet::from(*address),
        }));
    }
    protected
}

fn tell(addresses: &BTreeMap<Part, Addresses>, metrics: &Metrics) {
    for (part, addresses) in addresses {
        let what = part.in_words();
        let count = i64::try_from(addresses.len()).unwrap_or(i64::MAX);
        let gauge = metrics.protected_addresses.get_or_create(&part.label());
        gauge.set(count);
        if addresses.is_empty() {
            warn!(
                "no address of {what} was found: unless --protected (chart: operator.protected) names its networks, an AI agent's resource can cut it"
            );
        } else {
            info!(?addresses, "{what} is protected");
        }
    }
}

/// The addresses of a Service, narrowed from its JSON.
pub fn of_service(raw: Raw) -> Result<Addresses, String> {
    let spec: ServiceSpec = field(raw, "spec")?;
    Ok(usable(spec.cluster_ips.unwrap_or_default()))
}

/// The addresses behind a Service, narrowed from the JSON of one of its EndpointSlices.
pub fn of_slice(raw: Raw) -> Result<Addresses, String> {
    // A Service without a pod has `null` here.
    let endpoints: Option<Vec<Endpoint>> = field(raw, "endpoints")?;
    let endpoints = endpoints.unwrap_or_default();
    Ok(usable(endpoints.into_iter().flat_map(|it| it.addresses)))
}

fn field<T: DeserializeOwned>(mut raw: Raw, name: &str) -> Result<T, String> {
    let value = raw.data.get_mut(name).map(serde_json::Value::take);
    serde_json::from_value(value.unwrap_or_default())
        .map_err(|error| format!("its {name} can't be read: {error}"))
}

/// Names, `None` of a headless Service, and loopback, which every host has for itself, stand for nothing.
fn usable(texts: impl IntoIterator<Item = String>) -> Addresses {
    let addresses = texts.into_iter().filter_map(|text| text.parse().ok());
    addresses
        .filter(|address: &IpAddr| !address.is_loopback())
        .collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::{Value, json};

    use super::*;

    fn raw(data: Value) -> Raw {
        Raw {
            metadata: ObjectMeta::default(),
            data,
        }
    }

    fn addresses(texts: &[&str]) -> Addresses {
        usable(texts.iter().map(|text| (*text).to_owned()))
    }

    fn named(name: &str, texts: &[&str]) -> (ObjectKey, Addresses) {
        (ObjectKey::new("kube-system", name), addresses(texts))
    }

    fn list(objects: &[(&str, &[&str])]) -> Change<Addresses> {
        Change::Reset {
            objects: objects
                .iter()
                .map(|(name, texts)| named(name, texts))
                .collect(),
            malformed: Vec::new(),
        }
    }

    #[test]
    fn addresses_are_those_of_the_service_and_of_what_is_behind_it() {
        let service = json!({"spec": {"clusterIP": "10.96.0.10",
            "clusterIPs": ["10.96.0.10", "2001:db8::a"]}});
        let of = of_service(raw(service)).expect("a Service");
        assert_eq!(of, addresses(&["10.96.0.10", "2001:db8::a"]));
        let headless = json!({"spec": {"clusterIPs": ["None"]}});
        assert!(of_service(raw(headless)).expect("a Service").is_empty());
        let slice = json!({"endpoints": [
            {"addresses": ["10.0.1.5"]}, {"addresses": ["10.0.2.5", "127.0.0.1"]}]});
        let of = of_slice(raw(slice)).expect("a slice");
        assert_eq!(of, addresses(&["10.0.1.5", "10.0.2.5"]));
        let none = json!({"endpoints": null});
        assert!(of_slice(raw(none)).expect("a slice").is_empty());
        let wrong = of_slice(raw(json!({"endpoints": 7}))).expect_err("no list");
        assert!(wrong.contains("endpoints can't be read"), "{wrong}");
    }

    #[test]
    fn addresses_that_others_took_the_place_of_are_given_up() {
        let mut known = Known::of(Part::ClusterDns);
        known.take(list(&[("a", &["10.0.1.5"]), ("b", &["10.0.2.5"])]));
        assert!(known.answered);
        let (key, moved) = named("a", &["10.0.3.5"]);
        known.take(Change::Apply(key, moved));
        assert_eq!(known.addresses, addresses(&["10.0.3.5", "10.0.2.5"]));
        known.take(Change::Delete(ObjectKey::new("kube-system", "b")));
        assert_eq!(known.addresses, addresses(&["10.0.3.5"]));
    }

    #[test]
    fn no_answer_and_an_empty_one_take_nothing_away() {
        let mut known = Known::of(Part::ApiServer);
        known.take(list(&[("a", &["10.0.1.5"])]));
        let lost = || Change::Lost {
            why: "forbidden".to_owned(),
        };
        let gone = Change::Delete(ObjectKey::new("kube-system", "a"));
        for change in [lost(), list(&[("a", &[])]), list(&[]), gone] {
            known.take(change);
            assert_eq!(known.addresses, addresses(&["10.0.1.5"]));
        }
        known.take(list(&[("a", &["10.0.9.9"])]));
        assert_eq!(known.addresses, addresses(&["10.0.9.9"]));
    }

    #[tokio::test]
    async fn nothing_is_published_before_every_source_has_answered_and_a_refusal_is_an_answer() {
        let (service, services) = mpsc::channel(4);
        let (slice, slices) = mpsc::channel(4);
        let (out, mut published) = watch::channel(None);
        let health = watch::Sender::new(Health::default());
        health.send_modify(|health| {
            health.waiting_for.insert(WAITED_FOR, "not read".to_owned());
        });
        let source = |part, changes| Source { part, changes };
        let given = Protected {
            what: "backup".to_owned(),
            network: "10.0.7.0/24".parse().expect("a network"),
        };
        let metrics = Metrics::new();
        let protecting = Protecting {
            given: vec![given.clone()],
            sources: vec![
                source(Part::ApiServer, services),
                source(Part::ClusterDns, slices),
            ],
            metrics: metrics.clone(),
            health: health.clone(),
            out,
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(protecting.run(stop.clone()));
        let sent = service.send(list(&[("kubernetes", &["10.96.0.1"])])).await;
        sent.expect("somebody listens");
        // The channel is empty again: it was taken in.
        while service.capacity() < service.max_capacity() {
            tokio::task::yield_now().await;
        }
        assert_eq!(*published.borrow(), None);
        assert!(health.borrow().waiting_for.contains_key(WAITED_FOR));
        let why = "forbidden".to_owned();
        slice.send(Change::Lost { why }).await.expect("listens");
        published.changed().await.expect("published");
        let found = Protected {
            what: "the API server".to_owned(),
            network: "10.96.0.1/32".parse().expect("a network"),
        };
        assert_eq!(*published.borrow(), Some(vec![given, found]));
        let text = metrics.text();
        for line in [
            "seawall_protected_addresses{part=\"api_server\"} 1",
            "seawall_protected_addresses{part=\"cluster_dns\"} 0",
        ] {
            assert!(text.contains(line), "{text}");
        }
        // As all tasks end together: the watches may be gone before this one has looked.
        stop.cancel();
        drop((service, slice));
        running.await.expect("joined").expect("in order");
        assert!(health.borrow().waiting_for.is_empty());
    }
    #[tokio::test]
    async fn watches_that_end_by_themselves_are_a_failure_and_those_that_were_asked_to_are_not() {
        for asked in [false, true] {
            let (changes, receiver) = mpsc::channel(1);
            drop(changes);
            let source = Source {
                part: Part::ApiServer,
                changes: receiver,
            };
            let protecting = Protecting {
                given: Vec::new(),
                sources: vec![source],
                metrics: Metrics::new(),
                health: watch::Sender::new(Health::default()),
                out: watch::channel(None).0,
            };
            let stop = CancellationToken::new();
            if asked {
                stop.cancel();
            }
            assert_eq!(protecting.run(stop).await.is_ok(), asked);
        }
    }
}
