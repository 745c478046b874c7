//! Devices, join tokens, the epoch, and the Isolations that were in force.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, big_integer_null, string, string_null, string_uniq, text, text_null,
};

pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0001_fleet"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(devices()).await?;
        manager.create_table(join_tokens()).await?;
        manager.create_table(meta()).await?;
        manager.create_table(isolations_in_force()).await
    }
}

/// Times are milliseconds of Unix time; what is not searched by is JSON.
fn devices() -> TableCreateStatement {
    Table::create()
        .table("devices")
        .col(string("id").primary_key())
        .col(string("tenant"))
        .col(text("tags"))
        .col(string("trust"))
        .col(string_uniq("fingerprint"))
        .col(big_integer("enrolled_at"))
        .col(string("token"))
        .col(big_integer_null("revoked_at"))
        .col(text("facts"))
        .col(text("addresses"))
        .col(big_integer_null("last_seen"))
        .col(big_integer_null("applied_epoch"))
        .col(big_integer_null("applied_revision"))
        .col(string_null("applied_hash"))
        .col(big_integer_null("applied_at"))
        .col(text("applied_isolations"))
        .col(text("connections_cut"))
        .take()
}

fn join_tokens() -> TableCreateStatement {
    Table::create()
        .table("join_tokens")
        .col(string("id").primary_key())
        .col(string("secret_sha256"))
        .col(string("tenant"))
        .col(text("tags"))
        .col(big_integer("created_at"))
        .col(string("created_by"))
        .col(big_integer("expires_at"))
        .col(big_integer("uses_left"))
        .col(big_integer_null("revoked_at"))
        .take()
}

fn meta() -> TableCreateStatement {
    Table::create()
        .table("meta")
        .col(string("key").primary_key())
        .col(text("value"))
        .take()
}

fn isolations_in_force() -> TableCreateStatement {
    Table::create()
        .table("isolations_in_force")
        .col(string("uid").primary_key())
        .col(text("isolation"))
        .col(text_null("hold"))
        .col(big_integer("since"))
        .take()
}
