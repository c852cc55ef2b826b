//! Which rules may match a path, so that rules for other paths cost nothing.

use std::collections::HashMap;

/// Rules by exact path, and those that must always be tried. Numbers are in order within each list.
#[derive(Debug, Default)]
pub(crate) struct Index {
    exact: HashMap<Vec<u8>, Vec<usize>>,
    always: Vec<usize>,
}

impl Index {
    /// Adds a rule; `paths` are those outside of which it never matches. Rules are added in ascending order.
    pub(crate) fn add(&mut self, rule: usize, paths: Option<Vec<&str>>) {
        let Some(paths) = paths else { return self.always.push(rule) };
        for path in paths {
            let rules = self.exact.entry(path.as_bytes().to_vec()).or_default();
            if rules.last() != Some(&rule) {
                rules.push(rule);
            }
        }
    }

    /// The rules that may match, in ascending order.
    pub(crate) fn candidates(&self, path: &[u8]) -> Vec<usize> {
        let mut rules = self.exact.get(path).cloned().unwrap_or_default();
        rules.extend_from_slice(&self.always);
        rules.sort_unstable();
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn only_rules_of_the_path_and_of_no_path_are_tried() {
        let mut index = Index::default();
        index.add(0, Some(vec!["/a"]));
        index.add(1, None);
        index.add(2, Some(vec!["/b", "/a", "/a"]));
        assert_eq!(index.candidates(b"/a"), [0, 1, 2]);
        assert_eq!(index.candidates(b"/b"), [1, 2]);
        assert_eq!(index.candidates(b"/c"), [1]);
    }
}
