//! Label selectors as Kubernetes reads them: every requirement must hold, and an empty selector is all.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

type Labels = BTreeMap<String, String>;

/// An operator that there is not, which the API server refuses, matches nothing.
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let mut wanted = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    wanted.all(|(key, value)| labels.get(key) == Some(value))
        && expressions.all(|requirement| {
            let value = labels.get(&requirement.key);
            let values = requirement.values.as_deref().unwrap_or_default();
            let named = value.is_some_and(|value| values.contains(value));
            match requirement.operator.as_str() {
                "In" => named,
                "NotIn" => !named,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let pairs = pairs.iter();
        pairs.map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    fn expression(key: &str, operator: &str, values: &[&str]) -> LabelSelector {
        LabelSelector {
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.to_owned(),
                operator: operator.to_owned(),
                values: Some(values.iter().map(|value| value.to_string()).collect()),
            }]),
            ..LabelSelector::default()
        }
    }

    #[test]
    fn an_empty_selector_is_all_and_every_requirement_must_hold() {
        let pod = labels(&[("app", "web"), ("tier", "front")]);
        assert!(matches(&LabelSelector::default(), &pod));
        let mut selector = expression("tier", "In", &["front", "back"]);
        selector.match_labels = Some(labels(&[("app", "web")]));
        assert!(matches(&selector, &pod));
        selector.match_labels = Some(labels(&[("app", "db")]));
        assert!(!matches(&selector, &pod));
    }

    #[test]
    fn not_in_matches_what_has_no_such_label() {
        let pod = labels(&[("app", "web")]);
        for (key, operator, values, expected) in [
            ("app", "In", &["web"][..], true),
            ("app", "In", &["db"], false),
            ("app", "NotIn", &["web"], false),
            ("app", "NotIn", &["db"], true),
            ("zone", "NotIn", &["a"], true),
            ("zone", "In", &["a"], false),
            ("app", "Exists", &[], true),
            ("zone", "Exists", &[], false),
            ("zone", "DoesNotExist", &[], true),
            ("app", "DoesNotExist", &[], false),
            ("app", "Gt", &["1"], false),
        ] {
            let found = matches(&expression(key, operator, values), &pod);
            assert_eq!(found, expected, "{key} {operator} {values:?}");
        }
    }
}
