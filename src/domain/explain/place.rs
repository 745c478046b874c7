//! Who is meant: the pod, the host or the outside that a question names, what of it the asker may see, and
//! whose agent enforces for it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::question::Place;
use super::{Unanswerable, words};
use crate::api::Protocol;
use crate::domain::cluster::Pod;
use crate::domain::compile::Addresses;
use crate::domain::names::{DeviceId, ObjectKey};
use crate::domain::words::a_few;
use crate::domain::world::World;

/// One end of the connection.
pub struct Found<'w> {
    pub who: Who<'w>,
    pub addresses: BTreeSet<IpAddr>,
    /// The asker may not see whose it is.
    pub hidden: bool,
    /// What the asker calls it.
    asked: String,
}

#[derive(Clone, Copy, Debug)]
pub enum Who<'w> {
    /// A pod with a network of its own.
    Pod(&'w ObjectKey, &'w Pod),
    Host(HostOf<'w>),
    Outside,
}

/// A device, a node, or both. A pod of its node's network is its node.
#[derive(Clone, Copy, Debug)]
pub struct HostOf<'w> {
    pub node: Option<&'w str>,
    pub device: Option<&'w DeviceId>,
    pub pod: Option<(&'w ObjectKey, &'w Pod)>,
}

pub struct Places<'w> {
    world: &'w World,
    addresses: Addresses<'w>,
    tenant: Option<&'w str>,
}

impl<'w> Places<'w> {
    pub fn of(world: &'w World, tenant: Option<&'w str>) -> Self {
        Self {
            world,
            addresses: Addresses::of(world),
            tenant,
        }
    }

    /// Whose agent asks.
    pub fn tenant(&self) -> Option<&'w str> {
        self.tenant
    }

    pub fn addresses(&self) -> &Addresses<'w> {
        &self.addresses
    }

    pub fn find(&self, place: &Place) -> Result<Found<'w>, Unanswerable> {
        let who = match place {
            Place::Address(address) => return self.holder(*address),
            Place::Pod(key) => self.world.pods.get_key_value(key).map(|p| self.pod(p)),
            Place::Device(id) => {
                let known = self.world.devices.get_key_value(id);
                known.map(|(id, device)| {
                    Who::Host(HostOf {
                        node: device.node.as_deref(),
                        device: Some(id),
                        pod: None,
                    })
                })
            }
            Place::Node(name) => self.node(name).map(Who::Host),
        };
        let who = who
            .filter(|who| self.sees(who))
            .ok_or_else(|| self.nobody(place))?;
        let addresses = match (who, place) {
            (Who::Host(host), Place::Device(id)) if host.pod.is_none() => {
                self.addresses.of_device(id)
            }
            (who, _) => self.addresses_of(who),
        };
        Ok(Found {
            who,
            addresses,
            hidden: false,
            asked: place.to_string(),
        })
    }

    fn nobody(&self, place: &Place) -> Unanswerable {
        let look = match (place, self.tenant) {
            (Place::Pod(_), Some(tenant)) => {
                format!("pods of {tenant} that are not finished can be asked about")
            }
            (Place::Pod(_), None) => {
                "`kubectl get pods -A` lists those that there are; one that is finished counts no more".to_owned()
            }
            (Place::Device(_), Some(_)) => "list_devices gives the ids there are".to_owned(),
            (Place::Device(_), None) => "`seawall fleet list` shows the ids".to_owned(),
            (Place::Node(_) | Place::Address(_), Some(tenant)) => {
                format!("pods and devices of {tenant} can be asked about")
            }
            (Place::Node(_) | Place::Address(_), None) => {
                "`kubectl get nodes` lists those that there are".to_owned()
            }
        };
        Unanswerable(format!("there is no {place} here: {look}"))
    }

    fn pod(&self, (key, pod): (&'w ObjectKey, &'w Pod)) -> Who<'w> {
        if !pod.host_network {
            return Who::Pod(key, pod);
        }
        let node = pod.node.as_deref();
        Who::Host(HostOf {
            node,
            device: node.and_then(|node| self.device_of(node)),
            pod: Some((key, pod)),
        })
    }

    fn node(&self, name: &str) -> Option<HostOf<'w>> {
        let (name, _) = self.world.nodes.get_key_value(name)?;
        Some(HostOf {
            node: Some(name),
            device: self.device_of(name),
            pod: None,
        })
    }

    /// The device that the node is, if an agent runs there.
    pub fn device_of(&self, node: &str) -> Option<&'w DeviceId> {
        let mut devices = self.world.devices.iter();
        let device = devices.find(|(_, device)| device.node.as_deref() == Some(node));
        device.map(|(id, _)| id)
    }

    fn addresses_of(&self, who: Who<'w>) -> BTreeSet<IpAddr> {
        match who {
            Who::Pod(_, pod) => pod.addresses.clone(),
            Who::Host(HostOf { node, device, pod }) => {
                let own = pod.map(|(_, pod)| &pod.addresses);
                let of_node = node.and_then(|node| self.world.nodes.get(node));
                let known = own.into_iter().chain(of_node.map(|node| &node.addresses));
                let known = known.filter(|addresses| !addresses.is_empty()).cloned();
                let of_device = || device.map(|id| self.addresses.of_device(id));
                known
                    .into_iter()
                    .next()
                    .or_else(of_device)
                    .unwrap_or_default()
            }
            Who::Outside => BTreeSet::new(),
        }
    }

    /// Who holds the address: a pod, else a node, else a device, else nobody that is known.
    fn holder(&self, address: IpAddr) -> Result<Found<'w>, Unanswerable> {
        let who = match self.holding(address) {
            None => self.device_holding(address)?,
            Some(who) => who,
        };
        Ok(Found {
            who,
            addresses: [address].into(),
            hidden: !self.sees(&who),
            asked: address.to_string(),
        })
    }

    fn holding(&self, address: IpAddr) -> Option<Who<'w>> {
        let mut pods = self.world.pods.iter();
        let pod = pods.find(|(_, pod)| !pod.host_network && pod.addresses.contains(&address));
        let node = || {
            let mut nodes = self.world.nodes.iter();
            let (name, _) = nodes.find(|(_, node)| node.addresses.contains(&address))?;
            self.node(name).map(Who::Host)
        };
        pod.map(|pod| self.pod(pod)).or_else(node)
    }

    /// In two tenants, two devices may hold one address. Who asks means the one of theirs.
    fn device_holding(&self, address: IpAddr) -> Result<Who<'w>, Unanswerable> {
        let devices = self.world.devices.iter();
        let holders: Vec<_> = devices
            .filter(|(id, _)| self.addresses.of_device(id).contains(&address))
            .map(|(id, device)| HostOf {
                node: device.node.as_deref(),
                device: Some(id),
                pod: None,
            })
            .collect();
        let own = holders.iter().find(|host| self.sees(&Who::Host(**host)));
        match (self.tenant, holders.as_slice()) {
            (_, []) => Ok(Who::Outside),
            (Some(_), [first, ..]) => Ok(Who::Host(*own.unwrap_or(first))),
            (None, [one]) => Ok(Who::Host(*one)),
            (None, several) => {
                let ids = several.iter().filter_map(|host| host.device);
                Err(Unanswerable(format!(
                    "{address} is held by several devices, of different namespaces: ask with one of {}",
                    a_few(ids)
                )))
            }
        }
    }

    /// A tenant sees its own pods and devices; nodes are the system's.
    fn sees(&self, who: &Who<'_>) -> bool {
        let Some(tenant) = self.tenant else {
            return true;
        };
        match who {
            Who::Pod(key, _) => key.namespace == tenant,
            Who::Outside => true,
            Who::Host(HostOf {
                pod: Some((key, _)),
                ..
            }) => key.namespace == tenant,
            Who::Host(HostOf { device, .. }) => {
                let device = device.and_then(|id| self.world.devices.get(id));
                device.is_some_and(|device| device.tenant == tenant)
            }
        }
    }

    /// A question about two strangers has nothing to be judged by.
    pub fn somebody_is_judged(&self, from: &Found<'_>, to: &Found<'_>) -> Result<(), Unanswerable> {
        let known = |found: &Found<'_>| !found.hidden && !matches!(found.who, Who::Outside);
        if known(from) || known(to) {
            return Ok(());
        }
        let whose = match self.tenant {
            Some(tenant) => format!("a pod or a device of {tenant}"),
            None => "a pod, a device or a node".to_owned(),
        };
        Err(Unanswerable(format!(
            "neither {} nor {} is {whose}: ask about one that is",
            from.asked, to.asked
        )))
    }
}

impl<'w> Found<'w> {
    pub fn is_pod(&self) -> bool {
        self.pod().is_some()
    }

    /// The pod, if it has a network of its own.
    pub fn pod(&self) -> Option<(&'w ObjectKey, &'w Pod)> {
        match self.who {
            Who::Pod(key, pod) => Some((key, pod)),
            _ => None,
        }
    }

    pub fn host(&self) -> Option<HostOf<'w>> {
        match self.who {
            Who::Host(host) => Some(host),
            _ => None,
        }
    }

    /// The node that it is or is on.
    pub fn node(&self) -> Option<&'w str> {
        match self.who {
            Who::Pod(_, pod) => pod.node.as_deref(),
            Who::Host(host) => host.node,
            Who::Outside => None,
        }
    }

    /// As the answer names it: what was asked, and for an address who holds it.
    pub fn shown(&self) -> String {
        let holder = match self.who {
            _ if self.hidden => return self.asked.clone(),
            Who::Outside => return self.asked.clone(),
            Who::Pod(key, _) => format!("pod/{key}"),
            Who::Host(host) => host.name(),
        };
        match holder == self.asked {
            true => holder,
            false => format!("{} ({holder})", self.asked),
        }
    }

    pub fn named_port(&self, name: &str, protocol: Protocol) -> Result<u16, Unanswerable> {
        let protocol_name = words::protocol(protocol);
        let host_pod = self.host().and_then(|host| host.pod);
        let Some((_, pod)) = self.pod().or(host_pod).filter(|_| !self.hidden) else {
            return Err(Unanswerable(format!(
                "{} has no named ports, which are pods': ask with a number",
                self.asked
            )));
        };
        let named = pod.named_ports.get(name);
        match named.filter(|ports| ports.protocol == protocol) {
            Some(ports) => Ok(ports.first),
            None if pod.named_ports.is_empty() => Err(Unanswerable(format!(
                "{} names no ports: ask with a number",
                self.asked
            ))),
            None => {
                let known = pod.named_ports.iter();
                let known = known
                    .map(|(name, ports)| format!("{name}/{}", words::protocol(ports.protocol)));
                Err(Unanswerable(format!(
                    "{} has no {protocol_name} port named {name:?}: it has {}",
                    self.asked,
                    a_few(known)
                )))
            }
        }
    }
}

impl HostOf<'_> {
    pub fn name(&self) -> String {
        match (self.pod, self.device, self.node) {
            (Some((key, _)), ..) => format!("pod/{key}"),
            (None, _, Some(node)) => format!("node/{node}"),
            (None, Some(device), None) => format!("device/{device}"),
            (None, None, None) => "a host".to_owned(),
        }
    }

    /// Where its agent's rules are.
    pub fn point(&self) -> String {
        match (self.node, self.device) {
            (Some(node), _) => format!("node/{node}"),
            (None, Some(device)) => format!("device/{device}"),
            (None, None) => self.name(),
        }
    }

    /// Whether both are one host, whose packets to itself pass over loopback.
    pub fn is(&self, other: &HostOf<'_>) -> bool {
        let same = |a: Option<&str>, b: Option<&str>| a.is_some() && a == b;
        same(self.node, other.node)
            || same(
                self.device.map(DeviceId::as_str),
                other.device.map(DeviceId::as_str),
            )
    }
}
