//! What all workers know of a key set: a note beside its lease, and the record that holds it. Both lie in a memory that
//! others may write, so each begins with a version, and what cannot be read is as good as absent.

use std::time::Duration;

use super::after;

/// How the fetches of a set have gone. Times are monotonic, in nanoseconds, the same for the whole process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Note {
    /// When the last successful fetch ended; names the set, as no two end at the same time. 0: none yet.
    pub fetched: u64,
    /// When the set is to be fetched anew.
    pub refresh: u64,
    /// When the last fetch that has ended began.
    pub started: u64,
    /// When it ended.
    pub ended: u64,
    /// How many fetches have failed since the last success.
    pub failures: u32,
}

const VERSION: u8 = 1;

/// Workers read the clock at different moments; no time that has passed lies further ahead than this.
const AHEAD: Duration = Duration::from_secs(60);
/// The longest that a set stays before it is to be fetched anew (`refreshInterval`).
const LONGEST: Duration = Duration::from_secs(24 * 3600);

impl Note {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        for time in [self.fetched, self.refresh, self.started, self.ended, u64::from(self.failures)] {
            bytes.extend_from_slice(&time.to_le_bytes());
        }
        bytes
    }

    /// Reads it; what is no note is an empty one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        let Some((&VERSION, rest)) = bytes.split_first() else { return Self::default() };
        let (numbers, []) = rest.as_chunks::<8>() else { return Self::default() };
        let &[fetched, refresh, started, ended, failures] = numbers else { return Self::default() };
        Self {
            fetched: u64::from_le_bytes(fetched),
            refresh: u64::from_le_bytes(refresh),
            started: u64::from_le_bytes(started),
            ended: u64::from_le_bytes(ended),
            failures: u32::try_from(u64::from_le_bytes(failures)).unwrap_or(u32::MAX),
        }
    }

    /// The note, or an empty one where it tells of a future that none of ours tells of: with it no set would ever be
    /// fetched or taken over again.
    pub(super) fn plausible(self, now: u64) -> Self {
        let past = [self.fetched, self.started, self.ended].into_iter().all(|time| time <= after(now, AHEAD));
        if past && self.refresh <= after(now, AHEAD + LONGEST) { self } else { Self::default() }
    }
}

/// A set as it lies in the shared memory: the time that names it, then its JSON text.
pub(super) fn record(fetched: u64, text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + text.len());
    bytes.push(VERSION);
    bytes.extend_from_slice(&fetched.to_le_bytes());
    bytes.extend_from_slice(text);
    bytes
}

/// The text of the set of that name.
pub(super) fn text_of(record: &[u8], fetched: u64) -> Option<&[u8]> {
    let (&VERSION, rest) = record.split_first()? else { return None };
    let (name, text) = rest.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*name) == fetched).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn what_is_written_is_read_and_garbage_is_nothing() {
        let note = Note { fetched: 1, refresh: u64::MAX, started: 3, ended: 4, failures: 5 };
        let bytes = note.encode();
        assert_eq!(Note::decode(&bytes), note);
        for cut in 0..bytes.len() {
            assert_eq!(Note::decode(&bytes[..cut]), Note::default(), "{cut}");
        }
        let other_version = [&[2][..], &bytes[1..]].concat();
        assert_eq!(Note::decode(&other_version), Note::default());

        let set = record(7, b"{}");
        assert_eq!(text_of(&set, 7), Some(&b"{}"[..]));
        assert_eq!(text_of(&set, 8), None);
        for cut in 0..9 {
            assert_eq!(text_of(&set[..cut], 7), None, "{cut}");
        }
        assert_eq!(text_of(&[&[0][..], &set[1..]].concat(), 7), None);
    }
}
