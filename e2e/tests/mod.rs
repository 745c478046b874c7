//! Every test with real parts, one file a subject. A file gives its tests by `all()`.

mod admission;
mod agent;
mod audit_log;
mod bounds;
mod chart;
mod control_plane;
mod lab;
mod mcp;
mod nodes;
mod operator;
mod private;
mod process;
mod refusals;
mod toolset;
mod whole_path;

use libtest_mimic::Trial;

pub fn all() -> Vec<Trial> {
    [
        admission::all(),
        audit_log::all(),
        agent::all(),
        bounds::all(),
        chart::all(),
        control_plane::all(),
        lab::all(),
        mcp::all(),
        nodes::all(),
        operator::all(),
        private::all(),
        process::all(),
        refusals::all(),
        toolset::all(),
        whole_path::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
