//! The way of one connection: which points its first packet comes by, in order, and what each says.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::NetworkPolicySpec;

use super::answer::{Layer, Path, Point, Side};
use super::decide::{Doubts, decide};
use super::host::{Hook, Host};
use super::network_policy::{self, Judged};
use super::place::{Found, HostOf, Places, Who};
use super::steps::{Outcome, Steps};
use super::ward::Ward;
use super::{Connection, Facts, unenforced, words};
use crate::api::{Direction, Protocol};
use crate::domain::cluster::Pod;
use crate::domain::names::ObjectKey;

pub struct Way<'a> {
    facts: &'a Facts<'a>,
    places: &'a Places<'a>,
    from: &'a Found<'a>,
    to: &'a Found<'a>,
    policies: BTreeMap<&'a ObjectKey, &'a NetworkPolicySpec>,
    doubts: Doubts,
    /// Why nothing can be said although nothing cuts it.
    open: Option<String>,
    pub notes: Vec<String>,
}

impl<'a> Way<'a> {
    pub fn new(
        facts: &'a Facts<'a>,
        places: &'a Places<'a>,
        from: &'a Found<'a>,
        to: &'a Found<'a>,
        protocol: Protocol,
    ) -> Self {
        let mut way = Self {
            facts,
            places,
            from,
            to,
            policies: network_policy::all(facts.world, facts.compiled),
            doubts: Doubts::default(),
            open: None,
            notes: Vec::new(),
        };
        for end in [from, to] {
            way.look_at(end);
        }
        way.notes.extend(words::of_protocol(protocol, from, to));
        way
    }

    /// What is known of one end before any packet.
    fn look_at(&mut self, end: &'a Found<'a>) {
        if end.hidden {
            self.open = Some(format!(
                "what is at {} is not of the namespace that asks, and its side is not looked at",
                end.shown()
            ));
            return;
        }
        if let Some(why) = unenforced::isolation_of(self.facts, end) {
            self.open = Some(why);
        }
        let policies = unenforced::policies_of(self.facts, end);
        self.notes
            .extend(words::of_policies_without_agent(end, &policies));
        let words = match self.agent_of(end) {
            Some(host) => self.doubts.about(self.facts, &host),
            None => words::without_agent(end),
        };
        if let Some(words) = words {
            self.note(&words);
        }
    }

    /// The agent that enforces for it.
    fn agent_of(&self, end: &Found<'a>) -> Option<Host<'a>> {
        let id = match end.who {
            _ if end.hidden => None,
            Who::Host(host) => host.device,
            Who::Pod(_, pod) => pod
                .node
                .as_deref()
                .and_then(|node| self.places.device_of(node)),
            Who::Outside => None,
        }?;
        let (id, state) = self.facts.compiled.enforcement.devices.get_key_value(id)?;
        Some(Host {
            id,
            state,
            facts: self.facts,
        })
    }

    pub fn of(&mut self, on: &Connection) -> Path {
        let loopback = match (self.from.who, self.to.who) {
            (Who::Host(a), Who::Host(b)) => a.is(&b),
            (Who::Pod(a, _), Who::Pod(b, _)) => a == b,
            _ => false,
        };
        let mut points = Vec::new();
        if !loopback {
            let accepted = self.source(on, &mut points);
            self.destination(on, accepted, &mut points);
        }
        let open = match loopback {
            true => None,
            false => self.open.as_deref(),
        };
        self.hide(&mut points);
        let decision = decide(&mut points, &self.doubts, open);
        if decision.by_network_policy {
            self.note(words::ENFORCED_BY_PLUGIN);
        }
        Path {
            pairs: vec![super::Pair {
                from: on.from,
                to: on.to,
            }],
            verdict: decision.verdict,
            because: match loopback {
                true => "it stays within one host, where no rule is asked".to_owned(),
                false => decision.because,
            },
            points,
        }
    }

    /// A tenant is not told of the resources of others, but for the system's, which speak for everybody.
    fn hide(&self, points: &mut [Point]) {
        let Some(tenant) = self.places.tenant() else {
            return;
        };
        let system = &self.facts.world.settings.system_namespace;
        let steps = points.iter_mut().flat_map(|point| &mut point.steps);
        for step in steps {
            step.resource
                .take_if(|it| it.namespace != tenant && it.namespace != *system);
        }
    }

    fn note(&mut self, words: &str) {
        if !self.notes.iter().any(|known| known == words) {
            self.notes.push(words.to_owned());
        }
    }

    /// Whether a pod and its own node talk, whichever of them begins.
    fn is_within_a_node(&self) -> bool {
        let host = |found: &Found<'_>| found.host().is_some();
        let one_is_the_node = host(self.from) != host(self.to);
        let (from, to) = (self.from.node(), self.to.node());
        one_is_the_node && from.is_some() && from == to
    }

    /// Whether the agent there lets it pass without looking at the rest of its rules.
    fn source(&mut self, on: &Connection, points: &mut Vec<Point>) -> bool {
        let host = self.agent_of(self.from);
        match self.from.who {
            Who::Outside => false,
            _ if self.from.hidden => false,
            Who::Host(of) => {
                points
                    .extend(host.map(|host| host_point(&host, of, Hook::Output, Side::Source, on)));
                false
            }
            Who::Pod(key, pod) => {
                let within = self.is_within_a_node();
                let mut accepted = false;
                if let Some(host) = host {
                    let hook = if within { Hook::Input } else { Hook::Forward };
                    let mut steps = Steps::default();
                    let contained = host.contain(hook, on, &mut steps);
                    accepted = contained == Outcome::Allowed;
                    let bridged = self.to.is_pod() && self.from.node() == self.to.node();
                    if bridged && contained == Outcome::Denied && host.state.wards.is_empty() {
                        self.note(words::BRIDGED);
                    }
                    if contained == Outcome::Undecided {
                        judge_ward(&host, Direction::Egress, on, false, &mut steps);
                    }
                    points.push(self.pod_point(&host, Side::Source, self.from, steps));
                }
                if !within {
                    points.extend(self.network_policies(Direction::Egress, (key, pod), on));
                }
                accepted
            }
        }
    }

    fn destination(&mut self, on: &Connection, accepted: bool, points: &mut Vec<Point>) {
        let host = self.agent_of(self.to);
        let within = self.is_within_a_node();
        match self.to.who {
            Who::Outside => {}
            _ if self.to.hidden => {}
            Who::Host(_) if accepted => {}
            Who::Host(of) => {
                let Some(host) = host else { return };
                // The containment of a pod's own node was asked where the pod sent it.
                let point = match within && !self.from.hidden {
                    true => {
                        let mut steps = Steps::default();
                        host.judge(Hook::Input, on, &mut steps);
                        steps.point(Side::Destination, Layer::Host, of.point(), Some(host.id))
                    }
                    false => host_point(&host, of, Hook::Input, Side::Destination, on),
                };
                points.push(point);
            }
            Who::Pod(key, pod) => {
                if let Some(host) = host {
                    let mut steps = Steps::default();
                    let asked_already = self.from.node() == self.to.node() && !self.from.hidden;
                    let contained = match asked_already {
                        true => Outcome::Undecided,
                        false => {
                            let hook = if within { Hook::Output } else { Hook::Forward };
                            host.contain(hook, on, &mut steps)
                        }
                    };
                    if contained == Outcome::Undecided {
                        judge_ward(&host, Direction::Ingress, on, within, &mut steps);
                    }
                    points.push(self.pod_point(&host, Side::Destination, self.to, steps));
                }
                if !within {
                    points.extend(self.network_policies(Direction::Ingress, (key, pod), on));
                }
            }
        }
    }

    fn pod_point(&self, host: &Host<'_>, side: Side, end: &Found<'_>, steps: Steps) -> Point {
        let node = end.node().unwrap_or_default();
        let at = format!("node/{node}");
        steps.point(side, Layer::Pod, at, Some(host.id))
    }

    /// None where no policy selects the pod.
    fn network_policies(
        &mut self,
        direction: Direction,
        pod: (&ObjectKey, &Pod),
        on: &Connection,
    ) -> Option<Point> {
        let (side, peer) = match direction {
            Direction::Egress => (Side::Source, self.to),
            Direction::Ingress => (Side::Destination, self.from),
        };
        let host_pod = self.to.host().and_then(|host| host.pod);
        let judged = Judged {
            direction,
            pod,
            peer,
            listener: self.to.pod().or(host_pod).map(|(_, pod)| pod),
        };
        let mut steps = Steps::default();
        let world = self.facts.world;
        let decided = network_policy::judge(&self.policies, world, &judged, on, &mut steps);
        if decided.outcome == Outcome::Undecided {
            return None;
        }
        if decided.by_address_of_pod {
            self.note(words::POD_BY_ADDRESS);
        }
        if on.protocol == Protocol::Icmp {
            self.note(words::ICMP_IS_UNDEFINED);
        }
        let at = format!("pod/{}", pod.0);
        Some(steps.point(side, Layer::NetworkPolicies, at, None))
    }
}

fn host_point(host: &Host<'_>, of: HostOf<'_>, hook: Hook, side: Side, on: &Connection) -> Point {
    let mut steps = Steps::default();
    if host.contain(hook, on, &mut steps) == Outcome::Undecided {
        host.judge(hook, on, &mut steps);
    }
    steps.point(side, Layer::Host, of.point(), Some(host.id))
}

fn judge_ward(
    host: &Host<'_>,
    direction: Direction,
    on: &Connection,
    by_its_node: bool,
    steps: &mut Steps,
) {
    if let Some(ward) = Ward::of(host, direction, on) {
        ward.judge(direction, on, by_its_node, steps);
    }
}
