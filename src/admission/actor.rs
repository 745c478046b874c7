//! Who is behind a Kubernetes user name.

use crate::api::stamps;
use crate::audit::entry::{Actor, ActorKind};

/// What controllers that apply from Git call themselves, as a field manager or as a ServiceAccount.
const GITOPS: [&str; 5] = [
    "argocd-controller",
    "argocd-application-controller",
    "kustomize-controller",
    "helm-controller",
    "fluxcd-controller",
];

/// The author of a request. `manager` is the field manager that the request named, if it did; whoever
/// writes can name any, so it only tells people and GitOps controllers apart.
pub fn author(user: &str, manager: Option<&str>, operator: &str) -> Actor {
    let actor = match stamps::scope_of_user(user) {
        Some((namespace, name)) => {
            let scope = format!("{namespace}/{name}");
            Actor::new(ActorKind::Agent, &scope).user(user)
        }
        None if user == operator => Actor::operator().user(user),
        None => Actor::new(kind(user, manager), user),
    };
    match manager {
        Some(manager) => actor.via(manager),
        None => actor,
    }
}

fn kind(user: &str, manager: Option<&str>) -> ActorKind {
    let account = user.strip_prefix("system:serviceaccount:");
    let name = account.and_then(|account| account.split(':').nth(1));
    if [name, manager].into_iter().flatten().any(is_gitops) {
        ActorKind::Gitops
    } else if user.starts_with("system:") {
        ActorKind::Component
    } else if user.is_empty() {
        ActorKind::Unknown
    } else {
        ActorKind::Person
    }
}

fn is_gitops(name: &str) -> bool {
    GITOPS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATOR: &str = "system:serviceaccount:seawall-system:seawall";

    fn kind_of(user: &str, manager: Option<&str>) -> ActorKind {
        author(user, manager, OPERATOR).kind
    }

    #[test]
    fn an_agent_is_named_by_its_scope() {
        let user = "system:serviceaccount:seawall-agents:plant-a.soc.bot";
        let actor = author(user, Some("seawall/mcp"), OPERATOR);
        assert_eq!(
            (actor.kind, &*actor.name),
            (ActorKind::Agent, "plant-a/soc.bot")
        );
        assert_eq!(actor.via.as_deref(), Some("seawall/mcp"));
        assert_eq!(actor.user.as_deref(), Some(user));
    }

    #[test]
    fn people_gitops_controllers_and_parts_of_the_cluster_are_told_apart() {
        assert_eq!(
            kind_of("alice", Some("kubectl-client-side-apply")),
            ActorKind::Person
        );
        assert_eq!(kind_of("alice", None), ActorKind::Person);
        let flux = "system:serviceaccount:flux-system:kustomize-controller";
        assert_eq!(kind_of(flux, None), ActorKind::Gitops);
        let tenant = "system:serviceaccount:plant-a:reconciler";
        assert_eq!(
            kind_of(tenant, Some("kustomize-controller")),
            ActorKind::Gitops
        );
        assert_eq!(kind_of(tenant, Some("curl")), ActorKind::Component);
        let garbage = "system:serviceaccount:kube-system:generic-garbage-collector";
        assert_eq!(kind_of(garbage, None), ActorKind::Component);
        assert_eq!(kind_of(OPERATOR, None), ActorKind::Operator);
        assert_eq!(kind_of("", None), ActorKind::Unknown);
    }

    #[test]
    fn an_agent_that_calls_itself_a_gitops_controller_stays_an_agent() {
        let user = "system:serviceaccount:seawall-agents:plant-a.bot";
        assert_eq!(
            kind_of(user, Some("kustomize-controller")),
            ActorKind::Agent
        );
    }
}
