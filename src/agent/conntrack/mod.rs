//! Ends connections that are open when a host is isolated or a peer is quarantined. The rules in force
//! already drop their packets; here their conntrack entries are deleted, so that nothing that follows
//! connections (offloads, NAT, other tables) keeps them alive, and their local TCP sockets are destroyed,
//! so that applications see the end at once. What stays is judged by the same state as the rules
//! ([`judge`]); the kernel's tables are reached by netlink ([`table`], [`sockets`]), and looked at before
//! ([`glance`]).
//!
//! An entry is not deleted when its next packet could be taken for the opening of a connection that is
//! allowed in the other direction: left in place it keeps its direction, and the rules drop it. It is
//! counted as cut all the same.

mod glance;
mod judge;
mod netlink;
mod sockets;
mod table;

pub use judge::{Containment, Endpoint, Flow};
pub use netlink::{NetlinkError, Requests};
pub use sockets::of_users as end_of_users;

use std::collections::HashMap;

/// What one cut did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Tracked connections that passed before and don't now.
    pub connections: u32,
    /// Local TCP sockets that were ended; 0 where the kernel can't.
    pub sockets: u32,
}

/// Which connections to end and how.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan<'a> {
    cut: usize,
    delete: Vec<&'a Flow>,
    /// Whether packets between these two pass, by (this end, that end), both ways.
    passing: HashMap<(Endpoint, Endpoint), bool>,
}

/// Ends what `after` doesn't let pass. `before` is what was in force, and tells what is newly cut.
/// Blocks for as long as the kernel takes to list its connections: 20 ms for a thousand.
pub fn cut(before: &Containment, after: &Containment) -> Result<Cut, NetlinkError> {
    if !after.contains_anything() {
        return Ok(Cut::default());
    }
    let mut table = table::ConnectionTable::open()?;
    let flows = match glance::concerns_nobody(after) {
        true => Vec::new(),
        false => table.list()?,
    };
    let plan = plan(&flows, before, after);
    table.delete(&plan.delete)?;
    let sockets = sockets::destroy(
        |_, local, remote| match plan.passing.get(&(local, remote)) {
            Some(passes) => !passes,
            None => {
                let flow = Flow::tcp(local, remote);
                !after.passes(&flow) && !after.passes(&flow.flipped())
            }
        },
    )
    .unwrap_or_else(|error| {
        tracing::debug!(%error, "sockets of cut connections were not destroyed");
        0
    });
    Ok(Cut {
        connections: u32::try_from(plan.cut).unwrap_or(u32::MAX),
        sockets,
    })
}

fn plan<'a>(flows: &'a [Flow], before: &Containment, after: &Containment) -> Plan<'a> {
    let mut plan = Plan::default();
    for flow in flows {
        let passes = after.passes(flow);
        if flow.is_tcp() {
            plan.passing.insert((flow.opener, flow.responder), passes);
            plan.passing.insert((flow.responder, flow.opener), passes);
            // The opener's socket knows the one it asked for.
            plan.passing.insert((flow.opener, flow.asked), passes);
        }
        if passes {
            continue;
        }
        plan.cut += usize::from(before.passes(flow));
        if !after.passes(&flow.flipped()) {
            plan.delete.push(flow);
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::enforcement::{DeviceState, ManagementRule, SelfIsolation};

    #[test]
    fn an_entry_that_could_come_back_as_a_management_connection_is_kept_and_counted() {
        let local = "10.0.0.5".parse().expect("an address");
        let isolated = DeviceState {
            isolation: Some(SelfIsolation {
                management: [ManagementRule {
                    network: "10.0.9.0/24".parse().expect("a network"),
                    ports: [].into(),
                }]
                .into(),
            }),
            ..DeviceState::default()
        };
        let free = DeviceState::default();
        let before = Containment::new(&free, [], [local]);
        let after = Containment::new(&isolated, [], [local]);
        let to = |remote: &str, port| {
            Flow::tcp(
                Endpoint {
                    ip: local,
                    port: 40_000,
                },
                Endpoint {
                    ip: remote.parse().expect("an address"),
                    port,
                },
            )
        };
        // Opened by this host towards management, and towards somebody else.
        let flows = [to("10.0.9.1", 443), to("10.0.7.1", 443)];
        let plan = plan(&flows, &before, &after);
        assert_eq!(plan.cut, 2);
        assert_eq!(plan.delete, [&flows[1]]);
    }

    #[test]
    fn what_was_already_cut_is_not_counted_again() {
        let local = "10.0.0.5".parse().expect("an address");
        let isolated = DeviceState {
            isolation: Some(SelfIsolation::default()),
            ..DeviceState::default()
        };
        let after = Containment::new(&isolated, [], [local]);
        let flow = Flow::tcp(
            Endpoint {
                ip: local,
                port: 40_000,
            },
            Endpoint {
                ip: "10.0.7.1".parse().expect("an address"),
                port: 443,
            },
        );
        let flows = [flow];
        let plan = plan(&flows, &after, &after);
        assert_eq!((plan.cut, plan.delete.len()), (0, 1));
    }
}
