//! One HTTP stream, during a callback.

use std::borrow::Cow;

use sailcloth_core::decision::{Filter, LocalReply};
use sailcloth_core::facts::{Fact, Properties};
use sailcloth_core::headers::{self, HeaderBlock};

use crate::abi::{self, Map};
use crate::{Status, log};

/// What Envoy does after a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The stream goes on to the next filter.
    Continue,
    /// The stream stops here: a reply was sent, or a callout's answer or a tick will continue it.
    Stop,
}

/// The stream of the callback that is running.
#[derive(Debug, Clone, Copy)]
pub struct Http {
    filter: Filter,
    stream: StreamId,
}

/// Names a stream of this VM, to come back to it later through [`Streams`](crate::Streams). It may have ended by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(crate) u32);

impl Http {
    pub(crate) fn new(filter: Filter, stream: u32) -> Self {
        Self { filter, stream: StreamId(stream) }
    }

    /// Which stream it is: what a filter keeps of one that it stops.
    #[must_use]
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// All request headers, by one hostcall. Readable in `request_headers`, in a callout's answer or a tick while the
    /// request is stopped, and in `log`.
    ///
    /// # Errors
    /// [`Status::Empty`] in other phases; [`Status::SerializationFailure`] when the block is not well formed.
    pub fn request_headers(&self) -> Result<HeaderBlock, Status> {
        // Out of phase Envoy answers with an empty block, and success (observed on 1.40). A request always has headers.
        block(Map::Request)
            .and_then(|headers| if headers.is_empty() { Err(Status::Empty) } else { Ok(headers) })
    }

    /// All response headers, by one hostcall; none where there is no response, or not yet.
    ///
    /// # Errors
    /// [`Status::SerializationFailure`] when the block is not well formed.
    pub fn response_headers(&self) -> Result<HeaderBlock, Status> {
        block(Map::Response)
    }

    /// One request header: the first value, where a client sent several, so not for anything security depends on. One
    /// that is absent costs a fifth of one that is there; of more than one, read the block.
    ///
    /// # Errors
    /// [`Status::NotFound`] when it is absent; the status of the host in other phases than [`Self::request_headers`]'.
    pub fn request_header(&self, name: &str) -> Result<Vec<u8>, Status> {
        abi::header(Map::Request, name)
    }

    /// Sets a request header to one value, replacing all it had. Envoy chooses the route anew after it.
    ///
    /// # Errors
    /// The status of the host.
    pub fn set_request_header(&self, name: &str, value: &[u8]) -> Result<(), Status> {
        abi::replace_header(Map::Request, name, value)
    }

    /// Appends a request header. Envoy chooses the route anew after it.
    ///
    /// # Errors
    /// The status of the host.
    pub fn add_request_header(&self, name: &str, value: &[u8]) -> Result<(), Status> {
        abi::add_header(Map::Request, name, value)
    }

    /// Removes all values of a request header. Envoy chooses the route anew after it.
    ///
    /// # Errors
    /// The status of the host.
    pub fn remove_request_header(&self, name: &str) -> Result<(), Status> {
        abi::remove_header(Map::Request, name)
    }

    /// Appends a response header.
    ///
    /// # Errors
    /// The status of the host.
    pub fn add_response_header(&self, name: &str, value: &[u8]) -> Result<(), Status> {
        abi::add_header(Map::Response, name, value)
    }

    /// Removes all values of a response header.
    ///
    /// # Errors
    /// The status of the host.
    pub fn remove_response_header(&self, name: &str) -> Result<(), Status> {
        abi::remove_header(Map::Response, name)
    }

    /// Sets a response header to one value.
    ///
    /// # Errors
    /// The status of the host.
    pub fn set_response_header(&self, name: &str, value: &[u8]) -> Result<(), Status> {
        abi::replace_header(Map::Response, name, value)
    }

    /// Writes filter state `wasm.<name>` of this stream: unforgeable from outside, readable by later filters of any VM
    /// as property `[name]`, by access logs and by native filters. `name` is one segment.
    ///
    /// # Errors
    /// The status of the host.
    pub fn set_state(&self, name: &str, value: &[u8]) -> Result<(), Status> {
        abi::set_property(name, value)
    }

    /// Answers the request here, with response code details.
    pub fn reply(&self, reply: &LocalReply) -> Action {
        self.reply_with(reply, &[])
    }

    /// [`Self::reply`] with headers whose names come from the configuration.
    pub fn reply_with(&self, reply: &LocalReply, more: &[(String, String)]) -> Action {
        self.reply_with_headers(reply, more.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
    }

    /// [`Self::reply`] with more headers.
    pub fn reply_with_headers<'h>(
        &self,
        reply: &'h LocalReply,
        more: impl Iterator<Item = (&'h str, &'h [u8])>,
    ) -> Action {
        let own = reply.headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        let pairs: Vec<(&str, &[u8])> = own.chain(more).collect();
        self.answer(reply.status, reply.grpc_status, &pairs, reply.body.as_bytes(), &reply.details)
    }

    /// Answers the request here with any headers and bytes. `grpc_status` is for gRPC requests.
    pub fn answer(
        &self,
        status: u16,
        grpc_status: u8,
        pairs: &[(&str, &[u8])],
        body: &[u8],
        details: &str,
    ) -> Action {
        let headers = headers::encode(pairs);
        let sent = abi::send_local_response(status, details, body, &headers, i32::from(grpc_status));
        if let Err(status) = sent {
            // Stopping without an answer hangs this request and lets none through.
            log::error(&format!("{}: could not send {details}: {}", self.filter.name(), status.name()));
        }
        Action::Stop
    }

    /// Answers 500 because the host refused something that the decision needs: closed, with the reason.
    pub fn fail_closed(&self, what: &str, status: Status) -> Action {
        log::error(&format!("{}: {what}: {}; the request is refused", self.filter.name(), status.name()));
        self.reply(&LocalReply {
            status: 500,
            grpc_status: 13,
            headers: Vec::new(),
            body: Cow::Borrowed(""),
            details: format!("sailcloth_{}_host_error[{}]", self.filter.name(), status.name()),
        })
    }

    /// Lets a stopped request go on, from a callout's answer or a tick. Edit headers before: afterwards they are out of
    /// reach.
    ///
    /// # Errors
    /// The status of the host.
    pub fn continue_request(&self) -> Result<(), Status> {
        abi::continue_request()
    }
}

impl Properties for Http {
    fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
        match abi::property(path.join("\0").as_bytes()) {
            Ok(value) => Fact::Known(value),
            Err(Status::NotFound) => Fact::Absent,
            // What Envoy answers for an attribute that is there without a value.
            Err(Status::SerializationFailure) => Fact::Absent,
            Err(status) => Fact::Unavailable(status.name()),
        }
    }
}

fn block(map: Map) -> Result<HeaderBlock, Status> {
    HeaderBlock::parse(abi::header_pairs(map)?).map_err(|_| Status::SerializationFailure)
}
