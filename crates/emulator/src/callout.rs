//! HTTP and gRPC calls that a module makes through a cluster, and the ways they end.

use std::fmt;
use std::time::Duration;

use crate::abi::{Callback, Status, to_u32};
use crate::foreign::{bytes_of, fields};
use crate::headers::HeaderMap;
use crate::process::Cluster;
use crate::vm::{Trap, Vm, VmData, VmInner};

/// A call that waits for its [`Answer`].
#[derive(Clone, Debug)]
pub struct Callout {
    pub(crate) id: u64,
    pub(crate) root: u32,
    pub(crate) deadline_ns: Option<u64>,
    /// The number that the module was given.
    pub token: u32,
    /// Name of the plugin that made it.
    pub plugin: String,
    /// The cluster called.
    pub cluster: String,
    /// gRPC service and method; `None` for an HTTP call.
    pub grpc: Option<(String, String)>,
    /// Request headers, or initial metadata.
    pub headers: HeaderMap,
    /// Request body, or message.
    pub body: Vec<u8>,
    /// Request trailers.
    pub trailers: HeaderMap,
    /// `None` waits for ever, as 0 does in the ABI.
    pub timeout: Option<Duration>,
}

/// How a callout ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An HTTP response.
    Response {
        /// With `:status`.
        headers: HeaderMap,
        /// Its body.
        body: Vec<u8>,
        /// Its trailers.
        trailers: HeaderMap,
    },
    /// The deadline passed: HTTP gets a response 504, gRPC a close with 14.
    Timeout,
    /// Nobody listens: HTTP gets a response 503, gRPC a close with 14.
    ConnectionRefused,
    /// Reset in mid-response: HTTP gets a callback with 0 headers, gRPC a close with 13.
    Reset,
    /// A gRPC message.
    GrpcMessage(Vec<u8>),
    /// A gRPC failure: status and message.
    GrpcClose(u32, String),
}

impl Answer {
    /// An HTTP response with that status and body.
    #[must_use]
    pub fn response(status: u16, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref().to_vec();
        let headers =
            HeaderMap::from([(":status", status.to_string()), ("content-length", body.len().to_string())]);
        Self::Response { headers, body, trailers: HeaderMap::new() }
    }

    fn into_response(self) -> Option<Option<(HeaderMap, Vec<u8>, HeaderMap)>> {
        match self {
            Self::Response { headers, body, trailers } => Some(Some((headers, body, trailers))),
            Self::Timeout => Self::response(504, "upstream request timeout").into_response(),
            Self::ConnectionRefused => Self::response(
                503,
                "upstream connect error or disconnect/reset before headers. reset reason: connection failure",
            )
            .into_response(),
            Self::Reset => Some(None),
            Self::GrpcMessage(_) | Self::GrpcClose(..) => None,
        }
    }
}

/// Why an answer did not get through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// It was answered, cancelled or timed out before.
    NotPending,
    /// A gRPC answer to an HTTP call, or the other way round.
    WrongKind,
    /// The module trapped on it.
    Trap(Trap),
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPending => f.write_str("the callout is not pending"),
            Self::WrongKind => f.write_str("the answer is not of the callout's protocol"),
            Self::Trap(trap) => write!(f, "{trap}"),
        }
    }
}

impl std::error::Error for AnswerError {}

impl From<Trap> for AnswerError {
    fn from(trap: Trap) -> Self {
        Self::Trap(trap)
    }
}

/// What a module can read while an answer is delivered to it.
#[derive(Default)]
pub(crate) struct Delivery {
    pub(crate) response: Option<(HeaderMap, Vec<u8>, HeaderMap)>,
    pub(crate) grpc_message: Option<Vec<u8>>,
    pub(crate) status: (u32, String),
}

impl Vm {
    /// Answers a callout: runs the module's callback in its root context. If that resumed or answered a stream, go on with
    /// [`crate::Stream::proceed`].
    ///
    /// # Errors
    /// [`AnswerError`].
    pub fn answer(&self, callout: &Callout, answer: Answer) -> Result<(), AnswerError> {
        self.lock().answer(callout, answer)
    }
}

impl VmInner {
    fn answer(&mut self, callout: &Callout, answer: Answer) -> Result<(), AnswerError> {
        let is_grpc = matches!(answer, Answer::GrpcMessage(_) | Answer::GrpcClose(..));
        let is_http = matches!(answer, Answer::Response { .. });
        if if callout.grpc.is_some() { is_http } else { is_grpc } {
            return Err(AnswerError::WrongKind);
        }
        if self.store.data_mut().callouts.remove(&callout.id).is_none() {
            return Err(AnswerError::NotPending);
        }
        if callout.grpc.is_some() {
            self.answer_grpc(callout, answer)?;
        } else if let Some(response) = answer.into_response() {
            self.answer_http(callout, response)?;
        }
        Ok(())
    }

    fn answer_http(
        &mut self,
        callout: &Callout,
        response: Option<(HeaderMap, Vec<u8>, HeaderMap)>,
    ) -> Result<(), Trap> {
        let (headers, body, trailers) = response
            .as_ref()
            .map_or((0, 0, 0), |(h, b, t)| (to_u32(h.len()), to_u32(b.len()), to_u32(t.len())));
        let delivery = &mut self.store.data_mut().delivery;
        if response.is_none() {
            delivery.status = (Status::BrokenConnection as u32, "reset".to_owned());
        }
        delivery.response = response;
        let result = self.call::<(u32, u32, u32, u32, u32), ()>(
            callout.root,
            Callback::OnHttpCallResponse,
            (callout.root, callout.token, headers, body, trailers),
        );
        let delivery = &mut self.store.data_mut().delivery;
        delivery.response = None;
        delivery.status.1.clear();
        result.map(|_| ())
    }

    fn answer_grpc(&mut self, callout: &Callout, answer: Answer) -> Result<(), Trap> {
        let (root, token) = (callout.root, callout.token);
        match answer {
            Answer::GrpcMessage(message) => {
                let size = to_u32(message.len());
                self.store.data_mut().delivery.grpc_message = Some(message);
                let result =
                    self.call::<(u32, u32, u32), ()>(root, Callback::OnGrpcReceive, (root, token, size));
                self.store.data_mut().delivery.grpc_message = None;
                result.map(|_| ())
            }
            Answer::GrpcClose(status, message) => self.close_grpc(root, token, status, &message),
            Answer::Reset => self.close_grpc(root, token, 13, ""),
            Answer::Timeout | Answer::ConnectionRefused | Answer::Response { .. } => {
                self.close_grpc(root, token, 14, "")
            }
        }
    }

    pub(crate) fn close_grpc(
        &mut self,
        root: u32,
        token: u32,
        status: u32,
        message: &str,
    ) -> Result<(), Trap> {
        self.store.data_mut().delivery.status = (status, message.to_owned());
        let result = self.call::<(u32, u32, u32), ()>(root, Callback::OnGrpcClose, (root, token, status));
        self.store.data_mut().delivery.status.1.clear();
        result.map(|_| ())
    }

    pub(crate) fn expire_callouts(&mut self, now: u64) -> Result<(), Trap> {
        let expired = |callout: &&Callout| callout.deadline_ns.is_some_and(|at| at <= now);
        let expired: Vec<Callout> = self.store.data().callouts.values().filter(expired).cloned().collect();
        for callout in expired {
            // The callback of an earlier one may have cancelled it: that is no error.
            if let Err(AnswerError::Trap(trap)) = self.answer(&callout, Answer::Timeout) {
                return Err(trap);
            }
        }
        Ok(())
    }
}

/// What a module asks for.
pub(crate) struct Request {
    pub(crate) cluster: String,
    pub(crate) grpc: Option<(String, String)>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
    pub(crate) timeout_ms: u32,
}

impl VmData {
    /// `proxy_http_call`: always owned by the root context.
    pub(crate) fn http_call(&mut self, mut request: Request) -> Result<u32, Status> {
        if i32::try_from(request.timeout_ms).is_err() {
            return Err(Status::BadArgument);
        }
        let cluster = self.process.cluster(&request.cluster).ok_or(Status::BadArgument)?;
        if [":path", ":method", ":authority"].iter().any(|name| request.headers.get(name).is_none()) {
            return Err(Status::BadArgument);
        }
        if cluster == Cluster::NoEndpoints {
            return Err(Status::InternalFailure);
        }
        if !request.body.is_empty() {
            request.headers.replace("content-length", request.body.len().to_string());
        }
        let token = self.next_http_token;
        self.next_http_token = token.wrapping_add(1).max(1);
        self.add_callout(token, request);
        Ok(token)
    }

    /// `proxy_grpc_call`. Tokens of calls are odd, as in Envoy.
    pub(crate) fn grpc_call(&mut self, mut request: Request, service: &[u8]) -> Result<u32, GrpcRefusal> {
        let encoded = encoded_cluster(service);
        if encoded.is_none() && fields(service).is_some() {
            return Err(GrpcRefusal::Abort);
        }
        let name = encoded.clone().unwrap_or_else(|| service.to_vec());
        request.cluster = String::from_utf8_lossy(&name).into_owned();
        let cluster = self.process.cluster(&request.cluster);
        if cluster.is_none() && encoded.is_none() {
            return Err(GrpcRefusal::Status(Status::ParseFailure));
        }
        let token = self.next_grpc_token;
        self.next_grpc_token = token.wrapping_add(2);
        if cluster != Some(Cluster::Reachable) {
            let root = self.root_id();
            self.late_grpc_closes.push((root, token));
            return Err(GrpcRefusal::Status(Status::InternalFailure));
        }
        self.add_callout(token, request);
        Ok(token)
    }

    /// `proxy_grpc_cancel` and `proxy_grpc_close` of a call.
    pub(crate) fn cancel_grpc(&mut self, token: u32) -> Result<(), Status> {
        let root = self.root_id();
        let mine =
            |callout: &Callout| callout.root == root && callout.token == token && callout.grpc.is_some();
        let id = self.callouts.values().find(|callout| mine(callout)).map(|callout| callout.id);
        self.callouts.remove(&id.ok_or(Status::NotFound)?);
        Ok(())
    }

    fn add_callout(&mut self, token: u32, request: Request) {
        let timeout = (request.timeout_ms > 0).then(|| Duration::from_millis(u64::from(request.timeout_ms)));
        let now = self.process.monotonic_ns();
        self.next_callout += 1;
        let callout = Callout {
            id: self.next_callout,
            root: self.root_id(),
            deadline_ns: timeout.map(|t| now.saturating_add(u64::try_from(t.as_nanos()).unwrap_or(u64::MAX))),
            token,
            plugin: self.plugin_name().to_owned(),
            cluster: request.cluster,
            grpc: request.grpc,
            headers: request.headers,
            body: request.body,
            trailers: request.trailers,
            timeout,
        };
        self.callouts.insert(callout.id, callout);
    }
}

/// How a gRPC call is refused at once.
pub(crate) enum GrpcRefusal {
    Status(Status),
    /// A plain name whose bytes parse as a protobuf message aborts the whole of Envoy.
    Abort,
}

/// The name in an encoded `GrpcService { envoy_grpc: { cluster_name } }`.
fn encoded_cluster(service: &[u8]) -> Option<Vec<u8>> {
    let service = fields(service)?;
    let envoy_grpc = fields(bytes_of(&service, 1)?)?;
    bytes_of(&envoy_grpc, 1).filter(|name| !name.is_empty()).map(<[u8]>::to_vec)
}
