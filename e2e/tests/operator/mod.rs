//! The operator as a process, with the rights that the chart gives it, against a real API server.

mod device;
mod fixture;
mod holding;
mod leadership;
mod recording;
mod statuses;
mod watching;

use libtest_mimic::Trial;

pub fn all() -> Vec<Trial> {
    [
        holding::all(),
        leadership::all(),
        recording::all(),
        statuses::all(),
        watching::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
