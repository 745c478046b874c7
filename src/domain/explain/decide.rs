//! From what each point says to the verdict. What an agent has not read back is not taken for granted: a
//! cut counts when a point holds it for sure, and a way is open when no point may still cut it.

use std::collections::BTreeMap;

use super::answer::{Did, Layer, Point, Step, Verdict};
use super::host::Host;
use super::{Facts, words};
use crate::domain::applied::Datapath;
use crate::domain::names::DeviceId;

/// Why what should be in force at an agent may not be, by device.
#[derive(Debug, Default)]
pub struct Doubts {
    behind: BTreeMap<DeviceId, String>,
    /// Packets of its pods go around its rules.
    bypassed: BTreeMap<DeviceId, String>,
}

impl Doubts {
    /// Takes note of what the agent acknowledged; what is left to say of it.
    pub fn about(&mut self, facts: &Facts<'_>, host: &Host<'_>) -> Option<String> {
        let applied = facts.applied?;
        let known = applied.get(host.id);
        let name = words::host(facts.world, host.id);
        let read_back = known.is_some_and(|known| known.state_hash == host.state.hash());
        if !read_back {
            let words = format!("the agent of {name} has not read back what should be in force");
            self.behind.insert(host.id.clone(), words);
        }
        if known.is_some_and(|known| known.datapath == Datapath::Bypasses) {
            let words =
                format!("the packets of the pods of {name} go around the rules of its agent");
            self.bypassed.insert(host.id.clone(), words);
        }
        let offline = !known.is_some_and(|known| known.connected);
        offline.then(|| {
            format!("the agent of {name} is not connected: it enforces what it read back last")
        })
    }

    fn of(&self, point: &Point) -> Option<&str> {
        let device = point.device.as_ref()?;
        let bypassed = self.bypassed.get(device);
        let bypassed = bypassed.filter(|_| point.layer == Layer::Pod);
        let doubt = self.behind.get(device).or(bypassed);
        doubt.map(String::as_str)
    }
}

pub struct Decision {
    pub verdict: Verdict,
    pub because: String,
    /// It holds if the network plugin enforces NetworkPolicies.
    pub by_network_policy: bool,
}

/// Marks the steps that decide. `open` is why nothing can be said where nothing cuts it.
pub fn decide(points: &mut [Point], doubts: &Doubts, open: Option<&str>) -> Decision {
    let mut cutting: Vec<usize> = (0..points.len()).filter(|n| !points[*n].passes).collect();
    cutting.sort_by_key(|n| rank(&points[*n]));
    let sure = cutting.iter().find(|n| doubts.of(&points[**n]).is_none());
    if let Some(cutting) = sure.or(cutting.first()).copied() {
        let point = &mut points[cutting];
        mark(&mut point.steps, Did::Denied);
        let because = words::cut(point);
        let doubt = doubts.of(point);
        return Decision {
            verdict: match doubt {
                None => Verdict::Blocked,
                Some(_) => Verdict::Unknown,
            },
            because: match doubt {
                None => because,
                Some(doubt) => format!("{because}; but {doubt}"),
            },
            by_network_policy: point.layer == Layer::NetworkPolicies,
        };
    }
    for point in points.iter_mut() {
        mark(&mut point.steps, Did::Allowed);
    }
    let doubt = points.iter().find_map(|point| doubts.of(point));
    let (verdict, because) = match (open, doubt) {
        (Some(open), _) => (Verdict::Unknown, open.to_owned()),
        (None, Some(doubt)) => (
            Verdict::Unknown,
            format!("nothing that should be in force cuts it; but {doubt}"),
        ),
        (None, None) => (Verdict::Reaches, words::let_through(points)),
    };
    Decision {
        verdict,
        because,
        by_network_policy: false,
    }
}

fn mark(steps: &mut [Step], did: Did) {
    for step in steps.iter_mut().filter(|step| step.did == did) {
        step.decisive = true;
    }
}

/// What is named first where several points cut: isolation beats everything, and an agent's rules are known
/// to be enforced where NetworkPolicies are not.
fn rank(point: &Point) -> u8 {
    let mut ending = point.ending();
    let contained = ending.any(|step| ["isolation", "quarantine"].contains(&step.rule.as_str()));
    match point.layer {
        Layer::NetworkPolicies => 2,
        Layer::Host | Layer::Pod => u8::from(!contained),
    }
}
