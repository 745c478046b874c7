//! The table `seen_objects`, and until when was watched.

use anyhow::Context;
use async_trait::async_trait;
use jiff::Timestamp;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::OnConflict;
use sea_orm::{IntoActiveModel, TransactionTrait};
use tokio::time::timeout;

use super::fleet::meta;
use super::{LONGEST, Store};
use crate::admission::records::{Memory, ObjectId, SeenObject, SeenStore};
use crate::domain::names::ObjectKey;
use crate::watch::Kind;

/// In the table `meta`: milliseconds of Unix time.
const WATCHED_UNTIL: &str = "watched_until";
/// Rows of one statement, each of six parameters; SQLite takes 32,766.
const ROWS: usize = 1000;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "seen_objects")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub uid: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub seen: i64,
    /// JSON.
    pub asked: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl TryFrom<&SeenObject> for Model {
    type Error = anyhow::Error;

    fn try_from(seen: &SeenObject) -> anyhow::Result<Self> {
        Ok(Self {
            uid: seen.object.uid.clone(),
            kind: seen.object.kind.as_str().to_owned(),
            namespace: seen.object.key.namespace.clone(),
            name: seen.object.key.name.clone(),
            seen: seen.seen,
            asked: serde_json::to_string(&seen.asked)?,
        })
    }
}

impl TryFrom<Model> for SeenObject {
    type Error = anyhow::Error;

    fn try_from(row: Model) -> anyhow::Result<Self> {
        let known = [Kind::Policy, Kind::Isolation, Kind::ApiKeyScope];
        let kind = known.into_iter().find(|kind| kind.as_str() == row.kind);
        let kind = kind.with_context(|| format!("the store has seen a {:?}", row.kind))?;
        Ok(Self {
            object: ObjectId {
                uid: row.uid,
                kind,
                key: ObjectKey::new(row.namespace, row.name),
            },
            seen: row.seen,
            asked: serde_json::from_str(&row.asked).context("what was asked of an object")?,
        })
    }
}

#[async_trait]
impl SeenStore for Store {
    async fn memory(&self) -> anyhow::Result<Memory> {
        let rows = Entity::find().all(&self.readers).await?;
        let objects = rows.into_iter().map(SeenObject::try_from);
        let until = meta::number(&self.readers, WATCHED_UNTIL).await?;
        let until = i64::try_from(until)?;
        Ok(Memory {
            objects: objects.collect::<anyhow::Result<_>>()?,
            watched_until: match until {
                0 => None,
                until => Some(Timestamp::from_millisecond(until)?),
            },
        })
    }

    async fn remember(
        &self,
        put: &[SeenObject],
        remove: &[String],
        watched_until: Timestamp,
    ) -> anyhow::Result<()> {
        timeout(LONGEST, self.write_seen(put, remove, watched_until))
            .await
            .context("the database does not answer")?
    }
}

impl Store {
    async fn write_seen(
        &self,
        put: &[SeenObject],
        remove: &[String],
        watched_until: Timestamp,
    ) -> anyhow::Result<()> {
        let transaction = self.writer.begin().await?;
        for rows in put.chunks(ROWS) {
            let newest = OnConflict::column(Column::Uid)
                .update_columns([Column::Seen, Column::Asked])
                .to_owned();
            let rows = rows.iter().map(Model::try_from);
            let rows = rows.collect::<anyhow::Result<Vec<_>>>()?;
            let rows = rows.into_iter().map(IntoActiveModel::into_active_model);
            Entity::insert_many(rows)
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
        let until = u64::try_from(watched_until.as_millisecond())?;
        meta::set_number(&transaction, WATCHED_UNTIL, until).await?;
        transaction.commit().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Scratch, on_each_database};
    use super::*;
    use crate::admission::records::{Request, Wants};
    use crate::audit::entry::{Actor, ActorKind};

    on_each_database!(
        what_was_seen_is_there_again_and_what_is_gone_is_not,
        ten_thousand_objects_are_written_at_once,
    );

    fn seen(uid: &str, generation: i64) -> SeenObject {
        SeenObject {
            object: ObjectId {
                uid: uid.to_owned(),
                kind: Kind::Isolation,
                key: ObjectKey::new("plant", uid),
            },
            seen: generation,
            asked: vec![Request {
                id: format!("aud_{generation}"),
                actor: Actor::new(ActorKind::Person, "alice").via("kubectl"),
                user: "alice".to_owned(),
                verb: "update".to_owned(),
                wants: Wants::Written {
                    generation: generation + 1,
                    spec: Some("digest".to_owned()),
                },
            }],
        }
    }

    async fn what_was_seen_is_there_again_and_what_is_gone_is_not(scratch: Scratch) {
        let store = scratch.open().await;
        let memory = store.memory().await.unwrap();
        assert!(memory.objects.is_empty() && memory.watched_until.is_none());

        let first = Timestamp::from_millisecond(1_000).unwrap();
        let both = [seen("a", 1), seen("b", 1)];
        store.remember(&both, &[], first).await.unwrap();
        let later = Timestamp::from_millisecond(2_000).unwrap();
        let gone = ["b".to_owned()];
        store.remember(&[seen("a", 2)], &gone, later).await.unwrap();
        let memory = store.memory().await.unwrap();
        assert_eq!(memory.objects, [seen("a", 2)]);
        assert_eq!(memory.watched_until, Some(later));
    }

    async fn ten_thousand_objects_are_written_at_once(scratch: Scratch) {
        let store = scratch.open().await;
        let many: Vec<_> = (0..10_000).map(|n| seen(&n.to_string(), 1)).collect();
        let now = Timestamp::now();
        store.remember(&many, &[], now).await.unwrap();
        assert_eq!(store.memory().await.unwrap().objects.len(), 10_000);
    }
}
