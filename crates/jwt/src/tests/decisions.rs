//! Which requests pass, and which rule decides.

use super::*;
#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn tokens_decide_as_in_istio() {
    let engine = engine(&[&rule("a", r#","audiences":["api"]"#)]);
    let claims = |rest: &str| bearer(&token(1, &format!(r#"{{"iss":"a"{rest}}}"#)));
    for (authorization, expected) in [
        (claims(r#","aud":"https://api/""#), "allow valid_token 0 n/r0#0"),
        (claims(r#","aud":["x","api"]"#), "allow valid_token 0 n/r0#0"),
        (claims(""), "deny wrong_audience 403 n/r0#0"),
        (claims(r#","aud":"other""#), "deny wrong_audience 403 n/r0#0"),
        (claims(r#","aud":"api","exp":999939"#), "deny token_expired 401 n/r0#0"),
        (claims(r#","aud":"api","exp":999940"#), "allow valid_token 0 n/r0#0"),
        (claims(r#","aud":"api","nbf":1000061"#), "deny token_not_yet_valid 401 n/r0#0"),
        (bearer(&of("b")), "deny unknown_issuer 401 none"),
        (bearer(&token(3, r#"{"iss":"a","aud":"api"}"#)), "deny unknown_kid 401 n/r0#0"),
        (bearer(&format!("{}A", token(1, "{}"))), "deny unknown_issuer 401 none"),
        (bearer("a.b"), "deny token_malformed 401 none"),
        (bearer(&"a".repeat(20_000)), "deny token_too_large 401 none"),
        ("Basic abc".to_owned(), "allow no_token 0 none"),
    ] {
        assert_eq!(summary(&engine, &[("authorization", &authorization)]), expected, "{authorization}");
    }
    assert_eq!(summary(&engine, &[]), "allow no_token 0 none");
}

#[test]
fn all_resources_are_one_list_and_either_rule_of_an_issuer_may_verify() {
    let strict = [rule("a", r#","audiences":["foo"]"#), rule("b", r#","audiences":["bar"]"#)].join(",");
    let engine = engine(&[&strict, &rule("b", "")]);
    assert_eq!(summary(&engine, &[("authorization", &bearer(&of("a")))]), "deny wrong_audience 403 n/r0#0");
    assert_eq!(summary(&engine, &[("authorization", &bearer(&of("b")))]), "allow valid_token 0 n/r1#0");
}

#[test]
fn every_token_in_a_rules_places_must_verify() {
    let engine = engine(&[&rule("a", "")]);
    let good = of("a");
    let expired = token(1, r#"{"iss":"a","exp":1}"#);
    for (header, param, expected) in [
        (&good, &good, "allow valid_token 0 n/r0#0"),
        (&good, &expired, "deny token_expired 401 n/r0#0"),
        (&expired, &good, "deny token_expired 401 n/r0#0"),
        (&good, &"x".to_owned(), "deny token_malformed 401 n/r0#0"),
    ] {
        let path = format!("/?access_token={param}");
        let headers = [("authorization", bearer(header)), (":path", path)];
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(summary(&engine, &headers), expected, "{headers:?}");
    }
}

#[test]
fn a_place_that_is_named_switches_the_defaults_off() {
    let engine = engine(&[&rule("a", r#","fromCookies":["c"]"#)]);
    let cookie = format!("c={}", of("a"));
    assert_eq!(summary(&engine, &[("authorization", &bearer(&of("a")))]), "allow no_token 0 none");
    assert_eq!(summary(&engine, &[("cookie", &cookie)]), "allow valid_token 0 n/r0#0");
}

#[test]
fn rules_without_an_issuer_take_any() {
    let rule = format!(r#"{{"jwks":"{}"}}"#, jwks(&[1]));
    let engine = engine(&[&rule]);
    for claims in [r#"{"iss":"whoever"}"#, "{}"] {
        let authorization = bearer(&token(1, claims));
        assert_eq!(
            summary(&engine, &[("authorization", &authorization)]),
            "allow valid_token 0 n/r0#0",
            "{claims}"
        );
    }
}

#[test]
fn a_required_token_must_be_there_and_a_preflight_never() {
    let engine = engine(&[&rule("a", r#","presence":"REQUIRED""#)]);
    assert_eq!(summary(&engine, &[]), "deny token_missing 401 n/r0#0");
    let preflight =
        [(":method", "OPTIONS"), ("origin", "https://a"), ("access-control-request-method", "GET")];
    assert_eq!(summary(&engine, &preflight), "allow cors_preflight 0 none");
    assert_eq!(summary(&engine, &preflight[..2]), "deny token_missing 401 n/r0#0");
    let challenge = decide(&engine, &[], &mut engine.cache([1, 2])).reply();
    assert_eq!(challenge.headers[0].1, r#"Bearer realm="https://api/p""#);
}

#[test]
fn without_rules_every_request_passes_as_nobody() {
    let engine = engine(&[""]);
    let outcome = decide(&engine, &[("authorization", "Bearer a.b.c")], &mut engine.cache([1, 2])).decision;
    assert_eq!(outcome.reason.code, "no_token");
}

#[test]
fn a_token_costs_no_more_with_a_thousand_other_issuers() {
    let rules: Vec<String> = (0..1000).map(|number| rule(&format!("i{number}"), "")).collect();
    let engine = engine(&[&rules.join(",")]);
    let toy = Toy::default();
    let bad = of("i500").replace("k1", "k2");
    for token in [of("i500"), of("nobody"), bad] {
        let bearer = bearer(&token);
        decide_at(&engine, &[("authorization", &bearer)], &mut engine.cache([1, 2]), NOW, &toy);
    }
    assert!(toy.calls.get() <= 2, "{}", toy.calls.get());
}

#[test]
fn verify_token_agrees_with_decide() {
    let engine = engine(&[&rule("a", "")]);
    let toy = Toy::default();
    assert!(engine.verify_token(of("a").as_bytes(), NOW, &toy).is_ok());
    assert_eq!(engine.verify_token(of("b").as_bytes(), NOW, &toy), Err(Refusal::UnknownIssuer));
    assert_eq!(engine.verify_token(b"", NOW, &toy), Err(Refusal::NotCompact));
}

#[test]
fn only_rules_for_the_workload_take_effect() {
    let text = configuration(&[&rule("a", "")], r#","workload":{"namespace":"other"}"#);
    let (engine, _) = Engine::load(text.as_bytes(), &ENVIRONMENT).unwrap();
    assert_eq!(engine.resources(), [("RequestAuthentication", 0)]);
    assert_eq!(summary(&engine, &[("authorization", "Bearer bad")]), "allow no_token 0 none");
}
