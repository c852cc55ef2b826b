//! Problems of a configuration, collected rather than returned at the first one.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

/// Whether a problem refuses the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused, whole.
    Error,
    /// The configuration takes effect; the person who wrote it should know something.
    Warning,
}

/// One problem: where it is and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Whether it refuses the configuration.
    pub severity: Severity,
    /// Where it is, for example `resources[0].spec.rules[1]`; empty for the document as a whole.
    pub path: String,
    /// What is wrong and how to mend it; lower case, no full stop, the user's text in backticks.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// A shared list of problems, cheap to clone: all readers of one document report into the same list.
#[derive(Debug, Clone, Default)]
pub struct Problems(Rc<RefCell<Vec<Problem>>>, #[cfg(not(target_family = "wasm"))] Vocabulary);

/// The names of fields that readers asked for, if that is wanted.
#[cfg(not(target_family = "wasm"))]
type Vocabulary = Option<Rc<RefCell<std::collections::BTreeSet<String>>>>;

/// For tests that hold a schema against the readers; not part of a module.
#[cfg(not(target_family = "wasm"))]
impl Problems {
    /// A list that also keeps the names of all fields that readers ask for.
    #[must_use]
    pub fn with_vocabulary() -> Self {
        Self(Rc::default(), Some(Rc::default()))
    }

    /// Every field that a reader asked for, `rules[].limit.burst`, whatever the index.
    #[must_use]
    pub fn vocabulary(&self) -> Vec<String> {
        let words = self.1.as_ref().and_then(|words| words.try_borrow().ok());
        words.map(|words| words.iter().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn asked(&self, path: &super::Path, name: &str) {
        if let Some(words) = &self.1
            && let Ok(mut words) = words.try_borrow_mut()
        {
            let path = path.key(name).to_string();
            let digits =
                |part: &str| part.split_once(']').map_or(part.to_owned(), |(_, rest)| format!("]{rest}"));
            let mut parts = path.split('[');
            let first = parts.next().unwrap_or_default().to_owned();
            let path = parts.fold(first, |path, part| format!("{path}[{}", digits(part)));
            words.insert(path);
        }
    }
}

impl Problems {
    /// Adds a problem.
    pub fn report(&self, problem: Problem) {
        if let Ok(mut list) = self.0.try_borrow_mut() {
            list.push(problem);
        }
    }

    /// All problems so far, in the order found.
    #[must_use]
    pub fn list(&self) -> Vec<Problem> {
        self.0.try_borrow().map(|list| list.clone()).unwrap_or_default()
    }

    /// Whether some problem refuses the configuration.
    #[must_use]
    pub fn refuse(&self) -> bool {
        // A list that cannot be read counts as a refusal: nothing is accepted on a doubt.
        self.0
            .try_borrow()
            .map_or(true, |list| list.iter().any(|problem| problem.severity == Severity::Error))
    }

    /// The errors as text, `path: message`.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        self.texts(Severity::Error)
    }

    /// The warnings as text, `path: message`.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.texts(Severity::Warning)
    }

    fn texts(&self, severity: Severity) -> Vec<String> {
        self.list().iter().filter(|problem| problem.severity == severity).map(Problem::to_string).collect()
    }
}
