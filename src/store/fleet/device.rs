//! The table `devices`.

use std::collections::BTreeSet;

use anyhow::Context;
use jiff::Timestamp;
use sea_orm::Set;
use sea_orm::entity::prelude::*;

use crate::domain::names::DeviceId;
use crate::fleet::records::{AppliedState, DeviceRecord, DeviceStanding};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "devices")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub tenant: String,
    #[sea_orm(column_type = "Text")]
    pub tags: String,
    pub trust: String,
    /// Hex.
    #[sea_orm(unique)]
    pub fingerprint: String,
    pub enrolled_at: i64,
    pub token: String,
    pub revoked_at: Option<i64>,
    #[sea_orm(column_type = "Text")]
    pub facts: String,
    #[sea_orm(column_type = "Text")]
    pub addresses: String,
    pub last_seen: Option<i64>,
    pub applied_epoch: Option<i64>,
    pub applied_revision: Option<i64>,
    pub applied_hash: Option<String>,
    pub applied_at: Option<i64>,
    #[sea_orm(column_type = "Text")]
    pub applied_isolations: String,
    #[sea_orm(column_type = "Text")]
    pub connections_cut: String,
    pub connects_from: Option<String>,
    #[sea_orm(unique)]
    pub node: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The columns that a device's own messages change.
pub fn standing(standing: &DeviceStanding) -> anyhow::Result<ActiveModel> {
    let applied = standing.applied.as_ref();
    let number = |number: u64| i64::try_from(number).context("a number too large for the store");
    let none = BTreeSet::new();
    let isolations = applied.map_or(&none, |applied| &applied.isolations);
    Ok(ActiveModel {
        facts: Set(serde_json::to_string(&standing.facts)?),
        addresses: Set(serde_json::to_string(&standing.addresses)?),
        last_seen: Set(standing.last_seen.map(Timestamp::as_millisecond)),
        applied_epoch: Set(applied.map(|applied| number(applied.epoch)).transpose()?),
        applied_revision: Set(applied
            .map(|applied| number(applied.revision))
            .transpose()?),
        applied_hash: Set(applied.map(|applied| applied.state_hash.clone())),
        applied_at: Set(applied.map(|applied| applied.at.as_millisecond())),
        applied_isolations: Set(serde_json::to_string(isolations)?),
        connections_cut: Set(serde_json::to_string(&standing.connections_cut)?),
        connects_from: Set(standing.connects_from.map(|from| from.to_string())),
        ..Default::default()
    })
}

/// The whole row of a new device.
pub fn row(device: &DeviceRecord) -> anyhow::Result<ActiveModel> {
    Ok(ActiveModel {
        id: Set(device.id.to_string()),
        tenant: Set(device.tenant.clone()),
        tags: Set(serde_json::to_string(&device.tags)?),
        trust: Set(super::word(&device.trust)?),
        fingerprint: Set(hex::encode(device.fingerprint)),
        enrolled_at: Set(device.enrolled_at.as_millisecond()),
        token: Set(device.token.clone()),
        node: Set(device.node.clone()),
        revoked_at: Set(device.revoked_at.map(Timestamp::as_millisecond)),
        ..standing(&device.standing)?
    })
}

impl TryFrom<Model> for DeviceRecord {
    type Error = anyhow::Error;

    fn try_from(row: Model) -> anyhow::Result<Self> {
        let id = row.id.clone();
        read(row).with_context(|| format!("the store's row of the device {id}"))
    }
}

fn read(row: Model) -> anyhow::Result<DeviceRecord> {
    let applied = match (
        row.applied_epoch,
        row.applied_revision,
        row.applied_hash,
        row.applied_at,
    ) {
        (Some(epoch), Some(revision), Some(state_hash), Some(at)) => Some(AppliedState {
            epoch: epoch.try_into()?,
            revision: revision.try_into()?,
            state_hash,
            at: Timestamp::from_millisecond(at)?,
            isolations: serde_json::from_str(&row.applied_isolations)?,
        }),
        _ => None,
    };
    let mut fingerprint = [0; 32];
    hex::decode_to_slice(&row.fingerprint, &mut fingerprint)?;
    Ok(DeviceRecord {
        id: DeviceId::try_from(row.id)?,
        tenant: row.tenant,
        tags: serde_json::from_str(&row.tags)?,
        trust: serde_json::from_value(row.trust.into())?,
        fingerprint,
        enrolled_at: Timestamp::from_millisecond(row.enrolled_at)?,
        token: row.token,
        node: row.node,
        revoked_at: super::time(row.revoked_at)?,
        standing: DeviceStanding {
            facts: serde_json::from_str(&row.facts)?,
            addresses: serde_json::from_str(&row.addresses)?,
            connects_from: row.connects_from.map(|from| from.parse()).transpose()?,
            last_seen: super::time(row.last_seen)?,
            applied,
            connections_cut: serde_json::from_str(&row.connections_cut)?,
        },
    })
}
