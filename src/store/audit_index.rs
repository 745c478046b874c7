//! The table `audit_entries`: the audit log's search index.

use async_trait::async_trait;
use jiff::Timestamp;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Expr, ExprTrait, Func, LikeExpr};
use sea_orm::{Condition, QueryOrder, QuerySelect, Set, TransactionTrait};

use super::Store;
use crate::audit::index::{AuditIndex, AuditPage, AuditQuery, IndexError, IndexRecord};

/// Rows of one statement: 11 parameters each, of at most 32,766 in SQLite.
const ROWS: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "audit_entries")]
pub struct Model {
    /// The entry's index in the log.
    #[sea_orm(primary_key, auto_increment = false)]
    pub position: i64,
    pub id: String,
    /// Milliseconds of Unix time.
    pub time: i64,
    pub kind: String,
    pub tenant: String,
    pub actor: String,
    pub actor_kind: String,
    pub tool: Option<String>,
    pub target: Option<String>,
    pub result: Option<String>,
    #[sea_orm(column_type = "Text")]
    pub json: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl From<DbErr> for IndexError {
    fn from(error: DbErr) -> Self {
        Self(error.to_string())
    }
}

fn row(record: &IndexRecord) -> Result<ActiveModel, IndexError> {
    Ok(ActiveModel {
        position: Set(position(record.index)?),
        id: Set(record.id.clone()),
        time: Set(record.time.as_millisecond()),
        kind: Set(record.kind.clone()),
        tenant: Set(record.tenant.clone()),
        actor: Set(record.actor.clone()),
        actor_kind: Set(record.actor_kind.clone()),
        tool: Set(record.tool.clone()),
        target: Set(record.target.clone()),
        result: Set(record.result.clone()),
        json: Set(record.json.clone()),
    })
}

fn position(index: u64) -> Result<i64, IndexError> {
    i64::try_from(index).map_err(|_| IndexError(format!("no log is {index} entries long")))
}

impl TryFrom<Model> for IndexRecord {
    type Error = IndexError;

    fn try_from(row: Model) -> Result<Self, IndexError> {
        let wrong = |what: &str| IndexError(format!("its row {} has a wrong {what}", row.position));
        Ok(Self {
            index: u64::try_from(row.position).map_err(|_| wrong("position"))?,
            time: Timestamp::from_millisecond(row.time).map_err(|_| wrong("time"))?,
            id: row.id,
            kind: row.kind,
            tenant: row.tenant,
            actor: row.actor,
            actor_kind: row.actor_kind,
            tool: row.tool,
            target: row.target,
            result: row.result,
            json: row.json,
        })
    }
}

/// `text` occurs in the column. SQLite compares ASCII letters without case, others with.
fn contains(column: Column, text: &str) -> Expr {
    let mut pattern = String::from("%");
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c.to_ascii_lowercase());
    }
    pattern.push('%');
    Func::lower(Expr::col(column)).like(LikeExpr::new(pattern).escape('\\'))
}

/// How text is written inside the entry's JSON.
fn as_in_json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

fn condition(query: &AuditQuery) -> Result<Condition, IndexError> {
    let is = |column: Column, wanted: &Option<String>| wanted.as_ref().map(|w| column.eq(w));
    let before = query.before.map(position).transpose()?;
    let since = query.since.map(|t| Column::Time.gte(t.as_millisecond()));
    let until = query.until.map(|t| Column::Time.lt(t.as_millisecond()));
    Ok(Condition::all()
        .add_option(since)
        .add_option(until)
        .add_option(before.map(|before| Column::Position.lt(before)))
        .add_option(is(Column::Tenant, &query.tenant))
        .add_option(is(Column::Kind, &query.kind))
        .add_option(is(Column::Tool, &query.tool))
        .add_option(is(Column::Target, &query.target))
        .add_option(is(Column::Result, &query.result))
        .add_option(
            query
                .actor
                .as_ref()
                .map(|actor| contains(Column::Actor, actor)),
        )
        .add_option(
            query
                .text
                .as_ref()
                .map(|text| contains(Column::Json, &as_in_json(text))),
        ))
}

#[async_trait]
impl AuditIndex for Store {
    async fn record(&self, batch: &[IndexRecord]) -> Result<(), IndexError> {
        let transaction = self.writer.begin().await?;
        for some in batch.chunks(ROWS) {
            let rows = some.iter().map(row).collect::<Result<Vec<_>, _>>()?;
            Entity::insert_many(rows)
                .exec_without_returning(&transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn search(&self, query: &AuditQuery) -> Result<AuditPage, IndexError> {
        let limit = query.page_size();
        let rows = Entity::find()
            .filter(condition(query)?)
            .order_by_desc(Column::Position)
            .limit(limit + 1)
            .all(&self.readers)
            .await?;
        let more = rows.len() as u64 > limit;
        let records = rows
            .into_iter()
            .take(limit as usize)
            .map(IndexRecord::try_from)
            .collect::<Result<Vec<_>, _>>()?;
        let next = records.last().filter(|_| more).map(|last| last.index);
        Ok(AuditPage { records, next })
    }

    async fn last(&self) -> Result<Option<IndexRecord>, IndexError> {
        let row = Entity::find()
            .order_by_desc(Column::Position)
            .one(&self.readers)
            .await?;
        row.map(IndexRecord::try_from).transpose()
    }

    async fn clear(&self) -> Result<(), IndexError> {
        Entity::delete_many().exec(&self.writer).await?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "audit_index_tests.rs"]
mod tests;
