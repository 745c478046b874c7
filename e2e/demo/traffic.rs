//! Flows of every kind from some hosts to one: TCP, UDP and ICMP, IPv4 and IPv6.

use std::time::{Duration, Instant};

use crate::lab::{Family, Flow, Host, Transport};

/// Between two packets of a flow.
const EVERY: Duration = Duration::from_millis(2);

pub struct Traffic(Vec<Flow>);

impl Traffic {
    pub async fn open(from: &[&Host], to: &Host) -> anyhow::Result<Self> {
        let mut flows = Vec::new();
        for host in from {
            for transport in Transport::ALL {
                for family in Family::BOTH {
                    flows.push(Flow::open(transport, family, host, to, EVERY).await?);
                }
            }
        }
        Ok(Self(flows))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// That packets sent from now on arrive, in each flow and direction.
    pub async fn flows(&self) -> anyhow::Result<()> {
        for flow in &self.0 {
            flow.flows(Duration::from_secs(3)).await?;
        }
        Ok(())
    }

    /// That each flow ran until the action and nothing that was sent since `done` arrived. The time from the
    /// action to the very last packet.
    pub fn cut(&self, action: Instant, done: Instant) -> anyhow::Result<Duration> {
        let mut last = Duration::ZERO;
        for flow in &self.0 {
            last = last.max(flow.cut(action, done)?.latency);
        }
        Ok(last)
    }

    /// Packets that were sent since then and arrived.
    pub fn passed_since(&self, from: Instant) -> usize {
        let records = self.0.iter().flat_map(Flow::records);
        records.map(|record| record.passed_since(from)).sum()
    }
}
