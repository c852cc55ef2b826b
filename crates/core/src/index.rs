//! Which of many rules a request may match, without trying them all.
//!
//! A rule that can only hold when some value of the request (its path, host, a header, the caller) is one of a few
//! texts, begins or ends with one, is filed under those texts; a request then meets only the rules filed under texts
//! that its own values have. What is found *may* match: the caller still tries it. What is not found cannot match.
//! So the cost of a request grows with the rules that come near it, not with all rules.
//!
//! ```
//! use sailcloth_core::index::{Builder, Choice, Key};
//!
//! let mut builder = Builder::default();
//! builder.add([Choice { dimension: "path", keys: vec![Key::Prefix(b"/api/".to_vec())] }]);
//! builder.add([Choice { dimension: "user", keys: vec![Key::Exact(b"jane".to_vec())] }]);
//! builder.add([]); // no condition that could be filed: always found
//! let index = builder.build();
//!
//! let mut found = Vec::new();
//! index.find(&mut found, |dimension, see| if *dimension == "path" { see(b"/api/v1") });
//! assert_eq!(found, [0, 2]);
//! ```

use std::collections::BTreeMap;

/// The number of a rule: the order in which it was added to the [`Builder`].
pub type Number = u32;

/// A text under which a rule is filed. Bytes are compared as they are: what ignores case is folded by the caller, on
/// both sides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// The value is this text.
    Exact(Vec<u8>),
    /// The value begins with this text.
    Prefix(Vec<u8>),
    /// The value ends with this text.
    Suffix(Vec<u8>),
}

/// One way to file a rule: whenever the rule holds, a value that the request has in `dimension` is covered by one of
/// `keys`. A choice without keys says that the rule never holds.
#[derive(Debug, Clone)]
pub struct Choice<D> {
    /// Where the value comes from: the path, a header by name, the caller.
    pub dimension: D,
    /// The texts.
    pub keys: Vec<Key>,
}

/// Collects rules, then decides under which of its choices each is filed.
#[derive(Debug)]
pub struct Builder<D> {
    rules: Vec<Vec<Choice<D>>>,
}

impl<D> Default for Builder<D> {
    fn default() -> Self {
        Self { rules: Vec::new() }
    }
}

impl<D: Ord + Clone> Builder<D> {
    /// Adds a rule and the ways in which it could be filed, the one that costs least to look up first. Without any,
    /// the rule is always found.
    pub fn add(&mut self, choices: impl IntoIterator<Item = Choice<D>>) -> Number {
        self.rules.push(choices.into_iter().collect());
        Number::try_from(self.rules.len() - 1).unwrap_or(Number::MAX)
    }

    /// Files each rule where it has the least company: of two thousand routes below `/` with a header value each, the
    /// header is what tells them apart.
    #[must_use]
    pub fn build(self) -> Index<D> {
        let mut company: BTreeMap<(&D, &Key), usize> = BTreeMap::new();
        for choice in self.rules.iter().flatten() {
            for key in &choice.keys {
                *company.entry((&choice.dimension, key)).or_default() += 1;
            }
        }
        let crowd = |choice: &Choice<D>| {
            choice.keys.iter().map(|key| company.get(&(&choice.dimension, key)).copied().unwrap_or(0)).max()
        };
        let mut always = Vec::new();
        let mut filed: BTreeMap<D, [Tree; 2]> = BTreeMap::new();
        for (number, choices) in (0..).zip(&self.rules) {
            let Some(choice) = choices.iter().min_by_key(|choice| crowd(choice).unwrap_or(0)) else {
                always.push(number);
                continue;
            };
            if choice.keys.is_empty() {
                continue;
            }
            let [forward, backward] = filed.entry(choice.dimension.clone()).or_default();
            for key in &choice.keys {
                match key {
                    Key::Exact(text) => forward.insert(text, number, true),
                    Key::Prefix(text) => forward.insert(text, number, false),
                    Key::Suffix(text) => {
                        let reversed: Vec<u8> = text.iter().rev().copied().collect();
                        backward.insert(&reversed, number, false);
                    }
                }
            }
        }
        let dimensions = filed
            .into_iter()
            .map(|(dimension, [forward, backward])| Filed { dimension, forward, backward })
            .collect();
        Index { always, dimensions }
    }
}

/// The rules, filed.
#[derive(Debug)]
pub struct Index<D> {
    always: Vec<Number>,
    dimensions: Vec<Filed<D>>,
}

#[derive(Debug)]
struct Filed<D> {
    dimension: D,
    forward: Tree,
    /// Of the texts read from their end.
    backward: Tree,
}

impl<D> Index<D> {
    /// The dimensions under which rules are filed: whose values [`Index::find`] asks for.
    pub fn dimensions(&self) -> impl Iterator<Item = &D> {
        self.dimensions.iter().map(|filed| &filed.dimension)
    }

    /// Puts into `found` the numbers of all rules that may match, ascending, each once. `values` is asked once for
    /// each dimension and shows every value that the request has there.
    pub fn find(&self, found: &mut Vec<Number>, mut values: impl FnMut(&D, &mut dyn FnMut(&[u8]))) {
        found.clear();
        for filed in &self.dimensions {
            values(&filed.dimension, &mut |value| {
                filed.forward.walk(value.iter().copied(), found);
                if !filed.backward.is_empty() {
                    filed.backward.walk(value.iter().rev().copied(), found);
                }
            });
        }
        found.extend_from_slice(&self.always);
        found.sort_unstable();
        found.dedup();
    }
}

/// A radix tree over bytes: an edge carries as many bytes as lead nowhere else.
#[derive(Debug, Default)]
struct Tree {
    label: Vec<u8>,
    /// Rules for which the value ends here.
    exact: Vec<Number>,
    /// Rules for which the value may go on.
    prefix: Vec<Number>,
    /// By their first byte.
    children: Vec<Tree>,
}

impl Tree {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefix.is_empty() && self.children.is_empty()
    }

    /// Files a rule under `text`, read from the end of this node's own label.
    fn insert(&mut self, text: &[u8], number: Number, whole: bool) {
        let mut node = self;
        let mut rest = text;
        while let Some(first) = rest.first() {
            let place = node.children.binary_search_by_key(first, Self::first_byte);
            let at = match place {
                Ok(at) => at,
                Err(at) => {
                    node.children.insert(at, Self { label: rest.to_vec(), ..Self::default() });
                    at
                }
            };
            let Some(child) = node.children.get_mut(at) else { return };
            let common = child.label.iter().zip(rest).take_while(|(a, b)| a == b).count();
            child.split(common);
            rest = rest.get(common..).unwrap_or_default();
            node = child;
        }
        let list = if whole { &mut node.exact } else { &mut node.prefix };
        if list.last() != Some(&number) {
            list.push(number);
        }
    }

    fn first_byte(&self) -> u8 {
        self.label.first().copied().unwrap_or_default()
    }

    /// Cuts the label after `length` bytes; what stood here moves into the only child.
    fn split(&mut self, length: usize) {
        if length >= self.label.len() {
            return;
        }
        let tail = self.label.split_off(length);
        let below = Self {
            label: tail,
            exact: std::mem::take(&mut self.exact),
            prefix: std::mem::take(&mut self.prefix),
            children: std::mem::take(&mut self.children),
        };
        self.children.push(below);
    }

    /// Adds the rules of every node along `value`.
    fn walk(&self, mut value: impl Iterator<Item = u8>, found: &mut Vec<Number>) {
        let mut node = self;
        loop {
            found.extend_from_slice(&node.prefix);
            let Some(first) = value.next() else {
                found.extend_from_slice(&node.exact);
                return;
            };
            let Ok(at) = node.children.binary_search_by_key(&first, Self::first_byte) else { return };
            let Some(child) = node.children.get(at) else { return };
            for expected in child.label.iter().skip(1) {
                if value.next() != Some(*expected) {
                    return;
                }
            }
            node = child;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn covers(key: &Key, value: &[u8]) -> bool {
        match key {
            Key::Exact(text) => value == text,
            Key::Prefix(text) => value.starts_with(text),
            Key::Suffix(text) => value.ends_with(text),
        }
    }

    fn find(index: &Index<u8>, values: &[(u8, &[u8])]) -> Vec<Number> {
        let mut found = Vec::new();
        index.find(&mut found, |dimension, see| {
            values.iter().filter(|(of, _)| of == dimension).for_each(|(_, value)| see(value));
        });
        found
    }

    /// Small numbers from a fixed seed.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % limit
        }

        fn text(&mut self, longest: u64) -> Vec<u8> {
            (0..self.below(longest + 1)).map(|_| if self.below(2) == 0 { b'a' } else { b'b' }).collect()
        }

        fn key(&mut self) -> Key {
            let text = self.text(4);
            match self.below(3) {
                0 => Key::Exact(text),
                1 => Key::Prefix(text),
                _ => Key::Suffix(text),
            }
        }
    }

    /// A rule holds when every choice is covered; what holds is found, and what is found is covered in one choice.
    #[test]
    fn what_holds_is_found_and_what_is_found_is_near() {
        let mut dice = Dice(42);
        for _ in 0..300 {
            let rules: Vec<Vec<Choice<u8>>> = (0..dice.below(12))
                .map(|_| {
                    (0..dice.below(3))
                        .map(|dimension| Choice {
                            dimension: u8::try_from(dimension).unwrap_or(0),
                            keys: (0..dice.below(4)).map(|_| dice.key()).collect(),
                        })
                        .collect()
                })
                .collect();
            let mut builder = Builder::default();
            for rule in &rules {
                builder.add(rule.clone());
            }
            let index = builder.build();
            for _ in 0..30 {
                let (path, host) = (dice.text(6), dice.text(6));
                let values: Vec<(u8, &[u8])> = vec![(0, &path), (1, &host), (1, &path)];
                let found = find(&index, &values);
                assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
                for (number, rule) in (0..).zip(&rules) {
                    let covered = |choice: &Choice<u8>| {
                        values.iter().any(|(dimension, value)| {
                            *dimension == choice.dimension && choice.keys.iter().any(|key| covers(key, value))
                        })
                    };
                    if rule.iter().all(covered) {
                        assert!(found.contains(&number), "{rule:?} holds for {values:?}");
                    }
                    if found.contains(&number) {
                        assert!(rule.is_empty() || rule.iter().any(covered), "{rule:?} for {values:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_rule_is_filed_where_it_has_the_least_company() {
        let mut builder = Builder::default();
        for user in 0..1000 {
            builder.add([
                Choice { dimension: 0, keys: vec![Key::Prefix(b"/".to_vec())] },
                Choice { dimension: 1, keys: vec![Key::Exact(format!("user-{user}").into_bytes())] },
            ]);
        }
        let index = builder.build();
        assert_eq!(index.dimensions().collect::<Vec<_>>(), [&1]);
        assert_eq!(find(&index, &[(0, b"/api"), (1, b"user-7")]), [7]);
        assert!(find(&index, &[(0, b"/api"), (1, b"user-70000")]).is_empty());
    }

    #[test]
    fn a_rule_that_can_never_hold_is_never_found() {
        let mut builder = Builder::default();
        builder.add([Choice { dimension: 0, keys: Vec::new() }]);
        assert!(find(&builder.build(), &[(0, b"")]).is_empty());
    }
}
