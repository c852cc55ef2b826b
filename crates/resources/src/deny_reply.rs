//! `deny`: how a refusal looks, one schema for all kinds that have it.

use sailcloth_core::config::{Fields, Value};

use crate::key::is_token;

/// How a refusal looks; what is absent stays as usual.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DenyReply {
    /// HTTP status, 400 to 599.
    pub status: Option<u16>,
    /// Body.
    pub body: Option<String>,
    /// More response headers, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl DenyReply {
    /// Reads `deny`.
    #[must_use]
    pub fn read(value: &Value<'_>) -> Option<Self> {
        Some(Self::read_fields(&value.fields()?))
    }

    fn read_fields(fields: &Fields<'_>) -> Self {
        let status = fields.get("status").and_then(|status| status.integer(400, 599));
        let body = fields.get("body").and_then(|body| body.text()).map(str::to_owned);
        let headers = fields.get("headers").map(|headers| read_headers(&headers));
        Self {
            status: status.and_then(|status| u16::try_from(status).ok()),
            body,
            headers: headers.unwrap_or_default(),
        }
    }
}

/// Header names with values that a filter may write.
#[must_use]
pub fn read_headers(value: &Value<'_>) -> Vec<(String, String)> {
    let entries = value.entries().unwrap_or_default();
    entries.iter().filter_map(|(name, text)| read_header(name, text)).collect()
}

fn read_header(name: &str, value: &Value<'_>) -> Option<(String, String)> {
    let text = value.text()?;
    let lower = name.to_ascii_lowercase();
    if !is_token(&lower) {
        value.error(format!("`{name}` is not a header name"));
    }
    if ["content-length", "transfer-encoding"].contains(&lower.as_str()) {
        value.error(format!("`{lower}` is Envoy's to write"));
    }
    if text.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        value.error("a header value may not contain line breaks or NUL");
    }
    Some((lower, text.to_owned()))
}
