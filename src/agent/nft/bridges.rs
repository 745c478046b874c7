//! Packets between two ports of a bridge: whether they pass the hooks of family `inet`, and what a table of
//! family `bridge` can do about those that don't.

use std::collections::BTreeSet;

use serde_json::json;

use super::TABLE;
use super::networks::Family;
use super::program::{Nft, NftError};
use crate::domain::enforcement::DeviceState;

/// How this network namespace treats them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridges {
    /// Families whose packets between ports go around the hooks of family `inet`.
    pub around: BTreeSet<Family>,
    pub table: BridgeTable,
}

/// What the kernel makes of a table of family `bridge`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BridgeTable {
    /// None can be made (`CONFIG_NF_TABLES_BRIDGE`).
    #[default]
    Unsupported,
    /// Its packets have no connections (`CONFIG_NF_CONNTRACK_BRIDGE`).
    Untracked,
    Tracked,
}

/// Bridged packets of the family pass the other hooks only if this is 1. It is gone where `br_netfilter`
/// is not loaded, and then none pass.
fn setting(family: Family) -> &'static str {
    match family {
        Family::V4 => "bridge-nf-call-iptables",
        Family::V6 => "bridge-nf-call-ip6tables",
    }
}

fn passes(family: Family) -> bool {
    let said = std::fs::read_to_string(format!("/proc/sys/net/bridge/{}", setting(family)));
    said.is_ok_and(|value| !matches!(value.trim(), "" | "0"))
}

/// As the settings of this network namespace say now.
pub fn families_around() -> BTreeSet<Family> {
    let families = Family::BOTH.into_iter();
    families.filter(|family| !passes(*family)).collect()
}

impl Bridges {
    pub async fn look(nft: &Nft) -> Self {
        Self {
            around: families_around(),
            table: BridgeTable::try_out(nft).await,
        }
    }
}

impl Bridges {
    /// What is not judged where wards are ports of one bridge, in words.
    pub fn shortcoming(&self, state: &DeviceState) -> Option<String> {
        let judged = match self.table {
            BridgeTable::Tracked => return None,
            BridgeTable::Untracked => "by isolation alone: policies are not asked",
            BridgeTable::Unsupported => "by nothing",
        };
        let mut wards = state.wards.values();
        let concerned =
            wards.any(|group| self.table == BridgeTable::Unsupported || group.isolation.is_none());
        if !concerned || self.around.is_empty() {
            return None;
        }
        let settings: Vec<String> = self
            .around
            .iter()
            .map(|family| format!("net.bridge.{}=1", setting(*family)))
            .collect();
        Some(format!(
            "packets between wards on one bridge are judged {judged}; load br_netfilter and set {}",
            settings.join(" and ")
        ))
    }
}

impl BridgeTable {
    /// Changes nothing: the kernel checks the transactions and drops them.
    pub async fn try_out(nft: &Nft) -> Self {
        let family = "bridge";
        let table = json!({"add": {"table": {"family": family, "name": TABLE}}});
        // Of a name that nothing has: chains that are there keep their hook.
        let chain = json!({"add": {"chain": {"family": family, "table": TABLE, "name": "try",
            "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}}});
        let rule = json!({"add": {"rule": {"family": family, "table": TABLE, "chain": "try", "expr": [
            {"match": {"op": "==", "left": {"ct": {"key": "direction"}}, "right": 0}},
            {"return": null}]}}});
        let works = async |commands: &[&serde_json::Value]| -> Result<(), NftError> {
            nft.try_out(&json!({"nftables": commands})).await
        };
        if works(&[&table, &chain]).await.is_err() {
            return Self::Unsupported;
        }
        match works(&[&table, &chain, &rule]).await {
            Ok(()) => Self::Tracked,
            Err(_) => Self::Untracked,
        }
    }
}
