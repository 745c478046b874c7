//! The two writes to pods. Each reads the pod first and names the version that it read, so that what
//! somebody changed meanwhile is looked at again.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Map, Value, json};

use crate::api::stamps;
use crate::domain::cluster::Mark;
use crate::domain::enforcement::StrippedPod;
use crate::domain::names::ObjectKey;
use crate::watch::pod::stripped;

/// The kubelet writes a pod's status all the time.
const TRIES: usize = 5;

/// Takes all labels in one write; whether they were taken for the first time.
pub async fn strip(client: &Client, key: &ObjectKey, wanted: &StrippedPod) -> Result<bool, String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    let params = PatchParams {
        field_manager: Some(stamps::STRIPPED_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let mut last = String::new();
    for _ in 0..TRIES {
        let Some(found) = still_there(&pods, key, wanted).await? else {
            return Ok(false);
        };
        let first = stripped(&found).is_none();
        if first && !is_of_replica_set(&found) {
            return Err("no ReplicaSet would replace it any more: its labels stay".to_owned());
        }
        let patch = Patch::Merge(patch(&found, wanted));
        match pods.patch(&key.name, &params, &patch).await {
            Ok(_) => return Ok(first),
            Err(kube::Error::Api(status)) if status.code == 409 => last = status.message.clone(),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(false),
            Err(error) => return Err(words("take its labels away", &error)),
        }
    }
    Err(last)
}

/// Deletes a pod that is marked; whether there was one.
pub async fn delete(
    client: &Client,
    key: &ObjectKey,
    wanted: &StrippedPod,
) -> Result<bool, String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    let mut last = String::new();
    for _ in 0..TRIES {
        let found = still_there(&pods, key, wanted).await?;
        let Some(found) = found.filter(|found| stripped(found).is_some()) else {
            return Ok(false);
        };
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: found.uid,
                resource_version: found.resource_version,
            }),
            ..DeleteParams::default()
        };
        match pods.delete(&key.name, &params).await {
            Ok(_) => return Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => last = status.message.clone(),
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(false),
            Err(error) => return Err(words("delete it, which ends its isolation", &error)),
        }
    }
    Err(last)
}

/// None when it is gone, or is going.
async fn still_there(
    pods: &Api<Pod>,
    key: &ObjectKey,
    wanted: &StrippedPod,
) -> Result<Option<ObjectMeta>, String> {
    let found = pods.get_opt(&key.name).await;
    let found = found.map_err(|error| words("read it", &error))?;
    let found = found.map(|pod| pod.metadata);
    Ok(found.filter(|found| {
        found.uid.as_ref() == Some(&wanted.uid) && found.deletion_timestamp.is_none()
    }))
}

fn is_of_replica_set(pod: &ObjectMeta) -> bool {
    let mut owners = pod.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && owner.kind == "ReplicaSet")
}

/// Labels that it has go; those that it had before it was stripped are noted, and stay so.
fn patch(pod: &ObjectMeta, wanted: &StrippedPod) -> Value {
    let labels = pod.labels.clone().unwrap_or_default();
    let gone = labels.keys().map(|label| (label.clone(), Value::Null));
    let mut changed: Map<String, Value> = gone.collect();
    changed.insert(stamps::ISOLATED.to_owned(), wanted.uid.clone().into());
    let mark = Mark {
        pod: wanted.uid.clone(),
        deployment: wanted.deployment.clone(),
        labels: stripped(pod).map_or(labels, |stripped| stripped.mark.labels),
        isolations: wanted.isolations.clone(),
    };
    let mark = json!(mark).to_string();
    json!({"metadata": {
        "resourceVersion": pod.resource_version,
        "labels": changed,
        "annotations": {(stamps::ISOLATED): mark},
    }})
}

fn words(what: &str, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "the API server does not let the operator {what}: bind the chart's ClusterRole seawall-workloads to its ServiceAccount ({})",
            status.message
        ),
        error => format!("the operator could not {what}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::enforcement::Found;

    fn wanted() -> StrippedPod {
        StrippedPod {
            uid: "u".into(),
            deployment: "web".into(),
            isolations: [("uid-a".to_owned(), "a".to_owned())].into(),
            network_policy: ObjectKey::new("shop", "seawall.isolated.u"),
            found: Found::Whole,
        }
    }

    fn metadata(value: Value) -> ObjectMeta {
        serde_json::from_value(value).expect("metadata")
    }

    #[test]
    fn one_write_takes_every_label_notes_them_and_names_the_version_that_was_read() {
        let labels = json!({"app": "web", "pod-template-hash": "5d9"});
        let pod = metadata(json!({"uid": "u", "resourceVersion": "7", "labels": labels}));
        let patch = patch(&pod, &wanted());
        let metadata = &patch["metadata"];
        assert_eq!(metadata["resourceVersion"], "7");
        let gone = json!({"app": null, "pod-template-hash": null, (stamps::ISOLATED): "u"});
        assert_eq!(metadata["labels"], gone);
        let text = metadata["annotations"][stamps::ISOLATED].as_str();
        let mark: Mark = serde_json::from_str(text.expect("text")).expect("a mark");
        assert_eq!(json!(mark.labels), labels);
        assert_eq!(mark.isolations["uid-a"], "a");
    }

    #[test]
    fn labels_that_came_later_are_not_taken_for_those_that_people_gave_it() {
        let mark =
            json!({"pod": "u", "deployment": "web", "labels": {"app": "web"}, "isolations": {}});
        let pod = metadata(json!({
            "uid": "u", "resourceVersion": "8", "labels": {(stamps::ISOLATED): "u", "app": "db"},
            "annotations": {(stamps::ISOLATED): mark.to_string()},
        }));
        let patch = patch(&pod, &wanted());
        let gone = json!({"app": null, (stamps::ISOLATED): "u"});
        assert_eq!(patch["metadata"]["labels"], gone);
        let text = patch["metadata"]["annotations"][stamps::ISOLATED].as_str();
        let mark: Mark = serde_json::from_str(text.expect("text")).expect("a mark");
        assert_eq!(json!(mark.labels), json!({"app": "web"}));
    }
}
