//! Tables that never grow past their limit.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// What takes the place of a value that is beyond a budget.
pub(crate) const OTHER: &str = "other";

/// At most `limit` values by key. Nothing is ever dropped: Envoy frees no metric, so a budget that let go of old ones
/// would bound nothing.
#[derive(Debug)]
pub(crate) struct Bounded<V> {
    made: HashMap<Box<[u8]>, V, BuildHasherDefault<KeyHasher>>,
    limit: usize,
}

impl<V> Bounded<V> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { made: HashMap::default(), limit }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&V> {
        self.made.get(key)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.made.len() >= self.limit
    }

    /// Puts a value in, where there is room.
    pub(crate) fn insert(&mut self, key: &[u8], value: V) {
        if !self.is_full() {
            self.made.insert(key.into(), value);
        }
    }
}

/// Eight bytes at a step. Keys may come from clients, but no more of them than the limit are ever kept, so chosen
/// collisions cost a bounded walk.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl KeyHasher {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.mix(u64::from_le_bytes(*word));
        }
        let last = rest.iter().fold(0x80, |word: u64, byte| word << 8 | u64::from(*byte));
        self.mix(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_budget_holds_and_known_keys_keep_their_value() {
        let mut table = Bounded::new(3);
        for key in 0_u32..100_000 {
            table.insert(&key.to_le_bytes(), key);
        }
        assert!(table.is_full());
        for key in 0_u32..3 {
            assert_eq!(table.get(&key.to_le_bytes()), Some(&key));
        }
        assert_eq!(table.get(&9_u32.to_le_bytes()), None);
    }

    #[test]
    fn similar_keys_spread() {
        let hash = |key: &str| {
            let mut hasher = KeyHasher::default();
            hasher.write(key.as_bytes());
            hasher.finish()
        };
        let low: std::collections::HashSet<u64> =
            (0..4096).map(|n| hash(&format!("/users/{n}/orders")) % 8192).collect();
        assert!(low.len() > 3000, "{}", low.len());
    }
}
