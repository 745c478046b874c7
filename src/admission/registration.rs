//! Tells the API server how to call the webhook: which certificate it has, and at which path.
//!
//! The chart makes the ValidatingWebhookConfiguration; this fills in what only a running operator knows, and
//! looks now and then whether that is still so, for the chart may be installed or upgraded meanwhile.

use std::time::Duration;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingWebhookConfiguration, WebhookClientConfig,
};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::certificate::Identity;
use crate::backoff::{Backoff, jittered};

/// The chart's name for it.
const CONFIGURATION: &str = "seawall";
const FIELD_MANAGER: &str = "seawall/webhook";
const LOOK: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(10);

pub struct Registration {
    pub client: Client,
    pub identity: Identity,
}

impl Registration {
    /// Looks, and fills in what is missing, until `stop`.
    pub async fn keep(self, stop: CancellationToken) -> anyhow::Result<()> {
        let api: Api<ValidatingWebhookConfiguration> = Api::all(self.client);
        let mut backoff = Backoff::new(Duration::from_millis(500), LOOK);
        loop {
            let looked = tokio::time::timeout(TIMEOUT, register(&api, &self.identity));
            let pause = match looked.await.context("the API server does not answer") {
                Ok(Ok(())) => {
                    backoff.reset();
                    jittered(LOOK)
                }
                Ok(Err(error)) | Err(error) => {
                    warn!(
                        error = format!("{error:#}"),
                        "the webhook is not registered: who asks for a change is not recorded; trying again"
                    );
                    backoff.pause()
                }
            };
            if stop
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                return Ok(());
            }
        }
    }
}

async fn register(
    api: &Api<ValidatingWebhookConfiguration>,
    identity: &Identity,
) -> anyhow::Result<()> {
    let configuration = api.get(CONFIGURATION).await.context(
        "reading the ValidatingWebhookConfiguration seawall: the chart makes it, and lets the operator get and patch it",
    )?;
    let Some(patch) = missing(&configuration, identity) else {
        return Ok(());
    };
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(CONFIGURATION, &params, &Patch::Apply(&patch))
        .await
        .context("patching the ValidatingWebhookConfiguration seawall")?;
    info!("the API server is told how to call the webhook");
    Ok(())
}

/// What has to be applied; None where nothing has to.
fn missing(configuration: &ValidatingWebhookConfiguration, identity: &Identity) -> Option<Value> {
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    let path = identity.path();
    let right = |client: &WebhookClientConfig| {
        let trusted = client.ca_bundle.as_ref();
        trusted == Some(&ByteString(identity.authority().as_bytes().to_vec()))
            && called_path(client) == Some(&path)
    };
    if webhooks.iter().all(|webhook| right(&webhook.client_config)) {
        return None;
    }
    let webhooks: Vec<Value> = webhooks
        .iter()
        .map(|webhook| {
            let client = filled(&webhook.client_config, &path, identity);
            json!({"name": webhook.name, "clientConfig": client})
        })
        .collect();
    Some(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": CONFIGURATION},
        "webhooks": webhooks,
    }))
}

fn called_path(client: &WebhookClientConfig) -> Option<&str> {
    match (&client.service, &client.url) {
        (Some(service), _) => service.path.as_deref(),
        (None, Some(url)) => Some(&url[origin(url).len()..]),
        (None, None) => None,
    }
}

fn filled(client: &WebhookClientConfig, path: &str, identity: &Identity) -> Value {
    let bundle = STANDARD.encode(identity.authority());
    match (&client.service, &client.url) {
        (Some(service), _) => json!({
            "caBundle": bundle,
            "service": {"namespace": service.namespace, "name": service.name, "path": path},
        }),
        (None, url) => {
            let url = url.as_deref().unwrap_or_default();
            json!({"caBundle": bundle, "url": format!("{}{path}", origin(url))})
        }
    }
}

/// Scheme, host and port.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    &url[..end]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fleet::keys::OperatorKeys;

    fn identity() -> Identity {
        let keys = OperatorKeys::generate().expect("keys");
        Identity::new(Arc::new(keys), "seawall-system", &[])
    }

    fn configuration(client: Value) -> ValidatingWebhookConfiguration {
        let webhook = json!({
            "name": "record.seawall.dev",
            "clientConfig": client,
            "sideEffects": "NoneOnDryRun",
            "admissionReviewVersions": ["v1"],
        });
        serde_json::from_value(json!({"webhooks": [webhook]})).expect("a configuration")
    }

    #[test]
    fn a_fresh_configuration_gets_the_certificate_and_the_path_once() {
        let identity = identity();
        for client in [
            json!({"service": {"namespace": "seawall-system", "name": "seawall-webhook"}}),
            json!({"url": "https://127.0.0.1:9443/admission"}),
        ] {
            let patch = missing(&configuration(client), &identity).expect("a patch");
            let filled = patch["webhooks"][0]["clientConfig"].clone();
            assert!(filled.to_string().contains(&identity.path()), "{filled}");
            assert_eq!(missing(&configuration(filled), &identity), None);
        }
    }

    #[test]
    fn another_certificate_or_path_is_put_right() {
        let identity = identity();
        let bundle = STANDARD.encode("another");
        let service = json!({"namespace": "s", "name": "w", "path": identity.path()});
        let client = json!({"caBundle": bundle, "service": service});
        assert!(missing(&configuration(client), &identity).is_some());
        let bundle = STANDARD.encode(identity.authority());
        let client = json!({"caBundle": bundle, "url": "https://127.0.0.1:9443/admission"});
        let patch = missing(&configuration(client), &identity).expect("a patch");
        let url = &patch["webhooks"][0]["clientConfig"]["url"];
        assert_eq!(url, &format!("https://127.0.0.1:9443{}", identity.path()));
    }
}
