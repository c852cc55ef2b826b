//! What the rules ask about the request, the connection and the caller, each fetched at most once per request.

use std::cell::OnceCell;
use std::net::IpAddr;

use sailcloth_core::facts::Fact;
use sailcloth_core::identity::{Claim, Token};
use sailcloth_core::key::parameters;
use sailcloth_core::request::Request;
use sailcloth_resources::authorization_policy::Key;

use crate::subject::{self, Subject};
use crate::{addresses, principals};

/// Something a rule depends on that may be impossible to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    PeerIdentity,
    PeerAddress,
    RemoteAddress,
    DestinationAddress,
    DestinationPort,
    ServerName,
    RequestIdentity,
    /// Which of the values of a repeated header or query parameter counts.
    WhichValue,
}

/// Whether something holds, or why that cannot be known.
pub(crate) type Truth = Result<bool, Unknown>;

/// Claims that Istio always splits at spaces.
const WORDS: [&str; 2] = ["scope", "permission"];

/// What identities of a mesh begin with.
const SPIFFE: &[u8] = b"spiffe://";

/// The value of a principal that is somebody and has no SPIFFE identity: `*` matches it and nothing else does, since no
/// text of a policy holds this byte.
const SOMEBODY: &[u8] = &[0xff];

/// One request with the facts that were asked for so far.
pub(crate) struct Caller<'r> {
    pub(crate) request: Request<'r>,
    now: &'r dyn Fn() -> u64,
    peer_uri: OnceCell<Fact<Vec<u8>>>,
    peer_address: OnceCell<Fact<IpAddr>>,
    remote_address: OnceCell<Fact<IpAddr>>,
    destination_address: OnceCell<Fact<IpAddr>>,
    destination_port: OnceCell<Fact<u16>>,
    server_name: OnceCell<Fact<Vec<u8>>>,
    token: OnceCell<Fact<Token>>,
}

impl<'r> Caller<'r> {
    /// `now` gives seconds since the Unix epoch.
    pub(crate) fn new(request: Request<'r>, now: &'r dyn Fn() -> u64) -> Self {
        Self {
            request,
            now,
            peer_uri: OnceCell::new(),
            peer_address: OnceCell::new(),
            remote_address: OnceCell::new(),
            destination_address: OnceCell::new(),
            destination_port: OnceCell::new(),
            server_name: OnceCell::new(),
            token: OnceCell::new(),
        }
    }

    /// Seconds since the Unix epoch.
    pub(crate) fn now(&self) -> i64 {
        i64::try_from((self.now)()).unwrap_or(i64::MAX)
    }

    /// The URI of the peer's certificate, if it has one.
    fn peer_uri(&self) -> Result<Option<&[u8]>, Unknown> {
        let fact = self.peer_uri.get_or_init(|| self.request.facts.peer_uri());
        known(fact, Unknown::PeerIdentity).map(|uri| uri.map(Vec::as_slice))
    }

    fn port(&self) -> Result<Option<&u16>, Unknown> {
        known(
            self.destination_port.get_or_init(|| self.request.facts.destination_port()),
            Unknown::DestinationPort,
        )
    }

    fn server_name(&self) -> Result<Option<&Vec<u8>>, Unknown> {
        known(self.server_name.get_or_init(|| self.request.facts.server_name()), Unknown::ServerName)
    }

    fn token(&self) -> Result<Option<&Token>, Unknown> {
        known(self.token.get_or_init(|| self.request.facts.token()), Unknown::RequestIdentity)
    }

    /// The address that a key names.
    pub(crate) fn address(&self, subject: &Subject) -> Result<Option<IpAddr>, Unknown> {
        let facts = &self.request.facts;
        let (fact, unknown) = match subject {
            Subject::Key(Key::RemoteIp) => {
                (self.remote_address.get_or_init(|| facts.remote_address()), Unknown::RemoteAddress)
            }
            Subject::Key(Key::DestinationIp) => (
                self.destination_address.get_or_init(|| facts.destination_address()),
                Unknown::DestinationAddress,
            ),
            _ => (self.peer_address.get_or_init(|| facts.peer_address()), Unknown::PeerAddress),
        };
        known(fact, unknown).map(|address| address.copied())
    }

    /// The claim that a key names.
    pub(crate) fn claim(&self, path: &[String]) -> Result<Option<Claim<'_>>, Unknown> {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        Ok(self.token()?.and_then(|token| token.claim(&names)))
    }

    /// Shows the values that rules are filed under: addresses bit by bit, everything else as [`Self::texts`].
    pub(crate) fn filed(&self, subject: &Subject, see: &mut dyn FnMut(&[u8])) -> Result<(), Unknown> {
        match subject {
            Subject::Key(Key::SourceIp | Key::RemoteIp | Key::DestinationIp) => {
                if let Some(address) = self.address(subject)? {
                    see(&addresses::bits(address));
                }
                Ok(())
            }
            _ => self.texts(subject, see),
        }
    }

    /// Shows every value of a subject as text; none where it is not there.
    pub(crate) fn texts(&self, subject: &Subject, see: &mut dyn FnMut(&[u8])) -> Result<(), Unknown> {
        let headers = self.request.headers;
        match subject {
            Subject::Authority => see_lower(headers.first(":authority"), see),
            Subject::Key(Key::Host) => see_lower(headers.first(":authority").map(subject::host), see),
            Subject::Key(Key::Method) => headers.first(":method").into_iter().for_each(see),
            Subject::Key(Key::Path) => see(self.request.path()),
            Subject::Key(Key::PathSegment(number)) => {
                let path = self.request.path();
                let mut segments = path.strip_prefix(b"/").unwrap_or(path).split(|byte| *byte == b'/');
                segments.nth(*number).into_iter().for_each(see);
            }
            Subject::Key(Key::Query(name)) => {
                parameters(self.request.target(), name.as_bytes()).for_each(|value| see(&value));
            }
            Subject::Key(Key::Header(name)) => {
                // Each value alone, as Envoy 1.40's own `rbac`: one that matches is enough.
                headers.all(name).for_each(see);
            }
            Subject::Key(Key::DestinationPort) => {
                if let Some(port) = self.port()? {
                    see(port.to_string().as_bytes());
                }
            }
            Subject::Key(Key::Sni) => {
                self.server_name()?.into_iter().for_each(|name| see(name));
            }
            Subject::Key(Key::SourceIp | Key::RemoteIp | Key::DestinationIp) => {
                if let Some(address) = self.address(subject)? {
                    see(address.to_string().as_bytes());
                }
            }
            Subject::Key(
                key @ (Key::SourcePrincipal
                | Key::SourceNamespace
                | Key::SourceServiceAccount
                | Key::SourceTrustDomain),
            ) => {
                if let Some(uri) = self.peer_uri()? {
                    see_identity(key, uri, see);
                }
            }
            Subject::Key(Key::RequestPrincipal) => {
                if let Some(principal) = self.token()?.and_then(request_principal) {
                    see(&principal);
                }
            }
            Subject::Key(Key::Audiences) => {
                see_strings(self.token()?.and_then(|token| token.claim(&["aud"])), see);
            }
            // In Istio only a text is a presenter.
            Subject::Key(Key::Presenter) => {
                self.token()?.and_then(|token| token.text(&["azp"])).into_iter().for_each(see);
            }
            Subject::Key(Key::Claim(path)) => match self.claim(path)? {
                // Lists of words in one text; our `jwt` filter hands them on as lists already.
                Some(Claim::Text(words)) if matches!(path.as_slice(), [name] if WORDS.contains(&name.as_str())) =>
                {
                    words.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).for_each(see);
                }
                claim => see_strings(claim, see),
            },
        }
        Ok(())
    }

    /// Shows the values of a subject as a person reads them.
    pub(crate) fn shown(&self, subject: &Subject, see: &mut dyn FnMut(String)) -> Result<(), Unknown> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match subject {
            Subject::Key(Key::RequestPrincipal) => {
                if let Some(token) = self.token()? {
                    let part = |name| token.text(&[name]).map(text).unwrap_or_default();
                    see(format!("{}/{}", part("iss"), part("sub")));
                }
                Ok(())
            }
            Subject::Key(Key::SourcePrincipal) => {
                if let Some(uri) = self.peer_uri()? {
                    see(text(uri.strip_prefix(SPIFFE).unwrap_or(uri)));
                }
                Ok(())
            }
            Subject::Key(Key::Claim(path)) => {
                match self.claim(path)? {
                    Some(Claim::List(items)) => items.for_each(|item| see(shown_claim(item))),
                    Some(Claim::Text(_)) => self.texts(subject, &mut |value| see(text(value)))?,
                    Some(claim) => see(shown_claim(claim)),
                    None => {}
                }
                Ok(())
            }
            _ => self.texts(subject, &mut |value| see(text(value))),
        }
    }
}

fn known<T>(fact: &Fact<T>, unknown: Unknown) -> Result<Option<&T>, Unknown> {
    match fact {
        Fact::Known(value) => Ok(Some(value)),
        Fact::Absent => Ok(None),
        Fact::Unavailable(_) => Err(unknown),
    }
}

fn see_lower(text: Option<&[u8]>, see: &mut dyn FnMut(&[u8])) {
    let Some(text) = text else { return };
    if text.iter().any(u8::is_ascii_uppercase) { see(&text.to_ascii_lowercase()) } else { see(text) }
}

fn see_identity(key: &Key, uri: &[u8], see: &mut dyn FnMut(&[u8])) {
    let identity = uri.strip_prefix(SPIFFE).filter(|identity| !identity.is_empty());
    match key {
        Key::SourceNamespace => subject::namespaces(uri).for_each(see),
        Key::SourcePrincipal => see(identity.unwrap_or(SOMEBODY)),
        Key::SourceServiceAccount => {
            if let Some(identity) = identity {
                subject::service_accounts(identity, see);
            }
        }
        _ => identity.and_then(subject::trust_domain).into_iter().for_each(see),
    }
}

/// A text, or the texts in a list: nothing else matches a string in Istio.
fn see_strings(claim: Option<Claim<'_>>, see: &mut dyn FnMut(&[u8])) {
    match claim {
        Some(Claim::Text(text)) => see(text),
        Some(Claim::List(items)) => items.for_each(|item| {
            if let Claim::Text(text) = item {
                see(text);
            }
        }),
        _ => {}
    }
}

/// A claim as a person reads it. What is no text says so: that it looks like one is why nobody sees that it does not match.
fn shown_claim(claim: Claim<'_>) -> String {
    match claim {
        Claim::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Claim::Bool(flag) => format!("{flag} (a truth value)"),
        Claim::Integer(number) => format!("{number} (a number)"),
        Claim::Double(number) => format!("{number} (a number)"),
        Claim::Null => "null".to_owned(),
        Claim::List(_) => "a list".to_owned(),
        Claim::Object(_) => "an object".to_owned(),
    }
}

fn request_principal(token: &Token) -> Option<Vec<u8>> {
    Some(principals::joined(token.text(&["iss"])?, token.text(&["sub"])?))
}
