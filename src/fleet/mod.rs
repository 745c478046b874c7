//! The operator's side of the fleet: enrolment, the streams of bundles, and what devices acknowledged.

pub mod join_token;

/// The generated types of `proto/fleet.proto`.
pub mod proto {
    #![allow(clippy::all, clippy::pedantic, missing_docs)]
    tonic::include_proto!("seawall.fleet.v1");
}
