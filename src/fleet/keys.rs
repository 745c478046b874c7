//! The operator's own keys: the authority that vouches for devices, for the fleet's server and for the
//! webhook, and the key that signs bundles.
//!
//! They are made once, when the operator first starts, and kept as text in one Kubernetes Secret;
//! reading and writing that Secret is the operator's. Other parts keep entries of their own in the
//! same Secret (the audit log its signing key): these pass through untouched.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signer, SigningKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};

use crate::domain::enforcement::BUNDLE_CONTEXT;
use crate::domain::names::DeviceId;

/// What agents expect the server's certificate to be for, wherever they connect to.
pub const SERVER_NAME: &str = "seawall-fleet";
/// Before the URI of a device certificate: `seawall:device:dev_…`.
pub const DEVICE_URI: &str = "seawall:device:";

/// Names of the entries in the Secret.
pub const CA_CERTIFICATE: &str = "ca.crt";
pub const CA_KEY: &str = "ca.key";
pub const BUNDLE_KEY: &str = "bundle.key";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Clocks of devices are not exact: certificates are valid from a day before they are made.
const CLOCK_SLACK: Duration = DAY;
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
const DEVICE_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error(
        "the operator's keys have no {0}: restore the Secret seawall-keys from a backup; without it every device has to enrol again"
    )]
    Missing(&'static str),
    #[error("{name} of the operator's keys is not readable ({why}): restore it from a backup")]
    Unreadable { name: &'static str, why: String },
    #[error("a certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    #[error("the certificate request is not acceptable: {0}")]
    Request(rcgen::Error),
}

/// Everything that has to survive the operator.
pub struct OperatorKeys {
    pub authority: Authority,
    pub bundles: BundleKey,
    /// Entries of other parts, by name; text, private.
    pub others: BTreeMap<String, String>,
}

impl OperatorKeys {
    /// Fresh keys, for an operator that never ran.
    pub fn generate() -> Result<Self, KeysError> {
        Ok(Self {
            authority: Authority::generate()?,
            bundles: BundleKey::generate(),
            others: BTreeMap::new(),
        })
    }

    /// Reads what [`OperatorKeys::to_map`] wrote.
    pub fn from_map(entries: &BTreeMap<String, String>) -> Result<Self, KeysError> {
        let entry = |name: &'static str| entries.get(name).ok_or(KeysError::Missing(name));
        let ours = [CA_CERTIFICATE, CA_KEY, BUNDLE_KEY];
        Ok(Self {
            authority: Authority::from_pem(entry(CA_CERTIFICATE)?, entry(CA_KEY)?)?,
            bundles: BundleKey::from_pem(entry(BUNDLE_KEY)?)?,
            others: entries
                .iter()
                .filter(|(name, _)| !ours.contains(&name.as_str()))
                .map(|(name, text)| (name.clone(), text.clone()))
                .collect(),
        })
    }

    /// What belongs into the Secret, by name. Private, but for [`CA_CERTIFICATE`].
    pub fn to_map(&self) -> BTreeMap<String, String> {
        let mut entries = self.others.clone();
        entries.insert(CA_CERTIFICATE.into(), self.authority.pem.clone());
        entries.insert(CA_KEY.into(), self.authority.issuer.key().serialize_pem());
        entries.insert(BUNDLE_KEY.into(), self.bundles.to_pem());
        entries
    }
}

/// Signs bundles; agents pin its public half when they enrol.
#[derive(Clone)]
pub struct BundleKey(SigningKey);

impl BundleKey {
    pub fn generate() -> Self {
        Self(SigningKey::from_bytes(&rand::random()))
    }

    fn from_pem(pem: &str) -> Result<Self, KeysError> {
        SigningKey::from_pkcs8_pem(pem)
            .map(Self)
            .map_err(|error| KeysError::Unreadable {
                name: BUNDLE_KEY,
                why: error.to_string(),
            })
    }

    fn to_pem(&self) -> String {
        let pem = self.0.to_pkcs8_pem(LineEnding::LF);
        pem.expect("an Ed25519 key is always PKCS #8").to_string()
    }

    /// The 32 bytes that agents pin.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The signature over a bundle's payload in its context.
    pub fn sign(&self, payload: &[u8]) -> [u8; 64] {
        let mut message = Vec::with_capacity(BUNDLE_CONTEXT.len() + payload.len());
        message.extend_from_slice(BUNDLE_CONTEXT);
        message.extend_from_slice(payload);
        self.0.sign(&message).to_bytes()
    }
}

/// The certificate authority of the fleet. Its certificate is in every join token.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

/// A certificate and its private key, made by the [`Authority`] for a server of the operator.
pub struct ServingCertificate {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Authority {
    fn generate() -> Result<Self, KeysError> {
        let key = KeyPair::generate()?;
        let mut params = params("Seawall fleet authority", AUTHORITY_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            der: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    fn from_pem(certificate: &str, key: &str) -> Result<Self, KeysError> {
        let unreadable = |name, why: String| KeysError::Unreadable { name, why };
        let key = KeyPair::from_pem(key).map_err(|error| unreadable(CA_KEY, error.to_string()))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| unreadable(CA_CERTIFICATE, error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&der, key)
            .map_err(|error| unreadable(CA_CERTIFICATE, error.to_string()))?;
        Ok(Self {
            issuer,
            der,
            pem: certificate.to_owned(),
        })
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// A client certificate for a device, over the key of its request. Nothing else of the request is
    /// looked at but its proof that the device holds that key.
    pub fn device_certificate(
        &self,
        device: &DeviceId,
        request: &[u8],
    ) -> Result<CertificateDer<'static>, KeysError> {
        let request = CertificateSigningRequestDer::from(request);
        let request =
            CertificateSigningRequestParams::from_der(&request).map_err(KeysError::Request)?;
        let mut params = params(device.as_str(), DEVICE_LIFETIME);
        params.subject_alt_names = vec![SanType::URI(format!("{DEVICE_URI}{device}").try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&request.public_key, &self.issuer)?;
        Ok(certificate.der().clone())
    }

    /// A server certificate for these names and addresses, with a key of its own.
    pub fn serving_certificate(
        &self,
        names: &[&str],
        addresses: &[IpAddr],
        lifetime: Duration,
    ) -> Result<ServingCertificate, KeysError> {
        let key = KeyPair::generate()?;
        let mut params = params(names.first().unwrap_or(&SERVER_NAME), lifetime);
        for name in names {
            let name = SanType::DnsName((*name).try_into()?);
            params.subject_alt_names.push(name);
        }
        let addresses = addresses.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ServingCertificate {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

fn params(common_name: &str, lifetime: Duration) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.not_before = (now - CLOCK_SLACK).into();
    params.not_after = (now + lifetime).into();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    params
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signature, VerifyingKey};
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    fn request(params: &CertificateParams) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    fn device() -> DeviceId {
        DeviceId::from_ulid(ulid::Ulid::from_parts(1, 2))
    }

    #[test]
    fn keys_read_back_as_they_were_written_with_the_entries_of_others() {
        let mut keys = OperatorKeys::generate().unwrap();
        keys.others.insert("audit.key".into(), "text\n".into());
        let written = keys.to_map();
        let read = OperatorKeys::from_map(&written).unwrap();
        assert_eq!(read.to_map(), written);
        assert_eq!(read.bundles.public(), keys.bundles.public());
    }

    #[test]
    fn a_missing_or_broken_entry_is_named() {
        let whole = OperatorKeys::generate().unwrap().to_map();
        for name in [CA_CERTIFICATE, CA_KEY, BUNDLE_KEY] {
            let mut entries = whole.clone();
            entries.remove(name);
            let error = OperatorKeys::from_map(&entries).err().unwrap();
            assert!(error.to_string().contains(name), "{error}");
            entries.insert(name.into(), "nonsense".into());
            let error = OperatorKeys::from_map(&entries).err().unwrap();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn what_a_request_asks_for_is_not_given() {
        let keys = OperatorKeys::generate().unwrap();
        let mut greedy = CertificateParams::new(vec!["seawall-fleet".to_owned()]).unwrap();
        greedy
            .distinguished_name
            .push(DnType::CommonName, "dev_someone_else");
        greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let der = keys
            .authority
            .device_certificate(&device(), &request(&greedy))
            .unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(
            certificate.subject().to_string(),
            format!("CN={}", device())
        );
        assert!(!certificate.is_ca());
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth);
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        let names: Vec<String> = names
            .value
            .general_names
            .iter()
            .map(|name| name.to_string())
            .collect();
        assert_eq!(names, [format!("URI({DEVICE_URI}{})", device())]);
    }

    #[test]
    fn a_request_that_does_not_prove_its_key_is_refused() {
        let keys = OperatorKeys::generate().unwrap();
        let mut forged = request(&CertificateParams::default());
        *forged.last_mut().unwrap() ^= 1;
        for bytes in [forged.as_slice(), b"", b"nonsense"] {
            let refused = keys.authority.device_certificate(&device(), bytes);
            assert!(matches!(refused, Err(KeysError::Request(_))));
        }
    }

    #[test]
    fn a_signature_holds_for_its_payload_in_its_context_only() {
        let key = BundleKey::generate();
        let public = VerifyingKey::from_bytes(&key.public()).unwrap();
        let signature = Signature::from_bytes(&key.sign(b"payload"));
        let signed = [BUNDLE_CONTEXT, b"payload"].concat();
        assert!(public.verify_strict(&signed, &signature).is_ok());
        assert!(public.verify_strict(b"payload", &signature).is_err());
    }
}
