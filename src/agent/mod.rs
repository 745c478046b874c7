//! The device agent: keeps one nftables table as the operator's signed bundles say, cuts open
//! connections, reads back, and reports. It decides nothing: what is in a bundle was compiled by the
//! operator, and nothing else is accepted.

pub mod conntrack;
pub mod nft;
mod words;
