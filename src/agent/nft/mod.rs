//! The agent's tables in the kernel: what a device state looks like as nftables ([`render`]), how the
//! kernel gets there in one transaction ([`transaction`]), what it holds ([`listing`]), and where the
//! two differ ([`difference`]). All pure but [`program`], which runs `nft`. No other table is read or
//! written.
//!
//! Why a packet can't pass unjudged:
//!
//! - The chains sit at priority -10, in front of the usual filters, and nothing in them accepts
//!   `established`: a rule bites on the next packet of a connection that is open.
//! - A packet with a conntrack entry (`new`, `established`, `related`) is judged by the direction of
//!   its connection, so both directions of one connection meet the same rules.
//! - A packet without one (`invalid`, `untracked`) has no direction. It is judged as if it opened a
//!   connection, and, if nothing decided, as if it answered one, so a default Deny of either direction
//!   drops it unless an Allow names its peer and port.
//! - ICMP errors about a tracked connection (`related`, error types only) pass in the policy part:
//!   without them path MTU discovery breaks for connections that are allowed. Isolation and quarantine
//!   come first.
//! - Isolation and quarantine don't look at conntrack to drop: what no path names is dropped, in any
//!   state.

mod bridges;
pub mod difference;
mod expr;
pub mod listing;
mod networks;
pub mod program;
pub mod render;
mod ruleset;
pub mod transaction;

pub use bridges::{BridgeTable, Bridges, families_around};
pub use listing::{Counts, Found, Listing};
pub use networks::Family;
pub use program::{Nft, NftError, Writers};
pub use render::{ANSWERS_TO_HOST, Place, Rendered, Situation, Suspended, render, suspended};
pub use ruleset::{Chain, Elements, Hook, Rule, Ruleset};

/// The agent's own tables: of family `inet`, and, where packets between the ports of a bridge don't pass
/// that, of family `bridge`. The agent owns all of them.
pub const TABLE: &str = "seawall";
