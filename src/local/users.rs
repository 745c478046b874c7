//! What goes over the Unix socket about suspended users, beside [`super::types`].

use serde::{Deserialize, Serialize};

use crate::domain::names::DeviceId;

/// How the suspension of a user stands, or would.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserStanding {
    /// Devices that are to drop what the accounts send.
    pub devices: usize,
    /// Of these, those that have read it back.
    pub programmed: usize,
    /// Of these, those that are not connected.
    pub offline: usize,
    /// Those that have not read it back first; a bounded part of all.
    pub each: Vec<AccountStanding>,
    /// How many are not in `each`.
    pub left_out: usize,
    /// Nodes of the cluster, whose agents see no accounts.
    pub nodes: usize,
    /// Names whose writes the API server is to refuse.
    pub kubernetes: Vec<String>,
    /// The API server holds all of them.
    pub writes_refused: bool,
    /// Names of the scopes whose keys are refused.
    pub scopes: Vec<String>,
    /// What stays possible, and nothing here can refuse.
    pub outside: Vec<String>,
}

impl UserStanding {
    /// Something of what can be refused is.
    pub fn refuses_something(&self) -> bool {
        self.programmed > 0 || self.writes_refused || !self.scopes.is_empty()
    }
}

/// The accounts of a user on one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AccountStanding {
    pub device: DeviceId,
    /// The device has read it back.
    pub programmed: bool,
    pub connected: bool,
    /// Accounts that exist there, and whose traffic is dropped.
    #[serde(default)]
    pub dropped: Vec<String>,
    /// Accounts that exist there and are left alone, being root or the agent's own.
    #[serde(default)]
    pub spared: Vec<String>,
}
