//! Which replica writes: a loop over one `Lease`.
//!
//! Owns the lease and nothing else; the loop, the appliers and the status writer hold a [`Mandate`], which
//! says whether they may write now, and that it ended. Only clocks of this process are compared (how long a
//! holder's record has not changed), so replicas whose wall clocks differ can't both lead: a leader
//! that has not renewed steps down [`Timing::renew_within`] after its last renewal began, which is
//! before anybody else may take the lease. Every write carries the resourceVersion it was based on.

use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::backoff::jittered;

mod mandate;

pub use mandate::{Mandate, Office, office};

/// The lease's name, in the system namespace.
pub const LEASE: &str = "seawall";

/// The field manager of the lease.
pub const FIELD_MANAGER: &str = "seawall/leadership";

#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long the lease outlives its last renewal, in whole seconds on the API server.
    pub duration: Duration,
    /// A leader that could not renew for this long stops leading; shorter than `duration`.
    pub renew_within: Duration,
    /// Pause between renewals, and between a follower's looks.
    pub every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(10),
            renew_within: Duration::from_secs(7),
            every: Duration::from_secs(2),
        }
    }
}

/// Who asks, and what it knows of a holder that can't be alive any more.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Unique to this process.
    pub identity: String,
    /// Identities that begin so belong to earlier processes on the data directory that this process
    /// has locked: they are dead, and their lease may be taken without waiting for it to run out.
    pub predecessors: Option<String>,
}

impl Candidate {
    /// A candidate without a data directory of its own.
    pub fn new(identity: impl Into<String>) -> Self {
        Self {
            identity: identity.into(),
            predecessors: None,
        }
    }

    fn is_predecessor(&self, holder: &str) -> bool {
        self.predecessors
            .as_deref()
            .is_some_and(|prefix| holder.starts_with(prefix))
    }
}

/// Holds the lease or waits for it until `stop`; then gives it back, so that the next one need not wait.
pub async fn run(
    leases: Api<Lease>,
    candidate: Candidate,
    timing: Timing,
    office: Office,
    stop: CancellationToken,
) -> Result<()> {
    let mut campaign = Campaign {
        leases,
        candidate,
        timing,
        seen: None,
    };
    loop {
        let began = Instant::now();
        let deadline = began + timing.renew_within;
        let won = stop
            .run_until_cancelled(timeout_at(deadline, campaign.try_acquire()))
            .await;
        match won {
            None => break,
            Some(Ok(Ok(true))) => {
                info!(identity = %campaign.candidate.identity, "leading");
                office.hold(deadline);
                campaign.lead(began, &office, &stop).await;
                office.resign();
                if stop.is_cancelled() {
                    break;
                }
                warn!("not leading any more: the lease could not be renewed");
            }
            Some(Ok(Ok(false))) => {}
            Some(Ok(Err(error))) => warn!(
                error = format!("{error:#}"),
                "the lease can't be taken; trying again"
            ),
            Some(Err(_)) => warn!("the API server does not answer about the lease; trying again"),
        }
        if stop
            .run_until_cancelled(sleep(jittered(timing.every)))
            .await
            .is_none()
        {
            break;
        }
    }
    office.resign();
    campaign.give_back().await;
    Ok(())
}

struct Campaign {
    leases: Api<Lease>,
    candidate: Candidate,
    timing: Timing,
    /// The lease as last read or written, and when it was first seen so.
    seen: Option<(Lease, Instant)>,
}

impl Campaign {
    /// Takes the lease if it is free, ours, run out, or a dead predecessor's.
    async fn try_acquire(&mut self) -> Result<bool> {
        let Some(lease) = self
            .leases
            .get_opt(LEASE)
            .await
            .context("reading the lease")?
        else {
            return self.create().await;
        };
        self.observe(lease);
        let (lease, since) = self.seen.as_ref().expect("just observed");
        if !takeable(
            lease,
            &self.candidate,
            since.elapsed(),
            self.timing.duration,
        ) {
            return Ok(false);
        }
        self.write().await
    }

    /// Renews until that fails for too long, somebody else has the lease, or `stop`.
    async fn lead(&mut self, began: Instant, office: &Office, stop: &CancellationToken) {
        let mut renewed = began;
        loop {
            let deadline = renewed + self.timing.renew_within;
            let pause = jittered(self.timing.every).min(deadline - Instant::now());
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
            let attempt = Instant::now();
            let written = stop
                .run_until_cancelled(timeout_at(deadline, self.write()))
                .await;
            match written {
                None => return,
                Some(Ok(Ok(true))) => {
                    renewed = attempt;
                    office.hold(renewed + self.timing.renew_within);
                }
                Some(Ok(Ok(false))) => {
                    if !self.still_ours(deadline).await {
                        return;
                    }
                }
                Some(Ok(Err(error))) => {
                    warn!(error = format!("{error:#}"), "the lease was not renewed");
                }
                Some(Err(_)) => return,
            }
            if Instant::now() >= deadline {
                return;
            }
        }
    }

    /// After a conflict: somebody wrote the lease, perhaps only a label on it.
    async fn still_ours(&mut self, deadline: Instant) -> bool {
        match timeout_at(deadline, self.leases.get_opt(LEASE)).await {
            Ok(Ok(Some(lease))) => {
                self.observe(lease);
                let (lease, _) = self.seen.as_ref().expect("just observed");
                holder(lease) == Some(self.candidate.identity.as_str())
            }
            // Deleted by somebody: step down and take it again by creating it.
            Ok(Ok(None)) => false,
            Ok(Err(_)) | Err(_) => true,
        }
    }

    async fn create(&mut self) -> Result<bool> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(self.claim(None)),
        };
        match self.leases.create(&params(), &lease).await {
            Ok(lease) => {
                self.observe(lease);
                Ok(true)
            }
            Err(error) if conflicts(&error) => Ok(false),
            Err(error) => Err(error).context("creating the lease"),
        }
    }

    /// Writes our claim over what was last seen; `false` if that is not what is there any more.
    async fn write(&mut self) -> Result<bool> {
        let (seen, _) = self.seen.as_ref().context("no lease was read yet")?;
        let mut lease = seen.clone();
        lease.spec = Some(self.claim(seen.spec.as_ref()));
        match self.leases.replace(LEASE, &params(), &lease).await {
            Ok(lease) => {
                debug!("lease renewed");
                self.observe(lease);
                Ok(true)
            }
            Err(error) if conflicts(&error) => Ok(false),
            Err(error) => Err(error).context("writing the lease"),
        }
    }

    fn claim(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let ours = before.and_then(|spec| spec.holder_identity.as_deref())
            == Some(self.candidate.identity.as_str());
        let transitions = before
            .and_then(|spec| spec.lease_transitions)
            .unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.candidate.identity.clone()),
            lease_duration_seconds: Some(
                i32::try_from(self.timing.duration.as_secs().max(1)).unwrap_or(i32::MAX),
            ),
            acquire_time: if ours {
                before.and_then(|spec| spec.acquire_time.clone())
            } else {
                now.clone()
            },
            renew_time: now,
            lease_transitions: Some(if ours { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }

    /// Notes the lease, and when it became what it is.
    fn observe(&mut self, lease: Lease) {
        let unchanged = self.seen.as_ref().is_some_and(|(seen, _)| {
            seen.metadata.resource_version == lease.metadata.resource_version
        });
        if !unchanged {
            self.seen = Some((lease, Instant::now()));
        }
    }

    /// Clears the holder, if it is us. A renewal may have been cut short, so the lease is read first.
    async fn give_back(&mut self) {
        match tokio::time::timeout(Duration::from_secs(3), self.clear()).await {
            Ok(Ok(true)) => info!("the lease is given back"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => warn!(%error, "the lease was not given back; it will run out"),
            Err(_) => warn!("the lease was not given back in time; it will run out"),
        }
    }

    async fn clear(&self) -> kube::Result<bool> {
        let Some(mut lease) = self.leases.get_opt(LEASE).await? else {
            return Ok(false);
        };
        if holder(&lease) != Some(self.candidate.identity.as_str()) {
            return Ok(false);
        }
        if let Some(spec) = lease.spec.as_mut() {
            spec.holder_identity = None;
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        self.leases.replace(LEASE, &params(), &lease).await?;
        Ok(true)
    }
}

fn params() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    }
}

fn conflicts(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 || status.code == 404)
}

fn holder(lease: &Lease) -> Option<&str> {
    lease
        .spec
        .as_ref()?
        .holder_identity
        .as_deref()
        .filter(|identity| !identity.is_empty())
}

/// Whether `candidate` may write its claim over `lease`, which has been as it is for `unchanged`.
fn takeable(
    lease: &Lease,
    candidate: &Candidate,
    unchanged: Duration,
    our_duration: Duration,
) -> bool {
    let Some(holder) = holder(lease) else {
        return true;
    };
    // The holder promised this duration, which may be another version's; never trust less than ours.
    let promised = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.lease_duration_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(our_duration, Duration::from_secs);
    holder == candidate.identity
        || candidate.is_predecessor(holder)
        || unchanged > promised.max(our_duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>, seconds: i32) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                lease_duration_seconds: Some(seconds),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    fn may_take(lease: &Lease, unchanged: u64) -> bool {
        let candidate = Candidate {
            identity: "host-a_dir1_2".to_owned(),
            predecessors: Some("host-a_dir1_".to_owned()),
        };
        takeable(
            lease,
            &candidate,
            Duration::from_secs(unchanged),
            Duration::from_secs(10),
        )
    }

    #[test]
    fn a_lease_that_nobody_holds_or_that_was_given_back_is_taken() {
        assert!(may_take(&lease(None, 10), 0));
        assert!(may_take(&lease(Some(""), 10), 0));
        assert!(may_take(&Lease::default(), 0));
    }

    #[test]
    fn anothers_lease_is_taken_only_after_it_was_seen_unchanged_for_its_whole_duration() {
        assert!(!may_take(&lease(Some("host-b_dir9_1"), 10), 10));
        assert!(may_take(&lease(Some("host-b_dir9_1"), 10), 11));
        assert!(
            !may_take(&lease(Some("host-b_dir9_1"), 60), 11),
            "the holder promised 60 s"
        );
        assert!(
            !may_take(&lease(Some("host-b_dir9_1"), 1), 9),
            "a short promise is not believed: its holder may renew as slowly as we do"
        );
    }

    #[test]
    fn the_lease_of_a_dead_process_on_the_same_locked_data_directory_is_taken_at_once() {
        assert!(may_take(&lease(Some("host-a_dir1_1"), 10), 0));
        assert!(!may_take(&lease(Some("host-a_dir2_1"), 10), 0));
    }
}
