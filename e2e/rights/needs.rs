//! What the product asked the API servers of a run for, and the rights that each call takes.

use std::collections::BTreeMap;
use std::path::Path;

use seawall::api::stamps::AGENTS_NAMESPACE;
use seawall::user_agent::Part;

use super::{AGENT_ROLES, TENANT, Who};
use crate::charts::SYSTEM;
use crate::cluster::audit::{AuditEvent, AuditLog};

/// A right that a call takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Need {
    pub who: Who,
    /// Empty for what has none, and for a call to all namespaces.
    pub namespace: String,
    pub verb: String,
    pub group: String,
    pub resource: String,
    /// Empty for a call that names none.
    pub name: String,
}

/// What is known of the calls with one need.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// How many were let through.
    pub allowed: usize,
    pub forbidden: usize,
    /// One of them, for people to look at: the file and what let it through.
    pub example: String,
}

pub type Needs = BTreeMap<Need, Calls>;

/// Adds the needs of the calls in one API server's audit log.
pub fn read(log: &Path, needs: &mut Needs) -> anyhow::Result<()> {
    for event in AuditLog::at(log).of_accounts("seawall")? {
        if !is_the_products(&event) || is_everybodys(&event) {
            continue;
        }
        for need in needs_of(&event) {
            let calls = needs.entry(need).or_default();
            // What another answered before the authorizer, such as one that is overloaded, says nothing.
            if event.is_authorized() {
                calls.allowed += 1;
            } else if event.code() == 403 {
                calls.forbidden += 1;
            }
            if calls.example.is_empty() {
                let reason = event.annotations.get("authorization.k8s.io/reason");
                let reason = reason.map_or("", String::as_str);
                calls.example = format!("{}: {reason}", log.display());
            }
        }
    }
    Ok(())
}

/// Tests that forge speak with the accounts' tokens too, and without our user agent. Agents on nodes have no
/// client of the API server: nobody asks for anything with their token.
fn is_the_products(event: &AuditEvent) -> bool {
    let sent_by = |part: Part| {
        let rest = event.user_agent.strip_prefix(part.name());
        rest.is_some_and(|rest| rest.starts_with('/'))
    };
    sent_by(Part::Operator)
        || sent_by(Part::Mcp)
        || account_of(&event.user.username) == Some((SYSTEM, "seawall-agent"))
}

/// What Kubernetes itself lets every account do, such as asking what it may.
fn is_everybodys(event: &AuditEvent) -> bool {
    let reason = event.annotations.get("authorization.k8s.io/reason");
    reason.is_some_and(|reason| reason.contains(r#"ClusterRole "system:basic-user""#))
}

fn account_of(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

fn who(user: &str, role: Option<&str>) -> Option<Who> {
    match account_of(user)? {
        (SYSTEM, "seawall") => Some(Who::Operator),
        (SYSTEM, "seawall-mcp") => Some(Who::Mcp),
        (SYSTEM, "seawall-agent") => Some(Who::Node),
        (AGENTS_NAMESPACE, _) => Some(Who::Agent(role.map(str::to_owned))),
        _ => None,
    }
}

fn needs_of(event: &AuditEvent) -> Vec<Need> {
    let mut needs = Vec::new();
    if let Some(impersonated) = &event.impersonated_user {
        needs.extend(impersonation(&event.user.username, &impersonated.username));
    }
    let Some(actor) = who(event.actor(), event.role()) else {
        return needs;
    };
    let object = event.object_ref.clone().unwrap_or_default();
    let mut resource = object.resource;
    if resource.is_empty() {
        event.uri.clone_into(&mut resource);
    }
    if !object.subresource.is_empty() {
        resource = format!("{resource}/{}", object.subresource);
    }
    let need = Need {
        // Whichever tenant's it is.
        namespace: match &actor {
            Who::Agent(_) => TENANT.to_owned(),
            _ => object.namespace,
        },
        who: actor,
        verb: event.verb.clone(),
        group: object.api_group,
        resource,
        name: object.name,
    };
    // Server-side apply of what isn't there takes both, and so does an update that creates.
    if event.code() == 201 && ["patch", "update"].contains(&need.verb.as_str()) {
        needs.push(Need {
            verb: "create".to_owned(),
            ..need.clone()
        });
    }
    needs.extend(binding(event, &need));
    needs.push(need);
    needs
}

fn impersonation(user: &str, impersonated: &str) -> Option<Need> {
    let (namespace, name) = account_of(impersonated)?;
    Some(Need {
        who: who(user, None)?,
        namespace: namespace.to_owned(),
        verb: "impersonate".to_owned(),
        group: String::new(),
        resource: "serviceaccounts".to_owned(),
        name: name.to_owned(),
    })
}

/// Who binds somebody to a role holds all that it grants, or may bind it.
fn binding(event: &AuditEvent, need: &Need) -> Option<Need> {
    let role = event.request_object["roleRef"]["name"].as_str()?;
    let stored = (200..300).contains(&event.code());
    (stored && need.resource == "rolebindings" && AGENT_ROLES.contains(&role)).then(|| Need {
        namespace: String::new(),
        verb: "bind".to_owned(),
        resource: "clusterroles".to_owned(),
        name: role.to_owned(),
        ..need.clone()
    })
}
