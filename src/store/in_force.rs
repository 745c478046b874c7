//! The Isolations that were in force when it was last written down, for `reconcile`.

use std::collections::BTreeMap;

use anyhow::Context;
use async_trait::async_trait;
use jiff::Timestamp;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;
use sea_orm::{IntoActiveModel, TransactionTrait};

use super::Store;
use crate::reconcile::records::{InForce, InForceStore};

/// A row of `isolations_in_force`; `isolation` and `hold` are JSON.
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "isolations_in_force")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub uid: String,
    #[sea_orm(column_type = "Text")]
    pub isolation: String,
    #[sea_orm(column_type = "Text", nullable)]
    pub hold: Option<String>,
    /// When this row was last written, in milliseconds.
    pub since: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Rows in one statement: SQLite takes 32,766 parameters.
const ROWS: usize = 1000;

#[async_trait]
impl InForceStore for Store {
    async fn in_force(&self) -> anyhow::Result<BTreeMap<String, InForce>> {
        let rows = Entity::find().all(&self.readers).await?;
        rows.into_iter()
            .map(|row| {
                let read = || format!("reading the isolation {} from the store", row.uid);
                let hold = row.hold.as_deref().map(serde_json::from_str).transpose();
                let entry = InForce {
                    isolation: serde_json::from_str(&row.isolation).with_context(read)?,
                    hold: hold.with_context(read)?,
                };
                Ok((row.uid, entry))
            })
            .collect()
    }

    async fn save_in_force(
        &self,
        put: &BTreeMap<String, InForce>,
        remove: &[String],
    ) -> anyhow::Result<()> {
        let since = Timestamp::now().as_millisecond();
        let rows = put
            .iter()
            .map(|(uid, entry)| {
                let hold = entry.hold.as_ref().map(serde_json::to_string).transpose()?;
                Ok(Model {
                    uid: uid.clone(),
                    isolation: serde_json::to_string(&entry.isolation)?,
                    hold,
                    since,
                }
                .into_active_model())
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let transaction = self.writer.begin().await?;
        for rows in rows.chunks(ROWS) {
            let newest = OnConflict::column(Column::Uid)
                .update_columns([Column::Isolation, Column::Hold, Column::Since])
                .to_owned();
            Entity::insert_many(rows.to_vec())
                .on_conflict(newest)
                .exec_without_returning(&transaction)
                .await?;
        }
        for uids in remove.chunks(ROWS) {
            Entity::delete_many()
                .filter(Column::Uid.is_in(uids))
                .exec(&transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{IsolationSpec, Target};
    use crate::domain::names::ObjectKey;
    use crate::domain::world::{HeldIsolation, Resource};
    use crate::reconcile::holds::Hold;
    use crate::store::testing::{Scratch, on_each_database};

    on_each_database!(
        what_was_in_force_reads_back_with_its_hold,
        thousands_are_written_at_once,
    );

    fn in_force(name: &str, generation: i64) -> InForce {
        let spec: IsolationSpec = serde_json::from_value(serde_json::json!({
            "target": Target::default(), "reason": "test",
        }))
        .expect("a spec");
        InForce {
            isolation: HeldIsolation {
                key: ObjectKey::new("plant", name),
                isolation: Resource {
                    uid: name.to_owned(),
                    generation,
                    written_by: None,
                    created: None,
                    spec,
                },
            },
            hold: None,
        }
    }

    async fn what_was_in_force_reads_back_with_its_hold(scratch: Scratch) {
        let store = scratch.open().await;
        let mut both: BTreeMap<_, _> = [
            ("a".to_owned(), in_force("a", 1)),
            ("b".to_owned(), in_force("b", 1)),
        ]
        .into();
        store.save_in_force(&both, &[]).await.expect("saved");
        assert_eq!(store.in_force().await.expect("read"), both);

        let held = both.get_mut("a").expect("there");
        held.hold = Some(Hold {
            id: "hold_1".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            why: "many".to_owned(),
        });
        let put = [("a".to_owned(), held.clone())].into();
        let remove = ["b".to_owned()];
        store.save_in_force(&put, &remove).await.expect("saved");
        assert_eq!(store.in_force().await.expect("read"), put);
    }

    async fn thousands_are_written_at_once(scratch: Scratch) {
        let store = scratch.open().await;
        let many: BTreeMap<_, _> = (0..2500)
            .map(|n| (format!("{n:04}"), in_force(&format!("{n:04}"), 1)))
            .collect();
        store.save_in_force(&many, &[]).await.expect("saved");
        assert_eq!(store.in_force().await.expect("read").len(), 2500);
        let all: Vec<_> = many.into_keys().collect();
        let none = BTreeMap::new();
        store.save_in_force(&none, &all).await.expect("removed");
        assert!(store.in_force().await.expect("read").is_empty());
    }
}
