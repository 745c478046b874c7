//! In which order states are sent: the device that gets isolated first, then what only tightens, then what
//! loosens anything. What can't be told apart counts as loosening.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Compiled;
use super::management::within;
use super::ports::covers;
use crate::api::policy::DefaultAction;
use crate::api::{Action, Direction};
use crate::domain::enforcement::{DefaultRule, DeviceState, PeerSet, Rule, WardGroup};
use crate::domain::names::DeviceId;

type Wave = BTreeMap<DeviceId, Arc<DeviceState>>;

impl Compiled {
    /// Every device's state, in the order to send. `before` is what was sent last, if anything was.
    pub fn waves(&self, before: Option<&Compiled>) -> Vec<Wave> {
        let mut waves: [Wave; 3] = Default::default();
        for (id, state) in &self.enforcement.devices {
            let last = before.and_then(|before| before.enforcement.devices.get(id));
            let turn = match last {
                Some(last) if Arc::ptr_eq(last, state) => Turn::Tightens,
                last => turn(last.map(|last| &**last), state),
            };
            waves[turn as usize].insert(id.clone(), Arc::clone(state));
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
    if wards_isolate(last, next) || suspends(last, next) {
        return Turn::Isolates;
    }
    match last {
        Some(last) if loosens(last, next) => Turn::Loosens,
        _ => Turn::Tightens,
    }
}

type Wards<'s> = BTreeMap<&'s str, &'s WardGroup>;

fn wards(state: &DeviceState) -> Wards<'_> {
    let groups = state.wards.values();
    let wards = groups.flat_map(|group| group.members.keys().map(move |ward| (&**ward, &**group)));
    wards.collect()
}

/// Whether a ward gets isolated, or loses a management path.
fn wards_isolate(last: Option<&DeviceState>, next: &DeviceState) -> bool {
    let before = last.map(wards).unwrap_or_default();
    let isolated = |group: &'_ WardGroup| group.isolation.clone();
    wards(next).into_iter().any(|(ward, now)| {
        let before = before.get(ward).copied().and_then(isolated);
        match (before, &now.isolation) {
            (None, Some(_)) => true,
            (Some(before), Some(now)) => {
                before.management != now.management && within(&now.management, &before.management)
            }
            (_, None) => false,
        }
    })
}

/// Whether a user is suspended that was not.
fn suspends(last: Option<&DeviceState>, next: &DeviceState) -> bool {
    let mut users = next.suspended_users.iter();
    users.any(|user| last.is_none_or(|last| !last.suspended_users.contains(user)))
}

/// Whether anything of a ward gets looser: it is under less, or an address of it under nothing.
fn wards_loosen(last: &DeviceState, next: &DeviceState) -> bool {
    let after = wards(next);
    wards(last).into_iter().any(|(ward, before)| {
        let Some(after) = after.get(ward) else {
            return true;
        };
        !before.members[ward].is_subset(&after.members[ward]) || group_loosens(before, after)
    })
}

fn group_loosens(before: &WardGroup, after: &WardGroup) -> bool {
    match (&before.isolation, &after.isolation) {
        (Some(_), None) => true,
        (None, Some(_)) => false,
        (Some(before), Some(after)) => {
            !within(&after.management, &before.management) || before.probes != after.probes
        }
        (None, None) => {
            default_loosens(&before.defaults.egress, &after.defaults.egress)
                || default_loosens(&before.defaults.ingress, &after.defaults.ingress)
                || rules_loosen(&before.rules, &after.rules)
        }
    }
}

fn loosens(last: &DeviceState, next: &DeviceState) -> bool {
    !next.operator.is_subset(&last.operator)
        || !last.quarantined.is_subset(&next.quarantined)
        || !next.quarantine_paths.is_subset(&last.quarantine_paths)
        || default_loosens(&last.defaults.egress, &next.defaults.egress)
        || default_loosens(&last.defaults.ingress, &next.defaults.ingress)
        || rules_loosen(&last.rules, &next.rules)
        || !last.suspended_users.is_subset(&next.suspended_users)
        || wards_loosen(last, next)
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
fn rules_loosen(last: &[Arc<Rule>], next: &[Arc<Rule>]) -> bool {
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (
        last.iter().map(|rule| name(rule)).collect(),
        next.iter().map(|rule| name(rule)).collect(),
    );
    let gone = last.iter().filter(|rule| !new.contains(&name(rule)));
    let come = next.iter().filter(|rule| !old.contains(&name(rule)));
    let mut gone = gone.map(|rule| rule.action == Action::Deny);
    let mut come = come.map(|rule| rule.action == Action::Allow);
    if gone.any(|loosens| loosens) || come.any(|loosens| loosens) {
        return true;
    }
    let stayed = last.iter().filter(|rule| new.contains(&name(rule)));
    let stay: Vec<&Arc<Rule>> = next
        .iter()
        .filter(|rule| old.contains(&name(rule)))
        .collect();
    let stayed: Vec<&Arc<Rule>> = stayed.collect();
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
    use crate::domain::enforcement::{Defaults, ManagementRule, SelfIsolation, WardIsolation};

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
            rules: rules.iter().cloned().map(Arc::new).collect(),
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

    fn ward(name: &str, address: &str, group: WardGroup) -> DeviceState {
        let addresses = [address.parse().expect("an address")].into();
        let members = [(name.to_owned(), addresses)].into();
        DeviceState {
            wards: [("w1".to_owned(), WardGroup { members, ..group }.into())].into(),
            ..DeviceState::default()
        }
    }

    #[test]
    fn a_ward_that_is_isolated_is_first_and_one_that_is_under_less_loosens() {
        let cut = |management: &[&str]| {
            let isolation = isolated(management).isolation.expect("isolated");
            let isolation = WardIsolation {
                management: isolation.management,
                probes: BTreeMap::new(),
            };
            let group = WardGroup {
                isolation: Some(isolation),
                ..WardGroup::default()
            };
            ward("shop/web", "10.1.0.5", group)
        };
        let denies = |address| {
            let group = WardGroup {
                rules: vec![Arc::new(rule("deny", Action::Deny, &["10.0.0.0/8"]))],
                ..WardGroup::default()
            };
            ward("shop/web", address, group)
        };
        let open = DeviceState::default();
        assert_eq!(turn_of(open.clone(), cut(&[])), Turn::Isolates);
        assert_eq!(turn_of(denies("10.1.0.5"), cut(&[])), Turn::Isolates);
        assert_eq!(turn_of(cut(&["10.0.9.0/24"]), cut(&[])), Turn::Isolates);
        assert_eq!(turn_of(cut(&[]), cut(&["10.0.9.0/24"])), Turn::Loosens);
        assert_eq!(turn_of(cut(&[]), denies("10.1.0.5")), Turn::Loosens);
        assert_eq!(turn_of(open.clone(), denies("10.1.0.5")), Turn::Tightens);
        assert_eq!(turn_of(denies("10.1.0.5"), open), Turn::Loosens);
        let moved = turn_of(denies("10.1.0.5"), denies("10.1.0.6"));
        assert_eq!(moved, Turn::Loosens, "the address it had is under nothing");
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
