//! What a runner says at its end: what failed, each row with its name, and how much ran or was skipped, and why.

use std::collections::BTreeMap;
use std::io::Write as _;

/// Counts of one runner.
#[derive(Debug, Default)]
pub struct Report {
    name: String,
    ran: usize,
    skipped: BTreeMap<String, usize>,
    failed: Vec<String>,
}

impl Report {
    /// An empty report of a runner.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// The same rows under another name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    /// A row ran; it failed where there are differences.
    pub fn ran(&mut self, row: &str, differences: &[String]) {
        self.ran += 1;
        if !differences.is_empty() {
            self.failed.push(format!("{row}\n    {}", differences.join("\n    ")));
        }
    }

    /// What a row's repetitions come to all together: fails, and is no row of its own.
    pub fn judge_shares(&mut self, row: &str, differences: &[String]) {
        if !differences.is_empty() {
            self.failed.push(format!("{row}\n    {}", differences.join("\n    ")));
        }
    }

    /// A row was skipped because of a property that it has.
    pub fn skip(&mut self, reason: impl Into<String>) {
        *self.skipped.entry(reason.into()).or_default() += 1;
    }

    /// Adds another report's rows.
    pub fn add(&mut self, other: Self) {
        self.ran += other.ran;
        self.failed.extend(other.failed);
        for (reason, count) in other.skipped {
            *self.skipped.entry(reason).or_default() += count;
        }
    }

    /// How many rows ran.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ran
    }

    /// Prints the counts and fails if a row failed or none ran.
    ///
    /// # Panics
    /// When a row failed, or when nothing was run.
    pub fn finish(self) {
        let skipped: usize = self.skipped.values().sum();
        note(&format!("{}: {} ran, {skipped} skipped, {} failed", self.name, self.ran, self.failed.len()));
        for (reason, count) in &self.skipped {
            note(&format!("  skipped {count}: {reason}"));
        }
        assert!(
            self.failed.is_empty(),
            "{} of {} rows of {} failed:\n{}",
            self.failed.len(),
            self.ran,
            self.name,
            self.failed.join("\n")
        );
        assert!(
            self.ran > 0 || std::env::var_os("SAILCLOTH_CASE").is_some(),
            "{}: nothing was run",
            self.name
        );
    }
}

/// Prints a line past the capture of the test runner, which swallows what a passing test prints.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
