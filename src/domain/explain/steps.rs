//! The steps of one point, while they are made.

use super::answer::{Did, Layer, Point, ResourceKind, ResourceName, Side, Step};
use crate::domain::enforcement::Source;
use crate::domain::names::{DeviceId, ObjectKey};

/// Rules that don't match and are shown, at one point.
const MOST_UNMATCHED: usize = 40;

#[derive(Debug, Default)]
pub struct Steps {
    steps: Vec<Step>,
    unmatched: usize,
}

/// How a point's evaluation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing here matched.
    Undecided,
    Allowed,
    Denied,
}

impl Steps {
    pub fn add(&mut self, resource: Option<ResourceName>, rule: &str, did: Did) {
        if did == Did::NoMatch {
            self.unmatched += 1;
            if self.unmatched > MOST_UNMATCHED {
                return;
            }
        }
        self.steps.push(Step {
            resource,
            rule: rule.to_owned(),
            did,
            decisive: false,
        });
    }

    /// One step for each of the resources that have a part in it; without any, one that belongs to none.
    pub fn add_all(&mut self, resources: Vec<ResourceName>, rule: &str, did: Did) {
        if resources.is_empty() {
            return self.add(None, rule, did);
        }
        for resource in resources {
            self.add(Some(resource), rule, did);
        }
    }

    pub fn point(self, side: Side, layer: Layer, at: String, device: Option<&DeviceId>) -> Point {
        let passes = !self.steps.iter().any(|step| step.did == Did::Denied);
        Point {
            side,
            layer,
            at,
            passes,
            unmatched_left_out: self.unmatched.saturating_sub(MOST_UNMATCHED),
            steps: self.steps,
            device: device.cloned(),
        }
    }
}

pub fn named(kind: ResourceKind, key: &ObjectKey) -> ResourceName {
    ResourceName {
        kind,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

pub fn of_source(source: &Source) -> ResourceName {
    ResourceName {
        kind: source.kind.into(),
        namespace: source.namespace.clone(),
        name: source.name.clone(),
    }
}

/// The Policy and the rule of an id of the form `namespace/policy/rule`, or `namespace/policy`.
pub fn of_rule(id: &str) -> (Option<ResourceName>, &str) {
    let mut parts = id.splitn(3, '/');
    let (Some(namespace), Some(name)) = (parts.next(), parts.next()) else {
        return (None, id);
    };
    let key = ObjectKey::new(namespace, name);
    let policy = named(ResourceKind::Policy, &key);
    (Some(policy), parts.next().unwrap_or_default())
}
