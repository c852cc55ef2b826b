//! The conditions of one match entry, ready to be asked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use sailcloth_core::facts::Fact;
use sailcloth_core::identity::{Claim, Token};
use sailcloth_core::regex::Regex;
use sailcloth_core::request::Request;
use sailcloth_resources::virtual_service::{HttpMatch, StringMatch, routing_claim};

/// A condition on the path without query.
#[derive(Debug)]
pub(crate) enum PathCondition {
    /// It is this.
    Exact(String),
    /// It begins so: a plain string prefix, not a prefix of segments. A rule without `uri` has `/`, as in Istio.
    Prefix(String),
    /// It is this but for case; in lower case.
    ExactAnyCase(String),
    /// It begins so but for case; in lower case.
    PrefixAnyCase(String),
    /// All of it matches.
    Regex(Rc<Regex>),
}

/// All conditions of an entry; they must all hold.
#[derive(Debug)]
pub(crate) struct Conditions {
    pub(crate) path: PathCondition,
    pub(crate) headers: Vec<HeaderCondition>,
    pub(crate) params: Vec<(String, StringMatch)>,
    pub(crate) claims: Vec<ClaimCondition>,
    /// On the port that the connection was made to.
    pub(crate) port: Option<u16>,
}

/// A condition on a claim of the caller's token.
#[derive(Debug)]
pub(crate) struct ClaimCondition {
    pub(crate) path: Vec<String>,
    pub(crate) value: StringMatch,
    /// `withoutHeaders`.
    pub(crate) negated: bool,
}

#[derive(Debug)]
pub(crate) struct HeaderCondition {
    pub(crate) name: String,
    pub(crate) value: StringMatch,
    /// `withoutHeaders`.
    pub(crate) negated: bool,
}

/// A request, with the headers that were already asked for.
pub(crate) struct View<'r> {
    pub(crate) request: &'r Request<'r>,
    pub(crate) path: &'r [u8],
    seen: RefCell<Vec<Seen<'r>>>,
    /// Whether a condition asked for what cannot be known.
    undecided: Cell<bool>,
}

struct Seen<'r> {
    name: &'r str,
    values: Vec<&'r [u8]>,
}

impl<'r> View<'r> {
    pub(crate) fn new(request: &'r Request<'r>) -> Self {
        Self { request, path: request.path(), seen: RefCell::default(), undecided: Cell::new(false) }
    }

    /// Whether some condition could not be decided.
    pub(crate) fn is_undecided(&self) -> bool {
        self.undecided.get()
    }

    /// What is known; what cannot be leaves the condition undecided, and then nothing is routed.
    fn known<T>(&self, fact: Fact<T>) -> Option<T> {
        match fact {
            Fact::Known(value) => Some(value),
            Fact::Absent => None,
            Fact::Unavailable(_) => {
                self.undecided.set(true);
                None
            }
        }
    }

    /// Asks about a header's values, none where it is missing.
    fn header(&self, name: &'r str, ask: impl Fn(&[&[u8]]) -> bool) -> bool {
        let values = || self.request.headers.all(name).collect();
        let Ok(mut seen) = self.seen.try_borrow_mut() else {
            let values: Vec<&[u8]> = values();
            return ask(&values);
        };
        if let Some(known) = seen.iter().find(|known| known.name == name) {
            return ask(&known.values);
        }
        let values: Vec<&[u8]> = values();
        let answer = ask(&values);
        seen.push(Seen { name, values });
        answer
    }
}

impl PathCondition {
    fn of(rule: &HttpMatch) -> Self {
        match (&rule.uri, rule.ignore_uri_case) {
            (None | Some(StringMatch::Present), _) => Self::Prefix("/".to_owned()),
            (Some(StringMatch::Exact(path)), false) => Self::Exact(path.clone()),
            (Some(StringMatch::Prefix(path)), false) => Self::Prefix(path.clone()),
            (Some(StringMatch::Exact(path)), true) => Self::ExactAnyCase(path.to_ascii_lowercase()),
            (Some(StringMatch::Prefix(path)), true) => Self::PrefixAnyCase(path.to_ascii_lowercase()),
            (Some(StringMatch::Regex(regex)), _) => Self::Regex(regex.clone()),
        }
    }

    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(text) => path == text.as_bytes(),
            Self::Prefix(text) => path.starts_with(text.as_bytes()),
            Self::ExactAnyCase(text) => path.eq_ignore_ascii_case(text.as_bytes()),
            Self::PrefixAnyCase(text) => {
                path.get(..text.len()).is_some_and(|head| head.eq_ignore_ascii_case(text.as_bytes()))
            }
            Self::Regex(regex) => regex.is_match(path),
        }
    }

    fn is_any(&self) -> bool {
        match self {
            Self::Prefix(text) | Self::PrefixAnyCase(text) => text == "/",
            Self::Regex(regex) => regex.as_str() == ".*",
            Self::Exact(_) | Self::ExactAnyCase(_) => false,
        }
    }
}

impl Conditions {
    /// The conditions of a match; `listener` is the port that the configuration names, which needs no asking.
    pub(crate) fn of(rule: &HttpMatch, listener: Option<u16>) -> Self {
        let pseudo = [(":scheme", &rule.scheme), (":method", &rule.method), (":authority", &rule.authority)];
        let mut headers: Vec<HeaderCondition> = pseudo
            .into_iter()
            .filter_map(|(name, value)| Some(HeaderCondition::new(name, value.as_ref()?, false)))
            .collect();
        let mut claims = Vec::new();
        let named = [(&rule.headers, false), (&rule.without_headers, true)];
        for (name, value, negated) in named
            .into_iter()
            .flat_map(|(map, negated)| map.iter().map(move |(name, value)| (name, value, negated)))
        {
            match routing_claim(name) {
                Some(path) => {
                    let path = path.into_iter().map(str::to_owned).collect();
                    claims.push(ClaimCondition { path, value: value.clone(), negated });
                }
                None => headers.push(HeaderCondition::new(name, value, negated)),
            }
        }
        let port = rule.port.filter(|_| listener.is_none());
        Self { path: PathCondition::of(rule), headers, params: rule.query_params.clone(), claims, port }
    }

    /// Whether every request matches (Istio's catch-all, which a gateway moves behind all others).
    pub(crate) fn is_catch_all(&self) -> bool {
        self.path.is_any()
            && self.headers.is_empty()
            && self.params.is_empty()
            && self.claims.is_empty()
            && self.port.is_none()
    }

    /// Whether everything but the path holds.
    pub(crate) fn hold_beside_path<'r>(&'r self, view: &View<'r>) -> bool {
        self.headers.iter().all(|condition| condition.holds(view))
            && self.params.iter().all(|(name, value)| param_holds(view.request.target(), name, value))
            // Last, since each of them is a hostcall, and one that cannot be answered decides against the request.
            && self.port.is_none_or(|port| view.known(view.request.facts.destination_port()) == Some(port))
            && self.claims_hold(view)
    }

    fn claims_hold(&self, view: &View<'_>) -> bool {
        if self.claims.is_empty() {
            return true;
        }
        let token = view.known(view.request.facts.token());
        !view.is_undecided() && self.claims.iter().all(|condition| condition.holds(token.as_ref()))
    }
}

impl ClaimCondition {
    pub(crate) fn holds(&self, token: Option<&Token>) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        token.and_then(|token| token.claim(&path)).is_some_and(|claim| claim_matches(&self.value, claim))
            != self.negated
    }
}

/// A string that matches, or a list with such a string (`istio-api.md` 2.9); numbers and booleans never do.
fn claim_matches(condition: &StringMatch, claim: Claim<'_>) -> bool {
    match claim {
        Claim::Text(text) => text_matches(condition, text),
        Claim::List(mut items) => {
            items.any(|item| matches!(item, Claim::Text(text) if text_matches(condition, text)))
        }
        _ => false,
    }
}

impl HeaderCondition {
    fn new(name: &str, value: &StringMatch, negated: bool) -> Self {
        // Envoy keeps `host` as `:authority`.
        let name = if name == "host" { ":authority" } else { name };
        Self { name: name.to_owned(), value: value.clone(), negated }
    }

    /// Each value of a repeated header is compared alone, and one that matches is enough, as in Envoy since 1.39
    /// (`match_headers_individually`): joined, a second value would hide the first from a rule.
    pub(crate) fn holds<'r>(&'r self, view: &View<'r>) -> bool {
        view.header(&self.name, |values| {
            let matches = match (&self.value, values) {
                (StringMatch::Present, values) => !values.is_empty(),
                // "a missing header counts as empty string" (istio-api.md 5.3)
                (text, []) => self.negated && text_matches(text, b""),
                (text, values) => values.iter().any(|value| text_matches(text, value)),
            };
            matches != self.negated
        })
    }
}

pub(crate) fn text_matches(condition: &StringMatch, value: &[u8]) -> bool {
    match condition {
        StringMatch::Present => true,
        StringMatch::Exact(text) => value == text.as_bytes(),
        StringMatch::Prefix(text) => value.starts_with(text.as_bytes()),
        StringMatch::Regex(regex) => regex.is_match(value),
    }
}

/// On the first parameter of that name.
fn param_holds(target: &[u8], name: &str, condition: &StringMatch) -> bool {
    params(target)
        .find(|(key, _)| *key == name.as_bytes())
        .is_some_and(|(_, value)| text_matches(condition, value))
}

/// The parameters of a target's query, without percent-decoding, as Envoy reads a query.
pub(crate) fn params(target: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let query = target.iter().position(|byte| *byte == b'?').and_then(|at| target.get(at + 1..));
    query.into_iter().flat_map(|query| query.split(|byte| *byte == b'&')).map(|pair| {
        let equal = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        (pair.get(..equal).unwrap_or_default(), pair.get(equal + 1..).unwrap_or_default())
    })
}
