//! What became of a request.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use sailcloth_core::decision::{Decision, LocalReply};
use sailcloth_core::identity::Token;
use sailcloth_core::request::Request;

use crate::verification::Verified;
use crate::{Refusal, Want};

/// The most that a challenge repeats of a request's path (Envoy's limit), and of its authority, which clients choose too,
/// in bytes.
const MAX_REALM: usize = 256;
/// `https` and what else may stand there.
const MAX_SCHEME: usize = 16;

/// A change to the request's headers.
#[derive(Clone, PartialEq, Eq)]
pub enum Edit<'e> {
    /// Remove all values of a header.
    Remove(&'e str),
    /// Set a header to one value.
    Set(Cow<'e, str>, Vec<u8>),
}

/// A decision and what goes with it.
pub struct Outcome<'e> {
    /// The decision.
    pub decision: Decision<'e>,
    /// Changes to the request, in their order. They are made whatever the decision is: the first ones remove what a
    /// client must not be able to say.
    pub edits: Vec<Edit<'e>>,
    /// Keys that were missing: of a refusal that a fetch may change.
    pub wants: Vec<Want>,
    pub(crate) verified: Option<Rc<Verified>>,
    pub(crate) challenge: Option<String>,
}

impl Outcome<'_> {
    /// The verified token; `None` for a request without one.
    #[must_use]
    pub fn token(&self) -> Option<&Token> {
        self.verified.as_ref().and_then(|verified| verified.token.as_ref())
    }

    /// What the other filters get (filter state `sailcloth.jwt`), of a request that passes.
    #[must_use]
    pub fn state(&self) -> &[u8] {
        self.token().map_or(Token::anonymous_state(), Token::state)
    }

    /// `iss/sub` (filter state `sailcloth.jwt.principal`).
    #[must_use]
    pub fn principal(&self) -> Option<&[u8]> {
        self.verified.as_ref().and_then(|verified| verified.principal.as_deref())
    }

    /// The reply of a refusal, with its challenge (RFC 6750 3).
    #[must_use]
    pub fn reply(&self) -> LocalReply {
        let mut reply = self.decision.reply();
        if let Some(challenge) = &self.challenge {
            reply.headers.push(("www-authenticate", Cow::Owned(challenge.clone())));
        }
        reply
    }
}

/// `Bearer realm="<url>"`, with `error="invalid_token"` when there was a token. The URL is without its query, in which
/// a token may stand.
pub(crate) fn challenge(request: &Request<'_>, refusal: Refusal) -> Option<String> {
    let error = match refusal {
        Refusal::CannotVerify => return None,
        Refusal::Missing => "",
        _ => r#", error="invalid_token""#,
    };
    let scheme = request.headers.first(":scheme").unwrap_or(b"http");
    let url: String = [
        bounded(scheme, MAX_SCHEME),
        b"://",
        bounded(request.authority(), MAX_REALM),
        bounded(request.path(), MAX_REALM),
    ]
    .into_iter()
    .flatten()
    .map(quotable)
    .collect();
    Some(format!(r#"Bearer realm="{url}"{error}"#))
}

fn bounded(part: &[u8], most: usize) -> &[u8] {
    part.get(..most).unwrap_or(part)
}

/// A byte of a URL inside a quoted string: what would end the string, or is no ASCII, is percent-encoded.
fn quotable(byte: &u8) -> Cow<'static, str> {
    const PLAIN: &str =
        "!#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~";
    let plain = PLAIN.find(char::from(*byte)).and_then(|at| PLAIN.get(at..=at));
    plain.map_or_else(|| Cow::Owned(format!("%{byte:02X}")), Cow::Borrowed)
}

impl fmt::Debug for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("decision", &self.decision)
            .field("edits", &self.edits)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Edit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove(name) => write!(f, "Remove({name})"),
            Self::Set(name, _) => write!(f, "Set({name}, <redacted>)"),
        }
    }
}
