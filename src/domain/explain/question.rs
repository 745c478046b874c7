//! What is asked, and how people write it: `pod/shop/web-0`, `device/dev_…`, `node/worker-1` or an address;
//! `5432/TCP`, `http/TCP` or `ICMP`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::words;
use crate::api::Protocol;
use crate::domain::names::{DeviceId, ObjectKey};

/// Whether one connection comes through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Question {
    /// Who opens the connection.
    pub from: Place,
    pub to: Place,
    pub protocol: Protocol,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// The namespace whose agent asks: it is told of its own pods and devices alone. None for a person,
    /// who sees everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// One end of the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Place {
    Pod(ObjectKey),
    Device(DeviceId),
    Node(String),
    /// Whoever holds it.
    Address(IpAddr),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Port {
    Number(u16),
    /// As the pod that is asked about names it.
    Name(String),
}

/// Text that is no part of a question, with what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAQuestion(String);

impl FromStr for Place {
    type Err = NotAQuestion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            let text: String = text.chars().take(64).collect();
            NotAQuestion(format!(
                "{text:?} is nobody: write pod/NAMESPACE/NAME, device/dev_…, node/NAME or an address"
            ))
        };
        let named = |text: &str| !text.is_empty() && !text.contains('/');
        match text.split_once('/') {
            Some(("pod", rest)) => {
                let key = rest.split_once('/');
                let (namespace, name) = key
                    .filter(|(namespace, name)| named(namespace) && named(name))
                    .ok_or_else(wrong)?;
                Ok(Self::Pod(ObjectKey::new(namespace, name)))
            }
            Some(("device", id)) => {
                id.parse()
                    .map(Self::Device)
                    .map_err(|error: crate::domain::names::NotADeviceId| {
                        NotAQuestion(error.to_string())
                    })
            }
            Some(("node", name)) if named(name) => Ok(Self::Node(name.to_owned())),
            Some(_) => Err(wrong()),
            None if text.starts_with("dev_") => text.parse().map(Self::Device).map_err(
                |error: crate::domain::names::NotADeviceId| NotAQuestion(error.to_string()),
            ),
            None => {
                let address = text.parse::<IpAddr>().map_err(|_| wrong())?;
                Ok(Self::Address(address.to_canonical()))
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(key) => write!(f, "pod/{key}"),
            Self::Device(id) => write!(f, "device/{id}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl TryFrom<String> for Place {
    type Error = NotAQuestion;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl FromStr for Port {
    type Err = NotAQuestion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let number = text.parse::<u16>().ok().filter(|number| *number > 0);
            return number
                .map(Self::Number)
                .ok_or_else(|| NotAQuestion(format!("{text:?} is no port: write 1 to 65535")));
        }
        let is_name = text.len() <= 15
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if is_name {
            return Ok(Self::Name(text.to_owned()));
        }
        Err(NotAQuestion(format!(
            "{:?} is no port: write a number, or the name that the pod's containers give one",
            text.chars().take(64).collect::<String>()
        )))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Question {
    /// Reads `5432/TCP`, `http/TCP`, `5432`, which is TCP, and `ICMP`.
    pub fn port_and_protocol(text: &str) -> Result<(Option<Port>, Protocol), NotAQuestion> {
        let (port, protocol) = match text.split_once('/') {
            Some((port, protocol)) => (Some(port), words::protocol_named(protocol)),
            None => match words::protocol_named(text) {
                Some(Protocol::Icmp) => (None, Some(Protocol::Icmp)),
                _ => (Some(text), Some(Protocol::Tcp)),
            },
        };
        let protocol = protocol.ok_or_else(|| {
            NotAQuestion(format!(
                "{:?} has no protocol that is known: write a port and TCP, UDP or SCTP, such as 5432/TCP, or ICMP alone",
                text.chars().take(64).collect::<String>()
            ))
        })?;
        let port = port.map(str::parse).transpose()?;
        if protocol == Protocol::Icmp && port.is_some() {
            return Err(NotAQuestion(
                "ICMP has no ports: write ICMP alone".to_owned(),
            ));
        }
        Ok((port, protocol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_as_it_was_written() {
        let id = "device/dev_00000000000000000000000001";
        for text in [
            "pod/shop/web-0",
            id,
            "node/worker-1",
            "10.0.0.1",
            "2001:db8::1",
        ] {
            let place: Place = text.parse().expect(text);
            assert_eq!(place.to_string(), text);
        }
        let short: Place = "dev_00000000000000000000000001".parse().expect("a device");
        assert_eq!(short.to_string(), id);
        let mapped: Place = "::ffff:10.0.0.1".parse().expect("an address");
        assert_eq!(mapped.to_string(), "10.0.0.1");
    }

    #[test]
    fn what_is_nobody_is_refused_with_what_to_write() {
        for text in [
            "",
            "web-0",
            "pod/web-0",
            "pod/a/b/c",
            "pod//x",
            "node/",
            "svc/a/b",
        ] {
            let error = text.parse::<Place>().expect_err(text).to_string();
            assert!(error.contains("pod/NAMESPACE/NAME"), "{error}");
        }
        let error = "device/cam-1".parse::<Place>().expect_err("no id");
        assert!(error.to_string().contains("seawall fleet list"), "{error}");
    }

    #[test]
    fn a_port_is_a_number_or_a_name_with_a_protocol() {
        let read = |text| Question::port_and_protocol(text);
        assert_eq!(
            read("5432/TCP"),
            Ok((Some(Port::Number(5432)), Protocol::Tcp))
        );
        assert_eq!(read("53/udp"), Ok((Some(Port::Number(53)), Protocol::Udp)));
        assert_eq!(
            read("http/SCTP"),
            Ok((Some(Port::Name("http".into())), Protocol::Sctp))
        );
        assert_eq!(read("443"), Ok((Some(Port::Number(443)), Protocol::Tcp)));
        assert_eq!(read("ICMP"), Ok((None, Protocol::Icmp)));
        for wrong in ["0/TCP", "65536", "80/GRE", "8/ICMP", "Web!/TCP", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
