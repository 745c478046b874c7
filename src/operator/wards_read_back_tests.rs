use super::super::pods::tests::{Cluster, cluster};
use super::*;

fn answer(cluster: &Cluster, kernel: Option<bool>, detail: &str) -> Vec<DeviceReadBack> {
    vec![DeviceReadBack {
        device: cluster.device.clone(),
        connected: true,
        matches: false,
        kernel,
        detail: detail.to_owned(),
        counts: Vec::new(),
    }]
}

fn said(pods: &[PodReadBack]) -> Vec<(&str, bool, &str)> {
    let pods = pods.iter();
    pods.map(|it| (it.pod.as_str(), it.matches, it.detail.as_str()))
        .collect()
}

#[test]
fn a_tenants_pods_match_when_the_kernel_holds_what_is_wanted_for_them() {
    let cluster = cluster();
    let wards = Wards::of_tenant(&cluster.compiled, "shop");
    assert_eq!(wards.devices(), [cluster.device.clone()].into());
    let yes = answer(&cluster, Some(true), "");
    let pods = wards.judged(&yes, &cluster.applied(true, true));
    assert_eq!(said(&pods), [("web-0", true, "")]);
    let pods = wards.judged(&yes, &cluster.applied(true, false));
    let earlier = "its node's agent holds an earlier state than the one that is wanted";
    assert_eq!(said(&pods), [("web-0", false, earlier)]);
}

#[test]
fn what_an_agent_says_of_its_kernel_is_not_told_for_it_may_be_about_the_pods_of_others() {
    let cluster = cluster();
    let wards = Wards::of_tenant(&cluster.compiled, "shop");
    let applied = cluster.applied(true, true);
    let differs = answer(&cluster, Some(false), "no rule for plant/plc-0");
    let pods = wards.judged(&differs, &applied);
    assert!(
        !pods[0].matches && !pods[0].detail.contains("plc"),
        "{pods:?}"
    );
    let silent = answer(&cluster, None, "it is not connected");
    let pods = wards.judged(&silent, &applied);
    assert!(
        pods[0].detail.ends_with("did not say: it is not connected"),
        "{pods:?}"
    );
    let gone = wards.judged(&[], &applied);
    assert!(!gone[0].matches, "{gone:?}");
}

#[test]
fn a_pod_that_is_named_and_not_chosen_by_anything_matches_when_nothing_is_there() {
    let cluster = cluster();
    let named = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Wards::named(&cluster.compiled, &cluster.world, "shop", &names)
    };
    let wards = named(&["db-0", "web-0", "web-0", "web-1", "web-2"]).ok();
    let wards = wards.expect("pods of the tenant");
    let yes = answer(&cluster, Some(true), "");
    let pods = wards.judged(&yes, &cluster.applied(true, true));
    let expected = [
        (
            "db-0",
            true,
            "nothing is to be in force for it, and nothing is",
        ),
        ("web-0", true, ""),
        ("web-1", false, "no agent runs on node node-2 of pod web-1"),
        ("web-2", false, NO_ADDRESS),
    ];
    assert_eq!(said(&pods), expected);
    let mut applied = cluster.applied(true, true);
    for device in applied.devices.values_mut() {
        let mut wards = (*device.wards).clone();
        wards.insert("shop/db-0".to_owned(), WardApplied::default());
        device.wards = wards.into();
    }
    let pods = wards.judged(&yes, &applied);
    assert!(
        !pods[0].matches && pods[0].detail.contains("not wanted"),
        "{pods:?}"
    );
    for unknown in ["plc-0", "web-9"] {
        let problem = named(&[unknown]).err().expect("no pod of the tenant");
        assert_eq!(problem.code, crate::local::types::NOT_FOUND);
    }
}
