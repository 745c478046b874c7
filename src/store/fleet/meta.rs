//! The table `meta`: single values by name.

use anyhow::Context;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ConnectionTrait, IntoActiveModel};

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
    match Entity::find_by_id(key).one(db).await? {
        None => Ok(0),
        Some(row) => row
            .value
            .parse()
            .with_context(|| format!("{key} in the store is {:?}, which is no number", row.value)),
    }
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
