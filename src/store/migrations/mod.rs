//! The tables, one file for each step; a step that was released is never edited.

mod m0001_fleet;
mod m0002_audit_index;
mod m0003_seen_objects;
mod m0004_connects_from;
mod m0005_node;

use sea_orm_migration::{MigrationTrait, MigratorTrait};

pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_fleet::Migration),
            Box::new(m0002_audit_index::Migration),
            Box::new(m0003_seen_objects::Migration),
            Box::new(m0004_connects_from::Migration),
            Box::new(m0005_node::Migration),
        ]
    }
}
