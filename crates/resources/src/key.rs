//! Parts of a key, as RateLimit's `key` and the annotation `sailcloth.dev/sticky` write them.

use sailcloth_core::config::{Fields, Value};
use sailcloth_core::key::KeyPart;

/// The words for all parts, of which an object has one.
pub(crate) const PARTS: [&str; 9] = [
    "header",
    "cookie",
    "queryParameter",
    "claim",
    "sourceIp",
    "method",
    "principal",
    "requestPrincipal",
    "constant",
];

/// Reads the part that an object has, of those in `words`; two of them are reported.
pub(crate) fn read_part(fields: &Fields<'_>, words: &[&'static str]) -> Option<KeyPart> {
    let (word, part) = fields.one_of(words)?;
    let text = || part.non_empty_text().map(str::to_owned);
    match word {
        "header" => read_header_name(&part).map(KeyPart::Header),
        "cookie" => text().map(KeyPart::Cookie),
        "queryParameter" => text().map(KeyPart::QueryParameter),
        "claim" => read_claim(&part).map(KeyPart::Claim),
        "sourceIp" => read_source_ip(&part),
        "method" => nothing(&part, KeyPart::Method),
        "principal" => nothing(&part, KeyPart::Principal),
        "requestPrincipal" => nothing(&part, KeyPart::RequestPrincipal),
        _ => text().map(KeyPart::Constant),
    }
}

/// `{}`: a part without parameters. Unknown fields are reported by the fields themselves.
fn nothing(value: &Value<'_>, part: KeyPart) -> Option<KeyPart> {
    value.fields().map(|_| part)
}

pub(crate) fn read_header_name(value: &Value<'_>) -> Option<String> {
    let name = value.non_empty_text()?.to_ascii_lowercase();
    if [":authority", ":path", ":method", ":scheme"].contains(&name.as_str()) || is_token(&name) {
        return Some(name);
    }
    value.error(format!("`{name}` is not a header name"));
    None
}

/// RFC 9110 5.6.2.
#[must_use]
pub fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn read_claim(value: &Value<'_>) -> Option<Vec<String>> {
    if let Some(claim) = value.node().text() {
        if claim.is_empty() {
            value.error("may not be empty");
        }
        return Some(vec![claim.to_owned()]);
    }
    let path = value.list(|item| item.non_empty_text().map(str::to_owned))?;
    if path.is_empty() {
        value.error("may not be empty");
    }
    Some(path)
}

fn read_source_ip(value: &Value<'_>) -> Option<KeyPart> {
    let fields = value.fields()?;
    let bits = |name, max| {
        fields.get(name).and_then(|bits| bits.integer(0, max)).and_then(|bits| u8::try_from(bits).ok())
    };
    let prefix = bits("prefixLength", 32).unwrap_or(32);
    // A host of IPv6 usually owns a /64: per address it would have 2^64 buckets.
    let prefix_v6 = bits("prefixLengthV6", 128).unwrap_or(64);
    Some(KeyPart::SourceIp { prefix, prefix_v6 })
}
