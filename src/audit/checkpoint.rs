//! The log's signed tree head, as in <https://c2sp.org/tlog-checkpoint>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::merkle::{HASH_SIZE, Hash};
use super::note::{self, Note, NoteError, Signer, VerifierKey};

/// What a checkpoint says: this log, at this size, has this root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The name of the log; the same as its keys' names.
    pub origin: String,
    pub size: u64,
    pub root: Hash,
}

impl Checkpoint {
    pub fn sign<'a>(
        &self,
        signers: impl IntoIterator<Item = &'a Signer>,
    ) -> Result<String, NoteError> {
        let root = STANDARD.encode(self.root);
        note::sign(
            &format!("{}\n{}\n{root}\n", self.origin, self.size),
            signers,
        )
    }

    /// Reads a signed checkpoint; at least one of `keys` must have signed it. Also gives the keys
    /// that did.
    pub fn open<'k>(
        note: &str,
        keys: &'k [VerifierKey],
    ) -> Result<(Self, Vec<&'k VerifierKey>), NoteError> {
        let note = Note::parse(note)?;
        let (text, signed_by) = note.verify(keys)?;
        Ok((Self::parse(text)?, signed_by))
    }

    fn parse(text: &str) -> Result<Self, NoteError> {
        let malformed = || NoteError::Malformed("a checkpoint has an origin, a size and a root");
        let mut lines = text.lines();
        let (Some(origin), Some(size_text), Some(root)) =
            (lines.next(), lines.next(), lines.next())
        else {
            return Err(malformed());
        };
        let size: u64 = size_text.parse().map_err(|_| malformed())?;
        if origin.is_empty() || size.to_string() != size_text || lines.any(str::is_empty) {
            return Err(malformed());
        }
        let root = decode_hash(root).ok_or_else(malformed)?;
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
        })
    }
}

pub(super) fn decode_hash(text: &str) -> Option<Hash> {
    let bytes = STANDARD.decode(text).ok()?;
    <[u8; HASH_SIZE]>::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_as_it_was_signed() {
        let signer = Signer::generate("example.com/log").unwrap();
        let checkpoint = Checkpoint {
            origin: "example.com/log".into(),
            size: 70_000,
            root: [9; 32],
        };
        let text = checkpoint.sign([&signer]).unwrap();
        assert!(text.starts_with("example.com/log\n70000\nCQkJ"));
        let keys = [signer.verifier().clone()];
        let (read, by) = Checkpoint::open(&text, &keys).unwrap();
        assert_eq!(read, checkpoint);
        assert_eq!(by.len(), 1);
    }

    #[test]
    fn during_a_rotation_either_key_alone_accepts_the_checkpoint() {
        let old = Signer::generate("example.com/log").unwrap();
        let new = Signer::generate("example.com/log").unwrap();
        let checkpoint = Checkpoint {
            origin: "example.com/log".into(),
            size: 1,
            root: [1; 32],
        };
        let text = checkpoint.sign([&new, &old]).unwrap();
        for signer in [&old, &new] {
            assert!(Checkpoint::open(&text, &[signer.verifier().clone()]).is_ok());
        }
    }

    #[test]
    fn bodies_that_are_no_checkpoint_are_refused_although_signed() {
        let signer = Signer::generate("log").unwrap();
        let keys = [signer.verifier().clone()];
        let root = STANDARD.encode([0u8; 32]);
        for wrong in [
            format!("log\n07\n{root}\n"),
            format!("log\n-1\n{root}\n"),
            format!("log\n1\n{}\n", &root[4..]),
            format!("log\n1\n{root}\n\nextension\n"),
            "log\n1\n".to_owned(),
        ] {
            let note = note::sign(&wrong, [&signer]).unwrap();
            assert!(Checkpoint::open(&note, &keys).is_err(), "{wrong:?}");
        }
    }
}
