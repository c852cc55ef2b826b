//! Staged enforcement: a policy acts for a part of the callers.

use std::hash::Hasher as _;

use sailcloth_core::siphash::Sip;
use sailcloth_resources::authorization_policy::Staged;

use crate::caller::Caller;
use crate::subject::Subject;

/// For whom a policy acts.
#[derive(Debug)]
pub(crate) struct Stage {
    percent: u8,
    by: Subject,
    /// The policy: policies at the same percentage act for different callers.
    policy: String,
}

impl Stage {
    pub(crate) fn new(staged: &Staged, policy: &str) -> Self {
        Self { percent: staged.percent, by: Subject::Key(staged.by.clone()), policy: policy.to_owned() }
    }

    /// Whether the policy acts for this caller. A caller of whom nothing is known meets it: leaving something out escapes
    /// nothing.
    pub(crate) fn acts(&self, caller: &Caller<'_>) -> bool {
        let mut values: Vec<Vec<u8>> = Vec::new();
        match caller.texts(&self.by, &mut |value| values.push(value.to_vec())) {
            Ok(()) if !values.is_empty() => place(&self.policy, &values) < u64::from(self.percent),
            _ => self.percent > 0,
        }
    }
}

/// The place of a caller among a hundred: the same in every proxy and every version.
fn place(policy: &str, values: &[Vec<u8>]) -> u64 {
    let mut hash = Sip::new([0, 0]);
    for text in std::iter::once(policy.as_bytes()).chain(values.iter().map(Vec::as_slice)) {
        hash.write_u64(u64::try_from(text.len()).unwrap_or_default());
        hash.write(text);
    }
    hash.finish() % 100
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_part_is_as_large_as_it_says() {
        for percent in [1_u64, 10, 50, 99] {
            let hits =
                (0..10_000).filter(|user| place("n/p", &[format!("user-{user}").into_bytes()]) < percent);
            let found = hits.count();
            let expected = usize::try_from(percent * 100).unwrap();
            assert!(found.abs_diff(expected) < 200, "{percent}: {found}");
        }
    }
}
