//! Ports, protocols and management paths, shared by Policy and Isolation.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Transport protocol. `ICMP` stands for ICMP on IPv4 and ICMPv6 on IPv6.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

/// A protocol, and within it one port, a range of ports, or every port.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, KubeSchema,
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("self.protocol != 'ICMP' || !has(self.port)", "ICMP has no ports: leave port out"),
    validation = ("!has(self.endPort) || has(self.port)", "endPort needs port, the first port of the range"),
    validation = ("!has(self.endPort) || !has(self.port) || self.endPort >= self.port", "endPort must not be lower than port")
)]
pub struct PortRange {
    pub protocol: Protocol,
    /// The port, or the first of a range; absent means every port of the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// The last port of the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub end_port: Option<i32>,
}

/// Connections from this network to these local ports of an isolated target stay possible.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, KubeSchema,
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = ("isCIDR(self.cidr) && cidr(self.cidr) == cidr(self.cidr).masked()", "cidr must be a network such as 10.0.9.0/24 or 2001:db8::/64, with no host bits set; a single address is written 10.0.9.7/32; IPv4 is written as IPv4, not as ::ffff:10.0.9.0/120"),
    validation = ("!isCIDR(self.cidr) || cidr(self.cidr).prefixLength() >= (cidr(self.cidr).ip().family() == 4 ? 8 : 16)", "a management network wider than /8 (IPv6 /16) would leave the isolated target in reach of everybody: name the networks that manage it")
)]
pub struct ManagementPath {
    /// The network that may connect, IPv4 of /8 or narrower, or IPv6 of /16 or narrower.
    #[schemars(length(max = 43))]
    pub cidr: String,
    /// The local ports it may connect to; absent means every port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = ("size(self) > 0", "an empty list of ports is refused: leave ports out for every port"))]
    pub ports: Vec<PortRange>,
}
