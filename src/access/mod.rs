//! Who an AI agent is and what it may do: the tools and what they need, keys and their hashes, the
//! directory that turns a key's hash into a [`Principal`], the rates, and the one function that
//! decides. Nothing here does what was decided; `mcp` asks before it acts, and `local` looks keys up.
//! Scopes come from `domain`'s facts and verdicts. The API server decides again by RBAC and admission
//! policy; rates and names of tools are decided here alone.

pub mod command;
pub mod decide;
pub mod directory;
pub mod key;
pub mod rates;
pub mod span;
mod targets;
pub mod tool;

pub use crate::local::types::Principal;
pub use decide::{Circumstances, Decision, Intent, Rate, Refusal, RefusalCode, Target, decide};
pub use directory::Directory;
pub use tool::{Effect, Tool};
