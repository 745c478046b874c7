//! What agents on nodes need to know before they enrol, in the ConfigMap `seawall-fleet`: the authority
//! of the operator's certificates and where the operator is. A join token carries the same to other
//! devices. It is public; who may write it decides whom the agents believe.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::kubernetes::within;
use crate::leadership::Mandate;

pub const CONFIG_MAP: &str = "seawall-fleet";
/// The chart's Service for agents.
const SERVICE: &str = "seawall-fleet";
const PORT: &str = "fleet";
const FIELD_MANAGER: &str = "seawall/for-nodes";

/// Names of the entries; agents read them as files.
pub use crate::agent::node::{ADDRESSES, AUTHORITY};

/// Looked at this often: somebody may have changed or deleted it.
const EVERY: Duration = Duration::from_secs(30);
/// A replica looks this often whether it leads by now.
const SOON: Duration = Duration::from_secs(1);

pub struct ForNodes {
    pub client: Client,
    pub namespace: String,
    /// PEM.
    pub authority: String,
    /// This pod's own address.
    pub own: Option<SocketAddr>,
    /// Where other devices reach the operator.
    pub advertised: Vec<SocketAddr>,
    pub mandate: Mandate,
}

impl ForNodes {
    /// Keeps the ConfigMap until `stop`.
    pub async fn keep(self, stop: CancellationToken) -> Result<()> {
        loop {
            let mut pause = SOON;
            if self.mandate.leads() {
                pause = EVERY;
                if let Err(error) = self.bring_up_to_date().await {
                    warn!(
                        error = format!("{error:#}"),
                        "the ConfigMap {CONFIG_MAP}, by which nodes find the operator, was not brought up to date"
                    );
                    pause = 5 * SOON;
                }
            }
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return Ok(());
            }
        }
    }

    async fn bring_up_to_date(&self) -> Result<()> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), &self.namespace);
        let service = within(
            "reading the Service seawall-fleet: the operator needs `get` on it",
            services.get_opt(SERVICE),
        )
        .await?;
        let addresses = addresses(self.own, service.as_ref(), &self.advertised);
        let wanted = BTreeMap::from([
            (AUTHORITY.to_owned(), self.authority.clone()),
            (ADDRESSES.to_owned(), addresses.join("\n") + "\n"),
        ]);
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let stored = within("reading the ConfigMap", maps.get_opt(CONFIG_MAP)).await?;
        if stored.and_then(|map| map.data).as_ref() == Some(&wanted) {
            return Ok(());
        }
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": CONFIG_MAP, "namespace": self.namespace},
            "data": wanted,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let map = Patch::Apply(map);
        within(
            "writing the ConfigMap",
            maps.patch(CONFIG_MAP, &params, &map),
        )
        .await?;
        info!(?addresses, "nodes are told where the operator is");
        Ok(())
    }
}

/// The Service first, which outlives the pod. The pod too: an isolated node's rules keep these addresses
/// open, and what they see of a packet to the Service is that it goes to the pod.
fn addresses(
    own: Option<SocketAddr>,
    service: Option<&Service>,
    advertised: &[SocketAddr],
) -> Vec<String> {
    let spec = service.and_then(|service| service.spec.as_ref());
    let ports = spec.and_then(|spec| spec.ports.as_ref());
    let port = ports.into_iter().flatten();
    let port = port
        .filter(|port| port.name.as_deref() == Some(PORT))
        .find_map(|port| u16::try_from(port.port).ok());
    let ips = spec.and_then(|spec| spec.cluster_ips.as_ref());
    let ips = ips.into_iter().flatten().filter_map(|ip| ip.parse().ok());
    let of_service = ips.filter_map(|ip| Some(SocketAddr::new(ip, port?)));
    let mut all: Vec<String> = Vec::new();
    let advertised = advertised.iter().copied();
    for address in of_service.chain(own).chain(advertised) {
        let address = address.to_string();
        if !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_told_of_the_service_then_of_the_pod_then_of_what_devices_are_told() {
        let service: Service = serde_json::from_value(json!({"spec": {
            "clusterIPs": ["10.96.3.4", "fd00:96::4", "None"],
            "ports": [{"name": "other", "port": 1}, {"name": "fleet", "port": 8443}],
        }}))
        .expect("a Service");
        let own = "10.244.1.9:8443".parse().ok();
        let advertised = ["192.0.2.10:8443", "10.96.3.4:8443"].map(|at| at.parse().expect("one"));
        let expected = [
            "10.96.3.4:8443",
            "[fd00:96::4]:8443",
            "10.244.1.9:8443",
            "192.0.2.10:8443",
        ];
        assert_eq!(addresses(own, Some(&service), &advertised), expected);
        assert!(addresses(None, None, &[]).is_empty());
    }
}
