//! Names that are validated once and then trusted.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The identity that the server gave a device at enrolment: `dev_` and a lower-case ULID. It never
/// changes, and a device can't choose it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(String);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is not a device id: write dev_ and 26 lower-case letters or digits, as `seawall fleet list` shows it"
)]
pub struct NotADeviceId(String);

impl DeviceId {
    /// The id made of a ULID.
    pub fn from_ulid(ulid: ulid::Ulid) -> Self {
        Self(format!("dev_{}", ulid.to_string().to_lowercase()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id in the form that Kubernetes names allow.
    pub fn in_resource_name(&self) -> String {
        self.0.replace('_', "-")
    }
}

impl TryFrom<String> for DeviceId {
    type Error = NotADeviceId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let valid = text.strip_prefix("dev_").is_some_and(|rest| {
            rest.len() == 26
                && rest
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        });
        if valid {
            Ok(Self(text))
        } else {
            Err(NotADeviceId(text.chars().take(64).collect()))
        }
    }
}

impl std::str::FromStr for DeviceId {
    type Err = NotADeviceId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Namespace and name of a resource. Ordered by namespace, then name, as the rules of evaluation are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_id_reads_back_as_it_was_made() {
        let id = DeviceId::from_ulid(ulid::Ulid::from_parts(1, 2));
        assert_eq!(id.as_str().parse::<DeviceId>(), Ok(id));
    }

    #[test]
    fn anything_else_is_no_device_id() {
        for text in [
            "",
            "dev_",
            "dev_01H",
            "DEV_01hzzzzzzzzzzzzzzzzzzzzzzz",
            "dev_01HZZZZZZZZZZZZZZZZZZZZZZZ",
        ] {
            assert!(text.parse::<DeviceId>().is_err(), "{text}");
        }
    }
}
