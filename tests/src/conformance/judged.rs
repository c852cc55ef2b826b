//! A policy of the authz engine, asked about single calls: what a case's expectation is compared with.

use sailcloth_core::config::Node;
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::identity::Token;

use super::rbac::Call;
use crate::facts::CaseProperties;
use crate::subject::{Engine, Exchange};
use crate::yaml;

/// Whether the engine lets a call through.
pub fn allows(engine: &mut dyn Engine, call: &Call) -> bool {
    let pseudo = [(":method", &call.method), (":path", &call.path), (":authority", &call.host)];
    let others = call.headers.iter().map(|(name, value)| (name.as_str(), value));
    let headers = HeaderBlock::from_pairs(pseudo.into_iter().chain(others));
    let token = call.payload().map_or_else(
        || Token::anonymous_state().to_vec(),
        |claims| Token::of_claims(&claims).state().to_vec(),
    );
    let mut attributes = vec![
        (vec!["sailcloth.jwt"], token),
        (vec!["destination", "port"], i64::from(call.port).to_le_bytes().to_vec()),
    ];
    let mut add = |path: Vec<&'static str>, value: Option<String>| {
        attributes.extend(value.map(|value| (path, value.into_bytes())));
    };
    add(vec!["connection", "uri_san_peer_certificate"], call.peer.clone());
    add(vec!["filter_state", "sailcloth.source_ip"], call.source.map(|address| address.to_string()));
    add(
        vec!["source", "address"],
        call.remote.map(|address| std::net::SocketAddr::new(address, 0).to_string()),
    );
    let address = |address: std::net::IpAddr| std::net::SocketAddr::new(address, call.port).to_string();
    add(vec!["destination", "address"], call.destination.map(address));
    add(vec!["connection", "requested_server_name"], Some(call.sni.clone()));
    let properties = CaseProperties(attributes);
    let observed = engine.decide(&Exchange { headers: &headers, properties: &properties, now_ns: 0 });
    observed.decided.is_some_and(|decided| decided.verdict == "allow")
}

/// The spec of an ALLOW policy of one rule.
///
/// # Panics
/// When the text is not YAML.
#[must_use]
pub fn spec(rule: &str) -> Node {
    yaml::parse(&format!("{{rules: [{rule}]}}")).unwrap_or_else(|error| panic!("{rule}: {error}"))
}

/// A text as a YAML scalar.
#[must_use]
pub fn quoted(text: &str) -> String {
    yaml::json(&Node::Text(text.to_owned()))
}
