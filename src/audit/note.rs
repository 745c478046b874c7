//! Signed notes with Ed25519 keys, as in <https://c2sp.org/signed-note>.
//!
//! Pure. What a note says is not looked at here; a checkpoint's text is [`super::checkpoint`]'s.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

/// Signature type of Ed25519 in key ids and encoded keys.
const ED25519: u8 = 1;
/// The longest note read. A checkpoint with 16 signatures is below 4,000 bytes.
const MAX_NOTE: usize = 64 * 1024;
const SIGNATURE_START: &str = "— ";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    #[error("this is not a signed note: {0}")]
    Malformed(&'static str),
    #[error("this is not a note key: {0}; a verifier key looks like NAME+8 hex digits+base64")]
    MalformedKey(&'static str),
    #[error("the signature of {0} is wrong: the text is not what that key signed")]
    BadSignature(String),
    #[error("it is signed by {signed}, and by none of the given keys ({known})")]
    NoKnownKey { signed: String, known: String },
}

/// The public half of a note key. Its text form is what a `vkey` file holds, a line each.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: u32,
    key: VerifyingKey,
}

impl VerifierKey {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name and key id, short enough for a message.
    pub fn label(&self) -> String {
        label(&self.name, self.id)
    }
}

fn label(name: &str, id: u32) -> String {
    format!("{name}+{id:08x}")
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = STANDARD.encode(typed(self.key.as_bytes()));
        write!(f, "{}+{:08x}+{encoded}", self.name, self.id)
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(encoded)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(NoteError::MalformedKey("it has fewer than three parts"));
        };
        let bytes = key_bytes(encoded)?;
        let key = VerifyingKey::from_bytes(&bytes)
            .map_err(|_| NoteError::MalformedKey("its bytes are no Ed25519 public key"))?;
        check_name(name)?;
        let expected = key_id(name, &bytes);
        if id != format!("{expected:08x}") {
            return Err(NoteError::MalformedKey(
                "its id is not the hash of its name and bytes",
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            id: expected,
            key,
        })
    }
}

/// A note key with its private half.
#[derive(Clone)]
pub struct Signer {
    public: VerifierKey,
    key: SigningKey,
}

const PRIVATE_PREFIX: &str = "PRIVATE+KEY+";

impl Signer {
    pub fn generate(name: &str) -> Result<Self, NoteError> {
        Self::from_seed(name, &rand::random())
    }

    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        check_name(name)?;
        let key = SigningKey::from_bytes(seed);
        let public = key.verifying_key();
        Ok(Self {
            public: VerifierKey {
                name: name.to_owned(),
                id: key_id(name, public.as_bytes()),
                key: public,
            },
            key,
        })
    }

    /// The text form of Go's `sumdb/note`: `PRIVATE+KEY+name+id+base64(0x01 || seed)`.
    pub fn to_private_text(&self) -> String {
        let encoded = STANDARD.encode(typed(self.key.as_bytes()));
        let VerifierKey { name, id, .. } = &self.public;
        format!("{PRIVATE_PREFIX}{name}+{id:08x}+{encoded}")
    }

    pub fn from_private_text(text: &str) -> Result<Self, NoteError> {
        let rest = text
            .trim_end()
            .strip_prefix(PRIVATE_PREFIX)
            .ok_or(NoteError::MalformedKey(
                "a private key begins with PRIVATE+KEY+",
            ))?;
        let mut parts = rest.splitn(3, '+');
        let (Some(name), Some(id), Some(encoded)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(NoteError::MalformedKey("it has fewer than three parts"));
        };
        let signer = Self::from_seed(name, &key_bytes(encoded)?)?;
        if id != format!("{:08x}", signer.public.id) {
            return Err(NoteError::MalformedKey(
                "its id is not the hash of its name and bytes",
            ));
        }
        Ok(signer)
    }

    pub fn verifier(&self) -> &VerifierKey {
        &self.public
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.public.label())
    }
}

fn typed(bytes: &[u8; 32]) -> [u8; 33] {
    let mut out = [ED25519; 33];
    out[1..].copy_from_slice(bytes);
    out
}

fn key_bytes(encoded: &str) -> Result<[u8; 32], NoteError> {
    let bytes = STANDARD
        .decode(encoded)
        .map_err(|_| NoteError::MalformedKey("its last part is not base64"))?;
    match bytes.split_first() {
        Some((&ED25519, key)) => key
            .try_into()
            .map_err(|_| NoteError::MalformedKey("an Ed25519 key has 32 bytes")),
        _ => Err(NoteError::MalformedKey("only Ed25519 keys are known here")),
    }
}

fn key_id(name: &str, public: &[u8; 32]) -> u32 {
    let hash = Sha256::new()
        .chain_update(name)
        .chain_update([b'\n'])
        .chain_update(typed(public))
        .finalize();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

fn check_name(name: &str) -> Result<(), NoteError> {
    let wrong = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if name.is_empty() || name.contains(wrong) {
        return Err(NoteError::MalformedKey(
            "a key's name is not empty and has no spaces and no plus",
        ));
    }
    Ok(())
}

/// Signs `text`, which must end in a newline, with every key of `signers`.
pub fn sign<'a>(
    text: &str,
    signers: impl IntoIterator<Item = &'a Signer>,
) -> Result<String, NoteError> {
    if !text.ends_with('\n') {
        return Err(NoteError::Malformed("the text ends in a newline"));
    }
    check_characters(text)?;
    let mut note = format!("{text}\n");
    for signer in signers {
        let mut bytes = signer.public.id.to_be_bytes().to_vec();
        bytes.extend_from_slice(&signer.key.sign(text.as_bytes()).to_bytes());
        let encoded = STANDARD.encode(bytes);
        note.push_str(&format!(
            "{SIGNATURE_START}{} {encoded}\n",
            signer.public.name
        ));
    }
    Ok(note)
}

fn check_characters(text: &str) -> Result<(), NoteError> {
    if text.chars().any(|c| c < ' ' && c != '\n') {
        return Err(NoteError::Malformed("it has control characters"));
    }
    Ok(())
}

/// A parsed note. Its text must not be used before [`Note::verify`].
#[derive(Debug)]
pub struct Note<'a> {
    text: &'a str,
    signatures: Vec<NoteSignature<'a>>,
}

#[derive(Debug)]
struct NoteSignature<'a> {
    name: &'a str,
    id: u32,
    bytes: Vec<u8>,
}

impl<'a> Note<'a> {
    pub fn parse(note: &'a str) -> Result<Self, NoteError> {
        if note.len() > MAX_NOTE {
            return Err(NoteError::Malformed("it is longer than 64 KiB"));
        }
        check_characters(note)?;
        let split = note
            .rfind("\n\n")
            .ok_or(NoteError::Malformed("no blank line before the signatures"))?;
        let (text, signatures) = (&note[..=split], &note[split + 2..]);
        if !signatures.ends_with('\n') {
            return Err(NoteError::Malformed("it does not end in a signature line"));
        }
        let signatures = signatures
            .lines()
            .map(parse_signature)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { text, signatures })
    }

    /// The text, once at least one of `keys` has signed it and no signature by one of them is
    /// wrong, and the keys that did.
    pub fn verify<'k>(
        &self,
        keys: &'k [VerifierKey],
    ) -> Result<(&'a str, Vec<&'k VerifierKey>), NoteError> {
        let mut signed_by = Vec::new();
        for signature in &self.signatures {
            let of_signature =
                |key: &&VerifierKey| key.name == signature.name && key.id == signature.id;
            let Some(key) = keys.iter().find(of_signature) else {
                continue;
            };
            let valid = Signature::from_slice(&signature.bytes)
                .and_then(|bytes| key.key.verify_strict(self.text.as_bytes(), &bytes));
            if valid.is_err() {
                return Err(NoteError::BadSignature(key.label()));
            }
            signed_by.push(key);
        }
        if signed_by.is_empty() {
            let known: Vec<_> = keys.iter().map(VerifierKey::label).collect();
            return Err(NoteError::NoKnownKey {
                signed: self.signer_labels().join(", "),
                known: known.join(", "),
            });
        }
        Ok((self.text, signed_by))
    }

    /// Name and key id of each signature, verified or not.
    pub fn signer_labels(&self) -> Vec<String> {
        self.signatures
            .iter()
            .map(|signature| label(signature.name, signature.id))
            .collect()
    }
}

fn parse_signature(line: &str) -> Result<NoteSignature<'_>, NoteError> {
    let malformed = NoteError::Malformed("a signature line is not '— NAME BASE64'");
    let (name, encoded) = line
        .strip_prefix(SIGNATURE_START)
        .and_then(|rest| rest.split_once(' '))
        .ok_or_else(|| malformed.clone())?;
    check_name(name).map_err(|_| malformed.clone())?;
    let bytes = STANDARD.decode(encoded).map_err(|_| malformed.clone())?;
    let (id, signature) = bytes.split_first_chunk::<4>().ok_or(malformed)?;
    Ok(NoteSignature {
        name,
        id: u32::from_be_bytes(*id),
        bytes: signature.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key and note of the documentation of golang.org/x/mod/sumdb/note.
    const PRIVATE: &str =
        "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    const PUBLIC: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\n\
                        then you don't know what your problem is.\n";
    const SIGNATURE: &str = "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    fn known() -> VerifierKey {
        PUBLIC.parse().unwrap()
    }

    #[test]
    fn signing_gives_the_note_that_go_documents() {
        let signer = Signer::from_private_text(PRIVATE).unwrap();
        assert_eq!(signer.to_private_text(), PRIVATE);
        assert_eq!(signer.verifier().to_string(), PUBLIC);
        let note = sign(TEXT, [&signer]).unwrap();
        assert_eq!(note, format!("{TEXT}\n{SIGNATURE}"));
    }

    #[test]
    fn a_note_verifies_and_unknown_signatures_are_passed_over() {
        let other = Signer::generate("example.com/other").unwrap();
        let signer = Signer::from_private_text(PRIVATE).unwrap();
        let note = sign(TEXT, [&other, &signer]).unwrap();
        let keys = [known()];
        let parsed = Note::parse(&note).unwrap();
        let (text, by) = parsed.verify(&keys).unwrap();
        assert_eq!(text, TEXT);
        assert_eq!(by, [&known()]);
        assert_eq!(parsed.signer_labels().len(), 2);
    }

    #[test]
    fn a_changed_text_and_a_strange_key_are_told_apart() {
        let note = format!("{TEXT}\n{SIGNATURE}").replace("answer", "Answer");
        let keys = [known()];
        let error = Note::parse(&note).unwrap().verify(&keys).unwrap_err();
        assert_eq!(
            error,
            NoteError::BadSignature("PeterNeumann+c74f20a3".into())
        );
        let strange = [Signer::generate("PeterNeumann").unwrap().verifier().clone()];
        let error = Note::parse(&note).unwrap().verify(&strange).unwrap_err();
        assert!(matches!(error, NoteError::NoKnownKey { .. }), "{error}");
    }

    #[test]
    fn any_flipped_bit_of_a_note_or_of_its_key_is_refused() {
        let keys = [known()];
        let note = format!("{TEXT}\n{SIGNATURE}").into_bytes();
        for (position, bit) in (0..note.len()).flat_map(|p| (0..8).map(move |b| (p, b))) {
            let mut flipped = note.clone();
            flipped[position] ^= 1 << bit;
            let accepted = String::from_utf8(flipped)
                .is_ok_and(|note| Note::parse(&note).is_ok_and(|n| n.verify(&keys).is_ok()));
            assert!(!accepted, "byte {position} bit {bit}");
        }
        for (position, bit) in (0..PUBLIC.len()).flat_map(|p| (0..8).map(move |b| (p, b))) {
            let mut flipped = PUBLIC.as_bytes().to_vec();
            flipped[position] ^= 1 << bit;
            let accepted =
                String::from_utf8(flipped).is_ok_and(|text| text.parse::<VerifierKey>().is_ok());
            assert!(!accepted, "key byte {position} bit {bit}");
        }
    }

    #[test]
    fn notes_that_break_the_format_are_refused() {
        let cut = format!("{TEXT}\n{}", SIGNATURE.trim_end());
        let control = format!("a\tb\n\n{SIGNATURE}");
        for wrong in ["", "text\n", "text\n\n", "text\n\n- a b\n", &cut, &control] {
            assert!(Note::parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(sign("no newline", []).is_err());
        assert!(Signer::generate("a name").is_err());
        assert!(Signer::generate("a+b").is_err());
    }
}
