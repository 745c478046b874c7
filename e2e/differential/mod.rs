//! What is said of connections, held against what packets do, on clusters that a seed makes up. Here are the
//! cluster, the questions and the comparison; who sends the packets gives the pods' addresses and what came
//! through.

mod compare;
mod generate;

pub use compare::compare;
pub use generate::{PORTS, Scenario, Size};
