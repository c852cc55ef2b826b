//! Verified tokens, so that a token's signature is checked once and not with every request.
//!
//! Only tokens that were accepted are kept: nobody who has none can fill the cache, or push others out. Entries are
//! looked up by a keyed digest of the whole token (the token itself is not kept), end with `exp` or with the keys that
//! verified them, and with the engine: a new configuration begins with none.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use sailcloth_core::siphash::digest;

use crate::verification::Verified;

/// Bytes that an entry takes besides what it holds: its slot in a table that is between 7/16 and 7/8 full and doubles
/// by copying, the shared part, and the allocator's share of four blocks. Measured: `tests/suites/host/memory.rs`.
const OVERHEAD: usize = 400;

/// A bounded cache. Two generations: when the young one has taken half of the budget, the old one is dropped and the
/// young one becomes old; an old entry that is asked for becomes young. So what is used stays, at no cost per request.
pub struct TokenCache {
    limit: usize,
    key: [u64; 2],
    young: Generation,
    old: Generation,
}

type Entries = HashMap<u128, Rc<Verified>, BuildHasherDefault<Digest>>;

/// A digest is a hash already.
#[derive(Default)]
struct Digest(u64);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        let first = bytes.first_chunk::<8>().copied().unwrap_or_default();
        self.0 = u64::from_le_bytes(first);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Default)]
struct Generation {
    entries: Entries,
    bytes: usize,
}

impl TokenCache {
    /// A cache of at most `limit` bytes; 0 keeps nothing. `key` must be random: who knows it could look for a token with
    /// the digest of another.
    #[must_use]
    pub fn new(limit: usize, key: [u64; 2]) -> Self {
        Self { limit, key, young: Generation::default(), old: Generation::default() }
    }

    /// How many tokens it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.entries.len() + self.old.entries.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes it takes, estimated.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.young.bytes + self.old.bytes
    }

    /// What a token is known by.
    pub(crate) fn digest(&self, token: &[u8]) -> u128 {
        digest(self.key, token)
    }

    pub(crate) fn keeps_any(&self) -> bool {
        self.limit > 0
    }

    pub(crate) fn get(&mut self, digest: u128) -> Option<Rc<Verified>> {
        if let Some(verified) = self.young.entries.get(&digest) {
            return Some(Rc::clone(verified));
        }
        let verified = self.old.remove(digest)?;
        self.insert(digest, &verified);
        Some(verified)
    }

    pub(crate) fn insert(&mut self, digest: u128, verified: &Rc<Verified>) {
        let bytes = size(verified);
        if bytes > self.limit / 2 {
            return;
        }
        self.young.remove(digest);
        if self.young.bytes + bytes > self.limit / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes += bytes;
        self.young.entries.insert(digest, Rc::clone(verified));
    }

    pub(crate) fn remove(&mut self, digest: u128) {
        self.young.remove(digest);
        self.old.remove(digest);
    }
}

impl Generation {
    fn remove(&mut self, digest: u128) -> Option<Rc<Verified>> {
        let verified = self.entries.remove(&digest)?;
        self.bytes = self.bytes.saturating_sub(size(&verified));
        Some(verified)
    }
}

fn size(verified: &Verified) -> usize {
    verified.bytes() + OVERHEAD
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("tokens", &self.len()).field("bytes", &self.bytes()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn entry() -> Rc<Verified> {
        Rc::new(Verified::default())
    }

    #[test]
    fn it_never_takes_more_than_its_limit() {
        let mut cache = TokenCache::new(100_000, [1, 2]);
        for number in 0..5_000u32 {
            cache.insert(u128::from(number), &entry());
            assert!(cache.bytes() <= 100_000, "{}", cache.bytes());
        }
        assert!(cache.len() > 50);
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let mut cache = TokenCache::new(20_000, [1, 2]);
        cache.insert(1, &entry());
        cache.insert(2, &entry());
        for number in 0..500u32 {
            cache.insert(u128::from(number) + 3, &entry());
            assert!(cache.get(1).is_some(), "{number}");
        }
        assert!(cache.get(2).is_none());
    }

    #[test]
    fn a_token_twice_counts_once_and_removal_gives_its_bytes_back() {
        let mut cache = TokenCache::new(20_000, [1, 2]);
        cache.insert(1, &entry());
        let once = cache.bytes();
        cache.insert(1, &entry());
        assert_eq!((cache.len(), cache.bytes()), (1, once));
        cache.remove(1);
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }

    #[test]
    fn a_limit_of_zero_keeps_nothing_and_large_tokens_are_not_kept() {
        let mut none = TokenCache::new(0, [1, 2]);
        none.insert(1, &entry());
        assert!(none.is_empty());
        let mut small = TokenCache::new(2_000, [1, 2]);
        let large = Verified { principal: Some(vec![0; 1_500]), ..Verified::default() };
        small.insert(1, &Rc::new(large));
        assert!(small.is_empty());
    }
}
