//! Appliers: what `compile` wants, made so. The agents' bundles go through `fleet`; here are the
//! objects that the operator keeps in the API server: NetworkPolicies, the ServiceAccounts and
//! RoleBindings of agents, the list of holds, and that of suspended users; and the pods that are isolated
//! without an agent (`stripped`). `owned` is the engine of the first three; each folder says what its kind
//! looks like.

pub mod access;
pub mod holds;
mod known;
pub mod netpol;
pub mod owned;
mod plan;
pub mod stripped;
pub mod suspended;
