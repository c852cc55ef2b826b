//! An explanation names every condition that fails, with what was met.

use sailcloth_core::config::Node;
use sailcloth_core::decision::Mode;
use sailcloth_core::facts::{Fact, Facts, Properties};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::identity::Token;
use sailcloth_core::request::Request;
#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use crate::{Engine, Explanation, Truth};

const CLAIMS: &str = r#"{"iss":"i","sub":"s","aud":["web","api"],"azp":"app","tenant":"acme","level":7,"on":true,"until":1000,
    "roles":["reader"]}"#;

/// A caller of whom everything is known but `missing`.
struct Known {
    missing: &'static str,
}

impl Properties for Known {
    fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
        let joined = path.join(".");
        if joined == self.missing {
            return Fact::Unavailable("the host says no");
        }
        Fact::Known(match joined.as_str() {
            "connection.uri_san_peer_certificate" => b"spiffe://td/ns/a/sa/web".to_vec(),
            "connection.requested_server_name" => b"sni.example".to_vec(),
            "filter_state.sailcloth.source_ip" => b"10.0.0.1".to_vec(),
            "source.address" => b"10.0.0.2:5".to_vec(),
            "destination.address" => b"10.0.0.3:80".to_vec(),
            "destination.port" => 8080_i64.to_le_bytes().to_vec(),
            "sailcloth.jwt" => {
                Token::of_claims(&Node::from_json(CLAIMS.as_bytes()).unwrap()).state().to_vec()
            }
            _ => return Fact::Absent,
        })
    }
}

fn engine(policies: &[&str], settings: &str) -> Engine {
    let documents: Vec<String> = policies
        .iter()
        .enumerate()
        .map(|(index, spec)| {
            format!(
                r#"{{"apiVersion":"sailcloth.dev/v1alpha1","kind":"AuthorizationPolicy","metadata":{{"name":"p{index}","namespace":"n"}},"spec":{spec}}}"#
            )
        })
        .collect();
    let text = format!(r#"{{"resources":[{}],"settings":{settings}}}"#, documents.join(","));
    Engine::load(text.as_bytes()).map(|(engine, _)| engine).unwrap()
}

/// What `see` makes of the explanation of one request.
fn explained<T>(engine: &Engine, missing: &'static str, see: impl FnOnce(&Explanation<'_>) -> T) -> T {
    let headers = HeaderBlock::from_pairs([
        (":method", "GET"),
        (":path", "/a/b?q=1&q=%32"),
        (":authority", "API.example:80"),
        ("x-a", "one"),
        ("x-a", "two"),
    ]);
    let known = Known { missing };
    let request = Request { headers: &headers, facts: Facts::new(&known, engine.sources()) };
    see(&engine.explain(request, &|| 2000))
}

/// The conditions that fail in the only rule of a policy with this rule.
fn failed(rule: &str, missing: &'static str) -> (Truth, Vec<String>) {
    let engine = engine(&[&format!(r#"{{"rules":[{rule}]}}"#)], "{}");
    explained(&engine, missing, |explanation| {
        let rule = &explanation.policies[0].rules[0];
        (rule.matches, rule.failed.iter().map(ToString::to_string).collect())
    })
}

#[test]
fn each_kind_of_condition_is_named_with_the_value_met() {
    for (rule, expected) in [
        (r#""to":[{"operation":{"paths":["/x"]}}]"#, "to[0].paths: found `/a/b`"),
        (r#""to":[{"operation":{"notPaths":["/a/*"]}}]"#, "to[0].notPaths: found `/a/b`"),
        (r#""to":[{"operation":{"methods":["PUT"]}}]"#, "to[0].methods: found `GET`"),
        (r#""to":[{"operation":{"hosts":["api.example"]}}]"#, "to[0].hosts: found `api.example:80`"),
        (r#""to":[{"operation":{"ports":["80"]}}]"#, "to[0].ports: found `8080`"),
        (r#""from":[{"source":{"principals":["x"]}}]"#, "from[0].principals: found `td/ns/a/sa/web`"),
        (r#""from":[{"source":{"notPrincipals":["*"]}}]"#, "from[0].notPrincipals: found `td/ns/a/sa/web`"),
        (r#""from":[{"source":{"namespaces":["b"]}}]"#, "from[0].namespaces: found `a`"),
        (r#""from":[{"source":{"serviceAccounts":["a/x"]}}]"#, "from[0].serviceAccounts: found `a/web`"),
        (r#""from":[{"source":{"trustDomains":["x"]}}]"#, "from[0].trustDomains: found `td`"),
        (r#""from":[{"source":{"requestPrincipals":["i/t"]}}]"#, "from[0].requestPrincipals: found `i/s`"),
        (r#""from":[{"source":{"ipBlocks":["10.1.0.0/16"]}}]"#, "from[0].ipBlocks: found `10.0.0.1`"),
        (
            r#""from":[{"source":{"notRemoteIpBlocks":["10.0.0.2"]}}]"#,
            "from[0].notRemoteIpBlocks: found `10.0.0.2`",
        ),
        (
            r#""when":[{"key":"request.headers[x-a]","values":["three"]}]"#,
            "when[0].request.headers[x-a]: found `one`, `two`",
        ),
        (
            r#""when":[{"key":"request.headers[x-b]","values":["*"]}]"#,
            "when[0].request.headers[x-b]: nothing there",
        ),
        (
            r#""when":[{"key":"destination.ip","values":["10.0.0.4"]}]"#,
            "when[0].destination.ip: found `10.0.0.3`",
        ),
        (r#""when":[{"key":"destination.port","values":["1"]}]"#, "when[0].destination.port: found `8080`"),
        (
            r#""when":[{"key":"connection.sni","notValues":["sni.*"]}]"#,
            "when[0].connection.sni: found `sni.example`",
        ),
        (
            r#""when":[{"key":"request.auth.audiences","values":["x"]}]"#,
            "when[0].request.auth.audiences: found `web`, `api`",
        ),
        (
            r#""when":[{"key":"request.auth.presenter","values":["x"]}]"#,
            "when[0].request.auth.presenter: found `app`",
        ),
        (
            r#""when":[{"key":"request.auth.claims[tenant]","values":["x"]}]"#,
            "when[0].request.auth.claims[tenant]: found `acme`",
        ),
        (
            r#""when":[{"key":"request.auth.claims[tenant][id]","values":["x"]}]"#,
            "when[0].request.auth.claims[tenant][id]: nothing there",
        ),
        // A number is no text, and is shown all the same.
        (
            r#""when":[{"key":"request.auth.claims[level]","values":["7"]}]"#,
            "when[0].request.auth.claims[level]: found `7 (a number)`",
        ),
        (
            r#""when":[{"key":"request.auth.claims[level]","number":{"min":8}}]"#,
            "when[0].request.auth.claims[level]: found `7 (a number)`",
        ),
        (
            r#""when":[{"key":"request.auth.claims[on]","bool":false}]"#,
            "when[0].request.auth.claims[on]: found `true (a truth value)`",
        ),
        (
            r#""when":[{"key":"request.auth.claims[until]","timestamp":{"notBefore":"now"}}]"#,
            "when[0].request.auth.claims[until]: found `1000 (a number)`",
        ),
        (
            r#""when":[{"key":"request.auth.claims[roles]","allOf":["reader","writer"]}]"#,
            "when[0].request.auth.claims[roles]: found `reader`",
        ),
        (
            r#""when":[{"key":"request.query[q]","regexes":["[a-z]"]}]"#,
            "when[0].request.query[q]: found `1`, `2`",
        ),
        (r#""when":[{"key":"request.path[1]","notRegexes":["b"]}]"#, "when[0].request.path[1]: found `b`"),
        (
            r#""when":[{"key":"request.path[0]","equals":"request.auth.claims[tenant]"}]"#,
            "when[0].request.path[0]: found `a`",
        ),
        (
            r#""when":[{"key":"request.host","notEquals":"request.host"}]"#,
            "when[0].request.host: found `api.example`",
        ),
    ] {
        assert_eq!(failed(&format!("{{{rule}}}"), ""), (Truth::Fails, vec![expected.to_owned()]), "{rule}");
    }
}

#[test]
fn what_holds_has_no_failures_and_of_alternatives_each_is_told() {
    assert_eq!(failed(r#"{"to":[{"operation":{"paths":["/a/*"]}}]}"#, ""), (Truth::Holds, Vec::new()));
    let one_of_two = r#"{"to":[{"operation":{"paths":["/x"]}},{"operation":{"paths":["/a/b"]}}]}"#;
    assert_eq!(failed(one_of_two, ""), (Truth::Holds, Vec::new()));
    let none = r#"{"to":[{"operation":{"paths":["/x"],"methods":["PUT"]}},{"operation":{"ports":["1"]}}],
        "when":[{"key":"request.method","values":["GET"]},{"key":"request.headers[x-a]","values":["x"]}]}"#;
    let expected = [
        "to[0].paths: found `/a/b`",
        "to[0].methods: found `GET`",
        "to[1].ports: found `8080`",
        "when[1].request.headers[x-a]: found `one`, `two`",
    ];
    assert_eq!(failed(none, ""), (Truth::Fails, expected.map(str::to_owned).to_vec()));
}

#[test]
fn what_cannot_be_known_is_told_as_such() {
    for (rule, missing, reason) in [
        (
            r#""from":[{"source":{"principals":["x"]}}]"#,
            "connection.uri_san_peer_certificate",
            "peer_identity_unavailable",
        ),
        (
            r#""from":[{"source":{"ipBlocks":["10.0.0.1"]}}]"#,
            "filter_state.sailcloth.source_ip",
            "peer_address_unavailable",
        ),
        (
            r#""from":[{"source":{"remoteIpBlocks":["10.0.0.1"]}}]"#,
            "source.address",
            "remote_address_unavailable",
        ),
        (r#""to":[{"operation":{"ports":["80"]}}]"#, "destination.port", "destination_port_unavailable"),
        (
            r#""when":[{"key":"destination.ip","values":["10.0.0.1"]}]"#,
            "destination.address",
            "destination_address_unavailable",
        ),
        (
            r#""when":[{"key":"connection.sni","values":["x"]}]"#,
            "connection.requested_server_name",
            "server_name_unavailable",
        ),
        (
            r#""when":[{"key":"request.auth.claims[a]","values":["x"]}]"#,
            "sailcloth.jwt",
            "request_identity_unavailable",
        ),
    ] {
        let (matches, failed) = failed(&format!("{{{rule}}}"), missing);
        assert_eq!(matches, Truth::Unknown(reason), "{rule}");
        assert!(matches!(failed.as_slice(), [text] if text.ends_with(&format!(": {reason}"))), "{failed:?}");
    }
}

const RULE: &str = r#"[{"to":[{"operation":{"paths":["/a/*"]}}]},{"to":[{"operation":{"paths":["/x"]}}]}]"#;
const PROVIDER: &str =
    r#"{"extensionProviders":[{"name":"ask","envoyExtAuthzHttp":{"service":"s","port":1}}]}"#;

/// Each policy as `id action mode: truth of each rule`, and the decision in front.
fn summary(policies: &[&str], settings: &str) -> Vec<String> {
    explained(&engine(policies, settings), "", |explanation| {
        let policy = |policy: &crate::ExplainedPolicy<'_>| {
            let mode = match policy.mode {
                Mode::Enforce => "enforce",
                Mode::Shadow => "shadow",
                Mode::Audit => "audit",
            };
            let rules: Vec<String> = policy
                .rules
                .iter()
                .map(|rule| format!("{}={}", rule.rule, rule.matches == Truth::Holds))
                .collect();
            format!("{} {} {mode} {}", policy.policy, policy.action, rules.join(" "))
        };
        let outcome = &explanation.outcome;
        let shadow = outcome.shadow.as_ref().map_or("none".to_owned(), |shadow| shadow.state());
        let first = format!("{}; shadow {shadow}; {} audits", outcome.enforced.state(), outcome.audits.len());
        std::iter::once(first).chain(explanation.policies.iter().map(policy)).collect()
    })
}

#[test]
fn every_policy_is_told_with_its_action_and_mode() {
    let spec = |rest: &str| format!(r#"{{{rest}"rules":{RULE}}}"#);
    let (allow, deny) = (spec(""), spec(r#""action":"DENY","#));
    assert_eq!(
        summary(&[&allow], "{}"),
        ["allow n/p0#0 allowed; shadow none; 0 audits", "n/p0 ALLOW enforce 0=true 1=false"]
    );
    assert_eq!(
        summary(&[&allow, &deny], "{}"),
        [
            "deny n/p1#0 denied; shadow none; 0 audits",
            "n/p0 ALLOW enforce 0=true 1=false",
            "n/p1 DENY enforce 0=true 1=false"
        ]
    );
    let shadow = spec(r#""action":"DENY","mode":"shadow","#);
    assert_eq!(
        summary(&[&allow, &shadow], "{}"),
        [
            "allow n/p0#0 allowed; shadow deny n/p1#0 denied; 0 audits",
            "n/p0 ALLOW enforce 0=true 1=false",
            "n/p1 DENY shadow 0=true 1=false"
        ]
    );
    let audit = spec(r#""action":"AUDIT","#);
    let custom = spec(r#""action":"CUSTOM","provider":{"name":"ask"},"#);
    assert_eq!(
        summary(&[&audit, &custom], PROVIDER),
        [
            "allow none no_policy; shadow none; 1 audits",
            "n/p0 AUDIT audit 0=true 1=false",
            "n/p1 CUSTOM enforce 0=true 1=false"
        ]
    );
}

#[test]
fn a_staged_policy_is_told_by_what_it_is_for_this_caller() {
    let staged = |percent: u8| {
        format!(r#"{{"action":"DENY","enforce":{{"percent":{percent},"by":"request.host"}},"rules":{RULE}}}"#)
    };
    assert_eq!(
        summary(&[&staged(0)], "{}"),
        ["allow none no_policy; shadow deny n/p0#0 denied; 0 audits", "n/p0 DENY shadow 0=true 1=false"]
    );
    assert_eq!(
        summary(&[&staged(100)], "{}"),
        ["deny n/p0#0 denied; shadow none; 0 audits", "n/p0 DENY enforce 0=true 1=false"]
    );
}
