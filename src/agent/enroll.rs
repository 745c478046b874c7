//! Enrolment: a join token, or a node's token, for an identity. The key is made here and never leaves.

use std::time::Duration;

use anyhow::Context;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use tonic::Code;

use super::identity::{Credentials, Identity};
use super::operator_channel::{certificate_pem, connect_to_enroll, innermost};
use super::state_directory::StateDirectory;
use super::{facts, words};
use crate::domain::names::DeviceId;
use crate::fleet::join_token::JoinToken;
use crate::fleet::proto::fleet_client::FleetClient;
use crate::fleet::proto::{EnrollRequest, EnrollResponse};

const ANSWER: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The operator's words; trying again with the same token changes nothing.
    #[error("the operator refused the enrolment: {0}")]
    Refused(String),
    #[error(
        "no operator was reached: {0}. Check the addresses that it was looked for at, the network and the operator"
    )]
    Unreachable(String),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// What a device enrols with.
pub struct Invitation {
    /// `host:port` of the operator, each tried in turn.
    pub addresses: Vec<String>,
    /// PEM. The only authority whose server certificate is accepted.
    pub authority: String,
    pub proof: Proof,
}

pub enum Proof {
    JoinToken {
        id: String,
        secret: [u8; 32],
    },
    /// The ServiceAccount token of the agent's pod.
    Node(String),
}

impl From<JoinToken> for Invitation {
    fn from(token: JoinToken) -> Self {
        Self {
            addresses: token.addresses,
            authority: certificate_pem(&token.ca_certificate),
            proof: Proof::JoinToken {
                id: token.id,
                secret: token.secret,
            },
        }
    }
}

/// Tries each address once and keeps what the first answer gives.
pub async fn enroll(
    directory: &StateDirectory,
    invitation: &Invitation,
) -> Result<Identity, EnrollError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key")?;
    let request = CertificateParams::default()
        .serialize_request(&key)
        .context("cannot make a certificate request")?;
    let mut request = EnrollRequest {
        certificate_request: request.der().to_vec(),
        facts: Some(facts::gather()),
        ..EnrollRequest::default()
    };
    match &invitation.proof {
        Proof::JoinToken { id, secret } => {
            request.token_id = id.clone();
            request.token_secret = secret.to_vec();
        }
        Proof::Node(token) => request.node_token = token.clone(),
    }
    let response = ask_each(invitation, &request).await?;
    let (identity, certificate) = accept(response, invitation, &key)?;
    let credentials = Credentials {
        certificate,
        key: key.serialize_pem(),
        authority: invitation.authority.clone(),
    };
    identity.save(directory, &credentials)?;
    Ok(identity)
}

async fn ask_each(
    invitation: &Invitation,
    request: &EnrollRequest,
) -> Result<EnrollResponse, EnrollError> {
    let mut failures = Vec::new();
    for address in &invitation.addresses {
        let channel = match connect_to_enroll(address, &invitation.authority).await {
            Ok(channel) => channel,
            Err(error) => {
                failures.push(format!("{error:#}"));
                continue;
            }
        };
        let mut client = FleetClient::new(channel);
        let answer = tokio::time::timeout(ANSWER, client.enroll(request.clone())).await;
        match answer {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) if is_transient(status.code()) => {
                let words = match status.message() {
                    "" => innermost(&status),
                    words => words::printable(words, 300),
                };
                failures.push(format!("{address}: {words}"));
            }
            Ok(Err(status)) => {
                return Err(EnrollError::Refused(words::printable(
                    status.message(),
                    500,
                )));
            }
            Err(_) => failures.push(format!("{address}: no answer in {} s", ANSWER.as_secs())),
        }
    }
    Err(EnrollError::Unreachable(failures.join("; ")))
}

/// Worth trying again, here or at the next address.
fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::Aborted
            | Code::ResourceExhausted
    )
}

/// What the operator gave is looked at before it is kept: a device with a wrong identity would be stuck.
fn accept(
    response: EnrollResponse,
    invitation: &Invitation,
    key: &KeyPair,
) -> anyhow::Result<(Identity, String)> {
    let wrong = |what: &str| {
        format!(
            "the operator's answer is not usable ({what}): update the agent or the operator, and enrol with a new token"
        )
    };
    let device = DeviceId::try_from(response.device_id).with_context(|| wrong("device id"))?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&response.certificate)
        .map_err(|_| anyhow::anyhow!(wrong("certificate")))?;
    anyhow::ensure!(
        certificate.public_key().subject_public_key.data.as_ref() == key.public_key_raw(),
        wrong("the certificate is for another key")
    );
    let identity = Identity {
        device,
        tenant: words::printable(&response.tenant, 63),
        operator: invitation.addresses.clone(),
        bundle_keys: response.bundle_keys.iter().map(hex::encode).collect(),
        node: matches!(invitation.proof, Proof::Node(_)),
    };
    identity
        .verifying_keys()
        .with_context(|| wrong("bundle keys"))?;
    Ok((identity, certificate_pem(&response.certificate)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Invitation {
        Invitation::from(JoinToken {
            id: "t".into(),
            secret: [1; 32],
            addresses: vec!["10.0.0.1:8443".into()],
            ca_certificate: vec![1],
        })
    }

    fn response(key: &KeyPair) -> EnrollResponse {
        let certificate = CertificateParams::default()
            .self_signed(key)
            .expect("a certificate");
        EnrollResponse {
            device_id: DeviceId::from_ulid(ulid::Ulid::from_parts(1, 1)).into(),
            tenant: "acme".into(),
            certificate: certificate.der().to_vec(),
            bundle_keys: vec![
                ed25519_dalek::SigningKey::from_bytes(&[1; 32])
                    .verifying_key()
                    .to_bytes()
                    .to_vec(),
            ],
        }
    }

    #[test]
    fn an_answer_that_cannot_be_used_is_refused_with_words() {
        let key = KeyPair::generate().expect("a key");
        let other = KeyPair::generate().expect("a key");
        accept(response(&key), &token(), &key).expect("a good answer");
        type Spoil = fn(&mut EnrollResponse);
        let cases: [(Spoil, &str); 4] = [
            (|r| r.device_id = "laptop".into(), "device id"),
            (|r| r.certificate = vec![1, 2, 3], "certificate"),
            (|r| r.bundle_keys.clear(), "bundle keys"),
            (|r| r.bundle_keys[0].truncate(31), "bundle keys"),
        ];
        for (spoil, words) in cases {
            let mut spoilt = response(&key);
            spoil(&mut spoilt);
            let error = accept(spoilt, &token(), &key).expect_err(words).to_string();
            assert!(
                error.contains(words) && error.contains("new token"),
                "{error}"
            );
        }
        let error = accept(response(&other), &token(), &key)
            .expect_err("another key")
            .to_string();
        assert!(error.contains("another key"), "{error}");
    }
}
