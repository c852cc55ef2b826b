//! Rules of one action, filed so that a request meets those it may match.

use std::cell::Cell;

use sailcloth_core::index::{Builder, Index};

use crate::caller::{Caller, Unknown};
use crate::rule::CompiledRule;
use crate::subject::Subject;

/// Up to this many, rules are tried one by one: an index would ask for more than they do.
const FEW: usize = 4;

/// Rules in the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: Vec<CompiledRule>,
    index: Option<Index<Subject>>,
}

/// What came of trying rules.
#[derive(Debug)]
pub(crate) enum Found<'r> {
    /// The lowest-numbered rule that matches.
    Rule(&'r CompiledRule),
    /// None matches for certain; this is the lowest-numbered that may.
    Doubt(&'r CompiledRule, Unknown),
    /// None matches.
    Nothing,
}

impl Rules {
    pub(crate) fn new(rules: Vec<CompiledRule>) -> Self {
        let index = (rules.len() > FEW).then(|| {
            let mut builder = Builder::default();
            for rule in &rules {
                builder.add(rule.choices());
            }
            builder.build()
        });
        Self { rules, index }
    }

    /// All rules.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &CompiledRule> {
        self.rules.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Shows the rules that the request may match, in their order, until `see` has enough.
    pub(crate) fn near<'r>(&'r self, caller: &Caller<'_>, see: &mut dyn FnMut(&'r CompiledRule) -> bool) {
        if let Some(index) = &self.index {
            let known = Cell::new(true);
            let mut found = Vec::new();
            index.find(&mut found, |subject, seen| {
                known.set(caller.filed(subject, seen).is_ok() && known.get());
            });
            if known.get() {
                let numbers = found.into_iter().filter_map(|number| usize::try_from(number).ok());
                for rule in numbers.filter_map(|number| self.rules.get(number)) {
                    if see(rule) {
                        return;
                    }
                }
                return;
            }
            // Whatever is filed under something that cannot be known may match.
        }
        for rule in &self.rules {
            if see(rule) {
                return;
            }
        }
    }

    /// The lowest-numbered rule that matches, of those that are `wanted`.
    pub(crate) fn first(&self, caller: &Caller<'_>, wanted: impl Fn(&CompiledRule) -> bool) -> Found<'_> {
        let mut found = Found::Nothing;
        self.near(caller, &mut |rule| {
            if !wanted(rule) {
                return false;
            }
            match rule.matches(caller) {
                Ok(true) => {
                    found = Found::Rule(rule);
                    return true;
                }
                Ok(false) => {}
                Err(unknown) if matches!(found, Found::Nothing) => found = Found::Doubt(rule, unknown),
                Err(_) => {}
            }
            false
        });
        found
    }

    /// Without the index, for the test that both find the same.
    #[cfg(test)]
    pub(crate) fn forget_index(&mut self) {
        self.index = None;
    }
}
