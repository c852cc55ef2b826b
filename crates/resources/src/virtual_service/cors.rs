//! `corsPolicy` (`istio-api.md` 5.10).

use std::time::Duration;

use sailcloth_core::config::Value;

use super::matching::{StringMatch, is_header_name, read_string_match};

/// Which pages may read answers (<https://fetch.spec.whatwg.org/#http-cors-protocol>).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CorsPolicy {
    /// Origins that may, any of them.
    pub origins: Vec<StringMatch>,
    /// Answered to a preflight.
    pub methods: Vec<String>,
    /// Answered to a preflight.
    pub headers: Vec<String>,
    /// Answered to other requests.
    pub expose: Vec<String>,
    /// How long a preflight's answer holds; whole seconds.
    pub max_age: Option<Duration>,
    /// Whether `access-control-allow-credentials: true` is answered.
    pub credentials: Option<bool>,
    /// Whether a preflight of a foreign origin goes to the destination.
    pub forward_unmatched: bool,
}

const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];

pub(super) fn read_cors(value: &Value<'_>) -> Option<CorsPolicy> {
    let fields = value.fields()?;
    let deprecated = fields.get("allowOrigin").and_then(|list| list.strings()).unwrap_or_default();
    let origins = fields.get("allowOrigins").and_then(|list| list.list(|item| read_origin(&item)));
    let origins = match origins {
        Some(origins) if !origins.is_empty() => origins,
        _ => deprecated.into_iter().map(StringMatch::Exact).collect(),
    };
    let methods = fields.get("allowMethods").and_then(|list| {
        list.list(|item| {
            let method = item.text()?;
            if !METHODS.contains(&method) {
                let hint = sailcloth_core::config::did_you_mean(method, &METHODS);
                item.error(format!("`{method}` is not a method of HTTP{hint}"));
            }
            Some(method.to_owned())
        })
    });
    let names = |name| {
        let read = fields.get(name).and_then(|list| {
            list.list(|item| {
                let name = item.text()?;
                if !is_header_name(name) {
                    item.error(format!("`{name}` is not a header name"));
                }
                Some(name.to_owned())
            })
        });
        read.unwrap_or_default()
    };
    let preflights = fields
        .get("unmatchedPreflights")
        .and_then(|value| value.word(&[("FORWARD", true), ("UNSPECIFIED", true), ("IGNORE", false)]));
    Some(CorsPolicy {
        origins,
        methods: methods.unwrap_or_default(),
        headers: names("allowHeaders"),
        expose: names("exposeHeaders"),
        max_age: fields.get("maxAge").and_then(|value| read_max_age(&value)),
        credentials: fields.get("allowCredentials").and_then(|value| value.boolean()),
        forward_unmatched: preflights.unwrap_or(true),
    })
}

fn read_origin(value: &Value<'_>) -> Option<StringMatch> {
    let condition = read_string_match(value, false)?;
    let is_empty = matches!(&condition, StringMatch::Present)
        || matches!(&condition, StringMatch::Exact(text) if text.is_empty());
    if is_empty && value.node().field("regex").is_none() {
        value.error("an origin needs `exact`, `prefix` or `regex`, and a text");
        return None;
    }
    if matches!(condition, StringMatch::Present) {
        value.error("`*` is not a regular expression; write `.*`");
    }
    Some(condition)
}

fn read_max_age(value: &Value<'_>) -> Option<Duration> {
    let time = value.duration()?;
    if time.is_zero() || time.subsec_nanos() != 0 {
        value.error("must be in whole seconds, at least `1s`");
        return None;
    }
    Some(time)
}
