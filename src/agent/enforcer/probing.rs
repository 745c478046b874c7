//! The look at whether wards' packets pass the rules at all, at each heartbeat.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Enforcer;
use crate::agent::datapath::Sample;
use crate::agent::interfaces;
use crate::agent::nft::Found;
use crate::domain::applied::Datapath;

impl Enforcer {
    pub fn datapath(&self) -> Datapath {
        self.probe.verdict()
    }

    /// Nothing can be told of an isolated host, which drops before it looks whose a packet is.
    pub(super) async fn probe_datapath(&mut self, found: &Found) {
        let groups = self.state().wards.values();
        let wards: BTreeSet<IpAddr> = groups.flat_map(|group| group.addresses()).collect();
        if wards.is_empty() || self.is_isolated() {
            self.probe.forget();
            return;
        }
        let carried = tokio::task::spawn_blocking(move || interfaces::carried_from(&wards)).await;
        match carried {
            Ok(Ok(carried)) => self.probe.look(Sample::new(carried, found)),
            Ok(Err(error)) => tracing::debug!(%error, "the wards' interfaces were not read"),
            Err(error) => tracing::debug!(%error, "the wards' interfaces were not read"),
        }
    }
}
