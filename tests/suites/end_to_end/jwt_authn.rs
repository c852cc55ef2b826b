//! Policies on the token that Envoy's own `jwt_authn` verified, which hands it over as dynamic metadata: its numbers are
//! all doubles there, and what it did not see leaves no trace.

use sailcloth_launch::envoy;
use sailcloth_launch::http::Request;
use sailcloth_tests::differential::token::{ISSUER, native, signed};
use sailcloth_tests::shipped::{Running, SOON, Shipped};
use sailcloth_tests::yaml;
use serde_json::{Value, json};

const FULL: &str = r#"{iss: "https://issuer.example", sub: alice, aud: [api, web], azp: app, tenant: acme, level: 3,
    half: 4.5, verified: true, roles: [reader, billing], until: 1769857200, scope: "read write", flag: "true",
    realm: {access: {roles: [admin], depth: 2, on: false}}, account: 42, big: 9007199254740993}"#;

fn running() -> Option<Running> {
    let mut authz = Shipped::new(&envoy::find_or_skip()?, "authz");
    let when = |path: &str, when: Value| json!({"to": [{"operation": {"paths": [path]}}], "when": [when]});
    let claim = |name: &str| format!("request.auth.claims{name}");
    let rules = json!([
        {"from": [{"source": {"requestPrincipals": [format!("{ISSUER}/alice")]}}], "to": [{"operation": {"paths": ["/alice"]}}]},
        {"from": [{"source": {"notRequestPrincipals": ["*"]}}], "to": [{"operation": {"paths": ["/nobody"]}}]},
        when("/audience", json!({"key": "request.auth.audiences", "values": ["web"]})),
        when("/presenter", json!({"key": "request.auth.presenter", "values": ["app"]})),
        when("/text", json!({"key": claim("[tenant]"), "values": ["ac*"]})),
        when("/list", json!({"key": claim("[roles]"), "values": ["billing"]})),
        when("/all", json!({"key": claim("[roles]"), "allOf": ["billing", "reader"]})),
        when("/scope", json!({"key": claim("[scope]"), "values": ["write"]})),
        when("/nested", json!({"key": claim("[realm][access][roles]"), "values": ["admin"]})),
        when("/nested-number", json!({"key": claim("[realm][access][depth]"), "number": {"min": 2, "max": 2}})),
        when("/nested-bool", json!({"key": claim("[realm][access][on]"), "bool": false})),
        when("/bool", json!({"key": claim("[verified]"), "bool": true})),
        when("/flag", json!({"key": claim("[flag]"), "bool": true})),
        when("/number", json!({"key": claim("[level]"), "number": {"min": 3, "max": 3}})),
        when("/fraction", json!({"key": claim("[half]"), "number": {"min": "4.5", "max": "4.5"}})),
        when("/time", json!({"key": claim("[until]"), "timestamp": {"notBefore": "2026-01-31T11:00:00Z", "notAfter": "2026-01-31T11:00:00Z"}})),
        when("/not-number", json!({"key": claim("[level]"), "values": ["3"]})),
        when("/not-bool", json!({"key": claim("[verified]"), "values": ["true"]})),
        when("/not-there", json!({"key": claim("[nothing]"), "values": ["*"]})),
        when("/account/*", json!({"key": claim("[account]"), "equals": "request.path[1]"})),
    ]);
    let filters = authz.http_filters();
    let place = filters.iter().position(|filter| filter["name"] == "sailcloth.authz").unwrap();
    filters[place]["typed_config"]["config"]["configuration"]["value"] = json!({
        "resources": [{"apiVersion": "sailcloth.dev/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "claims", "namespace": "production"}, "spec": {"rules": rules}}],
        "settings": {"requestIdentity": "jwt_authn"},
    });
    filters.insert(place, native());
    Some(authz.start(1))
}

fn token(claims: &str) -> String {
    format!("Bearer {}", signed(&yaml::parse(claims).unwrap()))
}

#[test]
fn claims_of_native_jwt_authn_decide_with_their_types() {
    let Some(running) = running() else { return };
    let full = token(FULL);
    for path in [
        "/alice",
        "/audience",
        "/presenter",
        "/text",
        "/list",
        "/all",
        "/scope",
        "/nested",
        "/nested-number",
        "/nested-bool",
        "/bool",
        "/number",
        "/fraction",
        "/time",
        "/account/42",
    ] {
        let status = running.send(&Request::get(path).header("authorization", &full)).status;
        assert_eq!(status, 200, "{path}\n{}", running.envoy.logs().unwrap());
        assert_eq!(running.send(&Request::get(path)).status, 403, "{path} without a token");
    }
    for path in ["/nobody", "/flag", "/not-number", "/not-bool", "/not-there", "/account/43", "/account/42.0"]
    {
        let status = running.send(&Request::get(path).header("authorization", &full)).status;
        assert_eq!(status, 403, "{path}");
    }
    assert_eq!(running.send(&Request::get("/nobody")).status, 200, "who has no token is nobody");
}

#[test]
fn other_tokens_meet_other_claims() {
    let Some(running) = running() else { return };
    let send =
        |path: &str, claims: &str| running.send(&Request::get(path).header("authorization", token(claims)));
    let issuer = format!("iss: \"{ISSUER}\"");
    for (path, claims) in [
        ("/alice", "sub: bob"),
        ("/alice", "tenant: alice"),
        ("/audience", "sub: a, aud: api"),
        ("/text", "sub: a, tenant: 7"),
        ("/list", "sub: a, roles: [read, 7, {billing: x}]"),
        ("/all", "sub: a, roles: [reader]"),
        ("/nested", "sub: a, realm: {access: admin}"),
        ("/nested", "sub: a, realm: [admin]"),
        ("/bool", "sub: a, verified: false"),
        ("/bool", "sub: a, verified: null"),
        ("/number", "sub: a, level: 3.1"),
        ("/number", "sub: a, level: \"3\""),
        ("/number", "sub: a, level: [3]"),
        ("/time", "sub: a, until: 1769857201"),
    ] {
        let answer = send(path, &format!("{{{issuer}, {claims}}}"));
        assert_eq!(answer.status, 403, "{path} with {claims}");
    }
    assert_eq!(
        send("/audience", &format!("{{{issuer}, aud: web}}")).status,
        200,
        "a text is an audience, too"
    );
    let other = signed(&yaml::parse(FULL).unwrap()).replace("eyJhbGci", "eyJhbGdi");
    let broken = running.send(&Request::get("/nobody").header("authorization", format!("Bearer {other}")));
    assert_eq!(broken.status, 401, "native jwt_authn refuses what it cannot verify: {}", broken.text());
    let lines = running.envoy.access_log_lines(16, SOON).unwrap();
    let named = "sailcloth_authz_no_rule_matched[none](production/claims#0:from[0].requestPrincipals)";
    assert!(lines[0].contains(named), "{}", lines[0]);
}
