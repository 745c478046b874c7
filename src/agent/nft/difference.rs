//! The first difference between what the table has to hold and what it holds, in words for a person.

use super::{Chain, Elements, Found, Listing, Rendered, Rule, Ruleset};
use crate::agent::words::printable;

/// None when the kernel's content is exactly what is wanted.
pub fn first_difference(wanted: &Rendered, found: &Found) -> Option<String> {
    in_both(wanted, found, in_table)
}

/// As `first_difference`, when sets were listed without their elements: only their names count.
pub fn first_difference_outside_sets(wanted: &Rendered, found: &Found) -> Option<String> {
    in_both(wanted, found, in_table_outside_sets)
}

fn in_both(
    wanted: &Rendered,
    found: &Found,
    difference: fn(&Ruleset, Option<&Listing>) -> Option<String>,
) -> Option<String> {
    difference(&wanted.ruleset, found.inet.as_ref()).or_else(|| {
        match (&wanted.bridge, &found.bridge) {
            (None, None) => None,
            (None, Some(_)) => Some("a table for bridges is there and not needed".to_owned()),
            (Some(wanted), found) => difference(wanted, found.as_ref())
                .map(|difference| format!("table for bridges: {difference}")),
        }
    })
}

/// A missing table is `found: None`.
fn in_table(wanted: &Ruleset, found: Option<&Listing>) -> Option<String> {
    let Some(found) = found else {
        return Some("the table is gone".to_owned());
    };
    if let Some(foreign) = found.foreign.first() {
        return Some(format!("the table has {}", printable(foreign, 100)));
    }
    chains(wanted, &found.ruleset).or_else(|| sets(wanted, &found.ruleset))
}

fn in_table_outside_sets(wanted: &Ruleset, found: Option<&Listing>) -> Option<String> {
    let Some(found) = found else {
        return in_table(wanted, None);
    };
    let mut without_elements = found.clone();
    for (name, elements) in &mut without_elements.ruleset.sets {
        if let Some(wanted) = wanted.sets.get(name) {
            *elements = wanted.clone();
        }
    }
    in_table(wanted, Some(&without_elements))
}

fn chains(wanted: &Ruleset, found: &Ruleset) -> Option<String> {
    for (name, chain) in &wanted.chains {
        let Some(there) = found.chains.get(name) else {
            return Some(format!("chain {name} is gone"));
        };
        if chain.hook != there.hook {
            return Some(format!("chain {name} has another hook, priority or policy"));
        }
        if let Some(difference) = rules(name, chain, there) {
            return Some(difference);
        }
    }
    let extra = found
        .chains
        .keys()
        .find(|n| !wanted.chains.contains_key(*n))?;
    Some(format!("chain {:?} was added", printable(extra, 64)))
}

fn rules(name: &str, wanted: &Chain, found: &Chain) -> Option<String> {
    let differs = wanted
        .rules
        .iter()
        .zip(&found.rules)
        .position(|(wanted, found)| wanted != found);
    let shorter = wanted.rules.len().min(found.rules.len());
    let at = match differs {
        Some(at) => at,
        None if wanted.rules.len() != found.rules.len() => shorter,
        None => return None,
    };
    let one_based = at + 1;
    Some(match (wanted.rules.get(at), found.rules.get(at)) {
        (Some(wanted), None) => {
            format!("chain {name} lacks rule {one_based}: {}", rule_text(wanted))
        }
        (None, Some(found)) => {
            format!(
                "chain {name} has a rule {one_based} too many: {}",
                rule_text(found)
            )
        }
        (Some(wanted), Some(found)) => format!(
            "chain {name}, rule {one_based} is {} instead of {}",
            rule_text(found),
            rule_text(wanted)
        ),
        (None, None) => return None,
    })
}

fn rule_text(rule: &Rule) -> String {
    let statements: Vec<String> = rule.statements.iter().map(ToString::to_string).collect();
    let comment = rule.comment.as_deref().unwrap_or("no comment");
    printable(&format!("[{}] ({comment})", statements.join(" ")), 400)
}

fn sets(wanted: &Ruleset, found: &Ruleset) -> Option<String> {
    for (name, elements) in &wanted.sets {
        match found.sets.get(name) {
            None => return Some(format!("set {name} is gone")),
            Some(Elements::Unread(why)) => {
                return Some(format!("set {name} was changed: {}", printable(why, 100)));
            }
            Some(there) if there != elements => {
                return Some(format!(
                    "set {name} has {} elements that were not put there and lacks {}",
                    missing(there, elements),
                    missing(elements, there)
                ));
            }
            Some(_) => {}
        }
    }
    let extra = found.sets.keys().find(|n| !wanted.sets.contains_key(*n))?;
    Some(format!("set {:?} was added", printable(extra, 64)))
}

/// How many elements of the first the second lacks.
fn missing(of: &Elements, from: &Elements) -> usize {
    match (of, from) {
        (Elements::V4Addresses(a), Elements::V4Addresses(b))
        | (Elements::V6Addresses(a), Elements::V6Addresses(b)) => a.difference(b).count(),
        (Elements::V4Ranges(a), Elements::V4Ranges(b))
        | (Elements::V6Ranges(a), Elements::V6Ranges(b)) => {
            a.iter().filter(|r| b.binary_search(r).is_err()).count()
        }
        (Elements::V4Jumps(a), Elements::V4Jumps(b))
        | (Elements::V6Jumps(a), Elements::V6Jumps(b)) => {
            a.iter().filter(|(ip, to)| b.get(ip) != Some(to)).count()
        }
        (Elements::V4Jumps(a) | Elements::V6Jumps(a), _) => a.len(),
        (Elements::V4Addresses(a) | Elements::V6Addresses(a), _) => a.len(),
        (Elements::V4Ranges(a) | Elements::V6Ranges(a), _) => a.len(),
        (Elements::Unread(_), _) => 0,
    }
}
