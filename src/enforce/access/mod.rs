//! The access of agents: for each scope a ServiceAccount in the agents' namespace and a RoleBinding in
//! the tenant's, to one of the chart's fixed ClusterRoles. The API server holds agents to it; the
//! operator itself needs no right but `bind` on those roles.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use kube::discovery::ApiResource;
use serde_json::{Value, json};

use super::owned::Owned;
use crate::api::Access;
use crate::api::stamps;
use crate::domain::enforcement::AccessGrant;
use crate::domain::names::ObjectKey;
use crate::watch::Kind;

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

pub struct ServiceAccounts;

impl Owned for ServiceAccounts {
    /// Nothing of a ServiceAccount is ours but that it is there.
    type Content = ();
    const KIND: Kind = Kind::ServiceAccount;
    const MANAGER: &'static str = MANAGER;
    const DELETES_FIRST: bool = true;

    fn resource() -> ApiResource {
        ApiResource::erase::<ServiceAccount>(&())
    }

    fn body((): &()) -> Value {
        // Agents never run as pods: no pod may mount this account's token by default.
        json!({ "automountServiceAccountToken": false })
    }

    fn content(_: &Value) -> Result<(), String> {
        Ok(())
    }
}

pub struct RoleBindings;

/// Who is bound to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Name of a ClusterRole.
    pub role: String,
    /// ServiceAccounts in the agents' namespace; anybody else in the binding is drift.
    pub agents: Vec<String>,
    /// Subjects that we never write.
    pub strangers: usize,
}

impl Owned for RoleBindings {
    type Content = Binding;
    const KIND: Kind = Kind::RoleBinding;
    const MANAGER: &'static str = MANAGER;
    const DELETES_FIRST: bool = true;

    fn resource() -> ApiResource {
        ApiResource::erase::<RoleBinding>(&())
    }

    fn body(content: &Binding) -> Value {
        json!({
            "roleRef": RoleRef {
                api_group: Some(RBAC_GROUP.to_owned()),
                kind: "ClusterRole".to_owned(),
                name: content.role.clone(),
            },
            "subjects": content.agents.iter().map(|name| Subject {
                kind: "ServiceAccount".to_owned(),
                name: name.clone(),
                namespace: Some(stamps::AGENTS_NAMESPACE.to_owned()),
                ..Subject::default()
            }).collect::<Vec<_>>(),
        })
    }

    fn content(data: &Value) -> Result<Binding, String> {
        let read = |error: serde_json::Error| error.to_string();
        let role: RoleRef = serde_json::from_value(data["roleRef"].clone()).map_err(read)?;
        let subjects: Option<Vec<Subject>> =
            serde_json::from_value(data["subjects"].clone()).map_err(read)?;
        let (agents, strangers): (Vec<_>, Vec<_>) = subjects
            .unwrap_or_default()
            .into_iter()
            .partition(|subject| {
                subject.kind == "ServiceAccount"
                    && subject.namespace.as_deref() == Some(stamps::AGENTS_NAMESPACE)
            });
        Ok(Binding {
            role: role.name,
            agents: agents.into_iter().map(|subject| subject.name).collect(),
            strangers: strangers.len(),
        })
    }
}

const MANAGER: &str = "seawall/access";

/// The ServiceAccounts that the grants need, in the agents' namespace.
pub fn service_accounts(grants: &BTreeMap<ObjectKey, AccessGrant>) -> BTreeMap<ObjectKey, ()> {
    grants
        .values()
        .map(|grant| (account_key(grant), ()))
        .collect()
}

/// The RoleBindings that the grants need.
pub fn role_bindings(grants: &BTreeMap<ObjectKey, AccessGrant>) -> BTreeMap<ObjectKey, Binding> {
    grants
        .iter()
        .filter_map(|(scope, grant)| {
            let binding = Binding {
                role: cluster_role(grant.role?)?.to_owned(),
                agents: vec![grant.service_account.clone()],
                strangers: 0,
            };
            Some((binding_key(scope, grant)?, binding))
        })
        .collect()
}

/// The key of the scope's RoleBinding, if it has one. The role is in the name, because the API server
/// lets nobody change a binding's role: another role is another binding, and the old one goes first.
pub fn binding_key(scope: &ObjectKey, grant: &AccessGrant) -> Option<ObjectKey> {
    let role = cluster_role(grant.role?)?;
    let name = format!("{role}:{}", scope.name);
    Some(ObjectKey::new(&scope.namespace, name))
}

/// The key of the scope's ServiceAccount.
pub fn account_key(grant: &AccessGrant) -> ObjectKey {
    ObjectKey::new(stamps::AGENTS_NAMESPACE, &grant.service_account)
}

/// The chart's fixed ClusterRoles. `compile` resolves Custom to the one that its tools need.
fn cluster_role(access: Access) -> Option<&'static str> {
    match access {
        Access::Investigate => Some("seawall-agent-investigate"),
        Access::Contain => Some("seawall-agent-contain"),
        Access::Manage => Some("seawall-agent-manage"),
        Access::Custom => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(role: Option<Access>) -> BTreeMap<ObjectKey, AccessGrant> {
        let grant = AccessGrant {
            service_account: "plant.bot".to_owned(),
            role,
        };
        [(ObjectKey::new("plant", "bot"), grant)].into()
    }

    #[test]
    fn a_scope_without_a_role_keeps_its_account_and_has_no_binding() {
        assert_eq!(service_accounts(&grants(None)).len(), 1);
        assert!(role_bindings(&grants(None)).is_empty());
    }

    #[test]
    fn a_binding_reads_back_as_it_was_written_and_an_added_subject_is_drift() {
        let bindings = role_bindings(&grants(Some(Access::Contain)));
        let binding = &bindings[&ObjectKey::new("plant", "seawall-agent-contain:bot")];
        let mut body = RoleBindings::body(binding);
        assert_eq!(RoleBindings::content(&body).as_ref(), Ok(binding));
        body["subjects"]
            .as_array_mut()
            .expect("subjects")
            .push(json!({"kind": "User", "name": "mallory"}));
        assert_ne!(RoleBindings::content(&body).as_ref(), Ok(binding));
    }

    #[test]
    fn another_role_is_another_binding() {
        let before = role_bindings(&grants(Some(Access::Manage)));
        let after = role_bindings(&grants(Some(Access::Investigate)));
        assert!(before.keys().all(|key| !after.contains_key(key)));
    }
}
