//! Sixteen buckets in one value of the store.
//!
//! ```text
//! row    = version:u8 shared:u64le *16( tag:u64le tat:u64le )
//! ```
//!
//! A client's bucket is the record with its tag. A record whose `tat` has passed is a full bucket and says nothing: it
//! is dropped at the next write. When all sixteen belong to other clients, the client takes from `shared`, one bucket for
//! everybody who found no place; and whoever gets a place later starts from `shared` too. So a client that is moved
//! between the two never meets a fuller bucket than its own would be.

use crate::gcra::{Gcra, Take};

/// Records of a row.
pub(crate) const WAYS: usize = 16;

const VERSION: u8 = 1;

/// A row as a request finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    shared: u64,
    records: Vec<(u64, u64)>,
    /// Whether it must be written back even if the request takes nothing.
    mended: bool,
}

/// What a request finds in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visit {
    pub(crate) take: Take,
    /// The bucket's state before the request.
    pub(crate) tat: u64,
    /// Whether the client had to take from the shared bucket.
    pub(crate) crowded: bool,
    /// The row to write: after an admission, or because it had to be mended; `None` when nothing changes.
    pub(crate) write: Option<Vec<u8>>,
    /// How many more places are taken when it is written.
    pub(crate) grown: i64,
}

impl Row {
    /// Reads a stored row; absent is empty. Bytes that no version of this filter wrote are not taken for an empty row,
    /// which would be a full bucket for everybody: they become a row whose shared bucket is empty.
    #[must_use]
    pub fn parse(stored: Option<&[u8]>, gcra: &Gcra, now: u64) -> Self {
        let Some(bytes) = stored else { return Self { shared: 0, records: Vec::new(), mended: false } };
        let Some(mut row) = Self::read(bytes) else {
            return Self { shared: gcra.emptied(now), records: Vec::new(), mended: true };
        };
        for tat in row.records.iter_mut().map(|(_, tat)| tat).chain([&mut row.shared]) {
            let mended = gcra.mend(*tat, now);
            row.mended |= mended != *tat;
            *tat = mended;
        }
        row
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (shared, rest) = rest.split_first_chunk::<8>()?;
        let (records, rest) = rest.as_chunks::<16>();
        if *version != VERSION || !rest.is_empty() || records.len() > WAYS {
            return None;
        }
        let records = records.iter().filter_map(|record| {
            let (tag, tat) = record.split_first_chunk::<8>()?;
            Some((u64::from_le_bytes(*tag), u64::from_le_bytes(tat.try_into().ok()?)))
        });
        Some(Self { shared: u64::from_le_bytes(*shared), records: records.collect(), mended: false })
    }

    /// One request of the client with this tag, at `now`.
    pub(crate) fn visit(mut self, tag: u64, gcra: &Gcra, now: u64, cost: u32) -> Visit {
        let before = self.records.len();
        let (own, crowded, tat) = self.find(tag, now);
        let take = gcra.take(tat, now, cost);
        let write = match take {
            Take::Admitted { tat: next } => {
                self.set(own, crowded, tag, next);
                Some(self.encode())
            }
            Take::Limited { .. } | Take::TooLarge => self.mended.then(|| self.encode()),
        };
        let grown = if write.is_some() { change(before, self.records.len()) } else { 0 };
        Visit { take, tat, crowded, write, grown }
    }

    /// Changes the bucket that this client took from, whoever may have moved in since; the row to write, if it changes, and
    /// how many more places are taken then.
    pub(crate) fn correct(
        mut self,
        tag: u64,
        crowded: bool,
        now: u64,
        corrected: impl Fn(u64) -> u64,
    ) -> Option<(Vec<u8>, i64)> {
        let before = self.records.len();
        let (own, full, tat) = self.find(tag, now);
        // A client that took from the shared bucket may have a place by now; its debt stays where it was made.
        let (own, full, tat) = if crowded { (None, true, self.shared) } else { (own, full, tat) };
        let next = corrected(tat);
        if next == tat {
            return None;
        }
        self.set(own, full, tag, next);
        Some((self.encode(), change(before, self.records.len())))
    }

    /// Drops full buckets, then finds the client's: its place, whether there is none left for it, and its state.
    fn find(&mut self, tag: u64, now: u64) -> (Option<usize>, bool, u64) {
        self.records.retain(|(_, tat)| *tat > now);
        let own = self.records.iter().position(|(owner, _)| *owner == tag);
        let crowded = own.is_none() && self.records.len() >= WAYS;
        let tat = own.and_then(|place| self.records.get(place)).map_or(self.shared, |(_, tat)| *tat);
        (own, crowded, tat)
    }

    fn set(&mut self, own: Option<usize>, crowded: bool, tag: u64, tat: u64) {
        match own.and_then(|place| self.records.get_mut(place)) {
            Some(record) => record.1 = tat,
            None if crowded => self.shared = tat,
            None => self.records.push((tag, tat)),
        }
    }

    /// The state of the bucket that a client would take from, and whether it is the shared one.
    pub(crate) fn peek(mut self, tag: u64, now: u64) -> (u64, bool) {
        let (_, crowded, tat) = self.find(tag, now);
        (tat, crowded)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(9 + self.records.len() * 16);
        out.push(VERSION);
        out.extend_from_slice(&self.shared.to_le_bytes());
        for (tag, tat) in &self.records {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&tat.to_le_bytes());
        }
        out
    }
}

fn change(before: usize, after: usize) -> i64 {
    let count = |records: usize| i64::try_from(records).unwrap_or(0);
    count(after) - count(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sailcloth_resources::rate_limit::Limit;
    use std::time::Duration;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const SECOND: u64 = 1_000_000_000;

    /// Two at once, one a second.
    fn gcra() -> Gcra {
        Gcra::new(Limit { requests: 1, per: Duration::from_secs(1), burst: 2, lease: 1 }, 0).unwrap()
    }

    /// A store of one row.
    #[derive(Default)]
    struct Cell(Option<Vec<u8>>);

    impl Cell {
        fn visit(&mut self, tag: u64, now: u64) -> Visit {
            let visit = Row::parse(self.0.as_deref(), &gcra(), now).visit(tag, &gcra(), now, 1);
            if let Some(row) = &visit.write {
                self.0 = Some(row.clone());
            }
            visit
        }

        fn admits(&mut self, tag: u64, now: u64) -> bool {
            matches!(self.visit(tag, now).take, Take::Admitted { .. })
        }
    }

    #[test]
    fn clients_of_a_row_do_not_touch_each_other() {
        let mut row = Cell::default();
        for tag in 0..16 {
            assert!(row.admits(tag, SECOND) && row.admits(tag, SECOND) && !row.admits(tag, SECOND), "{tag}");
        }
    }

    #[test]
    fn the_seventeenth_client_shares_one_bucket_with_the_eighteenth() {
        let mut row = Cell::default();
        assert!((0..16).all(|tag| row.admits(tag, SECOND)));
        assert!(row.visit(16, SECOND).crowded);
        assert!(row.admits(17, SECOND), "the second and last of the shared bucket");
        assert!(!row.admits(16, SECOND) && !row.admits(18, SECOND));
        assert!(row.admits(0, SECOND), "those with a place keep it");
    }

    #[test]
    fn leaving_the_shared_bucket_refills_nothing() {
        let mut row = Cell::default();
        let full = 10 * SECOND;
        // Sixteen with one request each are gone a second later; client 16 has emptied the shared bucket.
        assert!((0..16).all(|tag| row.admits(tag, full)));
        assert!(row.admits(16, full) && row.admits(16, full) && !row.admits(16, full));
        let later = full + SECOND;
        assert!(row.admits(16, later), "one second is one request");
        assert!(!row.visit(16, later).crowded, "there is room now");
        assert!(!row.admits(16, later), "and the new place is no new bucket");
    }

    #[test]
    fn a_record_whose_time_has_passed_is_dropped() {
        let mut row = Cell::default();
        assert!((0..16).all(|tag| row.admits(tag, SECOND)));
        assert!(row.admits(100, 3 * SECOND));
        assert_eq!(row.0.as_ref().map(Vec::len), Some(9 + 16));
    }

    #[test]
    fn bytes_of_a_stranger_are_an_empty_bucket_not_a_full_one() {
        for garbage in [b"".as_slice(), b"x", &[VERSION; 10], &[0; 9], &[VERSION; 9 + 16 * 17]] {
            let mut row = Cell(Some(garbage.to_vec()));
            assert!(!row.admits(1, 5 * SECOND), "{garbage:?}");
            assert!(
                row.admits(1, 6 * SECOND) && !row.admits(1, 6 * SECOND),
                "{garbage:?}: it heals at the rate"
            );
        }
    }

    #[test]
    fn a_clock_that_went_back_starves_nobody_and_refills_nobody() {
        let mut row = Cell::default();
        assert!(row.admits(1, 1_000 * SECOND) && row.admits(1, 1_000 * SECOND));
        assert!(!row.admits(1, 10 * SECOND));
        assert!(row.admits(1, 11 * SECOND) && !row.admits(1, 11 * SECOND));
    }
}
