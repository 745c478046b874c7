//! The table `join_tokens`.

use anyhow::Context;
use jiff::Timestamp;
use sea_orm::Set;
use sea_orm::entity::prelude::*;

use crate::fleet::records::JoinTokenRecord;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "join_tokens")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    /// Hex.
    pub secret_sha256: String,
    pub tenant: String,
    #[sea_orm(column_type = "Text")]
    pub tags: String,
    pub created_at: i64,
    pub created_by: String,
    pub expires_at: i64,
    pub uses_left: i64,
    pub revoked_at: Option<i64>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

pub fn row(token: &JoinTokenRecord) -> anyhow::Result<ActiveModel> {
    Ok(ActiveModel {
        id: Set(token.id.clone()),
        secret_sha256: Set(hex::encode(token.secret_sha256)),
        tenant: Set(token.tenant.clone()),
        tags: Set(serde_json::to_string(&token.tags)?),
        created_at: Set(token.created_at.as_millisecond()),
        created_by: Set(token.created_by.clone()),
        expires_at: Set(token.expires_at.as_millisecond()),
        uses_left: Set(token.uses_left.into()),
        revoked_at: Set(token.revoked_at.map(Timestamp::as_millisecond)),
    })
}

impl TryFrom<Model> for JoinTokenRecord {
    type Error = anyhow::Error;

    fn try_from(row: Model) -> anyhow::Result<Self> {
        let id = row.id.clone();
        read(row).with_context(|| format!("the store's row of the join token {id}"))
    }
}

fn read(row: Model) -> anyhow::Result<JoinTokenRecord> {
    let mut secret_sha256 = [0; 32];
    hex::decode_to_slice(&row.secret_sha256, &mut secret_sha256)?;
    Ok(JoinTokenRecord {
        id: row.id,
        secret_sha256,
        tenant: row.tenant,
        tags: serde_json::from_str(&row.tags)?,
        created_at: Timestamp::from_millisecond(row.created_at)?,
        created_by: row.created_by,
        expires_at: Timestamp::from_millisecond(row.expires_at)?,
        uses_left: row.uses_left.try_into()?,
        revoked_at: super::time(row.revoked_at)?,
    })
}
