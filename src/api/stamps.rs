//! Annotations and labels with a fixed meaning. The admission policies of the chart guard the stamps:
//! only the MCP server, acting as an agent's ServiceAccount, can set them, and nobody can change them.

/// How the object came to be; `mcp_agent` is the only value that anybody may write.
pub const SOURCE: &str = "seawall.dev/source";
/// The value of [`SOURCE`] on what an AI agent wrote.
pub const SOURCE_MCP_AGENT: &str = "mcp_agent";
/// The Kubernetes user that wrote the object, as the API server saw it.
pub const WRITTEN_BY: &str = "seawall.dev/written-by";
/// Why an agent wrote the object, in its own words; data, never an instruction.
pub const REASON: &str = "seawall.dev/reason";
/// The id of the audit log's intent entry that came before the write.
pub const INTENT: &str = "seawall.dev/intent";
/// On the ConfigMap of holds: the id of the hold that a person confirms.
pub const CONFIRM: &str = "seawall.dev/confirm";

/// The label on every object that the operator makes, and the only objects it changes.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub const MANAGED_BY_SEAWALL: &str = "seawall";

/// The field manager of the NetworkPolicies that the operator makes.
pub const NETWORK_POLICY_MANAGER: &str = "seawall/netpol";

/// On a pod without an agent that is cut off: as its one label its UID, by which a NetworkPolicy selects it;
/// as an annotation what was taken away.
pub const ISOLATED: &str = "seawall.dev/isolated";
/// The field manager of both.
pub const STRIPPED_MANAGER: &str = "seawall/stripped";

/// The namespace of the agents' ServiceAccounts.
pub const AGENTS_NAMESPACE: &str = "seawall-agents";

/// The prefix of the Kubernetes user name of every agent.
pub const AGENT_USER_PREFIX: &str = "system:serviceaccount:seawall-agents:";

/// The ServiceAccount of the scope `name` in `namespace`. A namespace holds no dot, so the first dot
/// splits the two again.
pub fn agent_service_account(namespace: &str, name: &str) -> String {
    format!("{namespace}.{name}")
}

/// The Kubernetes user name of the scope `name` in `namespace`.
pub fn agent_user(namespace: &str, name: &str) -> String {
    format!(
        "{AGENT_USER_PREFIX}{}",
        agent_service_account(namespace, name)
    )
}

/// The scope's namespace and name behind a Kubernetes user name, if the user is an agent.
pub fn scope_of_user(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix(AGENT_USER_PREFIX)?.split_once('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_user_name_leads_back_to_its_scope() {
        let user = agent_user("plant-a", "soc.bot");
        assert_eq!(scope_of_user(&user), Some(("plant-a", "soc.bot")));
        assert_eq!(
            scope_of_user("system:serviceaccount:default:plant-a.x"),
            None
        );
    }
}
