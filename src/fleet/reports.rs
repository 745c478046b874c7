//! What agents say, taken into the roster. Each of these speaks for its own device only, in its present
//! session; text is cleaned, and what concerns the audit log is told.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tonic::Status;

use super::delivery::OnDevice;
use super::outbox::Outbox;
use super::witness::Happening;
use super::{Fleet, clean, proto, records};
use crate::domain::applied::Datapath;
use crate::domain::names::DeviceId;
use crate::local::types::RuleCount;

const MOST_COUNTS: usize = 4096;

pub(super) fn counts(hostile: &[proto::RuleCount]) -> Vec<RuleCount> {
    let hostile = hostile.iter().take(MOST_COUNTS);
    hostile
        .map(|count| RuleCount {
            rule: clean::name(&count.rule),
            packets: count.packets,
            bytes: count.bytes,
            observing: count.observing,
        })
        .collect()
}

fn datapath(said: proto::Datapath) -> Datapath {
    match said {
        proto::Datapath::Unknown => Datapath::Unknown,
        proto::Datapath::Passes => Datapath::Passes,
        proto::Datapath::Bypasses => Datapath::Bypasses,
    }
}

fn over() -> Status {
    Status::aborted("a newer session of this device took the place of this one")
}

fn behind(device_epoch: u64, epoch: u64) -> Status {
    Status::failed_precondition(format!(
        "the device applied a bundle of epoch {device_epoch}, and this operator is at epoch {epoch}: \
         its store is older than the device. Stop the other operator, or run \
         `seawall fleet advance-epoch {device_epoch}` when the store was restored from a backup"
    ))
}

impl Fleet {
    pub(super) fn attach(
        &self,
        device: &DeviceId,
        from: Option<IpAddr>,
        hello: &proto::Hello,
        outbox: &Arc<Outbox>,
    ) -> Result<u64, Status> {
        let id = self.0.sessions.fetch_add(1, Ordering::Relaxed);
        let (facts, addresses) = clean::facts(&hello.facts.clone().unwrap_or_default());
        let (now, at) = (Instant::now(), records::now());
        let mut roster = self.roster();
        let epoch = roster.epoch().ok_or_else(super::not_leading)?;
        let device_epoch = hello.applied.as_ref().map_or(0, |applied| applied.epoch);
        let member = roster
            .members
            .get_mut(device)
            .ok_or_else(super::server::revoked)?;
        if device_epoch > epoch {
            let happening = Happening::DeviceAhead {
                device: device.clone(),
                device_epoch,
                operator_epoch: epoch,
            };
            let tenant = member.record.tenant.clone();
            let told = member.may_be_told(now);
            drop(roster);
            if told {
                self.tell(format!("device:{device}"), Some(tenant), happening);
            }
            return Err(behind(device_epoch, epoch));
        }
        let mut moved = member.comes_from(from);
        moved |= member.claim(&addresses, at);
        let standing = member.standing();
        moved |= standing.facts.addresses_left_out != facts.addresses_left_out;
        standing.facts = facts;
        standing.last_seen = Some(at);
        member.reported(hello.applied.as_ref(), at);
        let replaced = member.attach(id, outbox.clone(), now);
        if member.needs_sending() {
            member.promise(now);
        }
        moved |= roster.reassign(device, &addresses);
        drop(roster);
        if let Some(replaced) = replaced {
            replaced.outbox.close(over());
        }
        match moved {
            true => self.facts_changed(),
            false => self.changed(),
        }
        Ok(id)
    }

    pub(super) fn detach(&self, device: &DeviceId, session: u64) {
        let mut roster = self.roster();
        let Some(member) = roster.in_session(device, session) else {
            return;
        };
        member.session = None;
        member.unsaved = true;
        drop(roster);
        tracing::info!(%device, "an agent disconnected");
        self.changed();
    }

    pub(super) fn heard(&self, device: &DeviceId, session: u64) -> Result<(), Status> {
        let (now, at) = (Instant::now(), records::now());
        let mut roster = self.roster();
        let member = roster.in_session(device, session).ok_or_else(over)?;
        member.record.standing.last_seen = Some(at);
        if let Some(session) = &mut member.session {
            session.heard = now;
        }
        Ok(())
    }

    pub(super) fn acknowledged(
        &self,
        device: &DeviceId,
        session: u64,
        applied: &proto::Applied,
        ack: &proto::Ack,
    ) -> Result<(), Status> {
        let now = (Instant::now(), records::now());
        let mut roster = self.roster();
        let member = roster.in_session(device, session).ok_or_else(over)?;
        member.delivered(applied, ack.connections_cut, OnDevice::said(ack), now);
        drop(roster);
        self.changed();
        Ok(())
    }

    pub(super) fn refused(
        &self,
        device: &DeviceId,
        session: u64,
        refused: &proto::Refused,
    ) -> Result<(), Status> {
        let reason = clean::line(&refused.reason, 64);
        let detail = clean::line(&refused.detail, clean::LONGEST_DETAIL);
        let mut roster = self.roster();
        let member = roster.in_session(device, session).ok_or_else(over)?;
        member.refused(format!("{reason}: {detail}"), refused.revision);
        let tenant = member.record.tenant.clone();
        let told = member.may_be_told(Instant::now());
        drop(roster);
        self.changed();
        if !told {
            return Ok(());
        }
        let happening = Happening::BundleRefused {
            device: device.clone(),
            epoch: refused.epoch,
            revision: refused.revision,
            reason,
            detail,
        };
        self.tell(format!("device:{device}"), Some(tenant), happening);
        Ok(())
    }

    pub(super) fn heartbeat(
        &self,
        device: &DeviceId,
        session: u64,
        heartbeat: &proto::Heartbeat,
    ) -> Result<(), Status> {
        let mut roster = self.roster();
        let member = roster.in_session(device, session).ok_or_else(over)?;
        let datapath = datapath(heartbeat.datapath());
        let mut news = member.saw(counts(&heartbeat.counts), datapath);
        news |= member.reported(heartbeat.applied.as_ref(), records::now());
        member.retry_if_due(Instant::now());
        drop(roster);
        if news {
            self.changed();
        }
        Ok(())
    }

    pub(super) fn tampered(
        &self,
        device: &DeviceId,
        session: u64,
        tampered: &proto::Tampered,
    ) -> Result<(), Status> {
        let mut roster = self.roster();
        let member = roster.in_session(device, session).ok_or_else(over)?;
        let tenant = member.record.tenant.clone();
        if !member.may_be_told(Instant::now()) {
            return Ok(());
        }
        drop(roster);
        let happening = Happening::Tampered {
            device: device.clone(),
            description: clean::line(&tampered.what, clean::LONGEST_DETAIL),
            repaired: tampered.repaired,
            repair_us: tampered.repair_us,
        };
        self.tell(format!("device:{device}"), Some(tenant), happening);
        Ok(())
    }

    pub(super) fn facts(
        &self,
        device: &DeviceId,
        session: u64,
        facts: &proto::Facts,
    ) -> Result<(), Status> {
        let (facts, addresses) = clean::facts(facts);
        let mut roster = self.roster();
        let member = roster.in_session(device, session).ok_or_else(over)?;
        let mut news = member.claim(&addresses, records::now());
        if member.record.standing.facts != facts {
            member.standing().facts = facts;
            news = true;
        }
        news |= roster.reassign(device, &addresses);
        drop(roster);
        if news {
            self.facts_changed();
        }
        Ok(())
    }

    pub(super) fn answered(
        &self,
        device: &DeviceId,
        session: u64,
        read_back: proto::ReadBack,
    ) -> Result<(), Status> {
        let mut roster = self.roster();
        let member = roster.in_session(device, session).ok_or_else(over)?;
        if let Some(session) = &mut member.session
            && let Some(asker) = session.questions.remove(&read_back.nonce)
        {
            // Who asked may have stopped waiting.
            let _ = asker.send(read_back);
        }
        Ok(())
    }
}
