//! `list_workloads`.

use std::collections::BTreeMap;

use rmcp::model::Tool as Definition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::describe;
use super::get_device::HeldIsolation;
use crate::access::{Principal, Tool};
use crate::local::pods::WorkloadView;
use crate::mcp::answer::{Failure, Reply};
use crate::mcp::call::Call;
use crate::mcp::page::{self, ResponseFormat};
use crate::mcp::text::clean;

/// Labels, addresses and names that are shown of one pod.
const MOST_LISTED: usize = 32;
const MOST_TEXT: usize = 256;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// Only pods that carry every one of these labels with these values.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Only pods that an agent enforces for (true) or does not (false).
    covered: Option<bool>,
    /// Only pods that are isolated (true) or are not (false).
    isolated: Option<bool>,
    /// Pods on one page; 50 unless given, and fewer when they would not fit.
    limit: Option<u32>,
    /// Where the page begins: next_cursor of the page before.
    cursor: Option<String>,
    /// concise (default): what tells pods apart; detailed: addresses, policies and what made them too.
    #[serde(default)]
    response_format: ResponseFormat,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    workloads: Vec<Workload>,
    /// Present when there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Workload {
    pod: String,
    labels: BTreeMap<String, String>,
    node: Option<String>,
    /// The agent of its node enforces for it.
    covered: bool,
    /// Why none does, or does not now.
    #[serde(skip_serializing_if = "String::is_empty")]
    obstacle: String,
    /// The scope of this key may act on it.
    target: bool,
    /// Names of the Isolations that target it; empty when it is not isolated.
    isolated_by: Vec<String>,
    /// Those of them that were deleted, many at once, and stay in force until a person confirms.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    held: Vec<HeldIsolation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Detail>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Detail {
    addresses: Vec<String>,
    /// What made it and would replace it, such as ReplicaSet/web-5d9.
    controller: Option<String>,
    /// Of a pod that is isolated without an agent: the Deployment that replaced it. release_workload deletes the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_by: Option<String>,
    /// Names of the Policies that choose it.
    policies: Vec<String>,
}

pub fn define() -> Definition {
    describe::<Input, Output>(
        Tool::ListWorkloads,
        "List workloads",
        "Lists the running pods of the tenant: name, labels, node, whether the node's agent enforces for the \
         pod, whether this key may act on it, and which Isolations target it. Labels are what the people \
         and programs that made the pods wrote.",
    )
}

pub async fn run(call: &Call) -> Result<Reply, Failure> {
    let input: Input = call.arguments()?;
    let principal = &call.principal;
    let mut pods = call.shared.operator.workloads(&principal.tenant).await?;
    pods.retain(|pod| input.matches(pod));
    pods.sort_by(|a, b| a.name.cmp(&b.name));
    let (page, lines) = page::cut(
        pods,
        input.cursor.as_deref(),
        input.limit,
        |pod| pod.name.clone(),
        |pod| {
            let shown = show(principal, pod, input.response_format);
            let line = shown.line();
            (shown, line)
        },
    )?;
    let cursor = page.next_cursor.as_deref();
    let text = page::heading(page.items.len(), "pod", cursor) + &lines;
    let output = Output {
        workloads: page.items,
        next_cursor: page.next_cursor,
    };
    Ok(Reply::new(&output, text))
}

impl Input {
    fn matches(&self, pod: &WorkloadView) -> bool {
        let mut labels = self.labels.iter();
        let labelled = labels.all(|(name, value)| pod.labels.get(name) == Some(value));
        let covered = self.covered.is_none_or(|wanted| wanted == pod.covered);
        let isolated = self
            .isolated
            .is_none_or(|wanted| wanted != pod.isolated_by.is_empty());
        labelled && covered && isolated
    }
}

fn show(principal: &Principal, view: WorkloadView, format: ResponseFormat) -> Workload {
    let text = |text: &str| clean(text, MOST_TEXT);
    let list = |list: &[String]| list.iter().take(MOST_LISTED).map(|t| text(t)).collect();
    let labels = view.labels.iter().take(MOST_LISTED);
    Workload {
        target: principal.pods.contains(&view.name),
        labels: labels
            .map(|(name, value)| (text(name), text(value)))
            .collect(),
        node: view.node.as_deref().map(text),
        covered: view.covered,
        obstacle: text(&view.obstacle),
        isolated_by: list(&view.isolated_by),
        held: HeldIsolation::all(&view.held),
        detail: (format == ResponseFormat::Detailed).then(|| Detail {
            addresses: list(&view.addresses),
            controller: view.controller.as_deref().map(text),
            replaced_by: view.replaced_by.as_deref().map(text),
            policies: list(&view.policies),
        }),
        pod: text(&view.name),
    }
}

impl Workload {
    /// The pod in one line of text.
    fn line(&self) -> String {
        let labels = self.labels.iter();
        let labels: String = labels
            .map(|(name, value)| format!(" {name}={value}"))
            .collect();
        let covered = match (self.covered, self.obstacle.is_empty()) {
            (true, true) => "covered".to_owned(),
            (true, false) => format!("covered, but {}", self.obstacle),
            (false, _) => format!("not covered: {}", self.obstacle),
        };
        let target = match self.target {
            true => "",
            false => ", not a target of this key",
        };
        let isolated = match &self.isolated_by[..] {
            [] => String::new(),
            names => format!(", isolated by {}", names.join(", ")),
        };
        format!("{}{labels} {covered}{target}{isolated}", self.pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::decide::tests::principal;
    use crate::api::Access;

    fn view(name: &str) -> WorkloadView {
        WorkloadView {
            name: name.into(),
            labels: [("app".to_owned(), "we\u{202e}b".to_owned())].into(),
            node: Some("node-1".into()),
            addresses: vec!["10.1.0.5".into()],
            controller: Some("ReplicaSet/web".into()),
            covered: true,
            obstacle: String::new(),
            isolated_by: vec!["web".into()],
            held: Vec::new(),
            policies: vec!["deny".into()],
            replaced_by: None,
        }
    }

    #[test]
    fn a_pod_is_shown_with_whether_this_key_may_act_on_it_and_its_labels_made_harmless() {
        let agent = principal(Access::Contain);
        let own = show(&agent, view("web-0"), ResponseFormat::Concise);
        assert_eq!(own.line(), "web-0 app=web covered, isolated by web");
        assert!(own.target && own.detail.is_none());
        let mut bare = view("db-0");
        bare.covered = false;
        bare.obstacle = "no agent runs on node node-1".into();
        bare.isolated_by.clear();
        let other = show(&agent, bare, ResponseFormat::Detailed);
        let line =
            "db-0 app=web not covered: no agent runs on node node-1, not a target of this key";
        assert_eq!(other.line(), line);
        assert_eq!(other.detail.expect("details").addresses, ["10.1.0.5"]);
    }

    #[test]
    fn labels_are_a_bounded_part_of_what_is_there() {
        let mut many = view("web-0");
        many.labels = (0..1000)
            .map(|n| (format!("l{n}"), "x".repeat(9999)))
            .collect();
        let shown = show(&principal(Access::Contain), many, ResponseFormat::Concise);
        assert_eq!(shown.labels.len(), MOST_LISTED);
        assert!(shown.line().len() < 10_000);
    }

    #[test]
    fn pods_are_found_by_labels_and_by_whether_they_are_isolated() {
        let input = |value| serde_json::from_value::<Input>(value).expect("arguments");
        let pod = view("web-0");
        let label = pod.labels["app"].clone();
        for (arguments, expected) in [
            (serde_json::json!({}), true),
            (serde_json::json!({"labels": {"app": label}}), true),
            (
                serde_json::json!({"labels": {"app": label, "tier": "x"}}),
                false,
            ),
            (serde_json::json!({"isolated": true, "covered": true}), true),
            (serde_json::json!({"isolated": false}), false),
            (serde_json::json!({"covered": false}), false),
        ] {
            assert_eq!(
                input(arguments.clone()).matches(&pod),
                expected,
                "{arguments}"
            );
        }
    }
}
