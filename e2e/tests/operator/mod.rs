//! The operator as a process, with the rights that the chart gives it, against a real API server.

mod database;
mod facts;
mod holding;
mod leadership;
mod protected;
mod recording;
mod scopes;
mod shop;
mod statuses;
mod users;
mod watching;
mod without_agent;

use libtest_mimic::Trial;

pub fn all() -> Vec<Trial> {
    [
        database::all(),
        facts::all(),
        holding::all(),
        leadership::all(),
        protected::all(),
        recording::all(),
        scopes::all(),
        statuses::all(),
        users::all(),
        watching::all(),
        without_agent::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
