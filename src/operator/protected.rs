//! What no resource may cut: the networks given by flag, and the addresses of the API server and of
//! the cluster's DNS, read from the cluster where the operator may.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client};
use tracing::{info, warn};

use super::kubernetes::within;
use crate::domain::names::ObjectKey;
use crate::domain::world::Protected;

/// The API server's Service, in the namespace `default`, and its EndpointSlice.
const API_SERVER: &str = "kubernetes";

/// Those that were found; one that can't be read is logged, for it has to be given by flag then.
/// `dns` is the Service of the cluster's DNS.
pub async fn discover(client: &Client, dns: &ObjectKey) -> Vec<Protected> {
    let api_server = ObjectKey::new("default", API_SERVER);
    let mut found = Vec::new();
    for (service, what) in [(&api_server, "the API server"), (dns, "the cluster's DNS")] {
        match addresses(client, service).await {
            Ok(addresses) => {
                info!(?addresses, "{what} is protected");
                found.extend(addresses.into_iter().map(|address| Protected {
                    what: what.to_owned(),
                    network: IpNet::from(address),
                }));
            }
            Err(error) => warn!(
                error = format!("{error:#}"),
                "the addresses of {what} can't be read; name them with --protected"
            ),
        }
    }
    found
}

/// The Service's own addresses and those of what is behind it; none if there is no such Service.
async fn addresses(client: &Client, service: &ObjectKey) -> anyhow::Result<Vec<IpAddr>> {
    let ObjectKey { namespace, name } = service;
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let service = within("reading the Service", services.get_opt(name)).await?;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    // The API server's own slice has a fixed name, and the right to read it is for that name.
    let slices = if name == API_SERVER {
        within("reading the EndpointSlice", slices.get_opt(name))
            .await?
            .into_iter()
            .collect()
    } else {
        let of_service =
            ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
        within("listing EndpointSlices", slices.list(&of_service))
            .await?
            .items
    };
    let own = service
        .and_then(|service| service.spec)
        .and_then(|spec| spec.cluster_ips)
        .unwrap_or_default();
    let behind = slices
        .into_iter()
        .flat_map(|slice| slice.endpoints.unwrap_or_default())
        .flat_map(|endpoint| endpoint.addresses);
    let mut addresses: Vec<IpAddr> = own
        .into_iter()
        .chain(behind)
        .filter_map(|text| text.parse().ok())
        .filter(|address: &IpAddr| !address.is_loopback())
        .collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}
