//! The control plane's certificate authority, its serving certificates, client certificates for people
//! and components, and the key that signs ServiceAccount tokens.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate and its key, PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// Paths of an identity that was written down for a program that wants files.
pub struct IdentityFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    pub fn generate() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "seawall-e2e");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// For a server at `address`, under the names that a Kubernetes API server has.
    pub fn server(&self, name: &str, address: IpAddr) -> anyhow::Result<Identity> {
        let names = [
            "localhost",
            "127.0.0.1",
            "::1",
            "10.40.0.1",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let mut names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        names.push(address.to_string());
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    /// For a client: to Kubernetes the common name is the user, an organization is a group.
    pub fn client(&self, user: &str, groups: &[&str]) -> anyhow::Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        for group in groups {
            params
                .distinguished_name
                .push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    fn issue(&self, mut params: CertificateParams) -> anyhow::Result<Identity> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        Ok(Identity {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl Identity {
    pub fn write(&self, dir: &Path, name: &str) -> anyhow::Result<IdentityFiles> {
        let files = IdentityFiles {
            certificate: dir.join(format!("{name}.crt")),
            key: dir.join(format!("{name}.key")),
        };
        fs::write(&files.certificate, &self.certificate)?;
        fs::write(&files.key, &self.key)?;
        Ok(files)
    }
}

/// The pair that signs ServiceAccount tokens and checks them.
pub struct TokenSigner {
    pub private: PathBuf,
    pub public: PathBuf,
}

impl TokenSigner {
    pub fn generate(dir: &Path) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let signer = Self {
            private: dir.join("service-accounts.key"),
            public: dir.join("service-accounts.pub"),
        };
        fs::write(&signer.private, key.serialize_pem())?;
        fs::write(&signer.public, key.public_key_pem())?;
        Ok(signer)
    }
}
