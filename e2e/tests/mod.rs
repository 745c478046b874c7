//! Every test with real parts, one file a subject. A file gives its tests by `all()`.

mod admission;
mod agent;
mod audit_log;
mod bounds;
mod certificates;
mod certificates_issued;
mod certificates_swapped;
mod chart;
mod chart_life;
mod chart_watch;
mod connecting;
mod control_plane;
mod differential;
mod documents;
mod explaining;
mod gitops;
mod lab;
mod mcp;
mod node;
mod node_enrolment;
mod operator;
mod pods_by_mcp;
mod private;
mod process;
mod refusals;
mod rights;
mod toolset;
mod users_by_mcp;
mod whole_path;
mod workloads;

use libtest_mimic::Trial;

pub fn all() -> Vec<Trial> {
    [
        admission::all(),
        audit_log::all(),
        agent::all(),
        bounds::all(),
        certificates::all(),
        certificates_issued::all(),
        certificates_swapped::all(),
        chart::all(),
        chart_life::all(),
        chart_watch::all(),
        connecting::all(),
        control_plane::all(),
        differential::all(),
        documents::all(),
        explaining::all(),
        gitops::all(),
        lab::all(),
        mcp::all(),
        node::all(),
        node_enrolment::all(),
        operator::all(),
        pods_by_mcp::all(),
        private::all(),
        process::all(),
        refusals::all(),
        rights::all(),
        toolset::all(),
        users_by_mcp::all(),
        whole_path::all(),
        workloads::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
