//! From a pod's JSON to the facts of it. What the kubelet changes all the time (conditions, counts of
//! restarts, readiness) is no fact: only what decides who may talk to whom is read.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodSpec, PodStatus, Probe};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Raw;
use super::cluster::{addresses, controller, part};
use crate::api::{Protocol, stamps};
use crate::domain::cluster::{Mark, Pod, Stripped};
use crate::domain::enforcement::Ports;

/// What the API server is asked for: a pod that is finished is told as one that is gone.
pub const NOT_FINISHED: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// None for a pod that is finished: its address may already be another pod's.
pub fn pod(mut raw: Raw) -> Result<Option<Pod>, String> {
    let spec: PodSpec = part(&mut raw.data, "spec")?.ok_or("it has no spec")?;
    let status: PodStatus = part(&mut raw.data, "status")?.unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Ok(None);
    }
    let host_network = spec.host_network.unwrap_or_default();
    // The addresses of a pod in its node's network are the node's.
    let own = (!host_network).then(|| addresses(texts(&status)));
    let containers: Vec<&Container> = lasting(&spec).collect();
    Ok(Some(Pod {
        uid: raw.metadata.uid.clone().ok_or("it has no uid")?,
        controller: controller(&raw.metadata),
        created: raw.metadata.creation_timestamp.as_ref().map(|time| time.0),
        stripped: stripped(&raw.metadata).map(Box::new),
        labels: raw.metadata.labels.unwrap_or_default(),
        node: spec.node_name.clone().filter(|node| !node.is_empty()),
        addresses: own.unwrap_or_default(),
        host_network,
        named_ports: named_ports(&containers),
        probes: probes(&containers),
        restarts_when_unreachable: containers
            .iter()
            .any(|container| probed(container, container.liveness_probe.as_ref()).is_some()),
        started: started(&status),
    }))
}

fn texts(status: &PodStatus) -> impl Iterator<Item = &str> {
    let all = status.pod_ips.iter().flatten();
    all.map(|address| address.ip.as_str())
        .chain(status.pod_ip.as_deref())
}

/// The containers that run as long as the pod: its own, and sidecars, which are init containers that are
/// always started anew.
fn lasting(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|init| init.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars)
}

/// What was taken from it, as its annotation says. Admission lets nobody but the operator write that, and the
/// UID is not that of a copy.
pub fn stripped(metadata: &ObjectMeta) -> Option<Stripped> {
    let text = metadata.annotations.as_ref()?.get(stamps::ISOLATED)?;
    let mark: Mark = serde_json::from_str(text).ok()?;
    let its_own = metadata.uid.as_ref() == Some(&mark.pod);
    its_own.then(|| Stripped {
        mark,
        terminating: metadata.deletion_timestamp.is_some(),
    })
}

/// Of two ports of one name the first counts, as it does for Services.
fn named_ports(containers: &[&Container]) -> BTreeMap<String, Ports> {
    let mut named = BTreeMap::new();
    let ports = containers.iter().flat_map(|it| it.ports.iter().flatten());
    for port in ports {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(_) => continue,
        };
        if let (Some(name), Some(ports)) = (&port.name, one(protocol, port.container_port)) {
            named.entry(name.clone()).or_insert(ports);
        }
    }
    named
}

fn one(protocol: Protocol, port: i32) -> Option<Ports> {
    let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
    Some(Ports {
        protocol,
        first: port,
        last: port,
    })
}

fn probes(containers: &[&Container]) -> BTreeSet<Ports> {
    let all = containers.iter().flat_map(|container| {
        let probes = [
            &container.startup_probe,
            &container.readiness_probe,
            &container.liveness_probe,
        ];
        probes.map(|probe| probed(container, probe.as_ref()))
    });
    all.flatten().collect()
}

/// The port of the pod that the kubelet asks; none for a command, and for a probe that names another host.
fn probed(container: &Container, probe: Option<&Probe>) -> Option<Ports> {
    let probe = probe?;
    let (host, port) = if let Some(http) = &probe.http_get {
        (http.host.as_deref(), http.port.clone())
    } else if let Some(tcp) = &probe.tcp_socket {
        (tcp.host.as_deref(), tcp.port.clone())
    } else if let Some(grpc) = &probe.grpc {
        (None, IntOrString::Int(grpc.port))
    } else {
        return None;
    };
    if host.is_some_and(|host| !host.is_empty()) {
        return None;
    }
    one(Protocol::Tcp, number(container, &port)?)
}

/// A name is looked up in the container's own ports; a name of digits is a number.
fn number(container: &Container, port: &IntOrString) -> Option<i32> {
    match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(name));
            named.map_or_else(|| name.parse().ok(), |port| Some(port.container_port))
        }
    }
}

/// When the first of its containers was started, as far as that is still known.
fn started(status: &PodStatus) -> Option<Timestamp> {
    let init = status.init_container_statuses.iter().flatten();
    let containers = init.chain(status.container_statuses.iter().flatten());
    containers.flat_map(starts).min()
}

fn starts(container: &ContainerStatus) -> impl Iterator<Item = Timestamp> {
    let states = [&container.last_state, &container.state];
    states.into_iter().flatten().flat_map(|state| {
        let running = state.running.iter().map(|it| &it.started_at);
        let ended = state.terminated.iter().map(|it| &it.started_at);
        running.chain(ended).flatten().map(|time| time.0)
    })
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
