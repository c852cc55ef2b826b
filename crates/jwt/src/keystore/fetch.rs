//! One fetch: what is called, and what its answer is worth.

use std::time::Duration;

use sailcloth_core::config::{Node, Problems, Value};

use crate::{Environment, KeySet, Origin, Url};

/// A `GET` to be sent through a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The Envoy cluster.
    pub cluster: String,
    /// Where to.
    pub url: Url,
    /// How long it may take.
    pub timeout: Duration,
}

/// The answer of a call.
#[derive(Debug, Clone, Copy)]
pub enum Answer<'a> {
    /// A response.
    Response {
        /// Its status; Envoy itself answers 503 when it cannot connect and 504 at the deadline.
        status: u16,
        /// Its header `cache-control`.
        cache_control: Option<&'a [u8]>,
        /// Its body.
        body: &'a [u8],
    },
    /// A response that was too large to be read.
    TooLarge,
    /// None: the connection was reset, or the response was not HTTP.
    Failed,
}

/// Why a fetch failed. The names are label values and stay as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchError {
    /// Envoy has no such cluster.
    NoCluster,
    /// The call could not be sent: the cluster has no endpoints.
    NoEndpoints,
    /// 503: nobody could be connected to, or the server is not ready.
    Unavailable,
    /// 504: nothing came in time.
    Timeout,
    /// A redirect, which is not followed: where it leads is not for the server to say.
    Redirect(u16),
    /// Another status than 200.
    Status(u16),
    /// The connection was reset, or the answer was not HTTP.
    Reset,
    /// Longer than `settings.jwks.maxBytes`.
    TooLarge,
    /// Not JSON.
    NotJson,
    /// No key set, or one without a key that can be used: why.
    NoKeys(String),
    /// The discovery document is of another issuer, or names no usable `jwks_uri`: why.
    Discovery(String),
}

impl FetchError {
    /// Its name, for a metric.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoCluster => "no_cluster",
            Self::NoEndpoints => "no_endpoints",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Redirect(_) => "redirect",
            Self::Status(_) => "status",
            Self::Reset => "reset",
            Self::TooLarge => "too_large",
            Self::NotJson => "not_json",
            Self::NoKeys(_) => "no_keys",
            Self::Discovery(_) => "discovery",
        }
    }

    /// What happened and what to do, for the log.
    #[must_use]
    pub fn message(&self, call: &Call) -> String {
        let (cluster, url) = (&call.cluster, &call.url);
        match self {
            Self::NoCluster => format!(
                "Envoy has no cluster `{cluster}` to fetch `{url}` through; add it, or name another for `{}` in `settings.jwks.clusters`",
                url.host
            ),
            Self::NoEndpoints => format!("cluster `{cluster}` has no endpoint to fetch `{url}` from"),
            Self::Unavailable => format!("nobody answers for `{url}` behind cluster `{cluster}` (503)"),
            Self::Timeout => format!("`{url}` did not answer within its `timeout` (504)"),
            Self::Redirect(status) => {
                format!("`{url}` answered {status}, and redirects are not followed; give the final URL")
            }
            Self::Status(status) => format!("`{url}` answered {status}, not 200"),
            Self::Reset => format!("the answer of `{url}` broke off, or was not HTTP"),
            Self::TooLarge => format!("the answer of `{url}` is longer than `settings.jwks.maxBytes`"),
            Self::NotJson => format!("the answer of `{url}` is not a JSON object"),
            Self::NoKeys(why) => format!("the key set at `{url}` {why}"),
            Self::Discovery(why) => format!("the discovery document at `{url}` {why}"),
        }
    }
}

/// The body of a good answer, and how long it may be kept (seconds).
pub(super) fn body<'a>(answer: &Answer<'a>, max_bytes: usize) -> Result<(&'a [u8], Option<u64>), FetchError> {
    match *answer {
        Answer::Response { status: 200, body, .. } if body.len() > max_bytes => Err(FetchError::TooLarge),
        Answer::Response { status: 200, body, cache_control } => Ok((body, cache_control.and_then(max_age))),
        Answer::Response { status: 503, .. } => Err(FetchError::Unavailable),
        Answer::Response { status: 504, .. } => Err(FetchError::Timeout),
        Answer::Response { status: status @ 300..=399, .. } => Err(FetchError::Redirect(status)),
        Answer::Response { status, .. } => Err(FetchError::Status(status)),
        Answer::TooLarge => Err(FetchError::TooLarge),
        Answer::Failed => Err(FetchError::Reset),
    }
}

/// `max-age` of a `cache-control` header (RFC 9111 5.2.2.1).
fn max_age(header: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(header).ok()?.to_ascii_lowercase();
    text.split(',').find_map(|part| part.trim().strip_prefix("max-age=")?.trim_matches('"').parse().ok())
}

fn object(body: &[u8]) -> Result<Node, FetchError> {
    Node::from_json(body).ok().filter(|node| matches!(node, Node::Map(_))).ok_or(FetchError::NotJson)
}

/// Reads a key set, with a warning for each key that is left out.
pub(super) fn key_set(body: &[u8], environment: &Environment) -> Result<(KeySet, Vec<String>), FetchError> {
    let node = object(body)?;
    let problems = Problems::default();
    match KeySet::read(&Value::root(&node, &problems), Origin::Fetched, environment) {
        Some(set) => Ok((set, problems.warnings())),
        None => Err(FetchError::NoKeys(problems.errors().join("; "))),
    }
}

/// `jwks_uri` of a discovery document (OpenID Connect Discovery 1.0, 4.3).
pub(super) fn jwks_uri(body: &[u8], issuer: &str, at: &Url) -> Result<Url, FetchError> {
    let document = object(body)?;
    let refuse = |why: &str| Err(FetchError::Discovery(why.to_owned()));
    if document.has_duplicate_keys() {
        return refuse("has a member twice");
    }
    // "The issuer value returned MUST be identical to the Issuer URL".
    if document.field("issuer").and_then(Node::text) != Some(issuer) {
        return refuse("is not of this issuer: its `issuer` must be the rule's, byte for byte");
    }
    let Some(uri) = document.field("jwks_uri").and_then(Node::text) else {
        return refuse("has no `jwks_uri`");
    };
    let url = Url::parse(uri).map_err(|why| FetchError::Discovery(format!("has a `jwks_uri` that {why}")))?;
    if at.https && !url.https {
        return refuse("has a `jwks_uri` without TLS, though the issuer has TLS");
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn max_age_is_found_among_directives() {
        for (header, seconds) in [
            ("max-age=60", Some(60)),
            ("public, MAX-AGE=3600, must-revalidate", Some(3600)),
            ("no-cache", None),
            ("max-age=\"5\"", Some(5)),
            ("max-age=", None),
            ("max-age=-1", None),
            ("s-maxage=9", None),
            ("max-age=99999999999999999999", None),
        ] {
            assert_eq!(max_age(header.as_bytes()), seconds, "{header}");
        }
        assert_eq!(max_age(b"\xff"), None);
    }

    #[test]
    fn a_discovery_document_must_be_of_the_issuer_and_keep_tls() {
        let at = Url::parse("https://i.example/.well-known/openid-configuration").unwrap();
        let of = |text: &str| match jwks_uri(text.as_bytes(), "https://i.example", &at) {
            Ok(url) => url.to_string(),
            Err(error) => {
                error.message(&Call { cluster: String::new(), url: at.clone(), timeout: Duration::ZERO })
            }
        };
        for (text, expected) in [
            (r#"{"issuer":"https://i.example","jwks_uri":"https://k.example/k"}"#, "https://k.example/k"),
            (r#"{"issuer":"https://i.example/","jwks_uri":"https://k.example/k"}"#, "not of this issuer"),
            (r#"{"issuer":"https://evil.example","jwks_uri":"https://k.example/k"}"#, "not of this issuer"),
            (r#"{"jwks_uri":"https://k.example/k"}"#, "not of this issuer"),
            (r#"{"issuer":5,"jwks_uri":"https://k.example/k"}"#, "not of this issuer"),
            (r#"{"issuer":"https://i.example"}"#, "has no `jwks_uri`"),
            (r#"{"issuer":"https://i.example","jwks_uri":7}"#, "has no `jwks_uri`"),
            (r#"{"issuer":"https://i.example","jwks_uri":"file:///etc/passwd"}"#, "must begin with"),
            (r#"{"issuer":"https://i.example","jwks_uri":"http://k.example/k"}"#, "without TLS"),
            (r#"{"issuer":"https://i.example","issuer":"x","jwks_uri":"https://k.example/k"}"#, "twice"),
            ("[]", "not a JSON object"),
            ("<html>", "not a JSON object"),
        ] {
            assert!(of(text).contains(expected), "{text}: {}", of(text));
        }
    }
}
