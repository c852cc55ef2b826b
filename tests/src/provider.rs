//! The external authorization provider of the tests: what it is asked says how it answers.
//!
//! The header `x-ext-authz` of the question decides: `allow` (any other request is denied with 403), `deny`, `error` (503),
//! `unauthorized` (401 with a challenge), `moved` (302), `silent` (no answer), `edit` (allowed, with headers for the
//! upstream). Istio's own sample provider does the first two.

use sailcloth_core::config::Node;

use crate::case::Headers;
use crate::yaml::{self, items};

/// The header by which a question is told from a request at the tests' upstream, which plays both parts.
pub const MARK: &str = "x-test-provider";

/// What the provider does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A response: status, headers, body.
    Response(u16, Vec<(&'static str, &'static str)>, String),
    /// Nothing comes.
    Silence,
}

/// The answer to a question.
#[must_use]
pub fn answer(question: &Headers) -> Reply {
    let value = |wanted: &str| {
        let found = question.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    // What was asked comes back, so that tests see it.
    let asked = || {
        let word = |name| value(name).unwrap_or_default();
        format!("{} {} authorization={}", word(":method"), word(":path"), word("authorization"))
    };
    match value("x-ext-authz").as_deref() {
        Some("silent") => Reply::Silence,
        Some("error") => Reply::Response(503, vec![], "no".to_owned()),
        Some("allow") => Reply::Response(200, vec![("x-ext-authz-result", "allowed")], String::new()),
        Some("edit") => Reply::Response(
            200,
            vec![
                ("x-user", "alice"),
                ("x-group", "staff"),
                ("x-envoy-auth-headers-to-remove", "x-secret, x-other"),
                ("host", "elsewhere"),
            ],
            String::new(),
        ),
        Some("unauthorized") => Reply::Response(
            401,
            vec![("www-authenticate", "Bearer realm=\"test\""), ("x-detail", "7"), ("x-private", "8")],
            "who are you".to_owned(),
        ),
        Some("moved") => Reply::Response(302, vec![("location", "https://login.example/")], String::new()),
        _ => Reply::Response(403, vec![("x-ext-authz-result", "denied")], format!("denied: {}", asked())),
    }
}

/// The clusters that a configuration's providers are reached by; one whose name begins with `missing` is not there.
#[must_use]
pub fn clusters(configuration: &Node) -> Vec<String> {
    let providers = items(yaml::at(configuration, &["settings", "extensionProviders"])).iter();
    let names = providers.filter_map(|provider| {
        let http = provider.field("envoyExtAuthzHttp")?;
        let written = http.field("cluster").and_then(Node::text).map(str::to_owned);
        written.or_else(|| {
            let host = http.field("service").and_then(Node::text)?.rsplit('/').next()?;
            match http.field("port")? {
                Node::Integer(port) => Some(format!("outbound|{port}||{host}")),
                _ => None,
            }
        })
    });
    names.filter(|name| !name.starts_with("missing")).collect()
}

/// `settings.extensionProviders` with the tests' provider under each of these names.
#[must_use]
pub fn settings(names: &[String]) -> Node {
    let provider = |name: &String| {
        let http = yaml::parse(&format!(
            "{{service: provider.test, port: 8000, timeout: 5s, includeRequestHeadersInCheck: [x-ext-authz], \
             includeAdditionalHeadersInCheck: {{{MARK}: \"1\"}}}}"
        ));
        yaml::map(vec![
            ("name", yaml::text(name)),
            ("envoyExtAuthzHttp", http.expect("the provider's settings are YAML")),
        ])
    };
    Node::List(names.iter().map(provider).collect())
}

/// The providers that policies name.
#[must_use]
pub fn named(policies: &[Node]) -> Vec<String> {
    let mut names: Vec<String> = policies
        .iter()
        .filter_map(|policy| yaml::at(policy, &["spec", "provider", "name"])?.text().map(str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    names
}
