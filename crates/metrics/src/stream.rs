//! What the engine asks of its host.

use sailcloth_core::facts::Properties;
use sailcloth_core::headers::HeaderBlock;

/// A stream that is over.
pub trait Stream: Properties {
    /// All request headers; `None` when Envoy has none.
    fn request_headers(&self) -> Option<HeaderBlock>;

    /// One request header, for those who need only one: a read that finds nothing costs a fifth of one that does.
    fn request_header(&self, name: &str) -> Option<Vec<u8>>;

    /// All response headers; `None` where there was no response.
    fn response_headers(&self) -> Option<HeaderBlock>;

    /// The value of a CEL program (see [`Compiler`](crate::Compiler)), in Envoy's encoding; `None` when evaluating it fails.
    fn evaluate(&self, program: u32) -> Option<Vec<u8>>;
}

/// Kinds of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// The value of the last request.
    Gauge,
    /// A distribution.
    Histogram,
}

/// Where metrics are kept. Defining a name again may make a new handle of the same metric.
pub trait Meter {
    /// A handle of the metric of this flat name; `None` when the host refuses it.
    fn define(&self, kind: Kind, name: &str) -> Option<u32>;

    /// Adds to a counter, sets a gauge, or records a sample.
    fn record(&self, kind: Kind, handle: u32, value: u64);
}
