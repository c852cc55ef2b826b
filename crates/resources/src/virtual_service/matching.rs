//! `http[].match[]` (`istio-api.md` 5.3).

use std::rc::Rc;

use sailcloth_core::config::{Node, Path, Value};
use sailcloth_core::regex::Regex;

use super::read_gateways;

/// The header names that stand for claims of the caller's token begin so, in any case.
const CLAIMS: &str = "@request.auth.claims";

/// Conditions that must all hold.
#[derive(Debug, Clone, Default)]
pub struct HttpMatch {
    /// Its name, for messages.
    pub name: Option<String>,
    /// On the path without query.
    pub uri: Option<StringMatch>,
    /// Whether `uri.exact` and `uri.prefix` ignore case.
    pub ignore_uri_case: bool,
    /// On `:scheme`.
    pub scheme: Option<StringMatch>,
    /// On `:method`.
    pub method: Option<StringMatch>,
    /// On `:authority`, port included.
    pub authority: Option<StringMatch>,
    /// On headers, names in lower case; or on claims of the caller's token (see [`routing_claim`]).
    pub headers: Vec<(String, StringMatch)>,
    /// On headers that must not match; a header that is missing counts as empty.
    pub without_headers: Vec<(String, StringMatch)>,
    /// On parameters of the query, as they stand there.
    pub query_params: Vec<(String, StringMatch)>,
    /// The port of the listener.
    pub port: Option<u16>,
    /// The gateways that this is for, in place of those of the document.
    pub gateways: Vec<String>,
    /// Labels that the proxy's workload must have.
    pub source_labels: Vec<(String, String)>,
    /// The namespace that the proxy's workload must be in.
    pub source_namespace: Option<String>,
    /// Where it is written.
    pub path: Path,
}

/// A condition on a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringMatch {
    /// `{}` or `regex: "*"`: it is there.
    Present,
    /// It is this.
    Exact(String),
    /// It begins so.
    Prefix(String),
    /// All of it matches.
    Regex(Rc<Regex>),
}

impl PartialEq for HttpMatch {
    fn eq(&self, other: &Self) -> bool {
        let texts = |of: &Self| {
            let mut headers = [of.headers.clone(), of.without_headers.clone(), of.query_params.clone()];
            // The order of a map means nothing.
            headers.iter_mut().for_each(|list| list.sort_by(|(a, _), (b, _)| a.cmp(b)));
            (of.uri.clone(), of.scheme.clone(), of.method.clone(), of.authority.clone(), headers)
        };
        let plain = |of: &Self| {
            let mut labels = of.source_labels.clone();
            labels.sort();
            (of.ignore_uri_case, of.port, of.gateways.clone(), labels, of.source_namespace.clone())
        };
        texts(self) == texts(other) && plain(self) == plain(other)
    }
}

impl Eq for HttpMatch {}

impl HttpMatch {
    /// Reads one entry of `match`.
    #[must_use]
    pub fn read(value: &Value<'_>) -> Option<Self> {
        read_match(value)
    }
}

pub(super) fn read_match(value: &Value<'_>) -> Option<HttpMatch> {
    if matches!(value.node(), Node::Null) {
        value.warn("is null, which matches everything; write `{}` to say so");
        return Some(HttpMatch { path: value.path().clone(), ..HttpMatch::default() });
    }
    let fields = value.fields()?;
    fields.refuse(
        "statPrefix",
        "is not supported: statistics by route are Envoy's (`stat_prefix` of the native route); the filter counts by rule",
    );
    let text = |name| fields.get(name).and_then(|value| read_string_match(&value, false));
    // 0 is absence in protobuf.
    let port = fields.get("port").and_then(|value| value.integer(0, 65535)).filter(|port| *port != 0);
    let plain = |name| fields.get(name).and_then(|value| value.text()).filter(|text| !text.is_empty());
    let read = HttpMatch {
        name: plain("name").map(str::to_owned),
        uri: fields.get("uri").and_then(|value| read_string_match(&value, true)),
        ignore_uri_case: fields.get("ignoreUriCase").and_then(|value| value.boolean()).unwrap_or_default(),
        scheme: text("scheme"),
        method: text("method"),
        authority: text("authority"),
        headers: fields.get("headers").map(|value| read_headers(&value)).unwrap_or_default(),
        without_headers: fields.get("withoutHeaders").map(|value| read_headers(&value)).unwrap_or_default(),
        query_params: fields.get("queryParams").map(|value| read_params(&value)).unwrap_or_default(),
        port: port.and_then(|port| u16::try_from(port).ok()),
        gateways: fields.get("gateways").and_then(|value| read_gateways(&value)).unwrap_or_default(),
        source_labels: fields.get("sourceLabels").and_then(|value| value.string_map()).unwrap_or_default(),
        source_namespace: plain("sourceNamespace").map(str::to_owned),
        path: value.path().clone(),
    };
    if read.ignore_uri_case && matches!(read.uri, Some(StringMatch::Regex(_))) {
        value.warn("`ignoreUriCase` does nothing for `uri.regex`; write `(?i)` in the pattern");
    }
    let restricted = !read.source_labels.is_empty() || read.source_namespace.is_some();
    if !read.gateways.is_empty() && restricted {
        value.warn("`sourceLabels` and `sourceNamespace` mean nothing beside `gateways`");
    }
    Some(read)
}

fn read_headers(value: &Value<'_>) -> Vec<(String, StringMatch)> {
    let entries = value.entries().unwrap_or_default();
    let read = entries.into_iter().filter_map(|(name, value)| {
        let condition = read_string_match(&value, false);
        if routing_claim(name).is_some() {
            return Some((name.to_owned(), condition?));
        }
        if is_claim_name(name) {
            value.error(format!(
                "`{name}` names no claim; expected a form like `{CLAIMS}.sub` or `{CLAIMS}[a][b]`"
            ));
        } else if !is_header_name(name) {
            value.error(format!("`{name}` is not a header name"));
        }
        if matches!(name, "uri" | "scheme" | "method" | "authority") {
            value.warn(format!(
                "matches a header that is called `{name}`; the field of that name is beside `headers`"
            ));
        }
        Some((name.to_ascii_lowercase(), condition?))
    });
    read.collect()
}

/// Envoy's header names: a token (RFC 9110), or a pseudo header.
pub(super) fn is_header_name(name: &str) -> bool {
    let token = name.strip_prefix(':').unwrap_or(name);
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !token.is_empty() && token.bytes().all(is_token)
}

fn is_claim_name(name: &str) -> bool {
    name.get(..CLAIMS.len()).is_some_and(|start| start.eq_ignore_ascii_case(CLAIMS))
}

/// The claim that a header name stands for: `@request.auth.claims.a.b` and `@request.auth.claims[a][b]` are claim `b`
/// of claim `a`; none for the name of a header.
#[must_use]
pub fn routing_claim(name: &str) -> Option<Vec<&str>> {
    let rest = name.get(CLAIMS.len()..).filter(|_| is_claim_name(name))?;
    if let Some(dotted) = rest.strip_prefix('.') {
        return (!dotted.is_empty()).then(|| dotted.split('.').collect());
    }
    let inside = rest.strip_prefix('[')?.strip_suffix(']')?;
    let claims: Vec<&str> = inside.split("][").collect();
    claims.iter().all(|claim| !claim.is_empty() && !claim.contains(['[', ']'])).then_some(claims)
}

fn read_params(value: &Value<'_>) -> Vec<(String, StringMatch)> {
    let entries = value.entries().unwrap_or_default();
    let read = entries.into_iter().filter_map(|(name, value)| {
        if name.is_empty() {
            value.error("a query parameter needs a name");
        }
        Some((name.to_owned(), read_string_match(&value, false)?))
    });
    read.collect()
}

pub(super) fn read_string_match(value: &Value<'_>, is_uri: bool) -> Option<StringMatch> {
    if matches!(value.node(), Node::Null) {
        value.error("may not be null; write `{}` to match anything that is there");
        return None;
    }
    let fields = value.fields()?;
    let Some((kind, text)) = fields.one_of(&["exact", "prefix", "regex"]) else {
        return Some(StringMatch::Present);
    };
    let written = text.text()?;
    match kind {
        "exact" => Some(StringMatch::Exact(written.to_owned())),
        // An empty prefix is Istio's way to say "any path", and nowhere else allowed.
        "prefix" if written.is_empty() && !is_uri => {
            text.error("may not be empty; write `{}` to match anything that is there");
            None
        }
        "prefix" => Some(StringMatch::Prefix(written.to_owned())),
        "regex" if written == "*" && !is_uri => Some(StringMatch::Present),
        _ => read_regex(&text, written).map(StringMatch::Regex),
    }
}

pub(super) fn read_regex(value: &Value<'_>, pattern: &str) -> Option<Rc<Regex>> {
    if pattern.is_empty() {
        value.error("may not be empty");
        return None;
    }
    match Regex::new(pattern) {
        Ok(regex) => Some(Rc::new(regex)),
        Err(error) => {
            value.error(format!("`{pattern}` is not a regular expression of RE2's dialect: {error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::routing_claim;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn header_names_that_are_claims() {
        for (name, claims) in [
            ("@request.auth.claims.a.b", Some(vec!["a", "b"])),
            ("@request.auth.claims[a][B]", Some(vec!["a", "B"])),
            ("@request.auth.claims[https://x.y/z]", Some(vec!["https://x.y/z"])),
            ("@Request.Auth.Claims.a", Some(vec!["a"])),
            ("@request.auth.claims.[a]", Some(vec!["[a]"])),
            ("@request.auth.claims", None),
            ("@request.auth.claims.", None),
            ("@request.auth.claims[]", None),
            ("@request.auth.claims[a][]", None),
            ("@request.auth.claims[a", None),
            ("@request.auth.claimsa", None),
            ("x-header", None),
        ] {
            assert_eq!(routing_claim(name), claims, "{name}");
        }
    }
}
