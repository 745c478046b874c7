//! The operator's API on a Unix socket, for the sidecar alone: who a key belongs to, the audit log,
//! and what devices say. The types are used by both sides.

pub mod types;
