//! In which order states are sent: the device that gets isolated first, then what only tightens, then what
//! loosens anything. What can't be told apart counts as loosening.

use std::collections::{BTreeMap, BTreeSet};

use super::Compiled;
use super::management::within;
use super::ports::covers;
use crate::api::policy::DefaultAction;
use crate::api::{Action, Direction};
use crate::domain::enforcement::{DefaultRule, DeviceState, PeerSet, Rule};
use crate::domain::names::DeviceId;

type Wave = BTreeMap<DeviceId, DeviceState>;

impl Compiled {
    /// Every device's state, in the order to send. `before` is what was sent last, if anything was.
    pub fn waves(&self, before: Option<&Compiled>) -> Vec<Wave> {
        let mut waves: [Wave; 3] = Default::default();
        for (id, state) in &self.enforcement.devices {
            let last = before.and_then(|before| before.enforcement.devices.get(id));
            waves[turn(last, state) as usize].insert(id.clone(), state.clone());
        }
        waves.into_iter().filter(|wave| !wave.is_empty()).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Isolates,
    Tightens,
    Loosens,
}

/// Without a last state there is nothing to compare with: a device that is new, or an operator that is.
fn turn(last: Option<&DeviceState>, next: &DeviceState) -> Turn {
    let before = last.and_then(|last| last.isolation.as_ref());
    match (before, next.isolation.as_ref()) {
        (None, Some(_)) => return Turn::Isolates,
        (Some(_), None) => return Turn::Loosens,
        (Some(before), Some(now)) if before != now => {
            return if within(&now.management, &before.management) {
                Turn::Isolates
            } else {
                Turn::Loosens
            };
        }
        _ => {}
    }
    match last {
        Some(last) if loosens(last, next) => Turn::Loosens,
        _ => Turn::Tightens,
    }
}

fn loosens(last: &DeviceState, next: &DeviceState) -> bool {
    !next.operator.is_subset(&last.operator)
        || !last.quarantined.is_subset(&next.quarantined)
        || !next.quarantine_paths.is_subset(&last.quarantine_paths)
        || default_loosens(&last.defaults.egress, &next.defaults.egress)
        || default_loosens(&last.defaults.ingress, &next.defaults.ingress)
        || rules_loosen(&last.rules, &next.rules)
}

fn default_loosens(last: &Option<DefaultRule>, next: &Option<DefaultRule>) -> bool {
    let denies = |default: &Option<DefaultRule>| {
        default
            .as_ref()
            .is_some_and(|default| default.action == DefaultAction::Deny)
    };
    denies(last) && !denies(next)
}

/// What names a rule through its edits: an Allow that became a Deny is another rule.
type Name<'r> = (&'r str, Direction, Action);

fn name(rule: &Rule) -> Name<'_> {
    (&rule.id, rule.direction, rule.action)
}

/// Nothing is looser when an Allow goes or gets narrower and a Deny comes or gets wider, wherever it is in
/// the order; as long as what stays keeps its order.
fn rules_loosen(last: &[Rule], next: &[Rule]) -> bool {
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (
        last.iter().map(name).collect(),
        next.iter().map(name).collect(),
    );
    let gone = last.iter().filter(|rule| !new.contains(&name(rule)));
    let come = next.iter().filter(|rule| !old.contains(&name(rule)));
    let mut gone = gone.map(|rule| rule.action == Action::Deny);
    let mut come = come.map(|rule| rule.action == Action::Allow);
    if gone.any(|loosens| loosens) || come.any(|loosens| loosens) {
        return true;
    }
    let stayed = last.iter().filter(|rule| new.contains(&name(rule)));
    let stay: Vec<&Rule> = next
        .iter()
        .filter(|rule| old.contains(&name(rule)))
        .collect();
    let stayed: Vec<&Rule> = stayed.collect();
    let mut pairs = stayed.iter().zip(&stay);
    stayed.len() != stay.len() || pairs.any(|(last, next)| rule_loosens(last, next))
}

fn rule_loosens(last: &Rule, next: &Rule) -> bool {
    if name(last) != name(next) {
        return true;
    }
    match next.action {
        Action::Allow => !rule_within(next, last),
        Action::Deny => !rule_within(last, next),
        Action::Audit => false,
    }
}

fn rule_within(inner: &Rule, outer: &Rule) -> bool {
    let peers = match (&inner.peers, &outer.peers) {
        (_, PeerSet::Any) => true,
        (PeerSet::Any, PeerSet::Networks(_)) => false,
        (PeerSet::Networks(inner), PeerSet::Networks(outer)) => inner
            .iter()
            .all(|inner| outer.iter().any(|outer| outer.contains(inner))),
    };
    peers && covers(&outer.ports, &inner.ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::enforcement::{Defaults, ManagementRule, SelfIsolation};

    fn rule(id: &str, action: Action, networks: &[&str]) -> Rule {
        Rule {
            id: id.to_owned(),
            direction: Direction::Egress,
            action,
            peers: PeerSet::Networks(
                networks
                    .iter()
                    .map(|network| network.parse().expect("a network"))
                    .collect(),
            ),
            ports: BTreeSet::new(),
        }
    }

    fn with_rules(rules: &[Rule]) -> DeviceState {
        DeviceState {
            rules: rules.to_vec(),
            ..DeviceState::default()
        }
    }

    fn isolated(management: &[&str]) -> DeviceState {
        let management = management.iter().map(|network| ManagementRule {
            network: network.parse().expect("a network"),
            ports: BTreeSet::new(),
        });
        DeviceState {
            isolation: Some(SelfIsolation {
                management: management.collect(),
            }),
            ..DeviceState::default()
        }
    }

    fn quarantining(addresses: &[&str]) -> DeviceState {
        DeviceState {
            quarantined: addresses
                .iter()
                .map(|address| address.parse().expect("an address"))
                .collect(),
            ..DeviceState::default()
        }
    }

    fn defaulting(action: Option<DefaultAction>) -> DeviceState {
        DeviceState {
            defaults: Defaults {
                egress: action.map(|action| DefaultRule {
                    id: "plant/web".to_owned(),
                    action,
                    observing: false,
                }),
                ingress: None,
            },
            ..DeviceState::default()
        }
    }

    fn turn_of(last: DeviceState, next: DeviceState) -> Turn {
        turn(Some(&last), &next)
    }

    #[test]
    fn a_device_that_is_isolated_or_loses_a_management_path_is_first() {
        let open = DeviceState::default();
        let paths = ["10.0.9.0/24", "10.0.8.0/24"];
        assert_eq!(turn_of(open.clone(), isolated(&paths)), Turn::Isolates);
        assert_eq!(turn(None, &isolated(&paths)), Turn::Isolates);
        assert_eq!(
            turn_of(isolated(&paths), isolated(&["10.0.9.0/24"])),
            Turn::Isolates
        );
        assert_eq!(
            turn_of(isolated(&["10.0.9.0/24"]), isolated(&paths)),
            Turn::Loosens
        );
        assert_eq!(turn_of(isolated(&paths), open), Turn::Loosens);
    }

    #[test]
    fn a_quarantine_that_grows_tightens_and_one_that_loses_an_address_loosens() {
        let (one, two) = (
            quarantining(&["10.0.0.1"]),
            quarantining(&["10.0.0.1", "10.0.0.2"]),
        );
        let other = quarantining(&["10.0.0.2"]);
        assert_eq!(turn_of(one.clone(), two.clone()), Turn::Tightens);
        assert_eq!(turn_of(two, one.clone()), Turn::Loosens);
        assert_eq!(turn_of(one, other), Turn::Loosens, "one came and one went");
    }

    #[test]
    fn a_default_that_stops_denying_loosens_and_nothing_else_of_it_does() {
        let (absent, allow) = (defaulting(None), defaulting(Some(DefaultAction::Allow)));
        let deny = defaulting(Some(DefaultAction::Deny));
        assert_eq!(turn_of(deny.clone(), absent.clone()), Turn::Loosens);
        assert_eq!(turn_of(deny.clone(), allow.clone()), Turn::Loosens);
        assert_eq!(turn_of(absent.clone(), deny), Turn::Tightens);
        assert_eq!(turn_of(allow, absent), Turn::Tightens);
    }

    #[test]
    fn a_deny_that_comes_or_gets_wider_and_an_allow_that_goes_or_gets_narrower_tighten() {
        let (allow, deny) = (
            rule("allow", Action::Allow, &["10.0.0.0/8"]),
            rule("deny", Action::Deny, &["10.1.0.0/16"]),
        );
        let both = with_rules(&[deny.clone(), allow.clone()]);
        let wider = rule("deny", Action::Deny, &["10.0.0.0/8"]);
        let narrower = rule("allow", Action::Allow, &["10.2.0.0/16"]);
        for tighter in [
            with_rules(&[wider.clone(), allow.clone()]),
            with_rules(&[deny.clone(), narrower.clone()]),
            with_rules(std::slice::from_ref(&deny)),
            with_rules(&[
                rule("new", Action::Deny, &["192.0.2.0/24"]),
                deny.clone(),
                allow.clone(),
            ]),
            with_rules(&[deny.clone(), rule("allow", Action::Deny, &["10.0.0.0/8"])]),
        ] {
            assert_eq!(
                turn_of(both.clone(), tighter.clone()),
                Turn::Tightens,
                "{tighter:?}"
            );
            assert_eq!(
                turn_of(tighter.clone(), both.clone()),
                Turn::Loosens,
                "{tighter:?}"
            );
        }
    }

    #[test]
    fn rules_that_change_places_count_as_loosening() {
        let (allow, deny) = (
            rule("allow", Action::Allow, &["10.0.0.0/8"]),
            rule("deny", Action::Deny, &["10.1.0.0/16"]),
        );
        let one = with_rules(&[deny.clone(), allow.clone()]);
        let other = with_rules(&[allow, deny]);
        assert_eq!(turn_of(one, other), Turn::Loosens);
    }

    #[test]
    fn what_only_reports_tightens_at_most() {
        let audit = with_rules(&[rule("audit", Action::Audit, &["0.0.0.0/0"])]);
        let nothing = with_rules(&[]);
        assert_eq!(turn_of(audit.clone(), nothing.clone()), Turn::Tightens);
        assert_eq!(turn_of(nothing, audit), Turn::Tightens);
    }
}
