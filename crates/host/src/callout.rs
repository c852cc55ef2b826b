//! HTTP callouts. The host fails them in four ways (`envoy-wasm.md` 11.7); here there are two: at once, or later.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use sailcloth_core::headers::{self, HeaderBlock};

use crate::Status;
use crate::abi::{self, Buffer, Map};

thread_local! {
    /// The stream whose callback is running; 0 is none.
    static CURRENT: Cell<u32> = const { Cell::new(0) };
    /// Which stream sent which callout. Bounded by the callouts under way: an answer comes exactly once, or the
    /// send failed and nothing was added.
    static WAITING: RefCell<HashMap<u32, u32>> = RefCell::default();
}

/// A callout under way; its answer carries the same token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u32);

impl Token {
    pub(crate) fn of(raw: u32) -> Self {
        Self(raw)
    }
}

/// The answer of a callout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A response. Envoy answers by itself with 503 when it cannot connect and 504 at the deadline.
    Response {
        /// `:status`.
        status: u16,
        /// Response headers.
        headers: HeaderBlock,
        /// Response body.
        body: Vec<u8>,
    },
    /// A response whose body is longer than [`Plugin::MAX_ANSWER`](crate::Plugin::MAX_ANSWER) and was not read.
    TooLarge,
    /// The connection was reset, the response was too large for Envoy, or it could not be read.
    Failed,
}

/// Sends a request to a cluster. `headers` must hold `:method`, `:path` and `:authority`.
///
/// # Errors
/// At once when the cluster is unknown ([`Status::BadArgument`]) or has no endpoints ([`Status::InternalFailure`]); no
/// answer follows then, so a request must not be paused for it.
pub fn send(
    cluster: &str,
    headers: &[(&str, &[u8])],
    body: &[u8],
    timeout: Duration,
) -> Result<Token, Status> {
    // A timeout of 0 means none at all to the host: at least a millisecond.
    let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1);
    let token = abi::http_call(cluster, &headers::encode(headers), body, milliseconds)?;
    WAITING.with(|waiting| {
        waiting.try_borrow_mut().map(|mut waiting| waiting.insert(token, CURRENT.get())).ok()
    });
    Ok(Token(token))
}

/// Notes whose callback is running, so that a callout sent in it finds its way back; 0 is no stream's.
pub(crate) fn enter(stream: u32) {
    CURRENT.set(stream);
}

/// The stream that sent a callout. A token nobody waits for is possible: Envoy may answer a call that it also refused
/// (`envoy-wasm.md` 11.7).
pub(crate) fn sender(token: u32) -> Option<u32> {
    WAITING.with(|waiting| waiting.try_borrow_mut().ok()?.remove(&token)).filter(|stream| *stream != 0)
}

/// Reads the answer inside the callback.
pub(crate) fn answer(header_count: usize, body_size: usize, max: usize) -> Answer {
    if header_count == 0 {
        return Answer::Failed;
    }
    if body_size > max {
        return Answer::TooLarge;
    }
    let read = || {
        let headers = HeaderBlock::parse(abi::header_pairs(Map::CalloutResponse).ok()?).ok()?;
        let status = std::str::from_utf8(headers.first(":status")?).ok()?.parse().ok()?;
        let body =
            if body_size == 0 { Vec::new() } else { abi::buffer(Buffer::CalloutBody, body_size).ok()? };
        Some(Answer::Response { status, headers, body })
    };
    read().unwrap_or(Answer::Failed)
}
