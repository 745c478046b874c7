//! The bytes of the journal: entries that are durable but perhaps not yet in synced tiles.
//!
//! Pure: encodes records and reads them back, telling a write that was cut short from a record
//! that was changed. The file itself is [`super::disk`]'s.
//!
//! A file is a header (`seawall-journal-1`, newline, the index of its first entry, a checksum)
//! and records. Each record names its entry's index and the first index of the batch it was
//! written in: a batch is acknowledged as a whole after it was synced, so a damaged record with
//! records of a later batch behind it had been acknowledged, and one without was perhaps not.

use sha2::{Digest, Sha256};

const MAGIC: &[u8; 18] = b"seawall-journal-1\n";
const HEADER: usize = MAGIC.len() + 8 + 8;
/// length u32, index u64, batch u64, checksum of those (4), checksum of all (16).
const RECORD_HEADER: usize = 4 + 8 + 8 + 4 + 16;
const NUMBERS: usize = 20;

/// The bytes of a journal that holds no entries and goes on at `base`.
pub fn header(base: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&base.to_be_bytes());
    let check = Sha256::digest(&bytes);
    bytes.extend_from_slice(&check[..8]);
    bytes
}

/// Adds the record of one entry.
pub fn push_record(out: &mut Vec<u8>, index: u64, batch: u64, entry: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&(entry.len() as u32).to_be_bytes());
    out.extend_from_slice(&index.to_be_bytes());
    out.extend_from_slice(&batch.to_be_bytes());
    let numbers = &out[start..];
    let check = Sha256::digest(numbers);
    let whole = Sha256::new().chain_update(numbers).chain_update(entry);
    out.extend_from_slice(&check[..4]);
    out.extend_from_slice(&whole.finalize()[..16]);
    out.extend_from_slice(entry);
}

/// How a journal ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// After a whole record.
    Clean,
    /// Inside a record: the writer was cut short.
    CutShort,
    /// With a record that is whole but isn't what was written, and nothing of a later batch behind
    /// it: a write that reached the disk in part, or a change to the last record.
    Damaged,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// The index of the first entry.
    pub base: u64,
    /// The entries from `base` on.
    pub entries: Vec<&'a [u8]>,
    pub tail: Tail,
    /// Bytes behind the last good record.
    pub tail_bytes: usize,
}

impl Parsed<'_> {
    /// The index after the last good entry.
    pub fn end(&self) -> u64 {
        self.base + self.entries.len() as u64
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("the journal's header was changed")]
    Header,
    #[error("the journal's record of entry {0}, which had been acknowledged, was changed")]
    Entry(u64),
}

struct Record<'a> {
    index: u64,
    batch: u64,
    entry: &'a [u8],
}

enum Next<'a> {
    Good(Record<'a>),
    CutShort,
    Damaged,
}

pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, JournalError> {
    let (head, mut rest) = bytes.split_at_checked(HEADER).ok_or(JournalError::Header)?;
    let number = head[MAGIC.len()..MAGIC.len() + 8].try_into();
    let base = u64::from_be_bytes(number.map_err(|_| JournalError::Header)?);
    if header(base) != head {
        return Err(JournalError::Header);
    }
    let mut entries = Vec::new();
    let tail = loop {
        if rest.is_empty() {
            break Tail::Clean;
        }
        let expected = base + entries.len() as u64;
        match next_record(rest) {
            Next::Good(record) if record.index == expected => {
                entries.push(record.entry);
                rest = &rest[RECORD_HEADER + record.entry.len()..];
            }
            Next::CutShort => break Tail::CutShort,
            Next::Good(_) | Next::Damaged => {
                if later_batch_follows(rest, expected) {
                    return Err(JournalError::Entry(expected));
                }
                break Tail::Damaged;
            }
        }
    };
    Ok(Parsed {
        base,
        entries,
        tail,
        tail_bytes: rest.len(),
    })
}

fn next_record(bytes: &[u8]) -> Next<'_> {
    let Some((head, rest)) = bytes.split_at_checked(RECORD_HEADER) else {
        return Next::CutShort;
    };
    let (numbers, checks) = head.split_at(NUMBERS);
    if Sha256::digest(numbers)[..4] != checks[..4] {
        return Next::Damaged;
    }
    let number = |at: usize, width: usize| {
        let digits = &numbers[at..at + width];
        digits
            .iter()
            .fold(0u64, |n, byte| n << 8 | u64::from(*byte))
    };
    let Some(entry) = rest.get(..number(0, 4) as usize) else {
        return Next::CutShort;
    };
    let whole = Sha256::new().chain_update(numbers).chain_update(entry);
    if whole.finalize()[..16] != checks[4..] {
        return Next::Damaged;
    }
    Next::Good(Record {
        index: number(4, 8),
        batch: number(12, 8),
        entry,
    })
}

/// Whether behind a damaged record of entry `index` a whole record of a later batch is found.
fn later_batch_follows(bytes: &[u8], index: u64) -> bool {
    (1..bytes.len())
        .any(|at| matches!(next_record(&bytes[at..]), Next::Good(record) if record.batch > index))
}

/// In how many batches the records of a whole journal were written.
#[cfg(test)]
pub fn batches(bytes: &[u8]) -> usize {
    let mut rest = &bytes[HEADER..];
    let mut batches = std::collections::BTreeSet::new();
    while let Next::Good(record) = next_record(rest) {
        batches.insert(record.batch);
        rest = &rest[RECORD_HEADER + record.entry.len()..];
    }
    batches.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries 7 and 8 in one batch, 9 in the next.
    fn three() -> Vec<u8> {
        let mut bytes = header(7);
        push_record(&mut bytes, 7, 7, b"seven");
        push_record(&mut bytes, 8, 7, b"eight");
        push_record(&mut bytes, 9, 9, b"nine");
        bytes
    }

    #[test]
    fn records_read_back() {
        let bytes = three();
        let parsed = parse(&bytes).unwrap();
        assert_eq!(parsed.base, 7);
        assert_eq!(parsed.entries, [&b"seven"[..], b"eight", b"nine"]);
        assert_eq!((parsed.tail, parsed.tail_bytes), (Tail::Clean, 0));
        assert_eq!(parsed.end(), 10);
        assert_eq!(parse(&header(3)).unwrap().end(), 3);
    }

    #[test]
    fn a_journal_cut_anywhere_keeps_the_whole_records_before_the_cut() {
        let bytes = three();
        for length in HEADER..bytes.len() {
            let parsed = parse(&bytes[..length]).unwrap();
            let whole = parsed.entries.len();
            assert!(whole < 3 && parsed.tail != Tail::Damaged, "{length}");
            let clean = parsed.tail == Tail::Clean;
            assert_eq!(clean, parsed.tail_bytes == 0, "{length}");
        }
        assert_eq!(parse(&bytes[..HEADER - 1]), Err(JournalError::Header));
    }

    #[test]
    fn no_flipped_bit_passes_unnoticed() {
        let bytes = three();
        for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let noticed = match parse(&flipped) {
                Err(_) => true,
                Ok(parsed) => parsed.tail != Tail::Clean,
            };
            assert!(noticed, "byte {at} bit {bit}");
        }
    }

    #[test]
    fn damage_is_an_error_where_a_later_batch_proves_that_the_entry_was_acknowledged() {
        let mut bytes = three();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let parsed = parse(&bytes).unwrap();
        assert_eq!((parsed.end(), parsed.tail), (9, Tail::Damaged));
        let mut bytes = three();
        let eight = bytes.windows(5).position(|w| w == b"eight").unwrap();
        bytes[eight] ^= 1;
        assert_eq!(parse(&bytes), Err(JournalError::Entry(8)));
    }

    #[test]
    fn a_batch_that_reached_the_disk_in_part_is_dropped_from_its_first_hole() {
        let mut bytes = three();
        push_record(&mut bytes, 10, 10, &[b'x'; 100]);
        let hole = bytes.len();
        push_record(&mut bytes, 11, 10, b"behind the hole");
        bytes[hole - 100..hole].fill(0);
        let parsed = parse(&bytes).unwrap();
        assert_eq!((parsed.end(), parsed.tail), (10, Tail::Damaged));
    }
}
