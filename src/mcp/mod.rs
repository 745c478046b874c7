//! The MCP server: AI agents reach Seawall through it and through nothing else. It authenticates a
//! key, shows the tools that the key's scope allows, decides every call, has what it is about to do
//! entered in the audit log, and writes custom resources as the agent's own ServiceAccount. It holds
//! no state but sessions and rates: keys, devices and the audit log are the operator's, asked over its
//! local API; policies and isolations are the API server's. `bridge` carries the protocol over stdio
//! to a server elsewhere.

mod answer;
mod arguments;
mod bridge;
mod call;
mod cluster;
pub mod command;
mod config;
mod front;
mod handler;
mod metrics;
mod page;
mod resources;
mod server;
mod sessions;
mod text;
mod tools;

pub use cluster::Cluster;
pub use server::{Server, Settings};

/// The field manager of everything that agents write.
pub const FIELD_MANAGER: &str = "seawall/mcp";
