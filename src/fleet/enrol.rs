//! Enrolment: a join token and a key become a device with an identity and a certificate, once.
//!
//! A stranger calls this. What it learns from a refusal depends on whether it proved to hold the
//! token: without, nothing but that it was not accepted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
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

/// Why a token does not let a device in.
pub(super) struct Refusal {
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
            match request.node_token.is_empty() {
                true => self.decide(&request, from).await,
                false => self.enrol_node(&request, from).await,
            }
        });
        let decided = decided
            .await
            .unwrap_or_else(|late| Err(Failure::Store(late.into())));
        decided.map_err(|failure| match failure {
            Failure::Store(error) => {
                tracing::error!(%error, "an enrolment could not be stored");
                Status::unavailable("the operator's store does not answer: try again in a minute")
            }
            Failure::NobodyToAsk(why) => {
                tracing::warn!("a node was not enrolled: {why}");
                Status::unavailable(format!("{why}; try again in a minute"))
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
            detail: token
                .is_empty()
                .then(|| clean::line(refusal.status.message(), 300)),
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
        let tenant = Some(token.tenant.clone());
        check_length(
            &request.certificate_request,
            "the certificate request",
            tenant.clone(),
        )?;
        let id = DeviceId::from_ulid(ulid::Ulid::generate());
        let certificate = self.certify(&id, request, tenant.clone())?;
        let mut device = newcomer(&id, request, from, now);
        device.tenant = token.tenant.clone();
        device.tags = token.tags.clone();
        device.token = token.id.clone();
        device.fingerprint = Sha256::digest(&certificate).into();
        if self.0.store.enrol(&device).await? == TokenUse::Lost {
            return Err(refuse(EnrolmentRefusal::UsedUp, tenant, used_up()));
        }
        self.welcome(device, from);
        Ok(self.enrolled(&id, &token.tenant, certificate))
    }

    /// The certificate that was asked for, to the device that the server says it is.
    pub(super) fn certify(
        &self,
        id: &DeviceId,
        request: &EnrollRequest,
        tenant: Option<String>,
    ) -> Result<CertificateDer<'static>, Failure> {
        let authority = &self.0.keys.authority;
        let certificate = authority.device_certificate(id, &request.certificate_request);
        certificate.map_err(|error| {
            let status = Status::invalid_argument(error.to_string());
            refuse(EnrolmentRefusal::BadRequest, tenant, status)
        })
    }

    pub(super) fn enrolled(
        &self,
        id: &DeviceId,
        tenant: &str,
        certificate: CertificateDer<'static>,
    ) -> EnrollResponse {
        EnrollResponse {
            device_id: id.to_string(),
            tenant: tenant.to_owned(),
            certificate: certificate.to_vec(),
            bundle_keys: vec![self.0.keys.bundles.public().to_vec()],
        }
    }

    pub(super) fn welcome(&self, device: DeviceRecord, from: Option<IpAddr>) {
        self.greet(&device, from);
        self.roster().insert(device);
        self.facts_changed();
    }
}

pub(super) enum Failure {
    Refused(Box<Refusal>),
    Store(anyhow::Error),
    /// Whoever could say whose token it is does not answer.
    NobodyToAsk(String),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Store(error)
    }
}

pub(super) fn refuse(why: EnrolmentRefusal, tenant: Option<String>, status: Status) -> Failure {
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

/// A new device, before it is said whose it is.
pub(super) fn newcomer(
    id: &DeviceId,
    request: &EnrollRequest,
    from: Option<IpAddr>,
    now: Timestamp,
) -> DeviceRecord {
    let (facts, addresses) = clean::facts(&request.facts.clone().unwrap_or_default());
    DeviceRecord {
        id: id.clone(),
        tenant: String::new(),
        tags: BTreeMap::new(),
        trust: TrustLevel::default(),
        fingerprint: [0; 32],
        enrolled_at: now,
        token: String::new(),
        node: None,
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

/// No part of a request is looked at that is longer than any can be.
pub(super) fn check_length(
    part: impl AsRef<[u8]>,
    what: &str,
    tenant: Option<String>,
) -> Result<(), Failure> {
    if part.as_ref().len() <= LONGEST_REQUEST {
        return Ok(());
    }
    let status = Status::invalid_argument(format!("{what} is longer than 8 KiB"));
    Err(refuse(EnrolmentRefusal::BadRequest, tenant, status))
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
