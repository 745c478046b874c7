//! The table `meta`: single values by name.

use anyhow::Context;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ConnectionTrait, DatabaseTransaction, IntoActiveModel, QuerySelect};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "meta")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub key: String,
    #[sea_orm(column_type = "Text")]
    pub value: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// 0 where there is none.
pub async fn number(db: &impl ConnectionTrait, key: &str) -> anyhow::Result<u64> {
    let row = Entity::find_by_id(key).one(db).await?;
    row.map_or(Ok(0), read)
}

/// The same; nobody else, in whatever process, gets further than this until the transaction ends.
pub async fn locked_number(transaction: &DatabaseTransaction, key: &str) -> anyhow::Result<u64> {
    lock(transaction, key).await?.map_or(Ok(0), read)
}

/// Waits until nobody else holds this key, and holds it until the transaction ends. It has to be the
/// transaction's first statement: on SQLite, which has one writer, a write is what takes the lock.
pub async fn lock(transaction: &DatabaseTransaction, key: &str) -> Result<Option<Model>, DbErr> {
    let row = Model {
        key: key.to_owned(),
        value: "0".to_owned(),
    };
    Entity::insert(row.into_active_model())
        .on_conflict(OnConflict::column(Column::Key).do_nothing().to_owned())
        .exec_without_returning(transaction)
        .await?;
    Entity::find_by_id(key)
        .lock_exclusive()
        .one(transaction)
        .await
}

fn read(row: Model) -> anyhow::Result<u64> {
    row.value.parse().with_context(|| {
        format!(
            "{} in the store is {:?}, which is no number",
            row.key, row.value
        )
    })
}

pub async fn set_number(db: &impl ConnectionTrait, key: &str, value: u64) -> anyhow::Result<()> {
    let row = Model {
        key: key.to_owned(),
        value: value.to_string(),
    };
    let newest = OnConflict::column(Column::Key)
        .update_column(Column::Value)
        .to_owned();
    Entity::insert(row.into_active_model())
        .on_conflict(newest)
        .exec_without_returning(db)
        .await?;
    Ok(())
}
