//! The audit log's search index, which can be filled anew from the log at any time.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, string, string_null, text};

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0002_audit_index"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(audit_entries()).await?;
        // Pages are cut by the primary key; these are what they are narrowed by.
        for (name, columns) in [
            ("audit_entries_tenant", ["tenant", "position"].as_slice()),
            ("audit_entries_kind", &["tenant", "kind", "position"]),
            ("audit_entries_target", &["target", "position"]),
        ] {
            let mut index = Index::create();
            index.name(name).table("audit_entries");
            for column in columns {
                index.col(*column);
            }
            manager.create_index(index).await?;
        }
        Ok(())
    }
}

/// Times are milliseconds of Unix time; `position` is the entry's index in the log.
fn audit_entries() -> TableCreateStatement {
    Table::create()
        .table("audit_entries")
        .col(big_integer("position").primary_key())
        .col(string("id"))
        .col(big_integer("time"))
        .col(string("kind"))
        .col(string("tenant"))
        .col(string("actor"))
        .col(string("actor_kind"))
        .col(string_null("tool"))
        .col(string_null("target"))
        .col(string_null("result"))
        .col(text("json"))
        .take()
}
