//! The engine, asked.

mod explained;
mod generated;

use crate::Engine;
use sailcloth_core::decision::Verdict;
use sailcloth_core::facts::{Fact, Facts, Properties};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::request::Request;
#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

struct Peer(&'static str);

impl Properties for Peer {
    fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
        match path {
            ["connection", "uri_san_peer_certificate"] if !self.0.is_empty() => Fact::Known(self.0.into()),
            _ => Fact::Absent,
        }
    }
}

fn load(policies: &[&str]) -> Engine {
    let documents: Vec<String> = policies
        .iter()
        .enumerate()
        .map(|(index, rest)| {
            format!(
                r#"{{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{{"name":"p{index}","namespace":"n"}},{rest}}}"#
            )
        })
        .collect();
    let text = format!(r#"{{"resources":[{}]}}"#, documents.join(","));
    Engine::load(text.as_bytes()).map(|(engine, _)| engine).unwrap()
}

fn decide(engine: &Engine, peer: &'static str, method: &str, path: &str) -> String {
    let headers = HeaderBlock::from_pairs([(":method", method), (":path", path), (":authority", "api:80")]);
    let peer = Peer(peer);
    let request = Request { headers: &headers, facts: Facts::new(&peer, engine.sources()) };
    engine.decide(request, &|| 0).enforced.state()
}

const WEB: &str = "spiffe://cluster.local/ns/production/sa/web-service";
const SEED: &str = r#""spec":{"action":"ALLOW","rules":[
    {"from":[{"source":{"principals":["cluster.local/ns/production/sa/web-service"]}}],
     "to":[{"operation":{"methods":["GET","POST"],"paths":["/api/v1/*"]}}]},
    {"to":[{"operation":{"methods":["GET"],"paths":["/health"]}}]}]}"#;

#[test]
fn the_seed_policy_decides_as_in_istio() {
    let engine = load(&[SEED]);
    for (peer, method, path, expected) in [
        (WEB, "GET", "/api/v1/orders", "allow n/p0#0 allowed"),
        (WEB, "POST", "/api/v1/orders?x=1", "allow n/p0#0 allowed"),
        (WEB, "DELETE", "/api/v1/orders", "deny none no_rule_matched"),
        (WEB, "GET", "/api/v1", "deny none no_rule_matched"),
        ("", "GET", "/api/v1/orders", "deny none no_rule_matched"),
        (
            "spiffe://cluster.local/ns/other/sa/web-service",
            "GET",
            "/api/v1/orders",
            "deny none no_rule_matched",
        ),
        ("", "GET", "/health", "allow n/p0#1 allowed"),
    ] {
        assert_eq!(decide(&engine, peer, method, path), expected, "{method} {path} by `{peer}`");
    }
}

#[test]
fn empty_specs_deny_and_empty_rules_allow() {
    assert_eq!(decide(&load(&[r#""spec":{}"#]), "", "GET", "/"), "deny none no_rule_matched");
    assert_eq!(
        decide(&load(&[r#""metadataX":null"#.replace("metadataX", "status").as_str()]), "", "GET", "/"),
        "deny none no_rule_matched"
    );
    assert_eq!(decide(&load(&[r#""spec":{"rules":[{}]}"#]), "", "GET", "/"), "allow n/p0#0 allowed");
    assert_eq!(decide(&load(&[]), "", "GET", "/"), "allow none no_policy");
}

#[test]
fn deny_wins_over_allow() {
    let engine = load(&[
        r#""spec":{"rules":[{}]}"#,
        r#""spec":{"action":"DENY","rules":[{"to":[{"operation":{"paths":["/admin*"]}}]}]}"#,
    ]);
    assert_eq!(decide(&engine, "", "GET", "/admin"), "deny n/p1#0 denied");
    assert_eq!(decide(&engine, "", "GET", "/"), "allow n/p0#0 allowed");
}

#[test]
fn plaintext_satisfies_not_principals() {
    let engine =
        load(&[r#""spec":{"action":"DENY","rules":[{"from":[{"source":{"notPrincipals":["*"]}}]}]}"#]);
    assert_eq!(decide(&engine, "", "GET", "/"), "deny n/p0#0 denied");
    assert_eq!(decide(&engine, WEB, "GET", "/"), "allow none no_policy");
}

#[test]
fn a_certificate_of_another_scheme_is_no_principal_of_the_mesh() {
    let source =
        |source: &str| load(&[&format!(r#""spec":{{"rules":[{{"from":[{{"source":{source}}}]}}]}}"#)]);
    for (written, allows) in [
        (r#"{"principals":["*"]}"#, true),
        (r#"{"principals":["cluster.local/ns/production/sa/web-service"]}"#, false),
        (r#"{"principals":["cluster.local/*"]}"#, false),
        (r#"{"principals":["*/sa/web-service"]}"#, false),
        (r#"{"serviceAccounts":["production/web-service"]}"#, false),
        (r#"{"notPrincipals":["*/sa/web-service"]}"#, true),
        // Istio asks for `/ns/<namespace>/` anywhere in the URI.
        (r#"{"namespaces":["production"]}"#, true),
    ] {
        let engine = source(written);
        for peer in [
            "cluster.local/ns/production/sa/web-service",
            "https://cluster.local/ns/production/sa/web-service",
        ] {
            let decided = decide(&engine, peer, "GET", "/");
            assert_eq!(decided.starts_with("allow"), allows, "{written} for `{peer}`: {decided}");
        }
    }
}

#[test]
fn what_cannot_be_known_denies() {
    let deny =
        load(&[r#""spec":{"action":"DENY","rules":[{"from":[{"source":{"ipBlocks":["10.0.0.0/8"]}}]}]}"#]);
    assert_eq!(decide(&deny, "", "GET", "/"), "deny n/p0#0 peer_address_unavailable");
    let allow = load(&[r#""spec":{"rules":[{"from":[{"source":{"requestPrincipals":["*"]}}]}]}"#]);
    assert_eq!(decide(&allow, "", "GET", "/"), "deny n/p0#0 request_identity_unavailable");
}

#[test]
fn shadow_policies_are_computed_and_never_act() {
    let text = r#"{"resources":[{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy",
        "metadata":{"name":"p","annotations":{"istio.io/dry-run":"true"}},"spec":{}}]}"#;
    let engine = Engine::load(text.as_bytes()).map(|(engine, _)| engine).unwrap();
    let headers = HeaderBlock::from_pairs([(":path", "/")]);
    let outcome =
        engine.decide(Request { headers: &headers, facts: Facts::new(&Peer(""), engine.sources()) }, &|| 0);
    assert_eq!(outcome.enforced.verdict, Verdict::Allow);
    let shadow = outcome.shadow.unwrap();
    assert_eq!((shadow.verdict, shadow.refuses()), (Verdict::Deny, false));
}

#[test]
fn hosts_keep_their_port_and_ignore_case() {
    let of = |host: &str| {
        load(&[&format!(r#""spec":{{"rules":[{{"to":[{{"operation":{{"hosts":["{host}"]}}}}]}}]}}"#)])
    };
    assert_eq!(decide(&of("API:80"), "", "GET", "/"), "allow n/p0#0 allowed");
    assert_eq!(decide(&of("api"), "", "GET", "/"), "deny none no_rule_matched");
    assert_eq!(decide(&of("api:*"), "", "GET", "/"), "allow n/p0#0 allowed");
}

#[test]
fn a_gateway_must_say_where_identities_are() {
    let config = |settings: &str| {
        format!(
            r#"{{"resources":[{{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{{"name":"p","namespace":"n"}},
            "spec":{{"rules":[{{"from":[{{"source":{{"principals":["a"]}}}}]}}]}}}}],
            "workload":{{"namespace":"n","gateway":"edge"}},"settings":{settings}}}"#
        )
    };
    let problems = Engine::load(config("{}").as_bytes()).err().unwrap();
    assert!(problems[0].to_string().starts_with("resources[0]: asks for the peer's identity on a gateway"));
    assert!(Engine::load(config(r#"{"peerIdentity":"peerPrincipal"}"#).as_bytes()).is_ok());
}

#[test]
fn a_source_whose_lists_are_all_empty_is_refused() {
    for source in
        ["{}", r#"{"principals":[]}"#, r#"{"principals":null}"#, r#"{"ipBlocks":[],"namespaces":[]}"#]
    {
        let text = format!(
            r#"{{"resources":[{{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{{"name":"p"}},
            "spec":{{"rules":[{{"from":[{{"source":{source}}}]}}]}}}}]}}"#
        );
        let problems = Engine::load(text.as_bytes()).err().unwrap_or_default();
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let expected = "resources[0].spec.rules[0].from[0].source: an empty source says nothing; name at least one field";
        assert_eq!(texts, [expected], "{source}");
    }
}
