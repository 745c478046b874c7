//! The kernel's table of connections of this network namespace.

use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::judge::{Endpoint, Flow};
use super::netlink::{NetlinkError, Requests};

pub struct ConnectionTable {
    requests: Requests,
}

impl ConnectionTable {
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            requests: Requests::open(NETLINK_NETFILTER)?,
        })
    }

    /// Of both families. Entries without addresses can't be, and are left out.
    pub fn list(&mut self) -> Result<Vec<Flow>, NetlinkError> {
        let all = message(
            NetfilterProtoFamily::Unspec,
            ConntrackMessage::Get(Vec::new()),
        );
        let answers = self.requests.dump(&all)?;
        Ok(answers.iter().filter_map(flow).collect())
    }

    /// An entry that is gone meanwhile is as good as deleted.
    pub fn delete(&mut self, flows: &[&Flow]) -> Result<(), NetlinkError> {
        let requests: Vec<NetfilterMessage> = flows
            .iter()
            .map(|flow| {
                let family = match flow.opener.ip.is_ipv4() {
                    true => NetfilterProtoFamily::IPv4,
                    false => NetfilterProtoFamily::IPv6,
                };
                let name = ConntrackAttribute::CtaTupleOrig(flow.tuple.clone());
                message(family, ConntrackMessage::Delete(vec![name]))
            })
            .collect();
        for error in self.requests.acknowledged(&requests)?.into_iter().flatten() {
            if error.raw_os_error() != Some(Errno::ENOENT as i32) {
                return Err(error.into());
            }
        }
        Ok(())
    }
}

fn message(family: NetfilterProtoFamily, message: ConntrackMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

fn flow(answer: &NetfilterMessage) -> Option<Flow> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = &answer.inner else {
        return None;
    };
    let (mut original, mut reply) = (None, None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuple) => original = Some(tuple),
            ConntrackAttribute::CtaTupleReply(tuple) => reply = Some(tuple),
            _ => {}
        }
    }
    let original = original?;
    let ends = ends(original)?;
    let mut responder = self::ends(reply?)?.source;
    // ICMP's tuples have an id where the others have ports.
    if !original.iter().any(has_ports) {
        responder.port = 0;
    }
    Some(Flow {
        protocol: ends.protocol,
        opener: ends.source,
        responder,
        asked: ends.destination,
        tuple: original.clone(),
    })
}

fn has_ports(tuple: &Tuple) -> bool {
    matches!(tuple, Tuple::Proto(fields)
        if fields.iter().any(|f| matches!(f, ProtoTuple::SourcePort(_))))
}

/// What a tuple says.
struct Ends {
    protocol: u8,
    source: Endpoint,
    destination: Endpoint,
}

fn ends(tuple: &[Tuple]) -> Option<Ends> {
    let (mut source, mut destination, mut protocol) = ((None, 0), (None, 0), None);
    for part in tuple {
        match part {
            Tuple::Ip(fields) => {
                for field in fields {
                    match field {
                        IPTuple::SourceAddress(address) => source.0 = Some(*address),
                        IPTuple::DestinationAddress(address) => destination.0 = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(fields) => {
                for field in fields {
                    match field {
                        ProtoTuple::Protocol(number) => protocol = Some(u8::from(*number)),
                        ProtoTuple::SourcePort(number) => source.1 = *number,
                        ProtoTuple::DestinationPort(number) => destination.1 = *number,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let endpoint = |(ip, port): (Option<_>, u16)| Some(Endpoint { ip: ip?, port });
    Some(Ends {
        protocol: protocol?,
        source: endpoint(source)?,
        destination: endpoint(destination)?,
    })
}
