//! `seawall operator`: its flags, what it reads before it starts, and the small tasks around the loop.
//! `app` wires these and the other parts together.

pub mod args;
pub mod data_dir;
pub mod keys;
pub mod kubernetes;
pub mod mcp_token;
pub mod protected;
