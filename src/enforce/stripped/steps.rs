//! What a pod lacks. Pure.

use std::collections::BTreeSet;

use crate::domain::enforcement::{Found, StrippedPod};
use crate::domain::names::ObjectKey;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take its labels away, and note what it was and what it is under.
    Strip,
    Delete,
}

/// None while there is nothing to do, or the NetworkPolicy is not stored that has to be there before the
/// labels go.
pub fn step(pod: &StrippedPod, stored: &BTreeSet<ObjectKey>) -> Option<Step> {
    match &pod.found {
        Found::Whole => (!pod.isolations.is_empty() && stored.contains(&pod.network_policy))
            .then_some(Step::Strip),
        Found::Stripped {
            terminating: true, ..
        } => None,
        Found::Stripped { .. } if pod.isolations.is_empty() => Some(Step::Delete),
        // What somebody gave back is taken again, whether the policy is stored just then or not.
        Found::Stripped { bare, noted, .. } => {
            (!bare || *noted != pod.isolations).then_some(Step::Strip)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn policy() -> ObjectKey {
        ObjectKey::new("shop", "seawall.isolated.u")
    }

    fn under(names: &[&str]) -> BTreeMap<String, String> {
        let names = names.iter();
        names
            .map(|name| (format!("uid-{name}"), (*name).to_owned()))
            .collect()
    }

    fn pod(isolations: &[&str], found: Found) -> StrippedPod {
        StrippedPod {
            uid: "u".into(),
            deployment: "web".into(),
            isolations: under(isolations),
            network_policy: policy(),
            found,
        }
    }

    fn stripped(bare: bool, noted: &[&str], terminating: bool) -> Found {
        Found::Stripped {
            bare,
            noted: under(noted),
            terminating,
        }
    }

    #[test]
    fn labels_go_only_when_the_policy_is_stored_that_holds_the_pod() {
        let whole = pod(&["a"], Found::Whole);
        assert_eq!(step(&whole, &[].into()), None);
        assert_eq!(step(&whole, &[policy()].into()), Some(Step::Strip));
        assert_eq!(step(&pod(&[], Found::Whole), &[policy()].into()), None);
    }

    #[test]
    fn a_pod_goes_with_the_last_of_its_isolations_and_once() {
        let both = stripped(true, &["a", "b"], false);
        let stored = [policy()].into();
        assert_eq!(step(&pod(&["a", "b"], both.clone()), &stored), None);
        assert_eq!(step(&pod(&["b"], both.clone()), &stored), Some(Step::Strip));
        assert_eq!(step(&pod(&[], both), &stored), Some(Step::Delete));
        assert_eq!(step(&pod(&[], stripped(true, &["a"], true)), &stored), None);
    }

    #[test]
    fn labels_that_somebody_gave_back_are_taken_again() {
        let given = pod(&["a"], stripped(false, &["a"], false));
        assert_eq!(step(&given, &[].into()), Some(Step::Strip));
    }
}
