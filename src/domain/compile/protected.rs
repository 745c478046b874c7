//! What must stay reachable: the operator's own addresses, and what the operator was told or found to be
//! protected, such as the API server and the cluster's DNS.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::domain::world::Settings;

/// To whom the address belongs, if it is protected.
pub fn protected_address(settings: &Settings, address: IpAddr) -> Option<String> {
    if settings
        .operator
        .iter()
        .any(|at| at.ip().to_canonical() == address)
    {
        return Some("the operator".into());
    }
    let mut protected = settings.protected.iter();
    let found = protected.find(|protected| protected.network.contains(&address))?;
    Some(found.what.clone())
}

/// What is protected in the network, in words.
pub fn protected_in(settings: &Settings, network: &IpNet) -> Option<String> {
    let mut operator = settings.operator.iter().map(|at| at.ip().to_canonical());
    if let Some(address) = operator.find(|address| network.contains(address)) {
        return Some(format!("the operator at {address}"));
    }
    let mut protected = settings.protected.iter();
    let found = protected.find(|protected| {
        network.contains(&protected.network) || protected.network.contains(network)
    })?;
    Some(format!("{} at {}", found.what, found.network))
}
