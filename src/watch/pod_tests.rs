use serde_json::{Value, json};

use super::*;

/// As the API server answers for a pod of a Deployment that runs.
fn web() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-5d8f-abcde", "namespace": "plant", "uid": "8d6e-1", "resourceVersion": "41",
            "labels": {"app": "web", "pod-template-hash": "5d8f"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Config", "name": "other", "uid": "9"},
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d8f", "uid": "7",
                    "controller": true, "blockOwnerDeletion": true},
            ],
        },
        "spec": {
            "nodeName": "worker-1",
            "initContainers": [
                {"name": "migrate", "image": "m", "ports": [{"name": "once", "containerPort": 7}],
                    "readinessProbe": null},
                {"name": "proxy", "image": "p", "restartPolicy": "Always",
                    "ports": [{"name": "admin", "containerPort": 9901, "protocol": "TCP"}],
                    "startupProbe": {"tcpSocket": {"port": "admin"}}},
            ],
            "containers": [
                {"name": "web", "image": "w",
                    "ports": [{"name": "http", "containerPort": 8080},
                        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                        {"containerPort": 9999}],
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
                    "livenessProbe": {"exec": {"command": ["true"]}}},
                {"name": "api", "image": "a",
                    "ports": [{"name": "http", "containerPort": 8081}],
                    "readinessProbe": {"httpGet": {"port": "http"}},
                    "livenessProbe": {"grpc": {"port": 5000}}},
            ],
        },
        "status": {
            "phase": "Running", "podIP": "10.244.1.7",
            "podIPs": [{"ip": "10.244.1.7"}, {"ip": "fd00:1::7"}],
            "startTime": "2026-11-21T09:59:58Z",
            "initContainerStatuses": [
                {"name": "migrate", "image": "m", "imageID": "", "ready": true, "restartCount": 0,
                    "state": {"terminated": {"exitCode": 0, "startedAt": "2026-11-21T10:00:00Z"}}}],
            "containerStatuses": [
                {"name": "web", "image": "w", "imageID": "", "ready": true, "restartCount": 1,
                    "state": {"running": {"startedAt": "2026-11-21T10:03:00Z"}},
                    "lastState": {"terminated": {"exitCode": 1, "startedAt": "2026-11-21T10:00:05Z"}}}],
            "conditions": [{"type": "Ready", "status": "True",
                "lastProbeTime": null, "lastTransitionTime": "2026-11-21T10:00:09Z"}],
        },
    })
}

fn narrow(object: Value) -> Result<Option<Pod>, String> {
    let object: kube::core::DynamicObject = serde_json::from_value(object).expect("an object");
    pod(Raw {
        metadata: object.metadata,
        data: object.data,
    })
}

fn facts(object: Value) -> Pod {
    narrow(object).expect("readable").expect("not finished")
}

fn tcp(ports: &[u16]) -> BTreeSet<Ports> {
    let one = |port: &u16| one(Protocol::Tcp, (*port).into()).expect("a port");
    ports.iter().map(one).collect()
}

#[test]
fn a_pod_is_where_it_is_what_it_is_called_and_what_made_it() {
    let pod = facts(web());
    assert_eq!(pod.uid, "8d6e-1");
    assert_eq!(pod.node.as_deref(), Some("worker-1"));
    assert_eq!(pod.labels["app"], "web");
    let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.244.1.7", "fd00:1::7"]);
    assert!(!pod.host_network);
    let controller = pod.controller.expect("a ReplicaSet");
    assert_eq!(controller.kind, "ReplicaSet");
    assert_eq!(controller.name, "web-5d8f");
    let started = pod.started.expect("it runs").to_string();
    assert_eq!(started, "2026-11-21T10:00:00Z", "the init container's");
}

#[test]
fn ports_have_names_in_all_containers_that_last_and_the_first_of_a_name_counts() {
    let named = facts(web()).named_ports;
    let names: Vec<&str> = named.keys().map(String::as_str).collect();
    assert_eq!(names, ["admin", "dns", "http"]);
    assert_eq!((named["http"].first, named["http"].last), (8080, 8080));
    assert_eq!(named["dns"].protocol, Protocol::Udp);
    assert_eq!(named["admin"].first, 9901);
}

#[test]
fn probes_over_the_network_are_known_by_number_and_by_the_names_of_their_own_container() {
    let pod = facts(web());
    assert_eq!(pod.probes, tcp(&[5000, 8080, 8081, 9901]));
    assert!(pod.restarts_when_unreachable, "the gRPC liveness probe");
    let mut commands = web();
    commands["spec"]["containers"][1]["livenessProbe"] = json!({"exec": {"command": ["true"]}});
    let pod = facts(commands);
    assert!(!pod.restarts_when_unreachable);
    assert_eq!(pod.probes, tcp(&[8080, 8081, 9901]));
}

#[test]
fn a_probe_of_another_host_or_of_a_port_that_nobody_names_is_none_of_the_pods() {
    let mut object = web();
    let liveness = json!({"httpGet": {"host": "10.0.0.9", "port": 80}});
    object["spec"]["containers"][1]["livenessProbe"] = liveness;
    object["spec"]["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": "nobody"}});
    let pod = facts(object);
    assert_eq!(pod.probes, tcp(&[8081, 9901]));
    assert!(!pod.restarts_when_unreachable);
}

#[test]
fn a_pod_in_its_nodes_network_has_no_address_of_its_own() {
    let mut object = web();
    object["spec"]["hostNetwork"] = json!(true);
    let pod = facts(object);
    assert!(pod.host_network && pod.addresses.is_empty());
}

#[test]
fn a_pod_that_waits_for_a_node_is_a_fact_without_place_and_address() {
    let mut object = web();
    object["spec"]["nodeName"] = json!("");
    object["status"] = json!({"phase": "Pending"});
    let pod = facts(object.clone());
    assert!(pod.node.is_none() && pod.addresses.is_empty() && pod.started.is_none());
    object.as_object_mut().expect("an object").remove("status");
    assert_eq!(facts(object), pod);
}

#[test]
fn a_finished_pod_is_no_fact() {
    for phase in ["Succeeded", "Failed"] {
        let mut object = web();
        object["status"]["phase"] = json!(phase);
        assert_eq!(narrow(object), Ok(None), "{phase}");
    }
}

#[test]
fn what_the_kubelet_tells_all_the_time_changes_no_fact() {
    let before = facts(web());
    let mut object = web();
    object["metadata"]["resourceVersion"] = json!("42");
    object["metadata"]["annotations"] = json!({"checked": "now"});
    object["status"]["conditions"][0]["status"] = json!("False");
    object["status"]["containerStatuses"][0]["ready"] = json!(false);
    object["status"]["containerStatuses"][0]["restartCount"] = json!(2);
    let restarted = json!({"running": {"startedAt": "2026-11-21T11:00:00Z"}});
    object["status"]["containerStatuses"][0]["state"] = restarted;
    assert_eq!(facts(object), before);
}

#[test]
fn a_pod_that_can_not_be_read_says_which_part() {
    let mut object = web();
    object["spec"]["containers"] = json!("none");
    let why = narrow(object).expect_err("no list");
    assert!(why.contains("its spec can't be read"), "{why}");
}

/// The pod as the operator leaves it.
fn isolated() -> Value {
    let mut object = web();
    let mark = json!({
        "pod": "8d6e-1", "deployment": "web", "labels": {"app": "web"}, "isolations": {"u": "one"},
    });
    let metadata = &mut object["metadata"];
    metadata["labels"] = json!({(stamps::ISOLATED): "8d6e-1"});
    metadata["annotations"] = json!({(stamps::ISOLATED): mark.to_string()});
    object
}

#[test]
fn a_pod_whose_labels_were_taken_is_known_by_those_that_it_had() {
    let pod = facts(isolated());
    assert!(pod.is_bare());
    assert_eq!(pod.given_labels()["app"], "web");
    let stripped = pod.stripped.expect("its mark");
    assert_eq!(stripped.mark.isolations["u"], "one");
    assert!(!stripped.terminating);
    let mut given_back = isolated();
    given_back["metadata"]["labels"]["app"] = json!("db");
    given_back["metadata"]["deletionTimestamp"] = json!("2026-11-21T12:00:00Z");
    let pod = facts(given_back);
    assert!(!pod.is_bare());
    assert_eq!(pod.given_labels()["app"], "web");
    assert!(pod.stripped.expect("its mark").terminating);
}

#[test]
fn a_mark_that_was_copied_or_is_broken_is_none() {
    let mut copied = isolated();
    copied["metadata"]["uid"] = json!("another");
    let mut broken = isolated();
    broken["metadata"]["annotations"][stamps::ISOLATED] = json!("{");
    for object in [copied, broken, web()] {
        assert_eq!(facts(object).stripped, None);
    }
}
