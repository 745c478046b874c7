//! Where what was asked for and what the chart grants differ.

use std::collections::{BTreeMap, BTreeSet};

use super::granted::Right;
use super::needs::{Calls, Need, Needs};

/// Calls that the product makes and the chart doesn't grant, refused or let through by something else.
pub fn missing(rights: &[Right], needs: &Needs) -> Vec<String> {
    let asked = |calls: &Calls| calls.allowed + calls.forbidden > 0;
    let granted = |need: &Need| rights.iter().any(|right| covers(right, need));
    needs
        .iter()
        .filter(|(need, calls)| asked(calls) && !granted(need))
        .map(|(need, calls)| {
            format!(
                "the chart doesn't grant what {} asked for: {} {}.{} {:?} in {:?} ({} let through, {} refused; {})",
                need.who, need.verb, need.resource, need.group, need.name, need.namespace,
                calls.allowed, calls.forbidden, calls.example
            )
        })
        .collect()
}

/// Rights that nobody used in this run, or that reach further than they were used.
pub fn surplus(rights: &[Right], needs: &Needs) -> Vec<String> {
    rights
        .iter()
        .filter_map(|right| surplus_of(right, rights, needs))
        .collect()
}

fn surplus_of(right: &Right, rights: &[Right], needs: &Needs) -> Option<String> {
    let wider = rights
        .iter()
        .find(|other| *other != right && other.includes(right));
    if let Some(wider) = wider {
        return Some(format!("granted twice: {right}; also by {}", wider.role));
    }
    let used: Vec<&Need> = needs
        .iter()
        .filter(|(need, calls)| calls.allowed > 0 && covers(right, need))
        .map(|(need, _)| need)
        .collect();
    if used.is_empty() {
        return Some(format!("nobody used: {right}"));
    }
    too_wide(right, &used)
}

/// A right in every namespace is for calls to all of them at once, or to more than one.
fn too_wide(right: &Right, used: &[&Need]) -> Option<String> {
    let namespaces: BTreeSet<&str> = used.iter().map(|need| need.namespace.as_str()).collect();
    let only = namespaces.first()?;
    (right.namespace.is_none() && namespaces.len() == 1 && !only.is_empty())
        .then(|| format!("used in {only} alone: {right}"))
}

fn covers(right: &Right, need: &Need) -> bool {
    right.who == need.who
        && right.verb == need.verb
        && right.group == need.group
        && right.resource == need.resource
        && right
            .namespace
            .as_ref()
            .is_none_or(|namespace| *namespace == need.namespace)
        && right.name.as_ref().is_none_or(|name| *name == need.name)
}

/// How many calls of each identity were let through.
pub fn counts(needs: &Needs) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (need, calls) in needs {
        *counts.entry(need.who.to_string()).or_default() += calls.allowed;
    }
    counts
}
