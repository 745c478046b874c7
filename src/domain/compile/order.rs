//! The one order of all rules, and which default counts.
//!
//! Tier, then the lower priority, then the action, then namespace, name, and the place in the Policy. Of
//! the actions Audit comes first, since it ends nothing and shall see what a Deny of its priority ends;
//! then Deny, then Allow.

use super::policies::InForce;
use crate::api::policy::{DefaultAction, Defaults as WrittenDefaults};
use crate::api::{Action, Direction};
use crate::domain::enforcement::{DefaultRule, Defaults, Rule};
use crate::domain::names::ObjectKey;

/// What decides which of two rules comes first.
type Place<'p> = (u8, i32, u8, &'p ObjectKey, usize);

/// Every rule of every Policy in the order of evaluation, by its place in its Policy.
pub fn in_order<'p, 'w>(policies: &[&'p InForce<'w>]) -> Vec<(&'p InForce<'w>, usize)> {
    let rules = policies.iter().flat_map(|policy| {
        let rules = policy.rules.iter().enumerate();
        rules.map(move |(position, rule)| (*policy, position, rule))
    });
    let mut rules: Vec<_> = rules.collect();
    rules.sort_by_key(|(policy, position, rule)| place(policy, *position, rule));
    let rules = rules.into_iter();
    rules
        .map(|(policy, position, _)| (policy, position))
        .collect()
}

fn place<'p>(policy: &'p InForce<'_>, position: usize, rule: &Rule) -> Place<'p> {
    let action = match rule.action {
        Action::Audit => 0,
        Action::Deny => 1,
        Action::Allow => 2,
    };
    (policy.tier, policy.priority, action, policy.key, position)
}

/// Takes the default of one more Policy into account, in the order of Policies: Deny wins, then one that
/// enforces over one that observes, then the first.
pub fn settle(defaults: &mut Defaults, policy: &InForce<'_>) {
    for direction in [Direction::Egress, Direction::Ingress] {
        let Some(action) = written(policy.default, direction) else {
            continue;
        };
        let slot = match direction {
            Direction::Egress => &mut defaults.egress,
            Direction::Ingress => &mut defaults.ingress,
        };
        let weight = |action, observing: bool| (action == DefaultAction::Deny, !observing);
        let wins = slot.as_ref().is_none_or(|known| {
            weight(action, policy.observing) > weight(known.action, known.observing)
        });
        if wins {
            *slot = Some(DefaultRule {
                id: policy.key.to_string(),
                action,
                observing: policy.observing,
            });
        }
    }
}

/// What the Policy says of the direction.
pub fn written(default: Option<WrittenDefaults>, direction: Direction) -> Option<DefaultAction> {
    match direction {
        Direction::Egress => default?.egress,
        Direction::Ingress => default?.ingress,
    }
}
