//! Whether the operator may take the labels of pods away and delete them: the API server is asked, again and
//! again, for rights come and go.

use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::domain::world::Stripping;

const AGAIN: Duration = Duration::from_secs(30);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What it takes, everywhere: group, resource and verb.
const NEEDED: [(&str, &str, &str); 5] = [
    ("", "pods", "get"),
    ("", "pods", "patch"),
    ("", "pods", "delete"),
    ("apps", "replicasets", "list"),
    ("apps", "replicasets", "watch"),
];

pub struct PodRights {
    pub client: Client,
    /// When agents that run have enrolled again.
    pub from: Timestamp,
    pub out: watch::Sender<Option<Stripping>>,
}

impl PodRights {
    /// Runs until `stop`.
    pub async fn run(self, stop: CancellationToken) -> Result<()> {
        loop {
            let Some(asked) = stop.run_until_cancelled(self.missing()).await else {
                return Ok(());
            };
            let found = match asked {
                Ok(missing) if missing.is_empty() => Stripping::From(self.from),
                Ok(missing) => Stripping::Denied(format!(
                    "it may not {}: set the chart's workloads.withoutAgent, or bind its ClusterRole seawall-workloads to the operator's ServiceAccount",
                    missing.join(", ")
                )),
                Err(error) => {
                    Stripping::Denied(format!("its rights could not be asked: {error:#}"))
                }
            };
            self.out.send_if_modified(|known| {
                let differs = known.as_ref() != Some(&found);
                if differs {
                    say(&found);
                    *known = Some(found);
                }
                differs
            });
            if stop.run_until_cancelled(sleep(AGAIN)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// In words, such as `delete pods`.
    async fn missing(&self) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for (group, resource, verb) in NEEDED {
            if !self.may(group, resource, verb).await? {
                missing.push(format!("{verb} {resource}"));
            }
        }
        Ok(missing)
    }

    async fn may(&self, group: &str, resource: &str, verb: &str) -> Result<bool> {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    verb: Some(verb.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        let answer = timeout(CALL_TIMEOUT, reviews.create(&params, &review))
            .await
            .context("the API server did not answer within 10 s")?
            .with_context(|| format!("asking whether the operator may {verb} {resource}"))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

fn say(found: &Stripping) {
    match found {
        Stripping::Denied(why) => warn!(
            "pods of nodes without an agent can't be isolated, for the API server does not let the operator: {why}"
        ),
        _ => info!("pods of Deployments can be isolated where no agent runs"),
    }
}
