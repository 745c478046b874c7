//! The tools by name, what each does to the world, and which of them a kind of access has. The
//! schemas and the doing are `mcp`'s.

use crate::api::Access;

/// Every tool there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tool {
    ListDevices,
    GetDevice,
    ListIsolations,
    ListPolicies,
    GetPolicy,
    ListWorkloads,
    ExplainConnection,
    VerifyEnforcement,
    SearchAuditLog,
    IsolateDevice,
    ReleaseDevice,
    IsolateWorkload,
    ReleaseWorkload,
    SuspendUser,
    RestoreUser,
    BlockDestination,
    UnblockDestination,
    CreatePolicy,
    DisablePolicy,
}

/// What a tool does to what is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Read,
    /// Cuts more than before.
    Tighten,
    /// Takes back what the same agent wrote.
    Undo,
    /// Depends on what is written.
    Write,
}

impl Tool {
    pub const ALL: [Self; 19] = [
        Self::ListDevices,
        Self::GetDevice,
        Self::ListIsolations,
        Self::ListPolicies,
        Self::GetPolicy,
        Self::ListWorkloads,
        Self::ExplainConnection,
        Self::VerifyEnforcement,
        Self::SearchAuditLog,
        Self::IsolateDevice,
        Self::ReleaseDevice,
        Self::IsolateWorkload,
        Self::ReleaseWorkload,
        Self::SuspendUser,
        Self::RestoreUser,
        Self::BlockDestination,
        Self::UnblockDestination,
        Self::CreatePolicy,
        Self::DisablePolicy,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::ListDevices => "list_devices",
            Self::GetDevice => "get_device",
            Self::ListIsolations => "list_isolations",
            Self::ListPolicies => "list_policies",
            Self::GetPolicy => "get_policy",
            Self::ListWorkloads => "list_workloads",
            Self::ExplainConnection => "explain_connection",
            Self::VerifyEnforcement => "verify_enforcement",
            Self::SearchAuditLog => "search_audit_log",
            Self::IsolateDevice => "isolate_device",
            Self::ReleaseDevice => "release_device",
            Self::IsolateWorkload => "isolate_workload",
            Self::ReleaseWorkload => "release_workload",
            Self::SuspendUser => "suspend_user",
            Self::RestoreUser => "restore_user",
            Self::BlockDestination => "block_destination",
            Self::UnblockDestination => "unblock_destination",
            Self::CreatePolicy => "create_policy",
            Self::DisablePolicy => "disable_policy",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }

    pub fn effect(self) -> Effect {
        match self {
            Self::ListDevices
            | Self::GetDevice
            | Self::ListIsolations
            | Self::ListPolicies
            | Self::GetPolicy
            | Self::ListWorkloads
            | Self::ExplainConnection
            | Self::VerifyEnforcement
            | Self::SearchAuditLog => Effect::Read,
            Self::IsolateDevice
            | Self::IsolateWorkload
            | Self::SuspendUser
            | Self::BlockDestination => Effect::Tighten,
            Self::ReleaseDevice
            | Self::ReleaseWorkload
            | Self::RestoreUser
            | Self::UnblockDestination
            | Self::DisablePolicy => Effect::Undo,
            Self::CreatePolicy => Effect::Write,
        }
    }

    pub fn is_action(self) -> bool {
        self.effect() != Effect::Read
    }

    /// Whether `access` has this tool at all; `named` are the tools of a `Custom` scope.
    pub fn is_in(self, access: Access, named: &[String]) -> bool {
        match access {
            Access::Investigate => !self.is_action(),
            Access::Contain | Access::Manage => true,
            Access::Custom => named.iter().any(|name| name == self.name()),
        }
    }

    /// The names of the tools that a scope has, as its status shows them.
    pub fn names_in(access: Access, named: &[String]) -> Vec<String> {
        let mut names: Vec<String> = Self::ALL
            .into_iter()
            .filter(|tool| tool.is_in(access, named))
            .map(|tool| tool.name().to_owned())
            .collect();
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tools;

    #[test]
    fn every_tool_is_found_by_its_name_and_no_other_is() {
        for tool in Tool::ALL {
            assert_eq!(Tool::from_name(tool.name()), Some(tool));
        }
        assert_eq!(Tool::from_name("isolate-device"), None);
    }

    #[test]
    fn investigate_has_the_reads_and_nothing_that_acts() {
        let names = Tool::names_in(Access::Investigate, &[]);
        assert_eq!(
            names,
            [
                "explain_connection",
                "get_device",
                "get_policy",
                "list_devices",
                "list_isolations",
                "list_policies",
                "list_workloads",
                "search_audit_log",
                "verify_enforcement",
            ]
        );
    }

    #[test]
    fn the_core_binds_a_scope_to_a_role_that_its_tools_can_work_with() {
        let mut names: Vec<_> = Tool::ALL.into_iter().map(Tool::name).collect();
        names.sort();
        assert_eq!(names, tools::names());
        for tool in Tool::ALL {
            let needed = tools::needed(tool.name());
            assert_eq!(needed > Some(Access::Investigate), tool.is_action());
        }
    }

    #[test]
    fn custom_has_what_it_names_and_names_of_no_tool_give_nothing() {
        let named = ["isolate_device".to_owned(), "drop_database".to_owned()];
        assert_eq!(Tool::names_in(Access::Custom, &named), ["isolate_device"]);
    }
}
