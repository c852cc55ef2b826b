//! What a filter is to the host.

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::Filter;

use crate::callout::{Answer, GrpcAnswer, GrpcToken, Token};
use crate::{Action, Http, StreamId, Streams};

/// A configured filter: callbacks in, actions out. The decisions are its engine's.
///
/// A module exports only the callbacks that [`export!`](crate::export!) names; the others keep these empty bodies.
pub trait Plugin: Sized + 'static {
    /// Which filter this is.
    const FILTER: Filter;

    /// The longest answer of a callout that is read, in bytes: a VM's memory never shrinks, and Envoy takes 32 MiB.
    const MAX_ANSWER: usize = 1 << 20;

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

    /// The configuration is accepted: define metrics, ask for ticks. Cannot fail. Envoy also starts a canary that it
    /// throws away, and an instance on the main thread, so nothing is fetched here.
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

    /// The stream is gone, whatever became of it: the place to forget one that waits. Nothing of it is readable.
    fn ended(&mut self, id: StreamId, stream: Self::Stream) {
        let _ = (id, stream);
    }

    /// The answer of a callout. `sender` is the stream in whose callback it was sent, `None` for one sent in `tick` or
    /// in `callout`; it may have ended meanwhile. The streams that wait for the answer are found in `streams`.
    fn callout(
        &mut self,
        streams: &mut Streams<'_, Self>,
        sender: Option<StreamId>,
        token: Token,
        answer: Answer,
    ) {
        let _ = (streams, sender, token, answer);
    }

    /// The answer of a gRPC call; otherwise as [`Plugin::callout`].
    fn grpc_answer(
        &mut self,
        streams: &mut Streams<'_, Self>,
        sender: Option<StreamId>,
        token: GrpcToken,
        answer: GrpcAnswer,
    ) {
        let _ = (streams, sender, token, answer);
    }

    /// The period set by [`timer::set_period`](crate::timer::set_period) has passed, since the last tick or since it
    /// was set. In every worker and on Envoy's main thread, which serves no streams and must not be kept busy.
    fn tick(&mut self, streams: &mut Streams<'_, Self>) {
        let _ = streams;
    }
}
