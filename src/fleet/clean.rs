//! What devices say of themselves, made harmless: control characters go, lengths and counts are capped.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::proto;

/// More addresses than this on one device are not looked at.
pub const MOST_ADDRESSES: usize = 256;
/// Longest reason, detail or description that is kept, in characters.
pub const LONGEST_DETAIL: usize = 512;

/// [`proto::Facts`] without the addresses, cleaned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceFacts {
    pub host_name: String,
    pub os: String,
    pub kernel: String,
    pub architecture: String,
    pub agent_version: String,
    /// Addresses that it holds and that are not among its claims: there are too many.
    pub addresses_left_out: u32,
}

/// One line of at most `longest` characters, without control and direction-changing characters.
pub fn line(hostile: &str, longest: usize) -> String {
    let harmless = hostile
        .chars()
        .filter(|c| !c.is_control() && !changes_direction(*c))
        .take(longest);
    harmless.collect::<String>().trim().to_owned()
}

/// Bidirectional overrides and separators make a line read differently from what it says.
fn changes_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Names of accounts: as many as a device is ever asked about.
pub fn accounts(hostile: &[String]) -> BTreeSet<String> {
    const MOST_ACCOUNTS: usize = 4096;
    let hostile = hostile.iter().take(MOST_ACCOUNTS);
    hostile.map(|account| name(account)).collect()
}

/// A counter's name, a rule's id.
pub fn name(hostile: &str) -> String {
    line(hostile, 253)
}

/// Facts and addresses. Addresses that can't be a device's own are left out: loopback, unspecified,
/// multicast, broadcast, and text that is none.
pub fn facts(hostile: &proto::Facts) -> (DeviceFacts, BTreeSet<IpAddr>) {
    let too_many = hostile.addresses.len().saturating_sub(MOST_ADDRESSES);
    let too_many = u32::try_from(too_many).unwrap_or(u32::MAX);
    let facts = DeviceFacts {
        host_name: line(&hostile.host_name, 253),
        os: line(&hostile.os, 128),
        kernel: line(&hostile.kernel, 128),
        architecture: line(&hostile.architecture, 32),
        agent_version: line(&hostile.agent_version, 64),
        addresses_left_out: hostile.addresses_left_out.saturating_add(too_many),
    };
    let addresses = hostile
        .addresses
        .iter()
        .take(MOST_ADDRESSES)
        .filter_map(|text| text.parse::<IpAddr>().ok())
        .map(|address| address.to_canonical())
        .filter(|address| may_be_held(*address));
    (facts, addresses.collect())
}

fn may_be_held(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_direction_characters_go_and_length_is_capped() {
        let hostile = "lap\u{1b}[31m\ntop\u{202e}exe\u{0}";
        assert_eq!(line(hostile, 64), "lap[31mtopexe");
        assert_eq!(line(&"ä".repeat(1000), 64).chars().count(), 64);
    }

    #[test]
    fn addresses_that_no_interface_can_hold_are_left_out() {
        let hostile = proto::Facts {
            addresses: [
                "10.0.0.5",
                "::ffff:10.0.0.6",
                "fe80::1",
                "127.0.0.1",
                "::1",
                "0.0.0.0",
                "255.255.255.255",
                "ff02::1",
                "10.0.0.0/8",
                "nonsense",
            ]
            .map(str::to_owned)
            .to_vec(),
            ..Default::default()
        };
        let (_, addresses) = facts(&hostile);
        let expected: BTreeSet<IpAddr> = ["10.0.0.5", "10.0.0.6", "fe80::1"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        assert_eq!(addresses, expected);
    }

    #[test]
    fn a_device_that_claims_the_world_is_cut_short_and_how_short_is_known() {
        let hostile = proto::Facts {
            addresses_left_out: 7,
            addresses: (0..2000)
                .map(|n| format!("10.1.{}.{}", n / 250, n % 250 + 1))
                .collect(),
            ..Default::default()
        };
        let (facts, addresses) = facts(&hostile);
        assert_eq!(addresses.len(), MOST_ADDRESSES);
        assert_eq!(facts.addresses_left_out, 2000 - 256 + 7);
    }
}
