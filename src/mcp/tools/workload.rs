//! Which pods a call is about: one by name, or all with the labels of the scope's targets.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::access::Target;
use crate::api::isolation::WorkloadTarget;
use crate::domain::labels::are_alike;
use crate::local::pods::WorkloadView;
use crate::mcp::answer::Failure;
use crate::mcp::resources;
use crate::mcp::text::clean;

/// Labels that a selector of the API may hold.
const MOST_LABELS: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    Pod(String),
    Labels(BTreeMap<String, String>),
}

/// Exactly one of the two is given.
pub fn chosen(pod: Option<String>, labels: BTreeMap<String, String>) -> Result<Chosen, Failure> {
    match (pod, labels.is_empty()) {
        (Some(pod), true) if is_name(&pod) => Ok(Chosen::Pod(pod)),
        (Some(pod), true) => Err(Failure::invalid(format!(
            "{:?} is no name of a pod: list_workloads gives the names there are",
            clean(&pod, 64)
        ))),
        (None, false) if labels.len() > MOST_LABELS => Err(Failure::invalid(format!(
            "labels has more than {MOST_LABELS}: give those of the scope's targets"
        ))),
        (None, false) => Ok(Chosen::Labels(labels)),
        _ => Err(Failure::invalid(
            "give either pod, a name such as list_workloads gives, or labels",
        )),
    }
}

/// As the API wants it.
fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= 253
        && bytes.iter().copied().all(allowed)
        && ends(bytes.first())
        && ends(bytes.last())
}

impl Chosen {
    /// `workload/web-0`, `workload/app=web`.
    pub fn summary(&self) -> String {
        match self {
            Self::Pod(pod) => format!("workload/{pod}"),
            Self::Labels(labels) => {
                let labels = labels.iter().map(|(name, value)| format!("{name}={value}"));
                let labels: Vec<String> = labels.collect();
                format!("workload/{}", clean(&labels.join(","), 253))
            }
        }
    }

    pub fn target(&self) -> Target {
        match self {
            Self::Pod(pod) => Target::Pods([pod.clone()].into()),
            Self::Labels(labels) => Target::Workloads(selector(labels)),
        }
    }

    pub fn isolation_name(&self, user: &str) -> String {
        match self {
            Self::Pod(pod) => resources::pod_isolation_name(user, pod),
            Self::Labels(labels) => resources::pods_isolation_name(user, labels),
        }
    }

    /// The target of an Isolation. The API server compares selectors as they are written, so that one which
    /// says the same as the scope's is written as the scope's.
    pub fn as_written(&self, scopes: Option<&LabelSelector>) -> WorkloadTarget {
        match self {
            Self::Pod(pod) => WorkloadTarget {
                pod: Some(pod.clone()),
                pod_selector: None,
            },
            Self::Labels(labels) => {
                let own = selector(labels);
                let scopes = scopes.filter(|scopes| are_alike(scopes, &own));
                WorkloadTarget {
                    pod: None,
                    pod_selector: Some(scopes.cloned().unwrap_or(own)),
                }
            }
        }
    }

    /// Whether this is what the Isolation names.
    pub fn is_target(&self, target: &WorkloadTarget) -> bool {
        match self {
            Self::Pod(pod) => target.pod.as_ref() == Some(pod),
            Self::Labels(labels) => {
                let named = target.pod_selector.as_ref();
                named.is_some_and(|named| are_alike(named, &selector(labels)))
            }
        }
    }

    /// Whether it chooses the pod.
    pub fn chooses(&self, view: &WorkloadView) -> bool {
        match self {
            Self::Pod(pod) => view.name == *pod,
            Self::Labels(labels) => {
                let mut labels = labels.iter();
                labels.all(|(name, value)| view.labels.get(name) == Some(value))
            }
        }
    }
}

fn selector(labels: &BTreeMap<String, String>) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels.clone()),
        match_expressions: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = pairs
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        owned.collect()
    }

    fn target(value: Value) -> WorkloadTarget {
        serde_json::from_value(value).expect("a target")
    }

    #[test]
    fn either_a_pod_or_labels_are_given_and_a_name_is_one_that_pods_have() {
        assert_eq!(
            chosen(Some("web-0".into()), labels(&[])),
            Ok(Chosen::Pod("web-0".into()))
        );
        let by_labels = labels(&[("app", "web")]);
        assert_eq!(
            chosen(None, by_labels.clone()),
            Ok(Chosen::Labels(by_labels.clone()))
        );
        assert!(chosen(None, labels(&[])).is_err());
        assert!(chosen(Some("web-0".into()), by_labels).is_err());
        for wrong in [
            "",
            "Web",
            "-web",
            "web.",
            "shop/web",
            "web\u{202e}",
            &"w".repeat(254),
        ] {
            assert!(chosen(Some(wrong.into()), labels(&[])).is_err(), "{wrong}");
        }
        let many: Vec<String> = (0..17).map(|n| format!("l{n}")).collect();
        let many = many.iter().map(|name| (name.clone(), "x".to_owned()));
        assert!(chosen(None, many.collect()).is_err());
    }

    #[test]
    fn labels_are_written_as_the_scope_writes_them() {
        let web = Chosen::Labels(labels(&[("app", "web")]));
        let scopes: LabelSelector =
            serde_json::from_value(json!({"matchLabels": {"app": "web"}, "matchExpressions": []}))
                .expect("a selector");
        let written = web.as_written(Some(&scopes));
        assert_eq!(written.pod_selector, Some(scopes.clone()));
        let db = Chosen::Labels(labels(&[("app", "db")]));
        let written = db.as_written(Some(&scopes)).pod_selector;
        assert_ne!(written, Some(scopes));
    }

    #[test]
    fn an_isolation_is_found_by_what_it_names_and_not_by_what_it_chooses() {
        let pod = Chosen::Pod("web-0".into());
        let web = Chosen::Labels(labels(&[("app", "web")]));
        let by_name = target(json!({"pod": "web-0"}));
        let by_labels = target(json!({"podSelector": {"matchLabels": {"app": "web"}}}));
        assert!(pod.is_target(&by_name) && !pod.is_target(&by_labels));
        assert!(web.is_target(&by_labels) && !web.is_target(&by_name));
    }
}
