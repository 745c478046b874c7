//! `seawall operator`: its flags, what it reads before it starts, and the small tasks around the loop.
//! `app` wires these and the other parts together.

pub mod args;
pub mod auditing;
pub mod base;
pub mod data_dir;
pub mod database;
pub mod explain;
pub mod for_nodes;
pub mod keys;
pub mod kind_check;
pub mod kubernetes;
pub mod local_sources;
pub mod logging;
pub mod mcp_token;
pub mod moments;
pub mod node_tokens;
pub mod pod_rights;
pub mod pods;
mod preview;
pub mod protected;
pub mod release;
pub mod reporter;
pub mod signals;
pub mod standings;
pub mod tasks;
mod users;
mod wards_read_back;
