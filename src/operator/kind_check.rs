//! Whether the kind Isolation itself is being removed: its objects vanish one by one then, and that is
//! nobody's release.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, Client, CustomResourceExt};
use tokio::time::timeout;
use tracing::warn;

use crate::api::Isolation;
use crate::reconcile::KindCheck;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the API server.
pub fn of(client: Client) -> KindCheck {
    Arc::new(move || Box::pin(ask(client.clone())))
}

async fn ask(client: Client) -> Option<String> {
    let name = Isolation::crd_name();
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    match timeout(TIMEOUT, definitions.get_opt(name)).await {
        Ok(Ok(None)) => Some(format!("the CustomResourceDefinition {name} is gone")),
        Ok(Ok(Some(definition))) => definition
            .metadata
            .deletion_timestamp
            .map(|_| format!("the CustomResourceDefinition {name} is being deleted")),
        Ok(Err(error)) => {
            warn!(%error, "the CustomResourceDefinition {name} can't be read; releases are judged by their number alone");
            None
        }
        Err(_) => {
            warn!(
                "the API server does not answer about {name}; releases are judged by their number alone"
            );
            None
        }
    }
}
