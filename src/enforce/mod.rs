//! Appliers: what `compile` wants, made so. The agents' bundles go through `fleet`; here are the
//! objects that the operator keeps in the API server: NetworkPolicies, and the ServiceAccounts and
//! RoleBindings of agents. `owned` is the engine they share; each folder says what its kind looks like.

pub mod access;
mod known;
pub mod netpol;
pub mod owned;
mod plan;
