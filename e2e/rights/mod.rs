//! Least privilege, measured: what operator, MCP server, agents on nodes and AI agents asked the API servers of
//! a run for, from those servers' audit logs, against what the chart grants them.
//!
//! Too little is judged after every run: a call of the product that the chart doesn't grant, whether it was refused
//! or a stand let it through. Too much takes a whole run: a right that no call used, or in one namespace alone.

pub mod compare;
pub mod granted;
pub mod needs;

use std::fmt;
use std::process::ExitCode;

use libtest_mimic::Conclusion;
use needs::Needs;

use crate::{charts, run};

/// What the operator may bind AI agents to.
pub const AGENT_ROLES: [&str; 3] = [
    "seawall-agent-investigate",
    "seawall-agent-contain",
    "seawall-agent-manage",
];

/// Stands for the one namespace that an AI agent is bound in.
pub const TENANT: &str = "the tenant";

/// Whom the chart gives rights.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Operator,
    Mcp,
    /// The agents on the cluster's nodes.
    Node,
    /// An AI agent, by the role that it is bound to; none for one that was refused.
    Agent(Option<String>),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => write!(f, "operator"),
            Self::Mcp => write!(f, "MCP server"),
            Self::Node => write!(f, "node's agent"),
            Self::Agent(Some(role)) => write!(f, "AI agent bound to {role}"),
            Self::Agent(None) => write!(f, "AI agent without the right"),
        }
    }
}

/// Judges what the run's tests did. Fails where too little or too much is granted.
pub async fn judge(run: &Conclusion) -> anyhow::Result<ExitCode> {
    let mut needs = Needs::new();
    for log in run::audit_logs()? {
        needs::read(&log, &mut needs)?;
    }
    let whole = run.num_filtered_out == 0 && run.num_ignored == 0;
    if needs.is_empty() && !whole {
        return Ok(ExitCode::SUCCESS);
    }
    let rights = granted::granted(&charts::template(&[]).await?)?;
    let mut findings = compare::missing(&rights, &needs);
    if whole {
        findings.extend(compare::surplus(&rights, &needs));
    }
    let result = if findings.is_empty() { "ok" } else { "FAILED" };
    println!(
        "least privilege: {result}. {}",
        summary(&rights, &needs, whole)
    );
    for finding in &findings {
        println!("    {finding}");
    }
    Ok(match findings.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn summary(rights: &[granted::Right], needs: &Needs, whole: bool) -> String {
    let calls = compare::counts(needs);
    let calls: Vec<String> = calls
        .iter()
        .map(|(who, count)| format!("{who} {count}"))
        .collect();
    let judged = match whole {
        true => format!("all {} rights of the chart against", rights.len()),
        false => "not whether anything granted is unused, which takes a whole run;".to_owned(),
    };
    format!("{judged} calls let through: {}", calls.join(", "))
}
