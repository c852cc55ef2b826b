//! Authorization: policies and requests, the plain evaluator, and the translation to Envoy's `rbac` that Istio does.

pub mod ask;
pub mod generate;
pub mod plain;
pub mod translate;
pub mod words;
pub mod world;

use std::net::SocketAddr;

use sailcloth_core::config::Node;
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::identity::Token;

use crate::conformance::{Verdict, configuration, load};
use crate::facts::{Attributes, CaseProperties};
use crate::judge::Observed;
use crate::subject::{Engine, Exchange, Subject};
use crate::yaml::{self, map, text};

use ask::Ask;
use generate::{KEYS, Language};

/// Asks the engine itself, with the facts that Envoy would have given.
#[must_use]
pub fn ask_engine(engine: &mut dyn Engine, ask: &Ask) -> Observed {
    let mut headers = vec![
        (":method", ask.method.as_bytes()),
        (":path", ask.target.as_bytes()),
        (":authority", ask.host.as_bytes()),
        (":scheme", b"http".as_slice()),
    ];
    headers.extend(ask.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
    let headers = HeaderBlock::from_pairs(headers);
    let properties = CaseProperties(attributes(ask));
    engine.decide(&Exchange { headers: &headers, properties: &properties, now_ns: 0 })
}

fn attributes(ask: &Ask) -> Attributes {
    let mut all: Attributes = vec![
        (vec!["filter_state", "sailcloth.source_ip"], ask.source.to_string().into()),
        (vec!["source", "address"], SocketAddr::new(ask.remote(), 50000).to_string().into()),
        (vec!["destination", "address"], SocketAddr::new(ask.destination, ask.port).to_string().into()),
        (vec!["destination", "port"], i64::from(ask.port).to_le_bytes().to_vec()),
        (vec!["connection", "mtls"], vec![u8::from(ask.peer.is_some())]),
        (vec!["connection", "requested_server_name"], ask.sni.clone().unwrap_or_default().into()),
    ];
    if let Some(peer) = &ask.peer {
        all.push((vec!["connection", "uri_san_peer_certificate"], peer.clone().into()));
    }
    let state = match &ask.token {
        Some(claims) => Token::of_claims(claims).state().to_vec(),
        None => Token::anonymous_state().to_vec(),
    };
    all.push((vec!["sailcloth.jwt"], state));
    all
}

/// What of the policy language the engine carries out, found by asking it, and what it refuses.
#[must_use]
pub fn language() -> (Language, Vec<String>) {
    let mut refused = Vec::new();
    let mut takes = |spec: &str, what: &str| {
        let spec = yaml::parse(spec).expect("YAML");
        let policy = map(vec![
            ("apiVersion", text("security.istio.io/v1")),
            ("kind", text("AuthorizationPolicy")),
            ("metadata", map(vec![("name", text("p")), ("namespace", text("production"))])),
            ("spec", spec),
        ]);
        match load(Subject::named("authz"), &configuration(vec![policy])) {
            Verdict::Accepted(_) => true,
            Verdict::Unsupported(reason) | Verdict::NoFilter(reason) => {
                refused.push(format!("{what}: {reason}"));
                false
            }
            Verdict::Refused(problems) => panic!("{what}: {problems:?}"),
        }
    };
    let mut language = Language {
        templates: takes("{rules: [{to: [{operation: {paths: ['/a/{*}']}}]}]}", "path templates"),
        trust_domains: takes("{rules: [{from: [{source: {trustDomains: [td1]}}]}]}", "trustDomains"),
        audit: takes("{action: AUDIT, rules: [{}]}", "AUDIT"),
        when: Vec::new(),
    };
    for key in KEYS {
        let (name, value) = match *key {
            "request.headers" => ("request.headers[x]", "a"),
            "request.auth.claims" => ("request.auth.claims[x]", "a"),
            "source.ip" | "remote.ip" | "destination.ip" => (*key, "10.0.0.1"),
            "destination.port" => (*key, "80"),
            "source.serviceAccount" => (*key, "a/b"),
            _ => (*key, "a"),
        };
        if takes(&format!("{{rules: [{{when: [{{key: '{name}', values: ['{value}']}}]}}]}}"), key) {
            language.when.push(key);
        }
    }
    (language, refused)
}

/// The rule that a decision names, when it names one.
#[must_use]
pub fn named_rule(observed: &Observed) -> Option<String> {
    let decided = observed.decided.as_ref()?;
    (decided.by != "none").then(|| decided.by.clone())
}

/// A configuration in one line, for messages.
#[must_use]
pub fn shown(configuration: &Node) -> String {
    yaml::json(configuration)
}
