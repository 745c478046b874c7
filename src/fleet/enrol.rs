//! Enrolment: a join token and a key become a device with an identity and a certificate, once.
//!
//! A stranger calls this. What it learns from a refusal depends on whether it proved to hold the
//! token: without, nothing but that it was not accepted.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::{Instant, timeout};
use tonic::Status;

use super::proto::{EnrollRequest, EnrollResponse};
use super::records::{DeviceRecord, DeviceStanding, JoinTokenRecord, TokenUse};
use super::witness::{EnrolmentRefusal, Happening};
use super::{Fleet, clean, records, remote};
use crate::api::TrustLevel;
use crate::domain::names::DeviceId;

const LONGEST_REQUEST: usize = 8 * 1024;
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// Why a join token does not let a device in.
struct Refusal {
    why: EnrolmentRefusal,
    /// Only where the token was proved.
    tenant: Option<String>,
    status: Status,
}

impl Fleet {
    pub(super) async fn enrol(
        &self,
        request: EnrollRequest,
        from: Option<IpAddr>,
    ) -> Result<EnrollResponse, Status> {
        if !self.is_leading() {
            return Err(super::not_leading());
        }
        let admitted = self.enrolment_limits().all.take(Instant::now());
        admitted.map_err(busy)?;
        let decided = timeout(STORE_PATIENCE, async {
            let _turn = self.0.enrolling.acquire().await;
            self.decide(&request, from).await
        });
        let decided = decided
            .await
            .unwrap_or_else(|late| Err(Failure::Store(late.into())));
        decided.map_err(|failure| match failure {
            Failure::Store(error) => {
                tracing::error!(%error, "an enrolment could not be stored");
                Status::unavailable("the operator's store does not answer: try again in a minute")
            }
            Failure::Refused(refusal) => self.refuse(*refusal, &request.token_id, from),
        })
    }

    /// The first refusals of an address are told to the witness and explained to the caller. Good
    /// tokens are never held up by what others behind the same address try.
    fn refuse(&self, refusal: Refusal, token: &str, from: Option<IpAddr>) -> Status {
        if let Some(address) = from {
            let mut limits = self.enrolment_limits();
            if let Err(wait) = limits.refused.take(address, Instant::now()) {
                return busy(wait);
            }
        }
        let happening = Happening::EnrolmentRefused {
            token: clean::line(token, 64),
            reason: refusal.why,
        };
        self.tell(remote(from), refusal.tenant, happening);
        refusal.status
    }

    async fn decide(
        &self,
        request: &EnrollRequest,
        from: Option<IpAddr>,
    ) -> Result<EnrollResponse, Failure> {
        let now = records::now();
        let token = self.0.store.join_token(&request.token_id).await;
        let token = prove(token?, request, now)?;
        let refuse = |why, status| refuse(why, Some(token.tenant.clone()), status);
        if request.certificate_request.len() > LONGEST_REQUEST {
            let why = "the certificate request is longer than 8 KiB";
            return Err(refuse(
                EnrolmentRefusal::BadRequest,
                Status::invalid_argument(why),
            ));
        }
        let id = DeviceId::from_ulid(ulid::Ulid::generate());
        let authority = &self.0.keys.authority;
        let certificate = authority
            .device_certificate(&id, &request.certificate_request)
            .map_err(|error| {
                refuse(
                    EnrolmentRefusal::BadRequest,
                    Status::invalid_argument(error.to_string()),
                )
            })?;
        let device = record(
            &id,
            &token,
            request,
            Sha256::digest(&certificate).into(),
            from,
            now,
        );
        if self.0.store.enrol(&device).await? == TokenUse::Lost {
            return Err(refuse(EnrolmentRefusal::UsedUp, used_up()));
        }
        self.welcome(device, from);
        Ok(EnrollResponse {
            device_id: id.to_string(),
            tenant: token.tenant.clone(),
            certificate: certificate.to_vec(),
            bundle_keys: vec![self.0.keys.bundles.public().to_vec()],
        })
    }

    fn welcome(&self, device: DeviceRecord, from: Option<IpAddr>) {
        tracing::info!(device = %device.id, tenant = device.tenant, ?from, "a device enrolled");
        let happening = Happening::Enrolled {
            device: device.id.clone(),
            token: device.token.clone(),
            host_name: device.standing.facts.host_name.clone(),
            tags: device.tags.clone(),
        };
        self.tell(remote(from), Some(device.tenant.clone()), happening);
        self.roster().insert(device);
        self.facts_changed();
    }
}

enum Failure {
    Refused(Box<Refusal>),
    Store(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Store(error)
    }
}

fn refuse(why: EnrolmentRefusal, tenant: Option<String>, status: Status) -> Failure {
    Failure::Refused(Box::new(Refusal {
        why,
        tenant,
        status,
    }))
}

/// The token, once the caller has shown its secret and it is good.
fn prove(
    token: Option<JoinTokenRecord>,
    request: &EnrollRequest,
    now: Timestamp,
) -> Result<JoinTokenRecord, Failure> {
    let given: [u8; 32] = Sha256::digest(&request.token_secret).into();
    // An unknown token is compared as well, so that it takes as long as a known one.
    let expected = token.as_ref().map_or([0; 32], |token| token.secret_sha256);
    let holds: bool = given.ct_eq(&expected).into();
    let Some(token) = token.filter(|_| holds) else {
        return Err(refuse(EnrolmentRefusal::NotAccepted, None, not_accepted()));
    };
    let state = if token.revoked_at.is_some() {
        Some((EnrolmentRefusal::Revoked, "the join token was revoked"))
    } else if token.expires_at <= now {
        Some((EnrolmentRefusal::Expired, "the join token has expired"))
    } else if token.uses_left == 0 {
        return Err(refuse(
            EnrolmentRefusal::UsedUp,
            Some(token.tenant),
            used_up(),
        ));
    } else {
        None
    };
    match state {
        None => Ok(token),
        Some((why, words)) => {
            let status = Status::failed_precondition(format!("{words}: {ANOTHER}"));
            Err(refuse(why, Some(token.tenant), status))
        }
    }
}

fn record(
    id: &DeviceId,
    token: &JoinTokenRecord,
    request: &EnrollRequest,
    fingerprint: records::Fingerprint,
    from: Option<IpAddr>,
    now: Timestamp,
) -> DeviceRecord {
    let (facts, addresses) = clean::facts(&request.facts.clone().unwrap_or_default());
    DeviceRecord {
        id: id.clone(),
        tenant: token.tenant.clone(),
        tags: token.tags.clone(),
        trust: TrustLevel::default(),
        fingerprint,
        enrolled_at: now,
        token: token.id.clone(),
        revoked_at: None,
        standing: DeviceStanding {
            facts,
            addresses: addresses
                .into_iter()
                .map(|address| (address, now))
                .collect(),
            connects_from: from.map(|from| from.to_canonical()),
            last_seen: Some(now),
            ..Default::default()
        },
    }
}

const ANOTHER: &str =
    "have another one made with `seawall fleet join-token create --tenant NAMESPACE`";

fn not_accepted() -> Status {
    Status::unauthenticated(format!(
        "the join token is not accepted: paste it whole, as it was printed, or {ANOTHER}"
    ))
}

fn used_up() -> Status {
    Status::failed_precondition(format!("the join token is used up: {ANOTHER}"))
}

fn busy(wait: Duration) -> Status {
    let seconds = wait.as_secs() + 1;
    Status::resource_exhausted(format!(
        "too many enrolments are tried: try again in {seconds} seconds"
    ))
}
