//! The tools that an agent can be given, by name, and the least kind of access that each needs. What they
//! do is `mcp`'s; here they decide which fixed role a scope that names them is bound to.

use crate::api::Access;

/// `create_policy` and `disable_policy` need `Contain` alone: what they may write is decided by the kind of
/// access when they are called, and by the API server.
const TOOLS: [(&str, Access); 19] = [
    ("block_destination", Access::Contain),
    ("create_policy", Access::Contain),
    ("disable_policy", Access::Contain),
    ("explain_connection", Access::Investigate),
    ("get_device", Access::Investigate),
    ("get_policy", Access::Investigate),
    ("isolate_device", Access::Contain),
    ("isolate_workload", Access::Contain),
    ("list_devices", Access::Investigate),
    ("list_isolations", Access::Investigate),
    ("list_policies", Access::Investigate),
    ("list_workloads", Access::Investigate),
    ("release_device", Access::Contain),
    ("release_workload", Access::Contain),
    ("restore_user", Access::Contain),
    ("search_audit_log", Access::Investigate),
    ("suspend_user", Access::Contain),
    ("unblock_destination", Access::Contain),
    ("verify_enforcement", Access::Investigate),
];

/// The least access of the tool; none for a name that is no tool.
pub fn needed(name: &str) -> Option<Access> {
    let tool = TOOLS.iter().find(|(tool, _)| *tool == name);
    tool.map(|(_, access)| *access)
}

/// Every name, in order.
pub fn names() -> Vec<&'static str> {
    TOOLS.iter().map(|(name, _)| *name).collect()
}

/// The names that a scope's agent sees; `named` are the tools of a `Custom` scope.
pub fn offered(access: Access, named: &[String]) -> Vec<&'static str> {
    let tools = TOOLS.iter().filter(|(name, needed)| match access {
        Access::Custom => named.iter().any(|named| named == name),
        access => *needed <= access,
    });
    tools.map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_in_order_and_each_is_there_once() {
        assert!(names().is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn investigate_has_the_reads_and_contain_all_of_them_too() {
        let reads = offered(Access::Investigate, &[]);
        assert_eq!(reads.len(), 9);
        assert!(!reads.contains(&"isolate_device"));
        assert_eq!(offered(Access::Contain, &[]), names());
        assert_eq!(offered(Access::Manage, &[]), names());
    }
}
