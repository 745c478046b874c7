//! Which node of the cluster a device is.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::string_null;

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0005_node"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::alter()
            .table("devices")
            .add_column(string_null("node"))
            .take();
        manager.alter_table(table).await?;
        // A node is one device, for good.
        let mut one = Index::create();
        one.name("devices_node").table("devices").col("node");
        manager.create_index(one.unique().take()).await
    }
}
