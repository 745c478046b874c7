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

use crate::backoff::{Backoff, jittered};

/// The chart's name for it.
const CONFIGURATION: &str = "seawall";
const FIELD_MANAGER: &str = "seawall/webhook";
const LOOK: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(10);

pub struct Registration {
    pub client: Client,
    pub told: Told,
}

/// What the API server is told.
#[derive(Clone, Debug)]
pub struct Told {
    pub path: String,
    /// The certificate of the authority to trust, PEM; None where others tell which, such as cert-manager's injector.
    pub authority: Option<String>,
}

impl Registration {
    /// Looks, and fills in what is missing, until `stop`.
    pub async fn keep(self, stop: CancellationToken) -> anyhow::Result<()> {
        let api: Api<ValidatingWebhookConfiguration> = Api::all(self.client);
        let mut backoff = Backoff::new(Duration::from_millis(500), LOOK);
        loop {
            let looked = tokio::time::timeout(TIMEOUT, register(&api, &self.told));
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

async fn register(api: &Api<ValidatingWebhookConfiguration>, told: &Told) -> anyhow::Result<()> {
    let configuration = api.get(CONFIGURATION).await.context(
        "reading the ValidatingWebhookConfiguration seawall: the chart makes it, and lets the operator get and patch it",
    )?;
    let Some(patch) = missing(&configuration, told) else {
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
fn missing(configuration: &ValidatingWebhookConfiguration, told: &Told) -> Option<Value> {
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    let authority = told.authority.as_ref();
    let authority = authority.map(|pem| ByteString(pem.as_bytes().to_vec()));
    let right = |client: &WebhookClientConfig| {
        (authority.is_none() || client.ca_bundle == authority)
            && called_path(client) == Some(&told.path)
    };
    if webhooks.iter().all(|webhook| right(&webhook.client_config)) {
        return None;
    }
    let webhooks: Vec<Value> = webhooks
        .iter()
        .map(|webhook| {
            let client = filled(&webhook.client_config, told);
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

fn filled(client: &WebhookClientConfig, told: &Told) -> Value {
    let path = &told.path;
    let mut filled = match (&client.service, &client.url) {
        (Some(service), _) => json!({
            "service": {"namespace": service.namespace, "name": service.name, "path": path},
        }),
        (None, url) => {
            let url = url.as_deref().unwrap_or_default();
            json!({"url": format!("{}{path}", origin(url))})
        }
    };
    // What is not applied is left to whom it belongs.
    if let Some(authority) = &told.authority {
        filled["caBundle"] = STANDARD.encode(authority).into();
    }
    filled
}

/// Scheme, host and port.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    &url[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> Told {
        Told {
            path: "/admission/0123456789abcdef".into(),
            authority: Some("the authority".into()),
        }
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
        let told = told();
        for client in [
            json!({"service": {"namespace": "seawall-system", "name": "seawall-webhook"}}),
            json!({"url": "https://127.0.0.1:9443/admission"}),
        ] {
            let patch = missing(&configuration(client), &told).expect("a patch");
            let filled = patch["webhooks"][0]["clientConfig"].clone();
            assert!(filled.to_string().contains(&told.path), "{filled}");
            assert_eq!(missing(&configuration(filled), &told), None);
        }
    }

    #[test]
    fn another_certificate_or_path_is_put_right() {
        let told = told();
        let bundle = STANDARD.encode("another");
        let service = json!({"namespace": "s", "name": "w", "path": told.path});
        let client = json!({"caBundle": bundle, "service": service});
        assert!(missing(&configuration(client), &told).is_some());
        let bundle = STANDARD.encode("the authority");
        let client = json!({"caBundle": bundle, "url": "https://127.0.0.1:9443/admission"});
        let patch = missing(&configuration(client), &told).expect("a patch");
        let url = &patch["webhooks"][0]["clientConfig"]["url"];
        assert_eq!(url, &format!("https://127.0.0.1:9443{}", told.path));
    }

    #[test]
    fn a_bundle_that_others_write_is_neither_looked_at_nor_applied() {
        let told = Told {
            authority: None,
            ..told()
        };
        let bundle = STANDARD.encode("another");
        let service = json!({"namespace": "s", "name": "w", "path": "/old"});
        let client = json!({"caBundle": bundle, "service": service});
        let patch = missing(&configuration(client.clone()), &told).expect("a patch");
        let applied = &patch["webhooks"][0]["clientConfig"];
        assert_eq!(applied["service"]["path"], told.path);
        assert_eq!(applied.get("caBundle"), None);
        let mut now = client;
        now["service"]["path"] = told.path.clone().into();
        assert_eq!(missing(&configuration(now), &told), None);
    }
}
