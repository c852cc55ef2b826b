//! What a comparison counts, and what it says at its end.

use std::collections::BTreeMap;

use super::{is_full, page, seed};
use crate::report::note;

/// Where ours answers otherwise on purpose.
#[derive(Debug, Clone, Copy)]
pub struct Deviation {
    /// How it is called.
    pub name: &'static str,
    /// What differs, and why.
    pub reason: &'static str,
}

/// The counts of one comparison.
#[derive(Debug, Default)]
pub struct Tally {
    name: String,
    compared: usize,
    outcomes: BTreeMap<String, usize>,
    skipped: BTreeMap<String, usize>,
    deviations: BTreeMap<&'static str, usize>,
    differences: Vec<String>,
    different: usize,
}

/// So many differences are printed; the rest is counted.
const SHOWN: usize = 4;

impl Tally {
    /// Nothing compared yet.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Both said the same.
    pub fn agreed(&mut self, outcome: impl Into<String>) {
        self.compared += 1;
        *self.outcomes.entry(outcome.into()).or_default() += 1;
    }

    /// They differ as `deviation` says.
    pub fn deviated(&mut self, deviation: &'static str) {
        self.compared += 1;
        *self.deviations.entry(deviation).or_default() += 1;
    }

    /// They differ.
    pub fn differed(&mut self, difference: impl FnOnce() -> String) {
        self.compared += 1;
        self.different += 1;
        if self.differences.len() < SHOWN {
            self.differences.push(difference());
        }
    }

    /// Something was not compared, because of a property that it has.
    pub fn skip(&mut self, reason: impl Into<String>) {
        *self.skipped.entry(reason.into()).or_default() += 1;
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: Self) {
        self.compared += other.compared;
        self.different += other.different;
        let sum = |into: &mut BTreeMap<String, usize>, from: BTreeMap<String, usize>| {
            from.into_iter().for_each(|(key, count)| *into.entry(key).or_default() += count);
        };
        sum(&mut self.outcomes, other.outcomes);
        sum(&mut self.skipped, other.skipped);
        for (name, count) in other.deviations {
            *self.deviations.entry(name).or_default() += count;
        }
        let room = SHOWN.saturating_sub(self.differences.len());
        self.differences.extend(other.differences.into_iter().take(room));
    }

    /// How many pairs were compared.
    #[must_use]
    pub fn compared(&self) -> usize {
        self.compared
    }

    /// What was compared.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its row on the page.
    pub(super) fn row(&self) -> String {
        let deviations = if self.deviations.is_empty() {
            "none".to_owned()
        } else {
            list(self.deviations.iter().map(|(name, count)| (*name, *count)))
        };
        let outcomes = list(self.outcomes.iter().map(|(name, count)| (name.as_str(), *count)));
        format!("| {} | {} | {} | {outcomes} | {deviations} |\n", self.name, self.compared, self.different)
    }

    /// How often an outcome was agreed on.
    #[must_use]
    pub fn count(&self, outcome: &str) -> usize {
        self.outcomes.get(outcome).copied().unwrap_or_default()
    }

    /// Prints the counts, and fails on a difference or when less than `least` was compared.
    ///
    /// # Panics
    /// When there is a difference, or too little was compared.
    pub fn finish(self, least: usize) {
        let outcomes = list(self.outcomes.iter().map(|(name, count)| (name.as_str(), *count)));
        note(&format!(
            "{} (seed {}): {} compared, {} different; agreed: {outcomes}",
            self.name,
            seed(),
            self.compared,
            self.different
        ));
        if !self.deviations.is_empty() {
            let deviations = list(self.deviations.iter().map(|(name, count)| (*name, *count)));
            note(&format!("  named deviations: {deviations}"));
        }
        for (reason, count) in &self.skipped {
            note(&format!("  skipped {count}: {reason}"));
        }
        assert!(
            self.different == 0,
            "{}: {} of {} differ; run again with SAILCLOTH_SEED={}:\n{}",
            self.name,
            self.different,
            self.compared,
            seed(),
            self.differences.join("\n")
        );
        assert!(
            self.compared >= least,
            "{}: {} compared, at least {least} were meant to be",
            self.name,
            self.compared
        );
        if is_full() {
            page::keep(&self);
        }
    }
}

fn list<'n>(counts: impl Iterator<Item = (&'n str, usize)>) -> String {
    counts.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}
