//! The pure core: facts in, enforcement and verdicts out. No clock, client, file or database here;
//! `watch` and `fleet` narrow what they see into a [`world::World`], [`compile`] turns it into what
//! has to be in force, and the appliers in `enforce` make it so.

pub mod applied;
pub mod cluster;
pub mod compile;
pub mod enforcement;
pub mod explain;
pub mod facts;
pub mod labels;
pub mod names;
pub mod tools;
pub mod verdict;
pub mod words;
pub mod world;
