//! The fleet over real TLS on loopback, with a client that speaks the protocol and nothing else.

mod agents;
mod enrolment;
mod lab;
mod sessions;
mod states;
