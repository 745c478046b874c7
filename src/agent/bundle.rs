//! Whether a bundle may be applied: signed by a pinned key, for this device, whole, and newer than what
//! is in force. Nothing in a payload is believed before its signature was checked.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::words::printable;
use crate::domain::enforcement::{BUNDLE_CONTEXT, Bundle};
use crate::domain::names::DeviceId;
use crate::fleet::proto;

/// The bytes as they were signed: what is kept on disk, and checked again when it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBundle {
    pub payload: Vec<u8>,
    pub signature: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    payload: String,
    signature: String,
}

impl SignedBundle {
    pub fn to_file(&self) -> Vec<u8> {
        let file = OnDisk {
            payload: STANDARD.encode(&self.payload),
            signature: STANDARD.encode(&self.signature),
        };
        serde_json::to_vec(&file).expect("strings are always JSON")
    }

    pub fn from_file(bytes: &[u8]) -> Option<Self> {
        let file: OnDisk = serde_json::from_slice(bytes).ok()?;
        Some(Self {
            payload: STANDARD.decode(file.payload).ok()?,
            signature: STANDARD.decode(file.signature).ok()?,
        })
    }
}

impl From<proto::SignedBundle> for SignedBundle {
    fn from(bundle: proto::SignedBundle) -> Self {
        Self {
            payload: bundle.payload,
            signature: bundle.signature,
        }
    }
}

/// Why a bundle is not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Refusal {
    /// One of the words of the protocol.
    pub reason: &'static str,
    pub detail: String,
}

impl Refusal {
    pub fn new(reason: &'static str, detail: impl AsRef<str>) -> Self {
        Self {
            reason,
            detail: printable(detail.as_ref(), 500),
        }
    }
}

/// Where in the order of bundles one stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    pub epoch: u64,
    pub revision: u64,
    pub state_hash: String,
}

impl Position {
    pub fn of(bundle: &Bundle) -> Self {
        Self {
            epoch: bundle.epoch,
            revision: bundle.revision,
            state_hash: bundle.state_hash.clone(),
        }
    }

    /// What a payload claims, to name it in a refusal; nothing is decided by it.
    pub fn claimed(payload: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Claim {
            epoch: u64,
            revision: u64,
        }
        match serde_json::from_slice::<Claim>(payload) {
            Ok(claim) => Self {
                epoch: claim.epoch,
                revision: claim.revision,
                state_hash: String::new(),
            },
            Err(_) => Self::default(),
        }
    }
}

/// Who may sign, and for whom.
#[derive(Clone, Debug)]
pub struct Verifier {
    pub device: DeviceId,
    pub keys: Vec<VerifyingKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Newer,
    /// The same position and content: acknowledged again.
    Same,
}

impl Verifier {
    /// Signature, form, device, hash.
    pub fn verify(&self, signed: &SignedBundle) -> Result<Bundle, Refusal> {
        let mut message = BUNDLE_CONTEXT.to_vec();
        message.extend_from_slice(&signed.payload);
        let signature = Signature::from_slice(&signed.signature)
            .map_err(|_| Refusal::new("bad_signature", "the signature has not 64 bytes"))?;
        if !self
            .keys
            .iter()
            .any(|key| key.verify_strict(&message, &signature).is_ok())
        {
            return Err(Refusal::new(
                "bad_signature",
                "no key that was pinned at enrolment signed it",
            ));
        }
        let bundle: Bundle = serde_json::from_slice(&signed.payload)
            .map_err(|error| Refusal::new("malformed", error.to_string()))?;
        if bundle.device != self.device {
            return Err(Refusal::new(
                "other_device",
                format!("it is for {}, this is {}", bundle.device, self.device),
            ));
        }
        let hash = bundle.state.hash();
        if hash != bundle.state_hash {
            return Err(Refusal::new(
                "malformed",
                "the state has another hash than the bundle says: the agent may be older than the operator, update it",
            ));
        }
        Ok(bundle)
    }
}

/// How a bundle stands to what is in force.
pub fn order(bundle: &Bundle, in_force: Option<&Position>) -> Result<Order, Refusal> {
    let Some(current) = in_force else {
        return Ok(Order::Newer);
    };
    let new = (bundle.epoch, bundle.revision);
    let old = (current.epoch, current.revision);
    if new > old {
        return Ok(Order::Newer);
    }
    if new == old && bundle.state_hash == current.state_hash {
        return Ok(Order::Same);
    }
    Err(Refusal::new(
        "not_newer",
        format!(
            "epoch {} revision {} is in force, this is epoch {} revision {}",
            old.0, old.1, new.0, new.1
        ),
    ))
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;
    use crate::domain::enforcement::DeviceState;

    fn device(n: u128) -> DeviceId {
        DeviceId::from_ulid(ulid::Ulid::from_parts(1, n))
    }

    fn bundle(epoch: u64, revision: u64) -> Bundle {
        let state = DeviceState::default();
        Bundle {
            device: device(1),
            epoch,
            revision,
            state_hash: state.hash(),
            issued_at: jiff::Timestamp::UNIX_EPOCH,
            state,
        }
    }

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn signed(payload: Vec<u8>, key: &SigningKey) -> SignedBundle {
        let mut message = BUNDLE_CONTEXT.to_vec();
        message.extend_from_slice(&payload);
        SignedBundle {
            signature: key.sign(&message).to_bytes().to_vec(),
            payload,
        }
    }

    fn verifier() -> Verifier {
        Verifier {
            device: device(1),
            keys: vec![key(1).verifying_key(), key(2).verifying_key()],
        }
    }

    fn json(bundle: &Bundle) -> Vec<u8> {
        serde_json::to_vec(bundle).expect("JSON")
    }

    #[test]
    fn a_bundle_signed_by_any_pinned_key_is_verified() {
        for n in [1, 2] {
            let verified = verifier().verify(&signed(json(&bundle(1, 1)), &key(n)));
            assert_eq!(verified, Ok(bundle(1, 1)));
        }
    }

    #[test]
    fn each_wrong_bundle_is_refused_by_its_own_reason() {
        let reason = |signed: &SignedBundle| verifier().verify(signed).map_err(|r| r.reason);
        let good = signed(json(&bundle(1, 1)), &key(1));

        assert_eq!(
            reason(&signed(json(&bundle(1, 1)), &key(3))),
            Err("bad_signature")
        );
        let mut changed = good.clone();
        changed.payload[20] ^= 1;
        assert_eq!(reason(&changed), Err("bad_signature"));
        let mut short = good.clone();
        short.signature.pop();
        assert_eq!(reason(&short), Err("bad_signature"));
        // Signed, but for another use: without the context.
        let elsewhere = SignedBundle {
            signature: key(1).sign(&good.payload).to_bytes().to_vec(),
            payload: good.payload.clone(),
        };
        assert_eq!(reason(&elsewhere), Err("bad_signature"));

        assert_eq!(
            reason(&signed(b"{\"epoch\": 1}".to_vec(), &key(1))),
            Err("malformed")
        );
        let mut other = bundle(1, 1);
        other.device = device(2);
        assert_eq!(reason(&signed(json(&other), &key(1))), Err("other_device"));
        let mut hash = bundle(1, 1);
        hash.state_hash = "00".repeat(32);
        assert_eq!(reason(&signed(json(&hash), &key(1))), Err("malformed"));
    }

    #[test]
    fn a_state_with_fields_that_this_agent_does_not_know_is_refused() {
        let mut value = serde_json::to_value(bundle(1, 1)).expect("JSON");
        value["state"]["newerThanThisAgent"] = serde_json::json!([1]);
        value["stateHash"] = serde_json::json!("11".repeat(32));
        let payload = serde_json::to_vec(&value).expect("JSON");
        let refusal = verifier()
            .verify(&signed(payload, &key(1)))
            .expect_err("refused");
        assert!(refusal.detail.contains("update it"), "{refusal}");
    }

    #[test]
    fn epoch_and_then_revision_decide_what_is_newer() {
        let at = |epoch, revision| Position::of(&bundle(epoch, revision));
        let reason = |new: &Bundle, old: &Position| order(new, Some(old)).map_err(|r| r.reason);
        assert_eq!(order(&bundle(1, 1), None), Ok(Order::Newer));
        assert_eq!(reason(&bundle(1, 2), &at(1, 1)), Ok(Order::Newer));
        assert_eq!(reason(&bundle(2, 1), &at(1, 9)), Ok(Order::Newer));
        assert_eq!(reason(&bundle(1, 1), &at(1, 1)), Ok(Order::Same));
        assert_eq!(reason(&bundle(1, 1), &at(1, 2)), Err("not_newer"));
        assert_eq!(reason(&bundle(1, 9), &at(2, 1)), Err("not_newer"));
        let mut other = at(1, 1);
        other.state_hash = "another".into();
        assert_eq!(reason(&bundle(1, 1), &other), Err("not_newer"));
    }

    #[test]
    fn a_bundle_reads_back_from_its_file_and_a_damaged_file_does_not() {
        let good = signed(json(&bundle(1, 1)), &key(1));
        let file = good.to_file();
        assert_eq!(SignedBundle::from_file(&file), Some(good));
        assert_eq!(SignedBundle::from_file(&file[..file.len() / 2]), None);
        assert_eq!(SignedBundle::from_file(b""), None);
    }

    #[test]
    fn a_refusal_names_the_position_that_the_payload_claims() {
        let claimed = Position::claimed(&json(&bundle(3, 4)));
        assert_eq!((claimed.epoch, claimed.revision), (3, 4));
        assert_eq!(Position::claimed(b"nonsense"), Position::default());
    }
}
