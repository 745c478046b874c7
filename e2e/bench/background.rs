//! Traffic that goes on while something is measured.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use crate::lab::{Family, Flow, Host, Transport};
use crate::site::Site;

const STREAMS: usize = 200;

/// Opened at the same time.
const AT_ONCE: usize = 20;

/// Between two packets of such a stream.
const EVERY: Duration = Duration::from_millis(100);

/// Ends when it is dropped.
pub struct Background(Vec<Flow>);

impl Background {
    /// TCP streams between the devices, but the first, which gets isolated, and a server, opened from
    /// either side in turn. Where that one is the only device, they are of another host.
    pub async fn open(site: &Site, server: &Host, other: &Host) -> anyhow::Result<Self> {
        let devices = site.devices.iter().skip(1).map(|device| &device.host);
        let mut hosts: Vec<&Host> = devices.collect();
        if hosts.is_empty() {
            hosts.push(other);
        }
        let ends = hosts.into_iter().cycle().take(STREAMS).enumerate();
        let ends = ends.map(|(number, host)| match number % 2 {
            0 => (host, server),
            _ => (server, host),
        });
        // Each waits for its first packets.
        let streams = futures::stream::iter(ends)
            .map(|(from, to)| Flow::open(Transport::Tcp, Family::V4, from, to, EVERY))
            .buffered(AT_ONCE);
        Ok(Self(streams.try_collect().await?))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}
