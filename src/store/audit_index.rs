//! The table `audit_entries`: the audit log's search index.

use async_trait::async_trait;
use jiff::Timestamp;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Expr, ExprTrait, Func, LikeExpr};
use sea_orm::{
    Condition, ConnectionTrait, DbBackend, QueryOrder, QuerySelect, Set, TransactionTrait,
};
use tokio::time::timeout;

use super::fleet::meta;
use super::{LONGEST, Store};
use crate::audit::index::{AuditIndex, AuditPage, AuditQuery, IndexError, IndexRecord};

/// Rows of one statement: 11 parameters each, of at most 32,766 in SQLite.
const ROWS: usize = 1_000;
/// Held, in the table `meta`, by who writes.
const WRITING: &str = "audit_index";

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
        id: Set(text(&record.id)),
        time: Set(record.time.as_millisecond()),
        kind: Set(text(&record.kind)),
        tenant: Set(text(&record.tenant)),
        actor: Set(text(&record.actor)),
        actor_kind: Set(text(&record.actor_kind)),
        tool: Set(record.tool.as_deref().map(text)),
        target: Set(record.target.as_deref().map(text)),
        result: Set(record.result.as_deref().map(text)),
        json: Set(text(&record.json)),
    })
}

/// PostgreSQL takes no NUL in a text; what an agent names may have one, and must not stop the index.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
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

/// `wanted` occurs in the column: ASCII letters without case, as SQLite compares them, others with.
fn contains(backend: DbBackend, column: Column, wanted: &str) -> Expr {
    let mut pattern = String::from("%");
    for c in text(wanted).chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c.to_ascii_lowercase());
    }
    pattern.push('%');
    let column = Expr::col(column);
    let column = match backend {
        DbBackend::Postgres => Expr::cust_with_expr("$1 COLLATE \"C\"", column),
        _ => column,
    };
    Func::lower(column).like(LikeExpr::new(pattern).escape('\\'))
}

/// How text is written inside the entry's JSON.
fn as_in_json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

fn condition(backend: DbBackend, query: &AuditQuery) -> Result<Condition, IndexError> {
    let is = |column: Column, wanted: &Option<String>| {
        let wanted = wanted.as_deref().map(text);
        wanted.map(|wanted| column.eq(wanted))
    };
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
                .map(|actor| contains(backend, Column::Actor, actor)),
        )
        .add_option(
            query
                .text
                .as_ref()
                .map(|text| contains(backend, Column::Json, &as_in_json(text))),
        ))
}

/// Fails unless the batch goes on where the index ends: another process may have written meanwhile.
async fn follows(db: &impl ConnectionTrait, batch: &[IndexRecord]) -> Result<(), IndexError> {
    let last = Entity::find()
        .order_by_desc(Column::Position)
        .one(db)
        .await?;
    let next = last.map_or(0, |last| last.position + 1);
    match batch.first() {
        Some(first) if position(first.index)? != next => Err(IndexError(format!(
            "it goes on at {next}, and not at {}: another operator writes it too",
            first.index
        ))),
        _ => Ok(()),
    }
}

impl Store {
    async fn write_index(&self, batch: &[IndexRecord]) -> Result<(), IndexError> {
        let transaction = self.writer.begin().await?;
        meta::lock(&transaction, WRITING).await?;
        follows(&transaction, batch).await?;
        for some in batch.chunks(ROWS) {
            let rows = some.iter().map(row).collect::<Result<Vec<_>, _>>()?;
            Entity::insert_many(rows)
                .exec_without_returning(&transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    async fn clear_index(&self) -> Result<(), IndexError> {
        let transaction = self.writer.begin().await?;
        meta::lock(&transaction, WRITING).await?;
        Entity::delete_many().exec(&transaction).await?;
        transaction.commit().await?;
        Ok(())
    }
}

async fn answered<T>(asked: impl Future<Output = Result<T, IndexError>>) -> Result<T, IndexError> {
    let silent = |_| Err(IndexError("the database does not answer".to_owned()));
    timeout(LONGEST, asked).await.unwrap_or_else(silent)
}

#[async_trait]
impl AuditIndex for Store {
    async fn record(&self, batch: &[IndexRecord]) -> Result<(), IndexError> {
        answered(self.write_index(batch)).await
    }

    async fn search(&self, query: &AuditQuery) -> Result<AuditPage, IndexError> {
        let limit = query.page_size();
        let backend = self.readers.get_database_backend();
        let found = Entity::find()
            .filter(condition(backend, query)?)
            .order_by_desc(Column::Position)
            .limit(limit + 1)
            .all(&self.readers);
        let rows = answered(async { Ok(found.await?) }).await?;
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
        let found = Entity::find()
            .order_by_desc(Column::Position)
            .one(&self.readers);
        let row = answered(async { Ok(found.await?) }).await?;
        row.map(IndexRecord::try_from).transpose()
    }

    async fn clear(&self) -> Result<(), IndexError> {
        answered(self.clear_index()).await
    }
}

#[cfg(test)]
#[path = "audit_index_tests.rs"]
mod tests;
