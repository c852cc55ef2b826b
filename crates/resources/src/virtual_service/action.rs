//! What a rule does with a request: `route`, `redirect`, `directResponse`, `delegate`, `rewrite`, `mirror`
//! (`istio-api.md` 5.4, 5.5, 5.9).

use std::rc::Rc;

use sailcloth_core::config::{Fields, Path, Value};
use sailcloth_core::regex::Regex;

use super::fault::{Share, read_percentage, read_status, whole_percent};
use super::headers::{Headers, read_headers};
use super::matching::read_regex;
use crate::host_name::problem_of_host;

/// The largest body of a `directResponse`, Istio's limit, and the size from which it warns.
const MAX_BODY: usize = 1 << 20;
const LARGE_BODY: usize = 100 << 10;

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Sends the request to one of these; never empty.
    Route(Vec<Destination>),
    /// Sends the client elsewhere.
    Redirect(Box<Redirect>),
    /// Answers.
    Direct(DirectResponse),
    /// Goes on in another document.
    Delegate(Delegate),
}

/// A destination and its share.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The host as written.
    pub host: String,
    /// The subset that a DestinationRule defines.
    pub subset: Option<String>,
    /// The service's port.
    pub port: Option<u16>,
    /// Its share of the sum of all weights; means nothing for a single destination.
    pub weight: u32,
    /// Edits for this destination.
    pub headers: Option<Box<Headers>>,
    /// Where it is written.
    pub path: Path,
}

impl PartialEq for Destination {
    fn eq(&self, other: &Self) -> bool {
        let key = |of: &Self| (of.host.clone(), of.subset.clone(), of.port, of.weight, of.headers.clone());
        key(self) == key(other)
    }
}

impl Eq for Destination {}

/// A redirect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The new path.
    pub path: RedirectPath,
    /// The new host; may carry a port.
    pub authority: Option<String>,
    /// The new port.
    pub port: RedirectPort,
    /// The new scheme.
    pub scheme: Option<String>,
    /// The status: 301, 302, 303, 307 or 308.
    pub code: u16,
}

/// The path of a redirect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectPath {
    /// That of the request.
    Kept,
    /// This, with the query of the request unless it has one itself.
    Whole(String),
    /// That of the request, with this in place of the prefix that matched.
    Prefix(String),
}

/// The port of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectPort {
    /// The one that the host names, if any.
    Host,
    /// This.
    Number(u16),
    /// The one that the request was sent to.
    Request,
}

/// A response without an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectResponse {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: Rc<[u8]>,
}

/// The document in which a rule goes on.
#[derive(Debug, Clone)]
pub struct Delegate {
    /// Its name.
    pub name: String,
    /// Its namespace; that of the document which names it when absent.
    pub namespace: Option<String>,
    /// Where it is written.
    pub path: Path,
}

impl PartialEq for Delegate {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.namespace == other.namespace
    }
}

impl Eq for Delegate {}

/// What is changed in the request line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The path.
    pub path: Option<PathRewrite>,
    /// The host.
    pub authority: Option<String>,
}

/// A change of the path; the query stays.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// This in place of the prefix that matched; of the whole path where the match was none by prefix.
    Matched(String),
    /// Every place where the pattern matches is replaced, `\1` standing for a group.
    Regex {
        /// What is looked for.
        pattern: Rc<Regex>,
        /// What it becomes.
        substitution: String,
        /// Where the substitution is written.
        path: Path,
    },
}

impl PartialEq for PathRewrite {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Matched(a), Self::Matched(b)) => a == b,
            (
                Self::Regex { pattern: a, substitution: x, .. },
                Self::Regex { pattern: b, substitution: y, .. },
            ) => a == b && x == y,
            _ => false,
        }
    }
}

impl Eq for PathRewrite {}

/// A copy of the request that is sent elsewhere; its response is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Where it goes.
    pub destination: Destination,
    /// Of how many requests.
    pub share: Share,
}

pub(super) fn read_destinations(value: &Value<'_>) -> Option<Vec<Destination>> {
    let count = value.items()?.len();
    let destinations = value.list(|item| read_weighted(&item))?;
    if count == 0 {
        value.error("may not be empty");
    }
    let sum: u64 = destinations.iter().map(|destination| u64::from(destination.weight)).sum();
    if count > 1 && destinations.len() == count && sum == 0 {
        value.error("the weights add up to 0; at least one destination needs a weight");
    }
    Some(destinations)
}

fn read_weighted(value: &Value<'_>) -> Option<Destination> {
    let fields = value.fields()?;
    let headers = fields.get("headers").and_then(|value| read_headers(&value)).map(Box::new);
    let weight = fields.get("weight").and_then(|weight| weight.integer(0, i64::from(i32::MAX)));
    let weight = weight.and_then(|weight| u32::try_from(weight).ok()).unwrap_or_default();
    let destination = read_destination(&fields.required("destination")?)?;
    Some(Destination { weight, headers, ..destination })
}

fn read_destination(value: &Value<'_>) -> Option<Destination> {
    let fields = value.fields()?;
    let host = fields.required("host").and_then(|host| read_destination_host(&host));
    let subset = fields.get("subset").and_then(|subset| read_subset(&subset));
    let port = fields.get("port").and_then(|port| read_port(&port));
    Some(Destination { host: host?, subset, port, weight: 0, headers: None, path: value.path().clone() })
}

fn read_destination_host(value: &Value<'_>) -> Option<String> {
    let host = value.non_empty_text()?;
    let problem = if host == "*" { Some("a destination is one host") } else { problem_of_host(host) };
    if let Some(problem) = problem {
        value.error(format!("`{host}` is not a host: {problem}"));
        return None;
    }
    Some(host.to_owned())
}

fn read_subset(value: &Value<'_>) -> Option<String> {
    let subset = value.text()?;
    if !subset.is_empty() && (subset.contains(['.', '*']) || problem_of_host(subset).is_some()) {
        value.error(format!("`{subset}` is not the name of a subset; expected letters, digits and `-`"));
    }
    (!subset.is_empty()).then(|| subset.to_owned())
}

fn read_port(value: &Value<'_>) -> Option<u16> {
    let number = value.fields()?.required("number")?.integer(1, 65535)?;
    u16::try_from(number).ok()
}

/// `mirror` with its percentage, or `mirrors`.
pub(super) fn read_mirrors(fields: &Fields<'_>) -> Vec<Mirror> {
    let exact = fields.get("mirrorPercentage").and_then(|value| read_percentage(&value, false));
    let whole = fields.get("mirrorPercent").and_then(|value| value.integer(0, 100)).map(whole_percent);
    let share = exact.or(whole).unwrap_or(Share::ALL);
    match fields.one_of(&["mirror", "mirrors"]) {
        Some(("mirror", value)) => {
            read_destination(&value).map(|destination| Mirror { destination, share }).into_iter().collect()
        }
        Some((_, value)) => value.list(|item| read_mirror(&item)).unwrap_or_default(),
        None => Vec::new(),
    }
}

fn read_mirror(value: &Value<'_>) -> Option<Mirror> {
    let fields = value.fields()?;
    let share = fields.get("percentage").map(|value| read_percentage(&value, false).unwrap_or(Share::NONE));
    let destination = read_destination(&fields.required("destination")?)?;
    Some(Mirror { destination, share: share.unwrap_or(Share::ALL) })
}

pub(super) fn read_redirect(value: &Value<'_>) -> Option<Redirect> {
    let fields = value.fields()?;
    let text = |name| {
        let text = fields.get(name).and_then(|value| read_target_part(&value));
        text.filter(|text| !text.is_empty())
    };
    let (whole, prefix) = (text("uri"), text("prefixRewrite"));
    let (authority, scheme) = (text("authority"), text("scheme"));
    let port = fields.one_of(&["port", "derivePort"]);
    if whole.is_some() && prefix.is_some() {
        value.error("`uri` and `prefixRewrite` exclude each other; keep one");
    }
    if whole.is_none() && prefix.is_none() && authority.is_none() && scheme.is_none() && port.is_none() {
        value.error("needs `uri`, `authority`, `scheme`, `port` or `prefixRewrite`");
    }
    let port = match port {
        Some(("port", number)) => number
            .integer(0, 65535)
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| *number != 0)
            .map_or(RedirectPort::Host, RedirectPort::Number),
        Some((_, word)) => {
            let words =
                [("FROM_PROTOCOL_DEFAULT", RedirectPort::Host), ("FROM_REQUEST_PORT", RedirectPort::Request)];
            word.word(&words).unwrap_or(RedirectPort::Host)
        }
        None => RedirectPort::Host,
    };
    let code = fields.get("redirectCode").and_then(|value| {
        let code = value.integer(0, 999)?;
        if !matches!(code, 0 | 301 | 302 | 303 | 307 | 308) {
            value.error(format!("{code} does not redirect; expected 301, 302, 303, 307 or 308"));
        }
        u16::try_from(code).ok()
    });
    Some(Redirect {
        path: match (whole, prefix) {
            (Some(path), _) => RedirectPath::Whole(path),
            (None, Some(prefix)) => RedirectPath::Prefix(prefix),
            (None, None) => RedirectPath::Kept,
        },
        authority,
        port,
        scheme,
        code: code.filter(|code| *code != 0).unwrap_or(301),
    })
}

/// A part of a URI, which becomes part of a header.
fn read_target_part(value: &Value<'_>) -> Option<String> {
    let text = value.text()?;
    if text.chars().any(|letter| letter.is_ascii_control() || letter == ' ') {
        value.error("has blanks or control characters, which no header can carry here");
    }
    Some(text.to_owned())
}

pub(super) fn read_direct(value: &Value<'_>) -> Option<DirectResponse> {
    let fields = value.fields()?;
    let status = fields.required("status").and_then(|value| read_status(&value));
    let body = fields.get("body").and_then(|value| read_body(&value)).unwrap_or_default();
    if body.len() > MAX_BODY {
        value.error(format!("the body has {} bytes; at most {MAX_BODY} are allowed", body.len()));
    } else if body.len() > LARGE_BODY {
        value.warn(format!("the body has {} bytes, kept by every worker", body.len()));
    }
    Some(DirectResponse { status: status?, body: body.into() })
}

fn read_body(value: &Value<'_>) -> Option<Vec<u8>> {
    match value.fields()?.one_of(&["string", "bytes"])? {
        ("string", text) => text.text().map(|text| text.as_bytes().to_vec()),
        (_, bytes) => {
            let decoded = base64(bytes.text()?);
            if decoded.is_none() {
                bytes.error("is not base64");
            }
            decoded
        }
    }
}

/// RFC 4648, either alphabet, with or without padding, as protobuf's JSON takes it. The crate that jwt uses would be 5 kB
/// of the module, for this alone.
fn base64(text: &str) -> Option<Vec<u8>> {
    let letters = text.trim_end_matches('=');
    let mut out = Vec::with_capacity(letters.len() / 4 * 3 + 2);
    let (mut group, mut bits) = (0_u32, 0);
    for letter in letters.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        group = group << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push(u8::try_from(group >> bits & 0xff).ok()?);
        }
    }
    (text.len() - letters.len() <= 2 && letters.len() % 4 != 1).then_some(out)
}

pub(super) fn read_delegate(value: &Value<'_>) -> Option<Delegate> {
    let fields = value.fields()?;
    let name = fields.required("name").and_then(|name| name.non_empty_text());
    let namespace = fields.get("namespace").and_then(|namespace| namespace.text());
    Some(Delegate {
        name: name?.to_owned(),
        namespace: namespace.filter(|namespace| !namespace.is_empty()).map(str::to_owned),
        path: value.path().clone(),
    })
}

pub(super) fn read_rewrite(value: &Value<'_>) -> Option<Rewrite> {
    let fields = value.fields()?;
    let text = |name| {
        let text = fields.get(name).and_then(|value| read_target_part(&value));
        text.filter(|text| !text.is_empty())
    };
    let (uri, authority) = (text("uri"), text("authority"));
    let regex = fields.get("uriRegexRewrite");
    if uri.is_some() && regex.is_some() {
        value.error("`uri` and `uriRegexRewrite` exclude each other; keep one");
    }
    if uri.is_none() && regex.is_none() && authority.is_none() {
        value.error("needs `uri`, `uriRegexRewrite` or `authority`");
    }
    let path = match (uri, regex) {
        (Some(uri), _) => Some(PathRewrite::Matched(uri)),
        (None, Some(regex)) => read_regex_rewrite(&regex),
        (None, None) => None,
    };
    Some(Rewrite { path, authority })
}

fn read_regex_rewrite(value: &Value<'_>) -> Option<PathRewrite> {
    let fields = value.fields()?;
    let pattern = fields.required("match").and_then(|pattern| read_regex(&pattern, pattern.text()?));
    let written = fields.required("rewrite")?;
    let substitution = read_target_part(&written)?;
    if substitution.is_empty() {
        written.error("may not be empty");
    }
    Some(PathRewrite::Regex { pattern: pattern?, substitution, path: written.path().clone() })
}

#[cfg(test)]
mod tests {
    use super::base64;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn bytes_are_base64() {
        for (text, bytes) in [
            ("", Some(b"".as_slice())),
            ("aGk=", Some(b"hi")),
            ("aGk", Some(b"hi")),
            ("/+8=", Some(b"\xff\xef")),
            ("_-8", Some(b"\xff\xef")),
            ("aGkh", Some(b"hi!")),
            ("a", None),
            ("aG k", None),
            ("aGk===", None),
        ] {
            assert_eq!(base64(text).as_deref(), bytes, "{text}");
        }
    }
}
