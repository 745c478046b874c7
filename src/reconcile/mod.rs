//! The loop: one task owns the World, and everything that changes it comes through here.
//!
//! Watch events, the device table, time, leadership, confirmations of people → World → `compile` →
//! what the appliers and the fleet should make so, and what the status writer and the local API read.
//! Nothing here waits for the API server: writes are the appliers', so that a slow one never stands
//! between an Isolation and its device. A process that waits for the lease keeps its World warm; only
//! the leader hands anything on.

mod cluster;
mod custody;
pub mod happening;
pub mod holds;
pub mod in_force;
mod inputs;
mod leading;
mod reconciler;
pub mod records;
mod releases;
pub mod tracked;
pub mod view;

pub use cluster::ClusterWatches;
pub use inputs::{Inputs, Outputs};
pub use leading::KindCheck;
pub use reconciler::Reconciler;
