//! The operator as a process, with the rights that the chart gives it, against a real API server.

mod fixture;
mod leadership;
mod watching;

use libtest_mimic::Trial;

pub fn all() -> Vec<Trial> {
    [leadership::all(), watching::all()]
        .into_iter()
        .flatten()
        .collect()
}
