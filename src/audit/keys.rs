//! The keys that sign a log's checkpoints, and how one follows another.
//!
//! Owns no storage: the operator keeps the private text in a Kubernetes Secret and hands it over.
//!
//! Rotation: generate a key with the same name; run with the new one as `current` and the old one
//! as `outgoing` while auditors are given the new verifier key (checkpoints carry both
//! signatures); then drop the old private key and list its verifier key under `former`.

use super::note::{NoteError, Signer, VerifierKey};

/// A log's keys. All have the log's name.
#[derive(Debug, Clone)]
pub struct LogKeys {
    /// Signs every checkpoint.
    pub current: Signer,
    /// Signs beside `current` during a rotation.
    pub outgoing: Option<Signer>,
    /// Keys that may have signed the checkpoint found at start.
    pub former: Vec<VerifierKey>,
}

impl LogKeys {
    pub fn new(current: Signer) -> Self {
        Self {
            current,
            outgoing: None,
            former: Vec::new(),
        }
    }

    /// A fresh key for the log called `origin`, such as `seawall.example.com/prod`.
    pub fn generate(origin: &str) -> Result<Self, NoteError> {
        Ok(Self::new(Signer::generate(origin)?))
    }

    /// Reads what [`LogKeys::to_bytes`] wrote: private keys, one a line, the current one first, an
    /// outgoing one second; lines with verifier keys name former ones.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NoteError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| NoteError::MalformedKey("the key file is not text"))?;
        let mut signers = Vec::new();
        let mut former = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if line.starts_with("PRIVATE+KEY+") {
                signers.push(Signer::from_private_text(line)?);
            } else {
                former.push(line.parse()?);
            }
        }
        let mut signers = signers.into_iter();
        let current = signers
            .next()
            .ok_or(NoteError::MalformedKey("no private key is there"))?;
        let outgoing = signers.next();
        if signers.next().is_some() {
            return Err(NoteError::MalformedKey(
                "at most two private keys, the current and the outgoing one",
            ));
        }
        let keys = Self {
            current,
            outgoing,
            former,
        };
        let origin = keys.origin();
        if keys.verifiers().iter().any(|key| key.name() != origin) {
            return Err(NoteError::MalformedKey("all keys of a log have one name"));
        }
        Ok(keys)
    }

    /// What belongs into the Secret. Private.
    pub fn to_bytes(&self) -> Vec<u8> {
        let signers = self.signers().map(Signer::to_private_text);
        let former = self.former.iter().map(VerifierKey::to_string);
        let lines: Vec<String> = signers.chain(former).collect();
        (lines.join("\n") + "\n").into_bytes()
    }

    /// The log's name, which is the name of its keys.
    pub fn origin(&self) -> &str {
        self.current.verifier().name()
    }

    pub(super) fn signers(&self) -> impl Iterator<Item = &Signer> {
        std::iter::once(&self.current).chain(&self.outgoing)
    }

    /// Every key whose signature is accepted, the current one first.
    pub fn verifiers(&self) -> Vec<VerifierKey> {
        let mut keys: Vec<VerifierKey> = self.signers().map(|s| s.verifier().clone()).collect();
        for key in &self.former {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        keys
    }

    /// What the directory's `vkey` file holds: a verifier key a line.
    pub(super) fn vkey_file(&self) -> String {
        let lines: Vec<String> = self.verifiers().iter().map(ToString::to_string).collect();
        lines.join("\n") + "\n"
    }
}

/// Reads verifier keys, one a line, as in a `vkey` file.
pub fn parse_verifiers(text: &str) -> Result<Vec<VerifierKey>, NoteError> {
    let keys: Vec<VerifierKey> = text
        .split_terminator('\n')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    if keys.is_empty() {
        return Err(NoteError::MalformedKey("no key is there"));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_with_their_outgoing_and_former_ones() {
        let mut keys = LogKeys::generate("example.com/log").unwrap();
        keys.outgoing = Some(Signer::generate("example.com/log").unwrap());
        let oldest = Signer::generate("example.com/log").unwrap();
        keys.former.push(oldest.verifier().clone());
        let read = LogKeys::from_bytes(&keys.to_bytes()).unwrap();
        assert_eq!(read.to_bytes(), keys.to_bytes());
        assert_eq!(read.verifiers().len(), 3);
        assert_eq!(
            parse_verifiers(&read.vkey_file()).unwrap(),
            read.verifiers()
        );
        assert!(!read.vkey_file().contains("PRIVATE"));
    }

    #[test]
    fn key_files_that_make_no_sense_are_refused() {
        let one = LogKeys::generate("a").unwrap();
        let other = LogKeys::generate("b").unwrap();
        let mixed = [one.to_bytes(), other.to_bytes()].concat();
        assert!(LogKeys::from_bytes(&mixed).is_err());
        assert!(LogKeys::from_bytes(b"").is_err());
        assert!(LogKeys::from_bytes(one.vkey_file().as_bytes()).is_err());
        assert!(LogKeys::from_bytes(b"PRIVATE+KEY+a+00000000+AAAA").is_err());
        assert!(LogKeys::from_bytes(&[0xff]).is_err());
        assert!(parse_verifiers("").is_err());
    }
}
