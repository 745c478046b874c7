//! The fleet's tables: devices, join tokens and the epoch.

mod device;
mod join_token;
pub(super) mod meta;

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, TransactionTrait};

use super::Store;
use crate::domain::names::DeviceId;
use crate::fleet::records::{
    DeviceRecord, DeviceStanding, DeviceStore, Fingerprint, JoinTokenRecord, TokenUse,
};

const EPOCH: &str = "epoch";

#[async_trait]
impl DeviceStore for Store {
    async fn devices(&self) -> anyhow::Result<Vec<DeviceRecord>> {
        let rows = device::Entity::find().all(&self.readers).await?;
        rows.into_iter().map(DeviceRecord::try_from).collect()
    }

    async fn enrol(&self, device: &DeviceRecord) -> anyhow::Result<TokenUse> {
        let now = device.enrolled_at.as_millisecond();
        let transaction = self.writer.begin().await?;
        // The one statement that takes a use also checks that there is one.
        let taken = join_token::Entity::update_many()
            .col_expr(
                join_token::Column::UsesLeft,
                Expr::col(join_token::Column::UsesLeft).sub(1),
            )
            .filter(join_token::Column::Id.eq(&device.token))
            .filter(join_token::Column::UsesLeft.gt(0))
            .filter(join_token::Column::ExpiresAt.gt(now))
            .filter(join_token::Column::RevokedAt.is_null())
            .exec(&transaction)
            .await?;
        if taken.rows_affected != 1 {
            transaction.rollback().await?;
            return Ok(TokenUse::Lost);
        }
        device::Entity::insert(device::row(device)?)
            .exec_without_returning(&transaction)
            .await?;
        transaction.commit().await?;
        Ok(TokenUse::Taken)
    }

    async fn of_node(&self, node: &str) -> anyhow::Result<Option<DeviceRecord>> {
        let of_node = device::Entity::find().filter(device::Column::Node.eq(node));
        let row = of_node.one(&self.readers).await?;
        row.map(DeviceRecord::try_from).transpose()
    }

    async fn insert_node(&self, device: &DeviceRecord) -> anyhow::Result<()> {
        device::Entity::insert(device::row(device)?)
            .exec_without_returning(&self.writer)
            .await?;
        Ok(())
    }

    async fn renew(
        &self,
        device: &DeviceId,
        fingerprint: Fingerprint,
        at: Timestamp,
    ) -> anyhow::Result<()> {
        device::Entity::update_many()
            .col_expr(
                device::Column::Fingerprint,
                Expr::value(hex::encode(fingerprint)),
            )
            .col_expr(device::Column::EnrolledAt, Expr::value(at.as_millisecond()))
            .filter(device::Column::Id.eq(device.as_str()))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    async fn save_standings(&self, standings: &[(DeviceId, DeviceStanding)]) -> anyhow::Result<()> {
        let transaction = self.writer.begin().await?;
        for (id, standing) in standings {
            device::Entity::update_many()
                .set(device::standing(standing)?)
                .filter(device::Column::Id.eq(id.as_str()))
                .exec(&transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn set_tags(
        &self,
        device: &DeviceId,
        tags: &BTreeMap<String, String>,
    ) -> anyhow::Result<()> {
        device::Entity::update_many()
            .col_expr(
                device::Column::Tags,
                Expr::value(serde_json::to_string(tags)?),
            )
            .filter(device::Column::Id.eq(device.as_str()))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    async fn revoke_device(&self, device: &DeviceId, at: Timestamp) -> anyhow::Result<()> {
        device::Entity::update_many()
            .col_expr(device::Column::RevokedAt, Expr::value(at.as_millisecond()))
            .filter(device::Column::Id.eq(device.as_str()))
            .filter(device::Column::RevokedAt.is_null())
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    async fn readmit(&self, device: &DeviceId, fingerprint: Fingerprint) -> anyhow::Result<()> {
        device::Entity::update_many()
            .col_expr(device::Column::RevokedAt, Expr::value(None::<i64>))
            .col_expr(
                device::Column::Fingerprint,
                Expr::value(hex::encode(fingerprint)),
            )
            .filter(device::Column::Id.eq(device.as_str()))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    async fn create_join_token(&self, token: &JoinTokenRecord) -> anyhow::Result<()> {
        join_token::Entity::insert(join_token::row(token)?)
            .exec_without_returning(&self.writer)
            .await?;
        Ok(())
    }

    async fn join_token(&self, id: &str) -> anyhow::Result<Option<JoinTokenRecord>> {
        // Whoever enrols sends this. PostgreSQL takes no NUL in a text, and no token has one.
        if id.contains('\0') {
            return Ok(None);
        }
        let row = join_token::Entity::find_by_id(id)
            .one(&self.readers)
            .await?;
        row.map(JoinTokenRecord::try_from).transpose()
    }

    async fn join_tokens(&self) -> anyhow::Result<Vec<JoinTokenRecord>> {
        let rows = join_token::Entity::find()
            .order_by_desc(join_token::Column::CreatedAt)
            .order_by_desc(join_token::Column::Id)
            .all(&self.readers)
            .await?;
        rows.into_iter().map(JoinTokenRecord::try_from).collect()
    }

    async fn revoke_join_token(&self, id: &str, at: Timestamp) -> anyhow::Result<bool> {
        let revoked = join_token::Entity::update_many()
            .col_expr(
                join_token::Column::RevokedAt,
                Expr::value(at.as_millisecond()),
            )
            .filter(join_token::Column::Id.eq(id))
            .filter(join_token::Column::RevokedAt.is_null())
            .exec(&self.writer)
            .await?;
        if revoked.rows_affected > 0 {
            return Ok(true);
        }
        Ok(self.join_token(id).await?.is_some())
    }

    async fn epoch(&self) -> anyhow::Result<u64> {
        meta::number(&self.readers, EPOCH).await
    }

    async fn next_epoch(&self, beyond: u64) -> anyhow::Result<u64> {
        let transaction = self.writer.begin().await?;
        let last = meta::locked_number(&transaction, EPOCH).await?;
        let next = std::cmp::max(last, beyond) + 1;
        meta::set_number(&transaction, EPOCH, next).await?;
        transaction.commit().await?;
        Ok(next)
    }
}

/// A unit variant as it is in JSON.
fn word(variant: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(serde_json::from_value(serde_json::to_value(variant)?)?)
}

fn time(milliseconds: Option<i64>) -> anyhow::Result<Option<Timestamp>> {
    Ok(milliseconds.map(Timestamp::from_millisecond).transpose()?)
}

#[cfg(test)]
mod tests;
