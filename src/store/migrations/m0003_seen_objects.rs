//! What the watches showed, and what was asked of it.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, string, text};

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0003_seen_objects"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table("seen_objects")
            .col(string("uid").primary_key())
            .col(string("kind"))
            .col(string("namespace"))
            .col(string("name"))
            .col(big_integer("seen"))
            .col(text("asked"))
            .take();
        manager.create_table(table).await
    }
}
