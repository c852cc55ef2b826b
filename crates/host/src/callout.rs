//! HTTP and gRPC callouts. The host fails them in four ways (`envoy-wasm.md` 11.7); here there are two: at once, or
//! later.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use sailcloth_core::headers::{self, HeaderBlock};
use sailcloth_core::protobuf::write_bytes;

use crate::Status;
use crate::abi::{self, Buffer, Map};

thread_local! {
    /// The stream whose callback is running; 0 is none.
    static CURRENT: Cell<u32> = const { Cell::new(0) };
    /// Which stream sent which callout. Bounded by the callouts under way: an answer comes exactly once, or the
    /// send failed and nothing was added.
    static WAITING: RefCell<HashMap<u32, u32>> = RefCell::default();
    /// The same for gRPC calls, whose tokens are numbered by themselves.
    static GRPC_WAITING: RefCell<HashMap<u32, u32>> = RefCell::default();
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
    let token = abi::http_call(cluster, &headers::encode(headers), body, milliseconds(timeout))?;
    WAITING.with(|waiting| {
        waiting.try_borrow_mut().map(|mut waiting| waiting.insert(token, CURRENT.get())).ok()
    });
    Ok(Token(token))
}

/// A gRPC call under way; its answer carries the same token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrpcToken(pub(crate) u32);

/// The answer of a unary gRPC call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrpcAnswer {
    /// The response message.
    Message(Vec<u8>),
    /// There is none; the gRPC status. Envoy closes with 14 when it cannot connect and at the deadline, 13 on a reset.
    Closed(u32),
}

/// A service of an Envoy cluster, as a gRPC call names it.
///
/// Always the encoded message: Envoy tries to read a plain cluster name as one first, and one that can be read aborts the
/// whole process (`envoy-wasm.md` 6, 11.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcService(Vec<u8>);

impl GrpcService {
    /// The service in `cluster`, whose name must not be empty: Envoy 1.40 aborts on that too, so nothing is sent there.
    #[must_use]
    pub fn in_cluster(cluster: &str) -> Self {
        let (mut inner, mut outer) = (Vec::new(), Vec::new());
        // GrpcService { envoy_grpc = 1: EnvoyGrpc { cluster_name = 1 } }
        write_bytes(&mut inner, 1, cluster.as_bytes());
        write_bytes(&mut outer, 1, &inner);
        Self(if cluster.is_empty() { Vec::new() } else { outer })
    }

    /// Calls a unary method; `name` is that of the protobuf service, with its package.
    ///
    /// # Errors
    /// At once when the cluster is unknown or has no endpoints ([`Status::InternalFailure`]); no answer follows then, so
    /// a request must not be paused for it.
    pub fn call(
        &self,
        name: &str,
        method: &str,
        message: &[u8],
        timeout: Duration,
    ) -> Result<GrpcToken, Status> {
        if self.0.is_empty() {
            return Err(Status::BadArgument);
        }
        let token = abi::grpc_call(&self.0, name, method, message, milliseconds(timeout))?;
        GRPC_WAITING.with(|waiting| {
            waiting.try_borrow_mut().map(|mut waiting| waiting.insert(token, CURRENT.get())).ok()
        });
        Ok(GrpcToken(token))
    }
}

/// A timeout of 0 means none at all to the host: at least a millisecond.
fn milliseconds(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1)
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

/// The stream that made a gRPC call, 0 where none did. `None` for a token that nobody waits for: Envoy closes a call that it
/// refused at once as well.
pub(crate) fn grpc_sender(token: u32) -> Option<u32> {
    GRPC_WAITING.with(|waiting| waiting.try_borrow_mut().ok()?.remove(&token))
}

/// Reads the message of a gRPC answer inside the callback.
pub(crate) fn grpc_message(size: usize) -> GrpcAnswer {
    // An empty message is one; a message that cannot be read is an internal error (13).
    let message = if size == 0 { Ok(Vec::new()) } else { abi::buffer(Buffer::GrpcMessage, size) };
    message.map_or(GrpcAnswer::Closed(13), GrpcAnswer::Message)
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
