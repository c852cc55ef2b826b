//! The filters under test: how each one's engine is loaded and asked.

mod authz;
mod metrics;
mod ratelimit;

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::headers::HeaderBlock;

use crate::facts::CaseProperties;
use crate::judge::Observed;

/// A filter under test.
pub struct Subject {
    /// Its name: of its folder in `filters/`, of its module, of its cases.
    pub name: &'static str,
    /// Loads its engine from a configuration.
    pub load: fn(&Node) -> Loaded,
    /// The callbacks its module exports beside the base set.
    pub callbacks: &'static [&'static str],
}

/// An engine with its warnings, or the problems of its configuration.
pub type Loaded = Result<(Box<dyn Engine>, Vec<Problem>), Vec<Problem>>;

/// One request for an engine.
pub struct Exchange<'c> {
    /// The request headers.
    pub headers: &'c HeaderBlock,
    /// Connection and caller.
    pub properties: &'c CaseProperties,
    /// Nanoseconds since the Unix epoch.
    pub now_ns: u64,
}

/// A loaded engine.
pub trait Engine {
    /// Decides about one request.
    fn decide(&mut self, exchange: &Exchange<'_>) -> Observed;

    /// Resources in force, by kind.
    fn resources(&self) -> Vec<(&'static str, usize)>;
}

/// All filters.
pub const ALL: &[Subject] = &[authz::SUBJECT, metrics::SUBJECT, ratelimit::SUBJECT];

impl Subject {
    /// The filter of this name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn named(name: &str) -> &'static Self {
        ALL.iter()
            .find(|subject| subject.name == name)
            .unwrap_or_else(|| panic!("there is no filter `{name}`"))
    }
}
