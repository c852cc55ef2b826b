//! What a filter is to the host.

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::Filter;

use crate::callout::{Answer, Token};
use crate::{Action, Http};

/// A configured filter: callbacks in, actions out. The decisions are its engine's.
///
/// A module exports only the callbacks that [`export!`](crate::export!) names; the others keep these empty bodies.
pub trait Plugin: Sized + 'static {
    /// Which filter this is.
    const FILTER: Filter;

    /// What it keeps for one stream, from request to log.
    type Stream: Default + 'static;

    /// Makes a filter of its configuration ([`Node::Null`] when there is none); with the warnings when it is accepted,
    /// with all problems when it is refused.
    ///
    /// A pure function of the configuration: Envoy runs it once more on every worker, and silently *skips* a filter that a
    /// worker alone refuses (`envoy-wasm.md` 1.2). So it calls no host, no clock, no randomness.
    ///
    /// # Errors
    /// Every problem of the configuration.
    fn configure(configuration: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>>;

    /// Resources in force, by kind, for the metric that shows them.
    fn resources(&self) -> Vec<(&'static str, usize)>;

    /// The configuration is accepted: define metrics. Cannot fail.
    fn start(&mut self) {}

    /// The request's headers have arrived.
    fn request_headers(&mut self, stream: &mut Self::Stream, http: Http) -> Action {
        let _ = (stream, http);
        Action::Continue
    }

    /// The response's headers have arrived, or a local reply's.
    fn response_headers(&mut self, stream: &mut Self::Stream, http: Http) -> Action {
        let _ = (stream, http);
        Action::Continue
    }

    /// The stream is over. May run on a stream whose request headers this filter never saw.
    fn log(&mut self, stream: &mut Self::Stream, http: Http) {
        let _ = (stream, http);
    }

    /// The answer of a callout sent in `request_headers`; `stream` is `None` when the stream has gone meanwhile, or
    /// when the callout was sent by none.
    fn callout(&mut self, stream: Option<(&mut Self::Stream, Http)>, token: Token, answer: Answer) {
        let _ = (stream, token, answer);
    }
}
