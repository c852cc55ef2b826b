//! The streams of one filter in one worker, for callbacks that belong to none: a tick, a callout's answer.

use crate::context::{Map, Stream};
use crate::{Http, Plugin, StreamId, abi};

/// The streams that a tick or a callout's answer may continue or answer.
pub struct Streams<'a, P: Plugin> {
    root: u32,
    streams: &'a mut Map<Stream<P>>,
}

impl<'a, P: Plugin> Streams<'a, P> {
    pub(crate) fn new(root: u32, streams: &'a mut Map<Stream<P>>) -> Self {
        Self { root, streams }
    }

    /// A stream, with all hostcalls acting on it until another is asked for; `None` when it has ended.
    pub fn get(&mut self, id: StreamId) -> Option<(&mut P::Stream, Http)> {
        let stream = self.streams.get_mut(&id.0).filter(|stream| stream.root == self.root)?;
        // Refused for a stream that Envoy has ended without telling.
        abi::set_effective_context(id.0).ok()?;
        Some((&mut stream.state, Http::new(P::FILTER, id.0)))
    }
}
