//! What the rules ask about the connection and the caller, each fetched at most once per request.

use std::cell::OnceCell;
use std::net::IpAddr;

use sailcloth_core::facts::Fact;
use sailcloth_core::identity::Token;
use sailcloth_core::request::Request;

/// Something a rule depends on that may be impossible to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    PeerIdentity,
    PeerAddress,
    RemoteAddress,
    DestinationPort,
    RequestIdentity,
}

/// Whether something holds, or why that cannot be known.
pub(crate) type Truth = Result<bool, Unknown>;

/// One request with the facts that were asked for so far.
pub(crate) struct Caller<'r> {
    pub(crate) request: Request<'r>,
    peer_uri: OnceCell<Fact<Vec<u8>>>,
    peer_address: OnceCell<Fact<IpAddr>>,
    remote_address: OnceCell<Fact<IpAddr>>,
    token: OnceCell<Fact<Token>>,
}

impl<'r> Caller<'r> {
    pub(crate) fn new(request: Request<'r>) -> Self {
        Self {
            request,
            peer_uri: OnceCell::new(),
            peer_address: OnceCell::new(),
            remote_address: OnceCell::new(),
            token: OnceCell::new(),
        }
    }

    /// The URI of the peer's certificate, if it has one.
    pub(crate) fn peer_uri(&self) -> Result<Option<&[u8]>, Unknown> {
        let fact = self.peer_uri.get_or_init(|| self.request.facts.peer_uri());
        known(fact, Unknown::PeerIdentity).map(|uri| uri.map(Vec::as_slice))
    }

    pub(crate) fn peer_address(&self) -> Result<Option<&IpAddr>, Unknown> {
        known(self.peer_address.get_or_init(|| self.request.facts.peer_address()), Unknown::PeerAddress)
    }

    pub(crate) fn remote_address(&self) -> Result<Option<&IpAddr>, Unknown> {
        known(self.remote_address.get_or_init(|| self.request.facts.remote_address()), Unknown::RemoteAddress)
    }

    pub(crate) fn token(&self) -> Result<Option<&Token>, Unknown> {
        known(self.token.get_or_init(|| self.request.facts.token()), Unknown::RequestIdentity)
    }
}

fn known<T>(fact: &Fact<T>, unknown: Unknown) -> Result<Option<&T>, Unknown> {
    match fact {
        Fact::Known(value) => Ok(Some(value)),
        Fact::Absent => Ok(None),
        Fact::Unavailable(_) => Err(unknown),
    }
}
