//! The tamper-evident audit log: one append-only sequence of entries in the open C2SP formats.
//!
//! Owns the log directory (`checkpoint`, `tile/…`, `vkey`, `journal`, `lock`), the typed entries
//! written to it, proofs, offline verification and the trait of the search index. It does not
//! decide what is logged: callers build an [`entry::Entry`] and append it. Entries come from the
//! operator's parts and, over the local API, from the MCP server; they go to the directory and,
//! from there, to whoever implements [`index::AuditIndex`].
//!
//! Formats: <https://c2sp.org/tlog-tiles>, <https://c2sp.org/tlog-checkpoint>,
//! <https://c2sp.org/signed-note>, <https://c2sp.org/tlog-proof>, hashes as in RFC 6962.

pub mod checkpoint;
pub mod cli;
mod disk;
pub mod entry;
pub mod index;
mod journal;
pub mod keys;
pub mod log;
pub mod merkle;
pub mod note;
pub mod print;
pub mod proof;
pub mod prove;
pub mod reader;
mod recover;
#[cfg(test)]
mod testing;
mod text;
pub mod tile;
pub mod trail;
mod tree;
pub mod verify;
mod writer;
