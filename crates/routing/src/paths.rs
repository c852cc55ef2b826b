//! Which entries of a host can match a path.
//!
//! Exact paths are looked up by hash; prefixes by one binary search and a walk along prefixes of each other; patterns
//! and case-insensitive paths are tried one by one. The candidates come out in the order of the rules, so that the
//! first match stays the first match.

use std::collections::{BTreeMap, HashMap};

use crate::condition::{Conditions, PathCondition};

#[derive(Debug, Default)]
pub(crate) struct Paths {
    exact: HashMap<Vec<u8>, Vec<usize>>,
    /// Sorted by text.
    prefixes: Vec<Prefix>,
    /// Entries whose path has to be asked.
    others: Vec<usize>,
}

#[derive(Debug)]
struct Prefix {
    text: Vec<u8>,
    /// The longest other prefix that this one begins with.
    parent: Option<usize>,
    entries: Vec<usize>,
}

impl Paths {
    /// Indexes entries by their place.
    pub(crate) fn of<'c>(conditions: impl Iterator<Item = &'c Conditions>) -> Self {
        let mut paths = Self::default();
        let mut prefixes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (entry, conditions) in conditions.enumerate() {
            match &conditions.path {
                PathCondition::Exact(text) => {
                    paths.exact.entry(text.as_bytes().to_vec()).or_default().push(entry);
                }
                PathCondition::Prefix(text) => prefixes.entry(text.clone()).or_default().push(entry),
                _ => paths.others.push(entry),
            }
        }
        paths.prefixes = linked(prefixes);
        paths
    }

    /// The entries that can match, in their order.
    pub(crate) fn candidates<'p>(&'p self, path: &[u8]) -> Candidates<'p> {
        let mut lists = Vec::with_capacity(4);
        lists.extend(self.exact.get(path).map(Vec::as_slice));
        let mut at = self.prefixes.partition_point(|prefix| prefix.text.as_slice() <= path).checked_sub(1);
        // The greatest text not above the path begins with every prefix of the path that is in the list.
        while let Some(prefix) = at.and_then(|at| self.prefixes.get(at)) {
            if path.starts_with(&prefix.text) {
                lists.push(prefix.entries.as_slice());
            }
            at = prefix.parent;
        }
        lists.push(self.others.as_slice());
        Candidates(lists)
    }
}

fn linked(prefixes: BTreeMap<String, Vec<usize>>) -> Vec<Prefix> {
    let mut linked: Vec<Prefix> = Vec::with_capacity(prefixes.len());
    for (text, entries) in prefixes {
        let text = text.into_bytes();
        let mut parent = linked.len().checked_sub(1);
        while let Some(above) = parent.and_then(|parent| linked.get(parent)) {
            if text.starts_with(&above.text) {
                break;
            }
            parent = above.parent;
        }
        linked.push(Prefix { text, parent, entries });
    }
    linked
}

/// Entries in their order, from several lists that are each in order.
pub(crate) struct Candidates<'p>(Vec<&'p [usize]>);

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let least =
            self.0.iter_mut().filter(|list| !list.is_empty()).min_by_key(|list| list.first().copied())?;
        let (first, rest) = least.split_first()?;
        *least = rest;
        Some(*first)
    }
}
