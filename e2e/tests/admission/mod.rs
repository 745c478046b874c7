//! The admission policies and the rights of the chart, from the side of each user: people, agents through
//! the MCP server's identity, and the operator.

mod operator;
mod people;
mod pods;
mod policies;
mod scope;
mod stamps;
pub mod tenant;
mod users;
mod writers;

use libtest_mimic::Trial;

pub fn all() -> Vec<Trial> {
    [
        stamps::all(),
        scope::all(),
        policies::all(),
        users::all(),
        writers::all(),
        operator::all(),
        people::all(),
        pods::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
