//! What a label selector of Kubernetes chooses.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

type Labels = BTreeMap<String, String>;

/// Whether the selector chooses what carries these labels. An empty one chooses everything, as in a
/// NetworkPolicy; where that is refused, the schema does. An operator that is unknown chooses nothing.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let mut named = selector.match_labels.iter().flatten();
    let mut required = selector.match_expressions.iter().flatten();
    named.all(|(label, value)| labels.get(label) == Some(value))
        && required.all(|requirement| meets(requirement, labels))
}

/// Whether the two are written alike, but for what is empty and what is left out.
pub fn are_alike(one: &LabelSelector, other: &LabelSelector) -> bool {
    let labels = |it: &LabelSelector| it.match_labels.clone().unwrap_or_default();
    let expressions = |it: &LabelSelector| it.match_expressions.clone().unwrap_or_default();
    labels(one) == labels(other) && expressions(one) == expressions(other)
}

fn meets(requirement: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    let among = || {
        let mut values = requirement.values.iter().flatten();
        value.is_some_and(|value| values.any(|one| one == value))
    };
    match requirement.operator.as_str() {
        "In" => among(),
        // What has no such label is not among the values either.
        "NotIn" => !among(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn chooses(selector: Value) -> Vec<&'static str> {
        let selector: LabelSelector = serde_json::from_value(selector).expect("a selector");
        let pods = [
            ("web", json!({"app": "web", "tier": "front"})),
            ("db", json!({"app": "db"})),
            ("bare", json!({})),
        ];
        let chosen = pods.into_iter().filter(|(_, labels)| {
            let labels = serde_json::from_value(labels.clone()).expect("labels");
            selects(&selector, &labels)
        });
        chosen.map(|(name, _)| name).collect()
    }

    fn expression(operator: &str, values: &[&str]) -> Value {
        json!({"matchExpressions": [{"key": "app", "operator": operator, "values": values}]})
    }

    #[test]
    fn every_label_and_every_expression_must_hold() {
        assert_eq!(chooses(json!({})), ["web", "db", "bare"]);
        assert_eq!(chooses(json!({"matchLabels": {"app": "web"}})), ["web"]);
        let both = json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]});
        assert_eq!(chooses(both), [""; 0]);
    }

    #[test]
    fn selectors_are_alike_when_they_say_the_same_labels_and_expressions() {
        let selector =
            |value: Value| -> LabelSelector { serde_json::from_value(value).expect("a selector") };
        let web = selector(json!({"matchLabels": {"app": "web"}}));
        let also = selector(json!({"matchLabels": {"app": "web"}, "matchExpressions": []}));
        assert!(are_alike(&web, &also));
        for other in [
            json!({"matchLabels": {"app": "web", "tier": "front"}}),
            json!({"matchLabels": {"app": "db"}}),
            json!({}),
            expression("In", &["web"]),
        ] {
            assert!(!are_alike(&web, &selector(other)));
        }
    }

    #[test]
    fn operators_mean_what_kubernetes_says() {
        assert_eq!(chooses(expression("In", &["web", "x"])), ["web"]);
        assert_eq!(chooses(expression("NotIn", &["web"])), ["db", "bare"]);
        assert_eq!(chooses(expression("Exists", &[])), ["web", "db"]);
        assert_eq!(chooses(expression("DoesNotExist", &[])), ["bare"]);
        assert_eq!(chooses(expression("Gt", &["1"])), [""; 0]);
    }
}
