//! What an agent's Deny must not name: too much at once, and what the rest depends on. People may; a
//! default of Deny, the usual form of an allow-list, is nobody's Deny rule and is not looked at.

use ipnet::IpNet;

use super::protected::protected_in;
use super::rules::networks;
use super::{Draft, refused};
use crate::api::{Action, PolicyRule, PolicySpec};
use crate::domain::names::ObjectKey;
use crate::domain::verdict::{Acceptance, Reason};

/// A network of fewer bits than these is refused.
const WIDEST_V4: u8 = 8;
const WIDEST_V6: u8 = 16;

impl Draft<'_> {
    pub(super) fn judge_agents_rules(
        &self,
        key: &ObjectKey,
        spec: &PolicySpec,
    ) -> Result<(), Acceptance> {
        let mut denying = spec.rules.iter().filter(|rule| rule.action == Action::Deny);
        denying.try_for_each(|rule| self.judge_agents_deny(key, rule))
    }

    fn judge_agents_deny(&self, key: &ObjectKey, rule: &PolicyRule) -> Result<(), Acceptance> {
        let too_wide = |what: &str, widest: u8| {
            refused(
                Reason::TooWide,
                format!(
                    "rule {}: an agent may block networks of /{widest} or narrower, not {what}: a person can write this Policy",
                    rule.name
                ),
            )
        };
        if rule.peers.any {
            return Err(too_wide("any", WIDEST_V4));
        }
        let written = networks(&rule.peers).unwrap_or_default();
        for network in &written {
            let widest = match network {
                IpNet::V4(_) => WIDEST_V4,
                IpNet::V6(_) => WIDEST_V6,
            };
            if network.prefix_len() < widest {
                return Err(too_wide(&network.to_string(), widest));
            }
        }
        self.judge_reach(key, rule, &written)
    }

    fn judge_reach(
        &self,
        key: &ObjectKey,
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
        for device in self.select(self.reach(&key.namespace), selector).devices {
            if let Some(what) = self.addresses.protected(&device) {
                return Err(would_cut(format!(
                    "blocking {device} would cut it off: {what}"
                )));
            }
        }
        Ok(())
    }
}
