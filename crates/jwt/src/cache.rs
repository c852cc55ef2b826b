//! Verified tokens, so that a token's signature is checked once and not with every request.
//!
//! Only tokens that were accepted are kept: nobody who has none can fill the cache, or push others out. Entries are
//! looked up by the whole token, end with `exp`, and end with the engine: a new configuration begins with none.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::BuildHasherDefault;
use std::rc::Rc;

use crate::verification::Verified;

/// Bytes that an entry takes besides what it holds: two map slots, the shared pointer, allocator overhead.
const OVERHEAD: usize = 256;

/// A bounded cache. Two generations: when the young one has taken half of the budget, the old one is dropped and the
/// young one becomes old; an old entry that is asked for becomes young. So what is used stays, at no cost per request.
pub struct TokenCache {
    limit: usize,
    young: Generation,
    old: Generation,
}

/// Deterministic hashing (no host randomness in an engine); keys are tokens that an issuer has signed.
type Entries = HashMap<Box<[u8]>, Rc<Verified>, BuildHasherDefault<DefaultHasher>>;

#[derive(Default)]
struct Generation {
    entries: Entries,
    bytes: usize,
}

impl TokenCache {
    /// A cache of at most `limit` bytes; 0 keeps nothing.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, young: Generation::default(), old: Generation::default() }
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

    pub(crate) fn get(&mut self, token: &[u8]) -> Option<Rc<Verified>> {
        if let Some(verified) = self.young.entries.get(token) {
            return Some(Rc::clone(verified));
        }
        let (key, verified) = self.old.remove(token)?;
        self.insert_entry(key, Rc::clone(&verified));
        Some(verified)
    }

    pub(crate) fn insert(&mut self, token: &[u8], verified: &Rc<Verified>) {
        self.insert_entry(Box::from(token), Rc::clone(verified));
    }

    pub(crate) fn remove(&mut self, token: &[u8]) {
        self.young.remove(token);
        self.old.remove(token);
    }

    fn insert_entry(&mut self, token: Box<[u8]>, verified: Rc<Verified>) {
        let bytes = size(&token, &verified);
        if bytes > self.limit / 2 {
            return;
        }
        self.young.remove(&token);
        if self.young.bytes + bytes > self.limit / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.bytes += bytes;
        self.young.entries.insert(token, verified);
    }
}

impl Generation {
    fn remove(&mut self, token: &[u8]) -> Option<(Box<[u8]>, Rc<Verified>)> {
        let (key, verified) = self.entries.remove_entry(token)?;
        self.bytes = self.bytes.saturating_sub(size(&key, &verified));
        Some((key, verified))
    }
}

fn size(token: &[u8], verified: &Verified) -> usize {
    token.len() + verified.bytes() + OVERHEAD
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
        let mut cache = TokenCache::new(100_000);
        for number in 0..5_000u32 {
            cache.insert(&number.to_le_bytes().repeat(50), &entry());
            assert!(cache.bytes() <= 100_000, "{}", cache.bytes());
        }
        assert!(cache.len() > 50);
    }

    #[test]
    fn what_is_used_stays_and_what_is_not_goes() {
        let mut cache = TokenCache::new(20_000);
        cache.insert(b"used", &entry());
        cache.insert(b"unused", &entry());
        for number in 0..500u32 {
            cache.insert(&number.to_le_bytes(), &entry());
            assert!(cache.get(b"used").is_some(), "{number}");
        }
        assert!(cache.get(b"unused").is_none());
    }

    #[test]
    fn a_token_twice_counts_once_and_removal_gives_its_bytes_back() {
        let mut cache = TokenCache::new(20_000);
        cache.insert(b"a", &entry());
        let once = cache.bytes();
        cache.insert(b"a", &entry());
        assert_eq!((cache.len(), cache.bytes()), (1, once));
        cache.remove(b"a");
        assert_eq!((cache.len(), cache.bytes()), (0, 0));
    }

    #[test]
    fn a_limit_of_zero_keeps_nothing_and_large_tokens_are_not_kept() {
        let mut none = TokenCache::new(0);
        none.insert(b"a", &entry());
        assert!(none.is_empty());
        let mut small = TokenCache::new(2_000);
        small.insert(&[0; 1_500], &entry());
        assert!(small.is_empty());
    }
}
