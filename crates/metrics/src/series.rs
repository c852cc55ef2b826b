//! What was made for each label set, within a budget.

use std::collections::HashMap;
use std::hash::Hash;

/// At most `limit` values by key, each made at its first use; a key beyond that has none.
#[derive(Debug)]
pub struct Series<K, V> {
    made: HashMap<K, V>,
    limit: usize,
}

impl<K: Eq + Hash, V: Copy> Series<K, V> {
    /// An empty table.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { made: HashMap::new(), limit }
    }

    /// The value of a key; `None` when it is new and the budget is used up. Keys are never dropped: Envoy frees no
    /// metric, so a budget that let go of old ones would bound nothing.
    pub fn get(&mut self, key: K, make: impl FnOnce(&K) -> V) -> Option<V> {
        if let Some(value) = self.made.get(&key) {
            return Some(*value);
        }
        if self.made.len() >= self.limit {
            return None;
        }
        let value = make(&key);
        self.made.insert(key, value);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_budget_holds_and_known_keys_keep_their_series() {
        let mut series = Series::new(3);
        let mut made = 0;
        for key in 0..100_000 {
            if series.get(key, |_| ()).is_some() {
                made += 1;
            }
        }
        assert_eq!(made, 3);
        assert!((0..3).all(|key| series.get(key, |_| panic!("made twice")).is_some()));
    }
}
