//! Who this device is, as enrolment left it in the state directory.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Context;
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

use super::state_directory::{Secrecy, StateDirectory};
use crate::domain::names::DeviceId;

const IDENTITY: &str = "identity.json";
const CERTIFICATE: &str = "client.crt";
const KEY: &str = "client.key";
const AUTHORITY: &str = "ca.crt";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub device: DeviceId,
    pub tenant: String,
    /// `host:port`, from the join token; of a node, as the operator published it.
    pub operator: Vec<String>,
    /// Ed25519 public keys in hex: bundles signed by others are refused.
    pub bundle_keys: Vec<String>,
    /// It enrolled as a node of the cluster.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub node: bool,
}

/// PEM.
#[derive(Clone)]
pub struct Credentials {
    pub certificate: String,
    pub key: String,
    pub authority: String,
}

impl Identity {
    /// None when this device has not enrolled.
    pub fn load(directory: &StateDirectory) -> anyhow::Result<Option<Self>> {
        let Some(bytes) = directory.read(IDENTITY)? else {
            return Ok(None);
        };
        let identity: Self = serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} is damaged: restore the directory, or remove it and enrol again with a new join token",
                directory.path(IDENTITY).display()
            )
        })?;
        Ok(Some(identity))
    }

    /// The identity goes last: until it is there, the device has not enrolled.
    pub fn save(
        &self,
        directory: &StateDirectory,
        credentials: &Credentials,
    ) -> anyhow::Result<()> {
        directory.replace(KEY, credentials.key.as_bytes(), Secrecy::OwnerOnly)?;
        directory.replace(
            CERTIFICATE,
            credentials.certificate.as_bytes(),
            Secrecy::Readable,
        )?;
        directory.replace(
            AUTHORITY,
            credentials.authority.as_bytes(),
            Secrecy::Readable,
        )?;
        self.save_alone(directory)
    }

    /// The credentials stay.
    pub fn save_alone(&self, directory: &StateDirectory) -> anyhow::Result<()> {
        let json = serde_json::to_vec_pretty(self).context("an identity is always JSON")?;
        directory.replace(IDENTITY, &json, Secrecy::OwnerOnly)
    }

    /// Keys that may sign bundles.
    pub fn verifying_keys(&self) -> anyhow::Result<Vec<VerifyingKey>> {
        let keys: Option<Vec<VerifyingKey>> = self
            .bundle_keys
            .iter()
            .map(|text| {
                let bytes: [u8; 32] = hex::decode(text).ok()?.try_into().ok()?;
                VerifyingKey::from_bytes(&bytes).ok()
            })
            .collect();
        keys.filter(|keys| !keys.is_empty()).context(
            "the identity holds no usable key for bundles: enrol again with a new join token",
        )
    }

    /// The operator's addresses that are no names: open in the rules whatever a bundle says.
    pub fn pinned(&self) -> BTreeSet<SocketAddr> {
        self.operator
            .iter()
            .filter_map(|address| address.parse().ok())
            .collect()
    }
}

impl Credentials {
    pub fn load(directory: &StateDirectory) -> anyhow::Result<Self> {
        let text = |name: &str| -> anyhow::Result<String> {
            let bytes = directory.read(name)?.with_context(|| {
                format!(
                    "{} is missing: restore the directory, or remove it and enrol again with a new join token",
                    directory.path(name).display()
                )
            })?;
            String::from_utf8(bytes)
                .with_context(|| format!("{} is no PEM file", directory.path(name).display()))
        };
        Ok(Self {
            certificate: text(CERTIFICATE)?,
            key: text(KEY)?,
            authority: text(AUTHORITY)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            device: DeviceId::from_ulid(ulid::Ulid::from_parts(1, 2)),
            tenant: "acme".into(),
            operator: vec!["10.0.0.1:8443".into(), "operator.example:8443".into()],
            bundle_keys: vec![],
            node: false,
        }
    }

    #[test]
    fn only_literal_addresses_are_pinned() {
        let pinned: Vec<String> = identity()
            .pinned()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(pinned, ["10.0.0.1:8443"]);
    }

    #[test]
    fn an_identity_without_a_usable_key_is_refused() {
        let mut identity = identity();
        for keys in [vec![], vec!["00".to_owned()], vec!["zz".repeat(32)]] {
            identity.bundle_keys = keys;
            let error = identity.verifying_keys().expect_err("refused").to_string();
            assert!(error.contains("enrol again"), "{error}");
        }
    }

    #[test]
    fn a_device_is_enrolled_only_when_its_identity_was_written() {
        let root = tempfile::tempdir().expect("a directory");
        let directory = StateDirectory::open(root.path()).expect("a directory");
        directory
            .replace(KEY, b"key", Secrecy::OwnerOnly)
            .expect("written");
        assert_eq!(Identity::load(&directory).expect("no error"), None);
        let credentials = Credentials {
            certificate: "c".into(),
            key: "k".into(),
            authority: "a".into(),
        };
        identity().save(&directory, &credentials).expect("saved");
        assert_eq!(
            Identity::load(&directory).expect("no error"),
            Some(identity())
        );
        std::fs::write(root.path().join(IDENTITY), b"{").expect("written");
        let error = Identity::load(&directory).expect_err("damaged").to_string();
        assert!(error.contains("enrol again"), "{error}");
    }
}
