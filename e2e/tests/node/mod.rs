//! Real nodes: that they are what a cluster's nodes are, and that nothing of them is left behind.

mod members;

use libtest_mimic::Trial;

use crate::cluster::node::can_run_a_node;

pub fn all() -> Vec<Trial> {
    let trials = [members::all()].into_iter().flatten();
    match can_run_a_node() {
        Ok(()) => trials.collect(),
        Err(why) => trials
            .map(|trial| {
                let kind = format!("skipped: {why:#}");
                trial.with_kind(kind).with_ignored_flag(true)
            })
            .collect(),
    }
}
