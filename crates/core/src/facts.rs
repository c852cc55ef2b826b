//! What is known about the connection and the caller, and from where it may be learned.
//!
//! Identity and address decide who gets in, so each has exactly one configured source, and "the source had nothing" is
//! kept apart from "the source could not be asked": the first is a fact (a plaintext caller has no identity), the
//! second denies.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use crate::config::{Node, Value};
use crate::identity::{Token, TokenState};

/// Filter state in which shipped configurations put the address of the TCP peer (stock `set_filter_state`).
pub const PEER_ADDRESS_STATE: &str = "sailcloth.source_ip";
/// The namespace of dynamic metadata that Envoy's `jwt_authn` writes.
pub const NATIVE_JWT: &str = "envoy.filters.http.jwt_authn";
/// Its `payload_in_metadata`, as Istio sets it.
pub const NATIVE_PAYLOAD: &str = "payload";
/// Filter state in which the `jwt` filter hands on the verified token.
pub const TOKEN_STATE: &str = "sailcloth.jwt";

/// Something asked about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact<T> {
    /// It is known.
    Known(T),
    /// It is known not to be there: no certificate, no token.
    Absent,
    /// It cannot be known; the text says why. Whatever depends on it fails closed.
    Unavailable(&'static str),
}

impl<T> Fact<T> {
    /// Changes the known value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Fact<U> {
        match self {
            Self::Known(value) => Fact::Known(change(value)),
            Self::Absent => Fact::Absent,
            Self::Unavailable(why) => Fact::Unavailable(why),
        }
    }
}

/// Envoy's attributes of the current stream (`get_property`).
pub trait Properties {
    /// The value at a path such as `["connection", "requested_server_name"]`, in Envoy's encoding (`envoy-wasm.md`
    /// 4.1): `Absent` when there is none, `Unavailable` when the host refused to say.
    fn property(&self, path: &[&str]) -> Fact<Vec<u8>>;
}

/// No attribute at all, for requests that exist only as headers.
#[derive(Debug, Clone, Copy)]
pub struct NoProperties;

impl Properties for NoProperties {
    fn property(&self, _: &[&str]) -> Fact<Vec<u8>> {
        Fact::Absent
    }
}

/// Where the identity of the peer is read (`settings.peerIdentity`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PeerIdentitySource {
    /// The URI SAN of the client certificate on this proxy's own TLS connection (`certificate`).
    #[default]
    Certificate,
    /// The filter state `io.istio.peer_principal`, where TLS ended before this proxy: waypoints and internal listeners
    /// (`peerPrincipal`).
    PeerPrincipal,
}

/// Where the address of the TCP peer is read (`settings.peerAddress`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PeerAddressSource {
    /// The filter state `sailcloth.source_ip`, written by the stock `set_filter_state` filter (`filterState`).
    #[default]
    FilterState,
    /// Envoy's `source.address`: only where the listener sets `use_remote_address`, since otherwise a client writes it
    /// by `x-forwarded-for` (`source.address`).
    SourceAddress,
}

/// Where the caller's verified token is read (`settings.requestIdentity`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TokenSource {
    /// Our own `jwt` filter, which must run before (`sailcloth`).
    #[default]
    Sailcloth,
    /// The dynamic metadata of Envoy's native `jwt_authn` with `payload_in_metadata: payload`, as Istio sets it
    /// (`jwt_authn`).
    JwtAuthn,
    /// No filter verifies tokens on this listener: nobody has a request identity (`none`).
    None,
}

/// The configured sources, the same three settings in every filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sources {
    /// Where the peer's identity is read.
    pub peer_identity: PeerIdentitySource,
    /// Where the peer's address is read.
    pub peer_address: PeerAddressSource,
    /// Where the caller's token is read.
    pub token: TokenSource,
}

impl Sources {
    /// Reads `peerIdentity`, `peerAddress` and `requestIdentity` of a filter's `settings`.
    #[must_use]
    pub fn read(settings: &crate::config::Fields<'_>) -> Self {
        let default = Self::default();
        let peer_identity = settings.get("peerIdentity").and_then(|value: Value<'_>| {
            value.word(&[
                ("certificate", PeerIdentitySource::Certificate),
                ("peerPrincipal", PeerIdentitySource::PeerPrincipal),
            ])
        });
        let peer_address = settings.get("peerAddress").and_then(|value| {
            value.word(&[
                ("filterState", PeerAddressSource::FilterState),
                ("source.address", PeerAddressSource::SourceAddress),
            ])
        });
        let token = settings.get("requestIdentity").and_then(|value| {
            value.word(&[
                ("sailcloth", TokenSource::Sailcloth),
                ("jwt_authn", TokenSource::JwtAuthn),
                ("none", TokenSource::None),
            ])
        });
        Self {
            peer_identity: peer_identity.unwrap_or(default.peer_identity),
            peer_address: peer_address.unwrap_or(default.peer_address),
            token: token.unwrap_or(default.token),
        }
    }
}

/// The facts of one stream. Nothing is fetched before it is asked for; callers that ask twice keep the answer.
#[derive(Clone, Copy)]
pub struct Facts<'r> {
    properties: &'r dyn Properties,
    sources: &'r Sources,
}

impl<'r> Facts<'r> {
    /// Facts that come from these attributes by these sources.
    #[must_use]
    pub fn new(properties: &'r dyn Properties, sources: &'r Sources) -> Self {
        Self { properties, sources }
    }

    /// An attribute as bytes.
    #[must_use]
    pub fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
        self.properties.property(path)
    }

    /// The peer's identity without `spiffe://`: `<trust domain>/ns/<namespace>/sa/<service account>` in a mesh.
    /// Absent on plaintext and for certificates without a URI SAN. Another scheme stays, so what decides who gets in reads
    /// [`Self::peer_uri`].
    #[must_use]
    pub fn peer_identity(&self) -> Fact<Vec<u8>> {
        self.peer_uri().map(|uri| uri.strip_prefix(b"spiffe://").map(<[u8]>::to_vec).unwrap_or(uri))
    }

    /// The peer's identity as its certificate has it: `spiffe://<trust domain>/…` in a mesh. Absent on plaintext.
    ///
    /// Envoy's own `rbac` tries the URI SANs, then the DNS SANs, then the subject, and so does this; of several SANs a
    /// filter sees only the first. Istio's certificates have exactly one.
    #[must_use]
    pub fn peer_uri(&self) -> Fact<Vec<u8>> {
        let path: &[&str] = match self.sources.peer_identity {
            PeerIdentitySource::Certificate => &["connection", "uri_san_peer_certificate"],
            PeerIdentitySource::PeerPrincipal => &["filter_state", "io.istio.peer_principal"],
        };
        match (self.filled(path), self.sources.peer_identity) {
            (Fact::Absent, PeerIdentitySource::Certificate) => self.peer_without_uri(),
            (other, _) => other,
        }
    }

    /// Whoever presented a certificate is somebody, also where it has no URI: a rule about "any peer" must see them.
    fn peer_without_uri(&self) -> Fact<Vec<u8>> {
        match self.property(&["connection", "mtls"]) {
            Fact::Known(presented) if presented == [1] => {}
            Fact::Known(_) | Fact::Absent => return Fact::Absent,
            Fact::Unavailable(why) => return Fact::Unavailable(why),
        }
        for name in ["dns_san_peer_certificate", "subject_peer_certificate"] {
            match self.filled(&["connection", name]) {
                Fact::Absent => {}
                other => return other,
            }
        }
        Fact::Unavailable("the peer's certificate names nobody")
    }

    /// An attribute; an empty one counts as absent.
    fn filled(&self, path: &[&str]) -> Fact<Vec<u8>> {
        match self.property(path) {
            Fact::Known(text) if text.is_empty() => Fact::Absent,
            other => other,
        }
    }

    /// The address of the directly connected TCP peer (Istio's `source.ip`), which no header can change.
    #[must_use]
    pub fn peer_address(&self) -> Fact<IpAddr> {
        let text = match self.sources.peer_address {
            PeerAddressSource::FilterState => match self.property(&["filter_state", PEER_ADDRESS_STATE]) {
                Fact::Absent => return Fact::Unavailable("filter state sailcloth.source_ip is not set"),
                other => other,
            },
            PeerAddressSource::SourceAddress => return self.remote_address(),
        };
        parse_address(text, "filter state sailcloth.source_ip is not an address")
    }

    /// The original client's address (Istio's `remote.ip`): Envoy's `source.address`, after `x-forwarded-for`.
    #[must_use]
    pub fn remote_address(&self) -> Fact<IpAddr> {
        parse_address(self.property(&["source", "address"]), "source.address is not an address")
    }

    /// The address that the connection was made to (Istio's `destination.ip`).
    #[must_use]
    pub fn destination_address(&self) -> Fact<IpAddr> {
        parse_address(self.property(&["destination", "address"]), "destination.address is not an address")
    }

    /// The server name that the client asked for in TLS (Istio's `connection.sni`); absent on plaintext.
    #[must_use]
    pub fn server_name(&self) -> Fact<Vec<u8>> {
        self.filled(&["connection", "requested_server_name"])
    }

    /// The port that the connection was made to.
    #[must_use]
    pub fn destination_port(&self) -> Fact<u16> {
        match self.property(&["destination", "port"]) {
            Fact::Known(raw) => integer(&raw)
                .and_then(|port| u16::try_from(port).ok())
                .map_or(Fact::Unavailable("destination.port is not a port"), Fact::Known),
            Fact::Absent => Fact::Unavailable("destination.port is not known"),
            Fact::Unavailable(why) => Fact::Unavailable(why),
        }
    }

    /// The caller's verified token. `Unavailable` when the filter that should have verified it did not run.
    #[must_use]
    pub fn token(&self) -> Fact<Token> {
        match self.sources.token {
            TokenSource::None => Fact::Absent,
            TokenSource::JwtAuthn => self.native_token(),
            TokenSource::Sailcloth => match self.property(&[TOKEN_STATE]) {
                Fact::Known(state) => match Token::decode(state) {
                    TokenState::Verified(token) => Fact::Known(token),
                    TokenState::Anonymous => Fact::Absent,
                    TokenState::Unreadable => {
                        Fact::Unavailable("filter state sailcloth.jwt has an unknown version")
                    }
                },
                Fact::Absent => {
                    Fact::Unavailable("filter state sailcloth.jwt is not set: the jwt filter did not run")
                }
                Fact::Unavailable(why) => Fact::Unavailable(why),
            },
        }
    }

    /// The token as `jwt_authn` published it. Read as one message: single attributes do not tell a string claim from a
    /// number.
    fn native_token(&self) -> Fact<Token> {
        let message = match self.property(&["metadata"]) {
            Fact::Known(message) => message,
            Fact::Absent => return Fact::Absent,
            Fact::Unavailable(why) => return Fact::Unavailable(why),
        };
        match Node::from_filter_metadata(&message, NATIVE_JWT) {
            Ok(Some(metadata)) => metadata
                .field(NATIVE_PAYLOAD)
                .map_or(Fact::Absent, |payload| Fact::Known(Token::of_claims(payload))),
            Ok(None) => Fact::Absent,
            Err(_) => Fact::Unavailable("the metadata of jwt_authn is not readable"),
        }
    }
}

impl fmt::Debug for Facts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts").field("sources", self.sources).finish_non_exhaustive()
    }
}

/// An integer attribute: eight bytes, little-endian.
#[must_use]
pub fn integer(raw: &[u8]) -> Option<i64> {
    Some(i64::from_le_bytes(raw.try_into().ok()?))
}

/// `ip`, `ip:port`, `[v6]:port` or `[v6]`; Envoy writes the port into `source.address`.
fn parse_address(text: Fact<Vec<u8>>, why: &'static str) -> Fact<IpAddr> {
    let raw = match text {
        Fact::Known(raw) => raw,
        Fact::Absent => return Fact::Unavailable("the connection has no address"),
        Fact::Unavailable(why) => return Fact::Unavailable(why),
    };
    let text: Cow<'_, str> = String::from_utf8_lossy(&raw);
    let bare = text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    bare.or_else(with_port).map_or(Fact::Unavailable(why), Fact::Known)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    struct One(&'static [&'static str], Vec<u8>);

    impl Properties for One {
        fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
            if path == self.0 { Fact::Known(self.1.clone()) } else { Fact::Absent }
        }
    }

    fn source_ip(text: &str) -> One {
        One(&["filter_state", PEER_ADDRESS_STATE], text.as_bytes().to_vec())
    }

    #[test]
    fn the_peer_address_comes_from_the_filter_state() {
        let sources = Sources::default();
        for (text, expected) in
            [("10.0.0.1", "10.0.0.1"), ("::1", "::1"), ("10.0.0.1:443", "10.0.0.1"), ("[::1]:443", "::1")]
        {
            let properties = source_ip(text);
            let address = Facts::new(&properties, &sources).peer_address();
            assert_eq!(address, Fact::Known(expected.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn without_its_filter_state_the_peer_address_is_unavailable_not_absent() {
        let sources = Sources::default();
        let spoofed = One(&["source", "address"], b"9.9.9.9:0".to_vec());
        assert!(matches!(Facts::new(&spoofed, &sources).peer_address(), Fact::Unavailable(_)));
        assert!(matches!(Facts::new(&source_ip("elsewhere"), &sources).peer_address(), Fact::Unavailable(_)));
    }

    #[test]
    fn a_plaintext_peer_has_no_identity() {
        let sources = Sources::default();
        assert_eq!(Facts::new(&NoProperties, &sources).peer_identity(), Fact::Absent);
        let mtls = One(&["connection", "uri_san_peer_certificate"], b"spiffe://td/ns/a/sa/b".to_vec());
        assert_eq!(Facts::new(&mtls, &sources).peer_identity(), Fact::Known(b"td/ns/a/sa/b".to_vec()));
    }

    #[test]
    fn a_certificate_without_a_uri_is_somebody_all_the_same() {
        struct Certificate(Option<&'static str>);
        impl Properties for Certificate {
            fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
                match (path, self.0) {
                    (["connection", "mtls"], _) => Fact::Known(vec![1]),
                    (["connection", "subject_peer_certificate"], Some(subject)) => {
                        Fact::Known(subject.into())
                    }
                    _ => Fact::Absent,
                }
            }
        }
        let sources = Sources::default();
        let of = |subject| Facts::new(&Certificate(subject), &sources).peer_uri();
        assert_eq!(of(Some("CN=web")), Fact::Known(b"CN=web".to_vec()));
        assert!(matches!(of(None), Fact::Unavailable(_)));
    }

    #[test]
    fn a_token_is_unavailable_where_the_jwt_filter_did_not_run() {
        let sources = Sources::default();
        assert!(matches!(Facts::new(&NoProperties, &sources).token(), Fact::Unavailable(_)));
        let none = Sources { token: TokenSource::None, ..sources };
        assert_eq!(Facts::new(&NoProperties, &none).token(), Fact::Absent);
    }

    #[test]
    fn an_unknown_identity_version_is_unavailable() {
        let sources = Sources::default();
        let future = One(&[TOKEN_STATE], vec![250, 1, 2]);
        assert!(matches!(Facts::new(&future, &sources).token(), Fact::Unavailable(_)));
    }
}
