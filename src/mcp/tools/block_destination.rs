//! `block_destination`, and what a destination is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use kube::Api;
use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::describe;
use super::settle::{self, InForce, Points};
use crate::access::{Intent, Target, Tool};
use crate::api::{
    Action as RuleAction, DeviceSelector, Direction, Mode, Peers, Policy, PolicyRule, PolicySpec,
    Subjects,
};
use crate::domain::compile;
use crate::domain::names::DeviceId;
use crate::local::Kind;
use crate::local::types::Unwritten;
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::{Action, Call, Done};
use crate::mcp::text::clean;
use crate::mcp::{arguments, resources};

/// Before most of a tenant's own policies, which begin at 100.
const PRIORITY: i32 = 10;
/// Devices that one call may name.
const MOST_DEVICES: usize = 1000;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The address or network to block, IPv4 or IPv6: 203.0.113.7 or 203.0.113.0/24.
    destination: String,
    /// The devices on which it is blocked: ids such as list_devices gives. Give this or fleet.
    #[serde(default)]
    device_ids: Vec<String>,
    /// True: blocked on every device of the tenant, those to come included.
    #[serde(default)]
    fleet: bool,
    /// Why, for the people who read this later: what was seen, and how certain it is.
    reason: String,
    /// How long, such as 30m or 24h; until it is unblocked when left out.
    ttl: Option<String>,
    /// True: say what would happen and whether it would be allowed, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    destination: String,
    /// The Policy's name.
    policy: String,
    /// The devices it is for; empty for the fleet.
    device_ids: Vec<String>,
    fleet: bool,
    dry_run: bool,
    /// It was there already, written by this agent.
    already_blocked: bool,
    in_force: InForce,
    points: Points,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// From the call to the answer.
    milliseconds: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::BlockDestination,
        "Block a destination",
        "Cuts traffic between an address or network and the named devices, or every device of the \
         tenant, in both directions, open connections included. Writes a Policy that \
         unblock_destination or the end of ttl takes away. Domain names are not taken.",
    )
}

/// For which devices; none named means the fleet.
pub struct Scope {
    pub devices: BTreeSet<DeviceId>,
}

impl Scope {
    pub async fn read(call: &Call, ids: &[String], fleet: bool) -> Result<Self, Failure> {
        if fleet != ids.is_empty() {
            return Err(Failure::invalid(
                "give either device_ids, as list_devices gives them, or fleet: true",
            ));
        }
        if ids.len() > MOST_DEVICES {
            return Err(Failure::invalid(format!(
                "device_ids names more than {MOST_DEVICES}: call in parts, or with fleet: true"
            )));
        }
        let mut devices = BTreeSet::new();
        for id in ids {
            devices.insert(call.device(id).await?.id);
        }
        Ok(Self { devices })
    }

    fn target(&self) -> Target {
        if self.devices.is_empty() {
            Target::Fleet
        } else {
            Target::Devices(self.devices.clone())
        }
    }
}

/// An address or a network that is not too wide to be blocked, and that traffic between hosts goes to.
pub fn destination(text: &str) -> Result<IpNet, Failure> {
    let text = text.trim();
    let network = match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
        (Ok(address), _) => IpNet::from(address),
        (_, Ok(network)) => network,
        _ => {
            return Err(Failure::invalid(format!(
                "destination {:?} is no address or network: write one such as 203.0.113.7, \
                 203.0.113.0/24 or 2001:db8::/48; domain names are not taken, so give the addresses \
                 behind it",
                clean(text, 64)
            )));
        }
    };
    if network.addr() != network.network() {
        return Err(Failure::invalid(format!(
            "destination {network} has bits of a host: write the network {} or the address {}",
            network.trunc(),
            network.addr()
        )));
    }
    if let Some(what) = no_destination(&network) {
        return Err(Failure::invalid(format!("destination {network} {what}")));
    }
    let alone = compile::widest(&network);
    let widest = match network {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 16,
    };
    let length = network.prefix_len();
    if length < widest {
        return Err(Failure::refused(
            "too_wide",
            format!("destination {network} is wider than /{widest}, which nobody may block"),
        ));
    }
    if length < alone {
        return Err(Failure::refused(
            "needs_approval",
            format!(
                "destination {network} is wider than /{alone}: ask a person to block it with kubectl"
            ),
        ));
    }
    Ok(network)
}

/// Why blocking the network would do nothing, in words.
fn no_destination(network: &IpNet) -> Option<String> {
    if let Some(ipv4) = compile::ipv4_in_ipv6(network) {
        return Some(format!("is IPv4 in IPv6's notation: write {ipv4}"));
    }
    let address = network.addr();
    let reserved = match address {
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified(),
    };
    if address.is_loopback() {
        Some("is a host's own loopback, whose traffic leaves no host and is not filtered: give an address of another host".into())
    } else if reserved && network.prefix_len() >= 8 {
        Some("is no address of a host: give one that traffic goes to".into())
    } else {
        None
    }
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let reason = arguments::reason(&input.reason)?;
    let network = match destination(&input.destination) {
        Err(failure) if failure.code != "invalid" => return Err(call.refuse(failure).await),
        network => network?,
    };
    call.about(&network.to_string());
    let end = settle::end_of(input.ttl.as_deref())?;
    let scope = Scope::read(call, &input.device_ids, input.fleet).await?;
    let intent = Intent {
        target: scope.target(),
        dry_run: input.dry_run,
        ..Intent::of(call.tool)
    };
    call.permit(&intent).await?;
    let wanted = Wanted {
        name: resources::block_name(&call.principal.user, &network, &scope.devices),
        spec: block(&network, &scope, &reason, end.map(|(_, end)| end)),
        network,
        scope,
        dry_run: input.dry_run,
    };
    let resource = Unwritten::Policy(wanted.spec.clone());
    let points = settle::preview(call, &wanted.name, resource).await?;
    let action = call.begin(&reason, input.dry_run).await?;
    let done = write(call, &action, &wanted, &reason, points).await;
    call.end(action, done).await
}

struct Wanted {
    name: String,
    spec: PolicySpec,
    network: IpNet,
    scope: Scope,
    dry_run: bool,
}

fn block(network: &IpNet, scope: &Scope, reason: &str, end: Option<Timestamp>) -> PolicySpec {
    let rule = |name: &str, direction| PolicyRule {
        name: name.into(),
        direction,
        action: RuleAction::Deny,
        peers: Peers {
            cidrs: vec![network.to_string()],
            ..Peers::default()
        },
        ports: Vec::new(),
    };
    let ids: Vec<String> = scope.devices.iter().map(ToString::to_string).collect();
    PolicySpec {
        description: reason.into(),
        mode: Mode::Enforce,
        disabled: false,
        priority: PRIORITY,
        subjects: Subjects {
            all: ids.is_empty(),
            devices: (!ids.is_empty()).then(|| DeviceSelector {
                ids,
                ..DeviceSelector::default()
            }),
            ..Subjects::default()
        },
        rules: vec![
            rule("to", Direction::Egress),
            rule("from", Direction::Ingress),
        ],
        default: None,
        expires_at: end,
    }
}

async fn write(
    call: &Call,
    action: &Action,
    wanted: &Wanted,
    reason: &str,
    points: usize,
) -> Result<Done, Failure> {
    let api = resources::api::<Policy>(call)?;
    let (policy, already) = ensure(call, action, &api, wanted, reason).await?;
    let standing = if wanted.dry_run {
        None
    } else {
        settle::written(call, Kind::Policy, &policy).await
    };
    let would_match = Points {
        matched: points,
        ..Points::default()
    };
    let output = Output {
        destination: wanted.network.to_string(),
        policy: wanted.name.clone(),
        device_ids: wanted
            .scope
            .devices
            .iter()
            .map(ToString::to_string)
            .collect(),
        fleet: wanted.scope.devices.is_empty(),
        dry_run: wanted.dry_run,
        already_blocked: already,
        in_force: match &standing {
            _ if wanted.dry_run => InForce::NotWritten,
            Some(standing) => settle::in_force(standing),
            None => InForce::Unknown,
        },
        points: standing.as_ref().map_or(would_match, Points::from),
        expires_at: policy.spec.expires_at.map(|end| end.to_string()),
        milliseconds: call.milliseconds(),
        message: standing.map_or_else(String::new, |standing| standing.message),
    };
    Ok(Done {
        reply: Reply::new(&output, output.text()),
        resources: vec![resources::touched(&policy, wanted.dry_run)],
    })
}

/// Creates it, or finds the agent's own and lets it last longer when that was asked for.
async fn ensure(
    call: &Call,
    action: &Action,
    api: &Api<Policy>,
    wanted: &Wanted,
    reason: &str,
) -> Result<(Policy, bool), Failure> {
    let Some(there) = api.get_opt(&wanted.name).await? else {
        let mut policy = Policy::new(&wanted.name, wanted.spec.clone());
        policy.metadata = resources::stamped(call, action, &wanted.name, reason);
        let created = resources::create(api, &policy, wanted.dry_run).await?;
        return Ok((created, false));
    };
    if !resources::is_own(&call.principal, &there) {
        return Err(Failure::invalid(format!(
            "a Policy named {} is there and was written by {}: ask them to remove it",
            wanted.name,
            resources::author(&there)
        )));
    }
    let over = there.spec.disabled
        || there
            .spec
            .expires_at
            .is_some_and(|end| end <= Timestamp::now());
    let end = wanted.spec.expires_at;
    if !over && !resources::is_longer(end, there.spec.expires_at) {
        return Ok((there, true));
    }
    let spec = json!({"expiresAt": end, "disabled": false, "description": reason});
    let changed = resources::change(api, &there, spec, wanted.dry_run).await?;
    Ok((changed, !over))
}

impl Output {
    fn text(&self) -> String {
        let whom = if self.fleet {
            "on every device of the tenant".to_owned()
        } else if let [device] = &self.device_ids[..] {
            format!("on {device}")
        } else {
            format!("on {} devices", self.device_ids.len())
        };
        let end = match &self.expires_at {
            Some(end) => format!("until {end}"),
            None => "until it is unblocked".into(),
        };
        let (destination, name) = (&self.destination, &self.policy);
        let points = settle::points_in_words(&self.points, "devices");
        match self.in_force {
            InForce::NotWritten => format!(
                "Dry run: {destination} would be blocked {whom} ({} now) {end}. Nothing was changed.",
                self.points.matched
            ),
            InForce::NotAccepted => {
                format!("{name} is written but not in force: {}", self.message)
            }
            InForce::Everywhere => format!(
                "{destination} is blocked {whom} {end}: {points} have read it back; {} ms.",
                self.milliseconds
            ),
            InForce::Unknown
            | InForce::Unseen
            | InForce::NotEnforceable
            | InForce::Pending
            | InForce::Partial => {
                format!(
                    "{name} is written, and not known to be in force everywhere yet: {points}. get_policy \
                 shows how it goes on. {}",
                    self.message
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks_are_destinations() {
        for (text, network) in [
            ("203.0.113.7", "203.0.113.7/32"),
            (" 10.0.0.0/16 ", "10.0.0.0/16"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            let found = destination(text).map(|network| network.to_string());
            assert_eq!(found, Ok(network.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_network_or_too_wide_is_refused_with_what_to_do() {
        for (text, code, words) in [
            ("evil.example", "invalid", "domain names are not taken"),
            ("", "invalid", "write one such as"),
            ("10.0.0.1/16", "invalid", "write the network 10.0.0.0/16"),
            ("10.0.0.0/15", "needs_approval", "ask a person"),
            ("2001::/31", "needs_approval", "ask a person"),
            ("127.0.0.1", "invalid", "own loopback"),
            ("127.0.0.0/8", "invalid", "own loopback"),
            ("::1", "invalid", "own loopback"),
            ("0.0.0.0", "invalid", "no address of a host"),
            ("::", "invalid", "no address of a host"),
            ("255.255.255.255", "invalid", "no address of a host"),
            ("::ffff:203.0.113.7", "invalid", "write 203.0.113.7"),
            ("::ffff:203.0.113.0/120", "invalid", "write 203.0.113.0/24"),
            ("0.0.0.0/0", "too_wide", "nobody may block"),
            ("::/0", "too_wide", "nobody may block"),
        ] {
            let failure = destination(text).expect_err(text);
            assert_eq!(failure.code, code, "{text}");
            assert!(failure.message.contains(words), "{}", failure.message);
        }
    }
}
