//! What the watches showed, and what recorded requests explain of it.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, boolean, string};

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
            .col(big_integer("explained"))
            .col(boolean("deletion_asked"))
            .take();
        manager.create_table(table).await
    }
}
