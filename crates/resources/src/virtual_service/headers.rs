//! `headers` of a rule and of a destination (`istio-api.md` 5.6).

use sailcloth_core::config::{Path, Value};

use super::matching::is_header_name;

/// Edits of request and response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// Of the request on its way to the destination.
    pub request: HeaderEdits,
    /// Of the response on its way back.
    pub response: HeaderEdits,
}

/// Edits of one header map; names in lower case.
#[derive(Debug, Clone, Default)]
pub struct HeaderEdits {
    /// What is overwritten or created.
    pub set: Vec<HeaderText>,
    /// What is appended.
    pub add: Vec<HeaderText>,
    /// What is removed.
    pub remove: Vec<(String, Path)>,
}

/// A header with its value as written, substitution commands included.
#[derive(Debug, Clone)]
pub struct HeaderText {
    /// In lower case; `:authority` for `Host`.
    pub name: String,
    /// As written.
    pub value: String,
    /// Where it is written.
    pub path: Path,
}

impl PartialEq for HeaderEdits {
    fn eq(&self, other: &Self) -> bool {
        let removed = |of: &Self| of.remove.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        self.set == other.set && self.add == other.add && removed(self) == removed(other)
    }
}

impl Eq for HeaderEdits {}

impl PartialEq for HeaderText {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.value == other.value
    }
}

impl Eq for HeaderText {}

/// The header that says for which host a request is.
pub const AUTHORITY: &str = ":authority";

pub(super) fn read_headers(value: &Value<'_>) -> Option<Headers> {
    let fields = value.fields()?;
    let read = |name, authority| {
        fields.get(name).and_then(|value| read_edits(&value, authority)).unwrap_or_default()
    };
    Some(Headers { request: read("request", true), response: read("response", false) })
}

fn read_edits(value: &Value<'_>, authority: bool) -> Option<HeaderEdits> {
    let fields = value.fields()?;
    let texts = |name| {
        let entries = fields.get(name).and_then(|value| value.entries()).unwrap_or_default();
        let read = entries.into_iter().filter_map(|(name, value)| read_text(name, &value, authority));
        read.collect::<Vec<_>>()
    };
    let (set, add) = (texts("set"), texts("add"));
    let hosts = set.iter().chain(&add).filter(|header| header.name == AUTHORITY).count();
    if hosts > 1 {
        value.error("the host is set more than once; keep one of `:authority` and `Host`");
    }
    for (list, edits) in [("set", &set), ("add", &add)] {
        for (index, header) in edits.iter().enumerate() {
            let twice = edits.iter().take(index).any(|other| other.name == header.name);
            if twice && header.name != AUTHORITY {
                value.error(format!("`{list}` names `{}` twice; header names have no case", header.name));
            }
        }
    }
    let remove = fields.get("remove").and_then(|list| {
        list.list(|item| {
            let name = item.text()?;
            check_name(name, &item, false);
            Some((name.to_ascii_lowercase(), item.path().clone()))
        })
    });
    Some(HeaderEdits { set, add, remove: remove.unwrap_or_default() })
}

fn read_text(name: &str, value: &Value<'_>, authority: bool) -> Option<HeaderText> {
    check_name(name, value, authority);
    let text = value.text()?;
    if text.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
        value.error("has control characters, which no header can carry");
    }
    let lower = name.to_ascii_lowercase();
    let name = if lower == "host" { AUTHORITY.to_owned() } else { lower };
    Some(HeaderText { name, value: text.to_owned(), path: value.path().clone() })
}

fn check_name(name: &str, value: &Value<'_>, authority: bool) {
    let is_authority = name.eq_ignore_ascii_case(AUTHORITY) || name.eq_ignore_ascii_case("host");
    if name.is_empty() {
        value.error("a header needs a name");
    } else if is_authority && authority {
        // Becomes a rewrite of the host.
    } else if name.starts_with(':') || is_authority {
        value.error(format!("`{name}` cannot be changed by `headers`"));
    } else if !is_header_name(name) {
        value.error(format!("`{name}` is not a header name"));
    }
}
