//! The fleet over real TLS on loopback, with a client that speaks the protocol and nothing else.

pub mod agents;
mod enrolment;
pub mod lab;
mod nodes;
mod sessions;
mod states;
