//! Proofs that one entry is in the log, as in <https://c2sp.org/tlog-proof>: with the entry's
//! bytes and the log's verifier key, a proof is checked by anybody, without the log.

use std::fmt;
use std::io;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::checkpoint::{Checkpoint, decode_hash};
use super::merkle::{self, Hash, leaf_hash};
use super::note::{NoteError, VerifierKey};
use super::reader::{LogReader, TiledTree};

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
/// A path through a tree of 2^64 leaves is not longer.
const LONGEST_PATH: usize = 64;

/// An entry's place in a signed tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    pub index: u64,
    /// From the leaf's sibling up.
    pub path: Vec<Hash>,
    /// The signed checkpoint.
    pub checkpoint: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error("this is not a proof: {0}; a proof begins with the line {FIRST_LINE}")]
    Malformed(&'static str),
    #[error("the checkpoint in the proof is not to be trusted: {0}")]
    Checkpoint(#[from] NoteError),
    #[error(
        "the entry is not the one that the proof is for: entry {index} of the log of {size} \
         entries, signed with that root, has other bytes"
    )]
    OtherEntry { index: u64, size: u64 },
    #[error("entry {index} is not published yet, the checkpoint ends at {size}: ask again shortly")]
    NotPublished { index: u64, size: u64 },
    #[error("the log's tiles can't be read: {0}")]
    Io(#[from] io::Error),
}

impl Proof {
    /// Makes the proof of an entry from the published tiles.
    pub fn of(reader: &LogReader, index: u64, keys: &[VerifierKey]) -> Result<Self, ProofError> {
        let text = reader.checkpoint_text()?;
        let (checkpoint, _) = Checkpoint::open(&text, keys)?;
        let size = checkpoint.size;
        if index >= size {
            return Err(ProofError::NotPublished { index, size });
        }
        let path = merkle::inclusion_path(&TiledTree { reader, size }, index, size)?;
        Ok(Self {
            index,
            path,
            checkpoint: text,
        })
    }

    /// Checks that `entry` stands at this index in the log that one of `keys` signed, and gives the
    /// checkpoint that says so.
    pub fn verify(&self, entry: &[u8], keys: &[VerifierKey]) -> Result<Checkpoint, ProofError> {
        let (checkpoint, _) = Checkpoint::open(&self.checkpoint, keys)?;
        let size = checkpoint.size;
        let led_to = merkle::root_from_path(leaf_hash(entry), self.index, size, &self.path);
        if led_to != Some(checkpoint.root) {
            return Err(ProofError::OtherEntry {
                index: self.index,
                size,
            });
        }
        Ok(checkpoint)
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}\nindex {}", self.index)?;
        for hash in &self.path {
            writeln!(f, "{}", STANDARD.encode(hash))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for Proof {
    type Err = ProofError;

    /// Extra data, which a proof may carry, is nobody's word and passed over.
    fn from_str(text: &str) -> Result<Self, ProofError> {
        let malformed = |what| ProofError::Malformed(what);
        let (head, checkpoint) = text
            .split_once("\n\n")
            .ok_or_else(|| malformed("no empty line in front of a checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(FIRST_LINE) {
            return Err(malformed("its first line is another"));
        }
        if let Some(extra) = lines.next_if(|line| line.starts_with("extra ")) {
            STANDARD
                .decode(&extra["extra ".len()..])
                .map_err(|_| malformed("its extra data is not base64"))?;
        }
        let number = lines
            .next()
            .and_then(|line| line.strip_prefix("index "))
            .ok_or_else(|| malformed("no index"))?;
        let index: u64 = number
            .parse()
            .ok()
            .filter(|index: &u64| index.to_string() == number)
            .ok_or_else(|| malformed("its index is no number"))?;
        let path: Vec<Hash> = lines
            .take(LONGEST_PATH + 1)
            .map(|line| decode_hash(line).ok_or_else(|| malformed("a line of its path is no hash")))
            .collect::<Result<_, _>>()?;
        if path.len() > LONGEST_PATH {
            return Err(malformed("its path is longer than any tree is high"));
        }
        Ok(Self {
            index,
            path,
            checkpoint: checkpoint.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::keys::LogKeys;
    use crate::audit::writer::Writer;

    fn log_of(count: u64) -> (tempfile::TempDir, LogReader, LogKeys) {
        let directory = tempfile::tempdir().unwrap();
        let keys = LogKeys::generate("example.com/log").unwrap();
        let (mut writer, _) = Writer::open(directory.path(), keys.clone()).unwrap();
        for index in 0..count {
            writer.commit([entry(index).as_slice()]).unwrap();
        }
        writer.close().unwrap();
        let reader = LogReader::new(directory.path());
        (directory, reader, keys)
    }

    fn entry(index: u64) -> Vec<u8> {
        format!("entry {index}").into_bytes()
    }

    #[test]
    fn an_entrys_proof_is_checked_from_its_text_alone() {
        let (_directory, reader, keys) = log_of(700);
        let keys = keys.verifiers();
        for index in [0, 1, 255, 256, 511, 512, 698, 699] {
            let text = Proof::of(&reader, index, &keys).unwrap().to_string();
            let proof: Proof = text.parse().unwrap();
            let checkpoint = proof.verify(&entry(index), &keys).unwrap();
            assert_eq!(checkpoint.size, 700);
            let other = proof.verify(&entry(index + 1), &keys).unwrap_err();
            assert!(matches!(other, ProofError::OtherEntry { .. }), "{other}");
        }
        let beyond = Proof::of(&reader, 700, &keys).unwrap_err();
        assert!(beyond.to_string().contains("not published yet"), "{beyond}");
    }

    #[test]
    fn any_flipped_byte_of_a_proof_is_refused() {
        let (_directory, reader, keys) = log_of(5);
        let keys = keys.verifiers();
        let text = Proof::of(&reader, 2, &keys).unwrap().to_string();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let accepted = String::from_utf8(bytes).is_ok_and(|text| {
                text.parse::<Proof>()
                    .is_ok_and(|proof| proof.verify(&entry(2), &keys).is_ok())
            });
            assert!(!accepted, "byte {at}");
        }
    }

    #[test]
    fn extra_data_is_passed_over_and_malformed_proofs_say_what_is_wrong() {
        let (_directory, reader, keys) = log_of(3);
        let keys = keys.verifiers();
        let text = Proof::of(&reader, 1, &keys).unwrap().to_string();
        let with_extra = text.replacen("\nindex", "\nextra aGk=\nindex", 1);
        assert!(
            with_extra
                .parse::<Proof>()
                .unwrap()
                .verify(&entry(1), &keys)
                .is_ok()
        );
        let long_path = text.replacen(
            "\n\n",
            &format!(
                "\n{}\n\n",
                [STANDARD.encode([0; 32]).as_str(); 70].join("\n")
            ),
            1,
        );
        for wrong in [
            "",
            "hello\n\nworld",
            "c2sp.org/tlog-proof@v1\n\nx",
            "c2sp.org/tlog-proof@v1\nindex 01\n\nx",
            "c2sp.org/tlog-proof@v1\nindex 1\nAAAA\n\nx",
            &long_path,
        ] {
            let error = wrong.parse::<Proof>().unwrap_err();
            assert!(matches!(error, ProofError::Malformed(_)), "{wrong:?}");
        }
    }
}
