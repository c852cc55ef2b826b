//! Plain attribute paths, read without CEL: from the header blocks where they are headers, else as properties.

use std::borrow::Cow;
use std::cell::OnceCell;

use sailcloth_core::facts::{Fact, integer};
use sailcloth_core::headers::HeaderBlock;

use crate::Stream;
use crate::expression::literal;

/// A stream and what was read of it already.
pub(crate) struct Reading<'s> {
    pub(crate) stream: &'s dyn Stream,
    request: OnceCell<Option<HeaderBlock>>,
    response: OnceCell<Option<HeaderBlock>>,
}

impl<'s> Reading<'s> {
    pub(crate) fn new(stream: &'s dyn Stream) -> Self {
        Self { stream, request: OnceCell::new(), response: OnceCell::new() }
    }

    pub(crate) fn request(&self) -> Option<&HeaderBlock> {
        self.request.get_or_init(|| self.stream.request_headers()).as_ref()
    }

    pub(crate) fn response(&self) -> Option<&HeaderBlock> {
        self.response.get_or_init(|| self.stream.response_headers()).as_ref()
    }

    /// One header, from the block where that was read for something else.
    pub(crate) fn request_header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        match self.request.get() {
            Some(block) => block.as_ref()?.joined(name),
            None => self.stream.request_header(name).map(Cow::Owned),
        }
    }

    pub(crate) fn bytes(&self, path: &[&str]) -> Option<Vec<u8>> {
        match self.stream.property(path) {
            Fact::Known(value) => Some(value),
            Fact::Absent | Fact::Unavailable(_) => None,
        }
    }

    pub(crate) fn integer(&self, path: &[&str]) -> Option<i64> {
        self.bytes(path).and_then(|raw| integer(&raw))
    }
}

/// An attribute of Envoy (`envoy-wasm.md` 4.2) by its plain path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attribute {
    Path,
    UrlPath,
    Query,
    RequestHeader(String),
    ResponseHeader(String),
    Property(Vec<String>, Form),
}

/// How a property is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Integer,
    Flag,
    /// Nanoseconds.
    Duration,
}

const REQUEST_HEADERS: [(&str, &str); 6] = [
    ("host", ":authority"),
    ("method", ":method"),
    ("scheme", ":scheme"),
    ("id", "x-request-id"),
    ("useragent", "user-agent"),
    ("referer", "referer"),
];

/// Attributes of a known type. Those of metadata have the type that somebody gave them: they are CEL's.
const PROPERTIES: [(&str, &str, Form); 34] = [
    ("request", "protocol", Form::Text),
    ("request", "size", Form::Integer),
    ("request", "total_size", Form::Integer),
    ("request", "duration", Form::Duration),
    ("response", "code", Form::Integer),
    ("response", "code_details", Form::Text),
    ("response", "flags", Form::Integer),
    ("response", "grpc_status", Form::Integer),
    ("response", "size", Form::Integer),
    ("response", "total_size", Form::Integer),
    ("response", "backend_latency", Form::Duration),
    ("connection", "id", Form::Integer),
    ("connection", "mtls", Form::Flag),
    ("connection", "requested_server_name", Form::Text),
    ("connection", "tls_version", Form::Text),
    ("connection", "subject_local_certificate", Form::Text),
    ("connection", "subject_peer_certificate", Form::Text),
    ("connection", "dns_san_local_certificate", Form::Text),
    ("connection", "dns_san_peer_certificate", Form::Text),
    ("connection", "uri_san_local_certificate", Form::Text),
    ("connection", "uri_san_peer_certificate", Form::Text),
    ("connection", "termination_details", Form::Text),
    ("source", "address", Form::Text),
    ("source", "port", Form::Integer),
    ("destination", "address", Form::Text),
    ("destination", "port", Form::Integer),
    ("upstream", "address", Form::Text),
    ("upstream", "port", Form::Integer),
    ("upstream", "request_attempt_count", Form::Integer),
    ("upstream", "transport_failure_reason", Form::Text),
    ("xds", "cluster_name", Form::Text),
    ("xds", "route_name", Form::Text),
    ("xds", "virtual_host_name", Form::Text),
    ("xds", "filter_chain_name", Form::Text),
];

impl Attribute {
    /// `None` for everything that is not the plain path of an attribute of a known type.
    pub(crate) fn parse(source: &str) -> Option<Self> {
        let segments = segments(source.trim())?;
        let names: Vec<&str> = segments.iter().map(String::as_str).collect();
        Some(match names.as_slice() {
            ["request", "path"] => Self::Path,
            ["request", "url_path"] => Self::UrlPath,
            ["request", "query"] => Self::Query,
            ["request", "headers", name] => Self::RequestHeader(name.to_ascii_lowercase()),
            ["response", "headers", name] => Self::ResponseHeader(name.to_ascii_lowercase()),
            ["filter_state", _] => Self::Property(segments, Form::Text),
            ["request", name] if REQUEST_HEADERS.iter().any(|(known, _)| known == name) => {
                let header = REQUEST_HEADERS.iter().find(|(known, _)| known == name);
                Self::RequestHeader(header.map(|(_, header)| (*header).to_owned())?)
            }
            [group, name] => {
                let (.., form) = PROPERTIES.iter().find(|(known, part, _)| known == group && part == name)?;
                Self::Property(segments, *form)
            }
            _ => return None,
        })
    }

    /// Whether its text is what CEL's `string()` gives it.
    pub(crate) fn has_plain_text(&self) -> bool {
        !matches!(self, Self::Property(_, Form::Duration))
    }

    /// Whether its values are few whoever sends requests.
    pub(crate) fn is_bounded(&self) -> bool {
        match self {
            Self::Property(path, form) => {
                *form == Form::Flag
                    || matches!(path.first().map(String::as_str), Some("xds"))
                    || (path.first().is_some_and(|group| group == "response")
                        && path
                            .get(1)
                            .is_some_and(|name| matches!(name.as_str(), "code" | "flags" | "grpc_status")))
            }
            _ => false,
        }
    }

    pub(crate) fn text<'r>(&self, reading: &'r Reading<'_>) -> Option<Cow<'r, [u8]>> {
        match self {
            Self::Path => path(reading).map(Cow::Borrowed),
            Self::UrlPath => path(reading).map(|path| Cow::Borrowed(cut(path).0)),
            Self::Query => path(reading).map(|path| Cow::Borrowed(cut(path).1)),
            Self::RequestHeader(name) => reading.request()?.joined(name),
            Self::ResponseHeader(name) => reading.response()?.joined(name),
            Self::Property(path, form) => {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                let raw = reading.bytes(&path)?;
                Some(Cow::Owned(match form {
                    Form::Text => raw,
                    Form::Integer | Form::Duration => integer(&raw)?.to_string().into_bytes(),
                    Form::Flag => if raw.first() == Some(&1) { "true" } else { "false" }.into(),
                }))
            }
        }
    }

    pub(crate) fn number(&self, reading: &Reading<'_>) -> Option<u64> {
        let text = match self {
            Self::Property(path, Form::Integer | Form::Duration) => {
                let names: Vec<&str> = path.iter().map(String::as_str).collect();
                let number = u64::try_from(reading.integer(&names)?).ok()?;
                let nanoseconds = matches!(self, Self::Property(_, Form::Duration));
                return Some(if nanoseconds { number / 1_000_000 } else { number });
            }
            _ => self.text(reading)?,
        };
        decimal(std::str::from_utf8(&text).ok()?)
    }
}

fn path<'r>(reading: &'r Reading<'_>) -> Option<&'r [u8]> {
    reading.request()?.first(":path")
}

/// Path and query.
fn cut(path: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = path.splitn(2, |byte| *byte == b'?');
    let before = parts.next().unwrap_or_default();
    let query = parts.next().unwrap_or_default();
    (before, query.split(|byte| *byte == b'#').next().unwrap_or_default())
}

/// A decimal number, rounded to a whole one.
fn decimal(text: &str) -> Option<u64> {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) || whole.starts_with('+') {
        return None;
    }
    let up = fraction.bytes().next().is_some_and(|digit| digit >= b'5');
    whole.parse::<u64>().ok()?.checked_add(u64::from(up))
}

/// The segments of `a.b['c'].d`.
fn segments(source: &str) -> Option<Vec<String>> {
    let mut segments = Vec::new();
    let mut rest = source;
    loop {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let (name, after) = rest.split_at_checked(end)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let starts = name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
        if !starts || !name.bytes().all(plain) {
            return None;
        }
        segments.push(name.to_owned());
        rest = after;
        while let Some(inner) = rest.strip_prefix('[') {
            let (key, after) = inner.split_once(']')?;
            segments.push(literal(key)?);
            rest = after;
        }
        if rest.is_empty() {
            return Some(segments);
        }
        rest = rest.strip_prefix('.')?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn plain_paths_are_told_from_expressions() {
        let header = |name: &str| Some(Attribute::RequestHeader(name.to_owned()));
        let property = |path: &[&str], form| {
            Some(Attribute::Property(path.iter().map(|part| (*part).to_owned()).collect(), form))
        };
        for (source, expected) in [
            ("request.path", Some(Attribute::Path)),
            (" request.url_path\n", Some(Attribute::UrlPath)),
            ("request.headers['X-A']", header("x-a")),
            ("request.headers[\"x-a\"]", header("x-a")),
            ("request['headers'].host", header("host")),
            ("request.host", header(":authority")),
            ("response.code", property(&["response", "code"], Form::Integer)),
            ("connection.mtls", property(&["connection", "mtls"], Form::Flag)),
            ("filter_state['wasm.x']", property(&["filter_state", "wasm.x"], Form::Text)),
            ("response.code == 200", None),
            ("request.headers['a'] + 'b'", None),
            ("request.headers[x]", None),
            ("xds.node.metadata.x", None),
            ("request", None),
            ("request.time", None),
            ("", None),
            (".a", None),
            ("request..path", None),
        ] {
            assert_eq!(Attribute::parse(source), expected, "{source}");
        }
    }

    #[test]
    fn decimals_are_rounded() {
        for (text, expected) in [
            ("12", Some(12)),
            (" 12.5 ", Some(13)),
            ("12.49", Some(12)),
            ("-1", None),
            ("+1", None),
            ("1e3", None),
            ("1.x", None),
            ("", None),
            ("18446744073709551615.9", None),
        ] {
            assert_eq!(decimal(text), expected, "{text}");
        }
    }

    #[test]
    fn a_path_is_cut_at_its_query() {
        assert_eq!(cut(b"/a?b=c?d#e"), (b"/a".as_slice(), b"b=c?d".as_slice()));
        assert_eq!(cut(b"/a"), (b"/a".as_slice(), b"".as_slice()));
    }
}
