//! What an agent's Policy must not cut: too much at once, and what the rest depends on. People may. A
//! default of Deny cuts a device off as an isolation does, so it is judged as one: by the device it is
//! for. How long it may last is the API server's to say, which knows the agent's scope.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::protected::protected_in;
use super::rules::networks;
use super::selectors::Reach;
use super::{Draft, refused};
use crate::api::policy::DefaultAction;
use crate::api::{Action, Mode, PolicyRule, PolicySpec};
use crate::domain::names::DeviceId;
use crate::domain::verdict::{Acceptance, Reason};

/// A network of fewer bits than these is a person's to block.
pub const WIDEST_V4: u8 = 16;
pub const WIDEST_V6: u8 = 32;

/// The fewest bits of a network of this family that an agent may block.
pub fn widest(network: &IpNet) -> u8 {
    match network {
        IpNet::V4(_) => WIDEST_V4,
        IpNet::V6(_) => WIDEST_V6,
    }
}

impl Draft<'_> {
    /// `devices` are the Policy's subjects.
    pub(super) fn judge_agents_policy(
        &self,
        reach: Reach<'_>,
        spec: &PolicySpec,
        devices: &BTreeSet<DeviceId>,
    ) -> Result<(), Acceptance> {
        let denying = || spec.rules.iter().filter(|rule| rule.action == Action::Deny);
        denying().try_for_each(|rule| self.judge_agents_deny(reach, rule))?;
        judge_together(denying())?;
        self.judge_agents_default(spec, devices)
    }

    fn judge_agents_default(
        &self,
        spec: &PolicySpec,
        devices: &BTreeSet<DeviceId>,
    ) -> Result<(), Acceptance> {
        if spec.mode == Mode::Observe || !denies_by_default(spec) {
            return Ok(());
        }
        for device in devices {
            if let Some(what) = self.addresses.protected(device) {
                return Err(refused(
                    Reason::WouldCutOperator,
                    format!(
                        "a default of Deny would cut off {device}: {what}; name other devices, or ask a person to write this Policy"
                    ),
                ));
            }
        }
        Ok(())
    }

    fn judge_agents_deny(&self, reach: Reach<'_>, rule: &PolicyRule) -> Result<(), Acceptance> {
        if rule.peers.any {
            return Err(too_wide(&format!("rule {}", rule.name), "any", WIDEST_V4));
        }
        let written = networks(&rule.peers).unwrap_or_default();
        for network in &written {
            let widest = widest(network);
            if network.prefix_len() < widest {
                let rule = format!("rule {}", rule.name);
                return Err(too_wide(&rule, &network.to_string(), widest));
            }
        }
        self.judge_reach(reach, rule, &written)
    }

    fn judge_reach(
        &self,
        reach: Reach<'_>,
        rule: &PolicyRule,
        written: &[IpNet],
    ) -> Result<(), Acceptance> {
        let would_cut = |what: String| {
            refused(
                Reason::WouldCutOperator,
                format!(
                    "rule {}: {what}; name networks without it, or ask a person to write this Policy",
                    rule.name
                ),
            )
        };
        for network in written {
            if let Some(what) = protected_in(&self.world.settings, network) {
                return Err(would_cut(format!("blocking {network} would cut {what}")));
            }
        }
        let Some(selector) = &rule.peers.devices else {
            return Ok(());
        };
        for device in self.select(reach, selector).devices {
            if let Some(what) = self.addresses.protected(&device) {
                return Err(would_cut(format!(
                    "blocking {device} would cut it off: {what}"
                )));
            }
        }
        Ok(())
    }
}

/// Many networks are as much as one wide one, wherever they lie.
fn judge_together<'a>(denying: impl Iterator<Item = &'a PolicyRule>) -> Result<(), Acceptance> {
    let written: Vec<IpNet> = denying
        .flat_map(|rule| networks(&rule.peers).unwrap_or_default())
        .collect();
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) = IpNet::aggregate(&written)
        .into_iter()
        .partition(|network| network.addr().is_ipv4());
    for (networks, bits, widest) in [(v4, 32, WIDEST_V4), (v6, 128, WIDEST_V6)] {
        let sizes = networks.iter().map(|it| size(bits, it.prefix_len()));
        if sizes.fold(0, u128::saturating_add) > size(bits, widest) {
            return Err(refused(
                Reason::TooWide,
                format!(
                    "an agent may block as many addresses in one Policy as a /{widest} holds, and its Deny rules together name more: a person can write this Policy"
                ),
            ));
        }
    }
    Ok(())
}

/// The addresses of a network.
fn size(bits: u8, prefix_len: u8) -> u128 {
    1u128
        .checked_shl(u32::from(bits - prefix_len))
        .unwrap_or(u128::MAX)
}

fn too_wide(which: &str, what: &str, widest: u8) -> Acceptance {
    refused(
        Reason::TooWide,
        format!(
            "{which}: an agent may block networks of /{widest} or narrower, not {what}: a person can write this Policy"
        ),
    )
}

fn denies_by_default(spec: &PolicySpec) -> bool {
    spec.default.is_some_and(|default| {
        [default.egress, default.ingress].contains(&Some(DefaultAction::Deny))
    })
}
