//! The filters under test: how each one's engine is loaded and asked.

mod authz;
mod jwt;
pub mod metrics;
mod ratelimit;
mod routing;

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::{Decision, LocalReply};
use sailcloth_core::headers::HeaderBlock;

use crate::case::Headers;
use crate::facts::CaseProperties;
use crate::judge::{Decided, Observed};

/// A filter under test.
pub struct Subject {
    /// Its name: of its module, of its cases, and (but for [`BUILDS`]) of its folder in `filters/`.
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

    /// What the `jwt` filter handed on with the last decision; nothing in other filters.
    fn handed_on(&self) -> &[u8] {
        &[]
    }
}

/// All filters.
pub const ALL: &[Subject] =
    &[routing::SUBJECT, jwt::SUBJECT, authz::SUBJECT, ratelimit::SUBJECT, metrics::SUBJECT];

/// Other builds of a filter: modules of the same folder with other features, and cases of their own.
pub const BUILDS: &[Subject] = &[jwt::FULL];

/// Every module that is built.
pub fn modules() -> impl Iterator<Item = &'static Subject> {
    ALL.iter().chain(BUILDS)
}

/// The filter of a module: `jwt` of `jwt-full`.
#[must_use]
pub fn filter_of(module: &str) -> &str {
    module.split('-').next().unwrap_or(module)
}

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

fn decided(decision: &Decision<'_>) -> Decided {
    Decided::of_state(&decision.state()).expect("a decision's state reads back")
}

/// What the client and the upstream see: `reply` where the filter answers itself, else a plain 200.
fn observed(decision: &Decision<'_>, reply: Option<&LocalReply>, upstream: Headers) -> Observed {
    let mut observed = Observed { decided: Some(decided(decision)), ..Observed::default() };
    if let Some(reply) = reply {
        let header = |(name, value): &(&'static str, std::borrow::Cow<'static, str>)| {
            ((*name).to_owned(), value.as_bytes().to_vec())
        };
        observed.status = Some(reply.status);
        observed.body = Some(reply.body.as_bytes().to_vec());
        observed.headers = Some(reply.headers.iter().map(header).collect());
    } else {
        observed.status = Some(200);
        observed.headers = Some(Headers::new());
        observed.upstream = Some(upstream);
    }
    observed
}

/// The request headers, to be edited.
fn request(headers: &HeaderBlock) -> Headers {
    headers.iter().map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.to_vec())).collect()
}

fn remove(headers: &mut Headers, name: &str) {
    headers.retain(|(other, _)| other != name);
}

fn set(headers: &mut Headers, name: &str, value: &[u8]) {
    remove(headers, name);
    headers.push((name.to_owned(), value.to_vec()));
}
