//! Seawall keeps a breach from spreading: a Kubernetes operator that segments devices and workloads
//! by identity, isolates what was breached, and proves both by reading them back.
//!
//! Imports run one way: `app` and the commands use the parts, the parts use `domain` and `api`, and
//! those two use nothing of the rest. `docs/architecture.md` shows the rooms.

pub mod access;
pub mod admission;
pub mod agent;
pub mod api;
pub mod app;
pub mod audit;
pub mod backoff;
pub mod cli;
pub mod crds;
pub mod domain;
pub mod enforce;
pub mod fleet;
pub mod health;
pub mod leadership;
pub mod local;
pub mod mcp;
pub mod metrics;
pub mod operator;
pub mod reconcile;
pub mod status;
pub mod store;
pub mod tls_pair;
pub mod user_agent;
pub mod watch;
pub mod yaml;
