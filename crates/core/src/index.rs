//! Which of many rules a request may match, without trying them all.
//!
//! A rule that can only hold when some value of the request (its path, host, a header, the caller) is one of a few
//! texts, begins or ends with one, is filed under those texts; a request then meets only the rules filed under texts
//! that its own values have. What is found *may* match: the caller still tries it. What is not found cannot match.
//! So the cost of a request grows with the rules that come near it, not with all rules. Where many rules share their
//! text (a thousand tenants below one path), those are filed again, under what else they ask.
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

use std::collections::BTreeSet;

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

impl Key {
    /// Whether it covers a value.
    #[must_use]
    pub fn covers(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => value == text,
            Self::Prefix(text) => value.starts_with(text),
            Self::Suffix(text) => value.ends_with(text),
        }
    }
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

/// What a request says when an index asks.
pub trait Values<D> {
    /// Shows `see` every value that the request has in one of `dimensions`, which ascend, with the place of its dimension
    /// there. May be called more than once for a request, with other dimensions.
    fn show(&self, dimensions: &[D], see: &mut dyn FnMut(usize, &[u8]));
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
        let members: Vec<Member> =
            (0..).zip(&self.rules).map(|(number, _)| Member { number, used: 0 }).collect();
        let written = members.iter().map(|member| member.texts(&self.rules)).sum::<usize>();
        Index::of(&self.rules, &members, &mut written.saturating_mul(GROWTH))
    }
}

/// A rule, and which of its choices it was filed under before.
#[derive(Debug, Clone, Copy)]
struct Member {
    number: Number,
    used: u32,
}

impl Member {
    /// The choices left, with their bits. A rule that has more choices than bits is not filed under the last ones.
    fn choices<'r, D>(&self, rules: &'r [Vec<Choice<D>>]) -> impl Iterator<Item = (u32, &'r Choice<D>)> {
        let all = usize::try_from(self.number).ok().and_then(|at| rules.get(at));
        let bits = (0..32).map(|place| 1_u32 << place);
        let used = self.used;
        bits.zip(all.into_iter().flatten()).filter(move |(bit, _)| used & bit == 0)
    }

    /// How many texts the choices left have.
    fn texts<D>(&self, rules: &[Vec<Choice<D>>]) -> usize {
        self.choices(rules).map(|(_, choice)| choice.keys.len()).sum()
    }
}

/// The rules, filed.
#[derive(Debug)]
pub struct Index<D> {
    always: Vec<Number>,
    dimensions: Vec<D>,
    /// Of each dimension.
    filed: Vec<Filed<D>>,
}

#[derive(Debug)]
struct Filed<D> {
    forward: Tree<D>,
    /// Of the texts read from their end.
    backward: Tree<D>,
}

/// The rules under one text.
#[derive(Debug)]
enum Bucket<D> {
    Empty,
    One(Number),
    /// Ascending.
    Many(Vec<Number>),
    /// So many that it pays to ask for more.
    Divided(Box<Index<D>>),
}

/// More rules than this under one text are filed again: about as many as are tried in the time of a look-up.
const FEW: usize = 8;

/// How many times the texts of all rules may be filed again. Rules that share long lists in several dimensions would
/// otherwise be filed under every pair, triple… of their texts; past this, what shares a text is tried one by one.
const GROWTH: usize = 8;

impl<D> Default for Index<D> {
    fn default() -> Self {
        Self { always: Vec::new(), dimensions: Vec::new(), filed: Vec::new() }
    }
}

impl<D: Ord + Clone> Index<D> {
    /// Files `members`, which ascend. `left` is how many texts may be filed again below.
    fn of(rules: &[Vec<Choice<D>>], members: &[Member], left: &mut usize) -> Self {
        let mut company = Self::default();
        for member in members {
            member.choices(rules).for_each(|(_, choice)| company.file(choice, member.number));
        }
        let mut index = Self::default();
        let mut filed: Vec<Member> = Vec::with_capacity(members.len());
        for member in members {
            let least = member.choices(rules).min_by_key(|(_, choice)| company.crowd(choice));
            match least {
                None => index.always.push(member.number),
                Some((bit, choice)) => {
                    index.file(choice, member.number);
                    filed.push(Member { used: member.used | bit, ..*member });
                }
            }
        }
        drop(company);
        for Filed { forward, backward } in &mut index.filed {
            forward.divide(rules, &filed, left);
            backward.divide(rules, &filed, left);
        }
        index
    }

    fn file(&mut self, choice: &Choice<D>, number: Number) {
        let at = match self.dimensions.binary_search(&choice.dimension) {
            Ok(at) => at,
            Err(at) => {
                self.dimensions.insert(at, choice.dimension.clone());
                self.filed.insert(at, Filed { forward: Tree::default(), backward: Tree::default() });
                at
            }
        };
        let Some(filed) = self.filed.get_mut(at) else { return };
        for key in &choice.keys {
            if let Some(bucket) = filed.bucket(key) {
                bucket.push(number);
            }
        }
    }

    /// How many rules are filed under the fullest of a choice's texts.
    fn crowd(&mut self, choice: &Choice<D>) -> usize {
        let at = self.dimensions.binary_search(&choice.dimension);
        let Some(filed) = at.ok().and_then(|at| self.filed.get_mut(at)) else { return 0 };
        choice.keys.iter().filter_map(|key| Some(filed.bucket(key)?.len())).max().unwrap_or(0)
    }
}

impl<D> Index<D> {
    /// The dimensions under which rules are filed: whose values [`Index::find`] may ask for.
    pub fn dimensions(&self) -> impl Iterator<Item = &D>
    where
        D: Ord,
    {
        let mut all = BTreeSet::new();
        self.collect_dimensions(&mut all);
        all.into_iter()
    }

    fn collect_dimensions<'i>(&'i self, all: &mut BTreeSet<&'i D>)
    where
        D: Ord,
    {
        all.extend(&self.dimensions);
        for tree in self.filed.iter().flat_map(|filed| [&filed.forward, &filed.backward]) {
            tree.divided(&mut |index| index.collect_dimensions(all));
        }
    }

    /// Puts into `found` the numbers of all rules that may match, ascending, each once. `values` is asked for each
    /// dimension that comes near and shows every value that the request has there.
    pub fn find(&self, found: &mut Vec<Number>, values: impl Fn(&D, &mut dyn FnMut(&[u8]))) {
        self.find_among(found, &Each(values));
    }

    /// [`Index::find`] for a request that is asked for all dimensions at once: where there may be thousands of them, it
    /// looks its few headers up among them rather than them among its headers.
    pub fn find_among(&self, found: &mut Vec<Number>, values: &impl Values<D>) {
        found.clear();
        let mut open = vec![self];
        let mut next = 0;
        while let Some(index) = open.get(next).copied() {
            next += 1;
            merge(found, &index.always);
            values.show(&index.dimensions, &mut |at, value| {
                let Some(filed) = index.filed.get(at) else { return };
                filed.forward.walk(value.iter().copied(), found, &mut open);
                if !filed.backward.is_empty() {
                    filed.backward.walk(value.iter().rev().copied(), found, &mut open);
                }
            });
        }
    }
}

/// Asks for one dimension after the other.
struct Each<F>(F);

impl<D, F: Fn(&D, &mut dyn FnMut(&[u8]))> Values<D> for Each<F> {
    fn show(&self, dimensions: &[D], see: &mut dyn FnMut(usize, &[u8])) {
        for (at, dimension) in dimensions.iter().enumerate() {
            (self.0)(dimension, &mut |value| see(at, value));
        }
    }
}

/// Adds ascending numbers to ascending numbers, each once.
fn merge(found: &mut Vec<Number>, more: &[Number]) {
    let Some(first) = more.first() else { return };
    if found.last().is_none_or(|last| last < first) {
        return found.extend_from_slice(more);
    }
    let before = std::mem::replace(found, Vec::with_capacity(found.len() + more.len()));
    let (mut before, mut more) = (before.into_iter().peekable(), more.iter().copied().peekable());
    loop {
        let next = match (before.peek(), more.peek()) {
            (Some(ours), Some(theirs)) if ours == theirs => {
                more.next();
                before.next()
            }
            (Some(ours), Some(theirs)) if theirs < ours => more.next(),
            (Some(_), _) => before.next(),
            (None, _) => more.next(),
        };
        let Some(next) = next else { return };
        found.push(next);
    }
}

impl<D> Filed<D> {
    /// Where a text is filed.
    fn bucket(&mut self, key: &Key) -> Option<&mut Bucket<D>> {
        Some(match key {
            Key::Exact(text) => &mut self.forward.node(text)?.exact,
            Key::Prefix(text) => &mut self.forward.node(text)?.prefix,
            Key::Suffix(text) => {
                let reversed: Vec<u8> = text.iter().rev().copied().collect();
                &mut self.backward.node(&reversed)?.prefix
            }
        })
    }
}

impl<D> Bucket<D> {
    fn numbers(&self) -> &[Number] {
        match self {
            Self::One(number) => std::slice::from_ref(number),
            Self::Many(numbers) => numbers,
            Self::Empty | Self::Divided(_) => &[],
        }
    }

    fn len(&self) -> usize {
        self.numbers().len()
    }

    /// Adds a number above all that are there; the last once more is no other.
    fn push(&mut self, number: Number) {
        match self {
            Self::Empty => *self = Self::One(number),
            _ if self.numbers().last() == Some(&number) => {}
            Self::One(first) => *self = Self::Many(vec![*first, number]),
            Self::Many(numbers) => numbers.push(number),
            Self::Divided(_) => {}
        }
    }

    fn collect<'i>(&'i self, found: &mut Vec<Number>, open: &mut Vec<&'i Index<D>>) {
        match self {
            // Two values may lead to the same text.
            Self::Divided(index) if open.iter().any(|known| std::ptr::eq(*known, &raw const **index)) => {}
            Self::Divided(index) => open.push(index),
            _ => merge(found, self.numbers()),
        }
    }
}

impl<D: Ord + Clone> Bucket<D> {
    /// Files many rules again, where it pays: where most of them can be told apart.
    fn divide(&mut self, rules: &[Vec<Choice<D>>], filed: &[Member], left: &mut usize) {
        let Self::Many(numbers) = self else { return };
        numbers.shrink_to_fit();
        if numbers.len() <= FEW {
            return;
        }
        let member = |number: &Number| {
            let at = filed.binary_search_by_key(number, |member| member.number).ok()?;
            filed.get(at).copied()
        };
        let members: Vec<Member> = numbers.iter().filter_map(member).collect();
        let apart = members.iter().filter(|member| member.choices(rules).next().is_some()).count();
        let texts = members.iter().map(|member| member.texts(rules)).sum::<usize>();
        if apart * 2 >= members.len() && texts <= *left {
            *left -= texts;
            *self = Self::Divided(Box::new(Index::of(rules, &members, left)));
        }
    }
}

/// A set of keys: whether a value is covered by one of them, whatever their number.
#[derive(Debug)]
pub struct Keys(Filed<()>);

impl Default for Keys {
    fn default() -> Self {
        Self(Filed { forward: Tree::default(), backward: Tree::default() })
    }
}

impl Keys {
    /// Adds a key.
    pub fn insert(&mut self, key: &Key) {
        if let Some(bucket) = self.0.bucket(key) {
            bucket.push(0);
        }
    }

    /// Whether one of the keys covers a value.
    #[must_use]
    pub fn contains(&self, value: &[u8]) -> bool {
        let Filed { forward, backward } = &self.0;
        forward.covers(value.iter().copied())
            || (!backward.is_empty() && backward.covers(value.iter().rev().copied()))
    }

    /// All keys.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        let mut keys = Vec::new();
        self.0.forward.texts(&mut Vec::new(), &mut |text, whole| {
            keys.push(if whole { Key::Exact(text.to_vec()) } else { Key::Prefix(text.to_vec()) });
        });
        self.0.backward.texts(&mut Vec::new(), &mut |text, _| {
            keys.push(Key::Suffix(text.iter().rev().copied().collect()));
        });
        keys
    }
}

/// A radix tree over bytes: an edge carries as many bytes as lead nowhere else.
#[derive(Debug)]
struct Tree<D> {
    label: Vec<u8>,
    /// Rules for which the value ends here.
    exact: Bucket<D>,
    /// Rules for which the value may go on.
    prefix: Bucket<D>,
    /// By their first byte.
    children: Vec<Tree<D>>,
}

impl<D> Default for Tree<D> {
    fn default() -> Self {
        Self { label: Vec::new(), exact: Bucket::Empty, prefix: Bucket::Empty, children: Vec::new() }
    }
}

impl<D> Tree<D> {
    fn is_empty(&self) -> bool {
        matches!((&self.exact, &self.prefix), (Bucket::Empty, Bucket::Empty)) && self.children.is_empty()
    }

    /// The node at the end of `text`, read from the end of this node's own label; made where there is none.
    fn node(&mut self, text: &[u8]) -> Option<&mut Self> {
        let Some(first) = text.first() else { return Some(self) };
        let place = self.children.binary_search_by_key(first, Self::first_byte);
        let at = match place {
            Ok(at) => at,
            Err(at) => {
                self.children.insert(at, Self { label: text.to_vec(), ..Self::default() });
                at
            }
        };
        let child = self.children.get_mut(at)?;
        let common = child.label.iter().zip(text).take_while(|(a, b)| a == b).count();
        child.split(common);
        child.node(text.get(common..).unwrap_or_default())
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
        let below = std::mem::take(self);
        self.label = below.label;
        self.children.push(Self { label: tail, ..below });
    }

    /// Visits the indexes inside.
    fn divided<'i>(&'i self, visit: &mut impl FnMut(&'i Index<D>)) {
        for bucket in [&self.exact, &self.prefix] {
            if let Bucket::Divided(index) = bucket {
                visit(index);
            }
        }
        self.children.iter().for_each(|child| child.divided(visit));
    }

    /// Whether anything is filed along `value`.
    fn covers(&self, mut value: impl Iterator<Item = u8>) -> bool {
        let mut node = self;
        loop {
            if !matches!(node.prefix, Bucket::Empty) {
                return true;
            }
            let Some(first) = value.next() else { return !matches!(node.exact, Bucket::Empty) };
            let Ok(at) = node.children.binary_search_by_key(&first, Self::first_byte) else { return false };
            let Some(child) = node.children.get(at) else { return false };
            if child.label.iter().skip(1).any(|expected| value.next() != Some(*expected)) {
                return false;
            }
            node = child;
        }
    }

    /// Shows every text that something is filed under, and whether the value must end there.
    fn texts(&self, above: &mut Vec<u8>, see: &mut impl FnMut(&[u8], bool)) {
        let length = above.len();
        above.extend_from_slice(&self.label);
        for (bucket, whole) in [(&self.exact, true), (&self.prefix, false)] {
            if !matches!(bucket, Bucket::Empty) {
                see(above, whole);
            }
        }
        self.children.iter().for_each(|child| child.texts(above, see));
        above.truncate(length);
    }

    /// Adds the rules of every node along `value`.
    fn walk<'i>(
        &'i self,
        mut value: impl Iterator<Item = u8>,
        found: &mut Vec<Number>,
        open: &mut Vec<&'i Index<D>>,
    ) {
        let mut node = self;
        loop {
            node.prefix.collect(found, open);
            let Some(first) = value.next() else {
                node.exact.collect(found, open);
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

impl<D: Ord + Clone> Tree<D> {
    fn divide(&mut self, rules: &[Vec<Choice<D>>], filed: &[Member], left: &mut usize) {
        self.label.shrink_to_fit();
        self.children.shrink_to_fit();
        self.exact.divide(rules, filed, left);
        self.prefix.divide(rules, filed, left);
        self.children.iter_mut().for_each(|child| child.divide(rules, filed, left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

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
        for round in 0..300 {
            let rules: Vec<Vec<Choice<u8>>> = (0..dice.below(if round % 3 == 0 { 100 } else { 12 }))
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
                            *dimension == choice.dimension && choice.keys.iter().any(|key| key.covers(value))
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
    fn many_under_one_text_are_told_apart_by_what_else_they_ask() {
        let key = |text: String| Key::Exact(text.into_bytes());
        let mut builder = Builder::default();
        for rule in 0..10_000 {
            builder.add([
                Choice { dimension: 0, keys: vec![key(format!("path-{}", rule / 100))] },
                Choice { dimension: 1, keys: vec![key(format!("tenant-{}", rule % 100))] },
            ]);
        }
        let index = builder.build();
        assert_eq!(index.dimensions().collect::<Vec<_>>(), [&0, &1]);
        assert_eq!(find(&index, &[(0, b"path-7"), (1, b"tenant-9")]), [709]);
        assert_eq!(
            find(&index, &[(0, b"path-7"), (0, b"path-7"), (1, b"tenant-9"), (1, b"tenant-9")]),
            [709]
        );
        assert!(find(&index, &[(0, b"path-7"), (1, b"tenant-900")]).is_empty());
    }

    #[test]
    fn rules_that_share_long_lists_are_not_filed_under_every_combination() {
        // A hundred times a hundred times a hundred texts, were there no limit.
        let list = |what: &str| -> Vec<Key> {
            (0..100).map(|at| Key::Exact(format!("{what}-{at}").into_bytes())).collect()
        };
        let mut builder = Builder::default();
        for _ in 0..20 {
            builder.add((0..3).map(|dimension| Choice { dimension, keys: list("x") }));
        }
        let index = builder.build();
        assert!(entries(&index) <= 20 * 300 * (GROWTH + 1), "{}", entries(&index));
        assert_eq!(find(&index, &[(0, b"x-7"), (1, b"x-8"), (2, b"x-99")]).len(), 20);
        assert!(find(&index, &[(0, b"x-100"), (1, b"x-8"), (2, b"x-9")]).is_empty());
    }

    /// How often rules are filed.
    fn entries(index: &Index<u8>) -> usize {
        fn of_tree(tree: &Tree<u8>) -> usize {
            let of_bucket = |bucket: &Bucket<u8>| match bucket {
                Bucket::Divided(index) => entries(index),
                other => other.len(),
            };
            let here: usize = [&tree.exact, &tree.prefix].into_iter().map(of_bucket).sum();
            here + tree.children.iter().map(of_tree).sum::<usize>()
        }
        let trees = index.filed.iter().flat_map(|filed| [&filed.forward, &filed.backward]);
        index.always.len() + trees.map(of_tree).sum::<usize>()
    }

    #[test]
    fn a_set_of_keys_covers_what_one_of_them_covers() {
        let mut dice = Dice(11);
        for _ in 0..300 {
            let keys: Vec<Key> = (0..dice.below(8)).map(|_| dice.key()).collect();
            let mut set = Keys::default();
            keys.iter().for_each(|key| set.insert(key));
            for _ in 0..10 {
                let value = dice.text(6);
                let expected = keys.iter().any(|key| key.covers(&value));
                assert_eq!(set.contains(&value), expected, "{keys:?} on {value:?}");
            }
            let mut listed = set.keys();
            let mut added = keys;
            listed.sort();
            added.sort();
            added.dedup();
            assert_eq!(listed, added);
        }
    }

    #[test]
    fn a_rule_that_can_never_hold_is_never_found() {
        let mut builder = Builder::default();
        builder.add([Choice { dimension: 0, keys: Vec::new() }]);
        assert!(find(&builder.build(), &[(0, b"")]).is_empty());
    }
}
