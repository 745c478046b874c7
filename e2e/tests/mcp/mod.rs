//! The MCP server, from the side of an agent: a real client in both eras of the protocol, the real API
//! server with the chart's rights and admission policies, and a stand-in for the operator behind the
//! real local API.

mod actions;
mod api_server;
mod front;
mod keys;
mod reads;
mod roles;
mod stand;
mod users;
mod workloads;

use libtest_mimic::Trial;

pub fn all() -> Vec<Trial> {
    [
        front::all(),
        reads::all(),
        actions::all(),
        api_server::all(),
        keys::all(),
        roles::all(),
        users::all(),
        workloads::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
