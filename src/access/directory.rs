//! From the hash of a key to who acts: every scope's credentials, as the last compile left them. The
//! operator builds one after each compile; the local API looks keys up in it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use subtle::{Choice, ConstantTimeEq};

use super::Principal;
use crate::api::{ApiKeyScopeSpec, stamps};
use crate::domain::names::ObjectKey;
use crate::domain::verdict::{Acceptance, ScopeVerdict};
use crate::domain::world::Resource;
use crate::local::types::Problem;

#[derive(Clone, Debug, Default)]
pub struct Directory {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    key_hashes: Vec<String>,
    principal: Principal,
    disabled: bool,
    /// Why the scope is not in force, whatever its keys.
    refused: Option<String>,
}

impl Directory {
    pub fn new(
        scopes: &BTreeMap<ObjectKey, Resource<ApiKeyScopeSpec>>,
        verdicts: &BTreeMap<ObjectKey, ScopeVerdict>,
    ) -> Self {
        let entries = scopes
            .iter()
            .map(|(key, scope)| entry(key, &scope.spec, verdicts.get(key)))
            .collect();
        Self { entries }
    }

    /// Whose key has this hash. Every hash is compared in full, whichever matches. A hash that two
    /// scopes hold is nobody's: it must not depend on an order who acts.
    pub fn lookup(&self, key_hash: &str, now: Timestamp) -> Result<Principal, Problem> {
        let mut found = Vec::with_capacity(1);
        for entry in &self.entries {
            let matches = entry.key_hashes.iter().fold(Choice::from(0), |any, hash| {
                any | hash.as_bytes().ct_eq(key_hash.as_bytes())
            });
            if bool::from(matches) {
                found.push(entry);
            }
        }
        match found[..] {
            [] => Err(problem("key_unknown", UNKNOWN.into())),
            [entry] => entry.admit(now),
            _ => Err(problem("key_unknown", AMBIGUOUS.into())),
        }
    }
}

const UNKNOWN: &str = "no ApiKeyScope holds this key: it may have been revoked; ask for a new one, \
    made with `seawall keys create`";
const AMBIGUOUS: &str = "more than one ApiKeyScope holds this key: ask for one of your own, made with \
    `seawall keys create`";

fn problem(code: &str, message: String) -> Problem {
    Problem {
        code: code.into(),
        message,
    }
}

fn entry(key: &ObjectKey, spec: &ApiKeyScopeSpec, verdict: Option<&ScopeVerdict>) -> Entry {
    let refused = match verdict.map(|verdict| &verdict.acceptance) {
        Some(Acceptance::Accepted) => None,
        Some(Acceptance::Waiting { message, .. } | Acceptance::Refused { message, .. }) => {
            Some(message.clone())
        }
        None => Some("the operator has not looked at it yet".into()),
    };
    let approval = spec.approval.clone().unwrap_or_default();
    Entry {
        key_hashes: spec.credentials.key_hashes.clone(),
        principal: Principal {
            tenant: key.namespace.clone(),
            agent: key.name.clone(),
            user: stamps::agent_user(&key.namespace, &key.name),
            access: spec.access,
            tools: spec.tools.clone(),
            devices: verdict
                .map(|verdict| verdict.devices.iter().cloned().collect())
                .unwrap_or_default(),
            all_devices: verdict.is_some_and(|verdict| verdict.all_devices),
            target_tags: spec
                .targets
                .iter()
                .filter_map(|targets| targets.devices.as_ref())
                .flat_map(|devices| devices.tags.clone())
                .collect(),
            pods: verdict
                .map(|verdict| verdict.pods.iter().cloned().collect())
                .unwrap_or_default(),
            target_pods: spec.targets.as_ref().and_then(|targets| {
                let workloads = targets.workloads.as_ref()?;
                Some(workloads.pod_selector.clone())
            }),
            users: spec
                .targets
                .as_ref()
                .and_then(|targets| targets.users.clone()),
            limits: spec.limits.clone(),
            needs_approval: approval.tools,
            expires_at: spec.expires_at,
        },
        disabled: spec.disabled,
        refused,
    }
}

impl Entry {
    fn admit(&self, now: Timestamp) -> Result<Principal, Problem> {
        let scope = format!(
            "ApiKeyScope {}/{}",
            self.principal.tenant, self.principal.agent
        );
        if self.disabled {
            return Err(problem(
                "key_disabled",
                format!("{scope} is disabled: ask a person to set its disabled to false"),
            ));
        }
        if let Some(end) = self.principal.expires_at.filter(|end| *end <= now) {
            return Err(problem(
                "key_expired",
                format!("the keys of {scope} expired at {end}: ask a person to move its expiresAt"),
            ));
        }
        if let Some(why) = &self.refused {
            return Err(problem(
                "scope_refused",
                format!("{scope} is not in force: {why}"),
            ));
        }
        Ok(self.principal.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::key;
    use crate::api::Access;
    use crate::api::api_key_scope::{Credentials, Limits};
    use crate::domain::verdict::Reason;

    fn spec(keys: &[&str]) -> ApiKeyScopeSpec {
        ApiKeyScopeSpec {
            access: Access::Contain,
            tools: Vec::new(),
            credentials: Credentials {
                key_hashes: keys.iter().map(|key| key::hash(key)).collect(),
            },
            targets: None,
            limits: Limits::default(),
            approval: None,
            disabled: false,
            expires_at: None,
        }
    }

    fn directory(scopes: &[(&str, ApiKeyScopeSpec)]) -> Directory {
        let named = |name: &str| ObjectKey::new("plant-a", name);
        let world = scopes.iter().map(|(name, spec)| {
            let resource = Resource {
                uid: (*name).into(),
                generation: 1,
                written_by: None,
                created: None,
                spec: spec.clone(),
            };
            (named(name), resource)
        });
        let verdicts = scopes
            .iter()
            .map(|(name, _)| (named(name), ScopeVerdict::default()));
        Directory::new(&world.collect(), &verdicts.collect())
    }

    fn code(result: Result<Principal, Problem>) -> String {
        result.map_or_else(|problem| problem.code, |principal| principal.agent)
    }

    #[test]
    fn each_of_a_scopes_keys_is_its_agent_and_other_keys_are_nobody() {
        let directory = directory(&[("one", spec(&["a", "b"])), ("two", spec(&["c"]))]);
        let now = Timestamp::UNIX_EPOCH;
        for (key, agent) in [
            ("a", "one"),
            ("b", "one"),
            ("c", "two"),
            ("d", "key_unknown"),
        ] {
            assert_eq!(code(directory.lookup(&key::hash(key), now)), agent);
        }
        assert_eq!(code(directory.lookup("", now)), "key_unknown");
    }

    #[test]
    fn a_key_that_two_scopes_hold_is_nobodys() {
        let directory = directory(&[("one", spec(&["a"])), ("two", spec(&["a"]))]);
        let found = directory.lookup(&key::hash("a"), Timestamp::UNIX_EPOCH);
        assert_eq!(code(found), "key_unknown");
    }

    #[test]
    fn a_disabled_scope_and_an_expired_one_refuse_their_keys_in_words() {
        let mut off = spec(&["a"]);
        off.disabled = true;
        let mut over = spec(&["b"]);
        over.expires_at = Some(Timestamp::UNIX_EPOCH);
        let directory = directory(&[("off", off), ("over", over)]);
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(code(directory.lookup(&key::hash("a"), now)), "key_disabled");
        assert_eq!(code(directory.lookup(&key::hash("b"), now)), "key_expired");
    }

    #[test]
    fn a_scope_that_the_operator_refuses_admits_nobody() {
        let key = ObjectKey::new("plant-a", "one");
        let resource = Resource {
            uid: "1".into(),
            generation: 1,
            written_by: None,
            created: None,
            spec: spec(&["a"]),
        };
        let verdict = ScopeVerdict {
            acceptance: Acceptance::Refused {
                reason: Reason::Malformed,
                message: "malformed".into(),
            },
            ..ScopeVerdict::default()
        };
        let scopes = [(key.clone(), resource)].into();
        let refused = Directory::new(&scopes, &[(key, verdict)].into());
        let unseen = Directory::new(&scopes, &BTreeMap::new());
        for directory in [refused, unseen] {
            let found = directory.lookup(&key::hash("a"), Timestamp::UNIX_EPOCH);
            assert_eq!(code(found), "scope_refused");
        }
    }
}
