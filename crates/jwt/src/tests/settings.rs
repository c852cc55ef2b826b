//! What a configuration may say.

use super::*;
#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn what_this_version_cannot_do_is_refused_by_name() {
    for (rule, message) in [
        (
            r#"{"issuer":"a","jwksUri":"https://a/jwks"}"#,
            "jwtRules[0].jwksUri: fetching keys is not supported",
        ),
        (r#"{"issuer":"a"}"#, "jwtRules[0]: has neither `jwks` nor `jwksUri`"),
        (r#"{"issuer":"a","jwks":"{\"keys\":[]}"}"#, "jwtRules[0].jwks: holds no key that can be used"),
    ] {
        let problems = Engine::load(configuration(&[rule], "").as_bytes(), &ENVIRONMENT).unwrap_err();
        let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(all.join("\n").contains(message), "{all:?}");
    }
    // Also where it does not apply to this workload: the mistake is in the document.
    let elsewhere = configuration(&[r#"{"issuer":"a"}"#], r#","workload":{"namespace":"other"}"#);
    assert!(Engine::load(elsewhere.as_bytes(), &ENVIRONMENT).is_err());
}

#[test]
fn settings_bound_the_token_and_the_cache() {
    let rest = r#","settings":{"maxTokenBytes":256,"tokenCache":{"bytes":0}}"#;
    let (engine, _) = Engine::load(configuration(&[&rule("a", "")], rest).as_bytes(), &ENVIRONMENT).unwrap();
    let long = bearer(&token(1, &format!(r#"{{"iss":"a","x":"{}"}}"#, "y".repeat(256))));
    assert_eq!(summary(&engine, &[("authorization", &long)]), "deny token_too_large 401 none");
    let mut cache = engine.cache();
    let short = bearer(&token(1, r#"{"iss":"a"}"#));
    assert!(!decide(&engine, &[("authorization", &short)], &mut cache).decision.refuses());
    assert!(cache.is_empty());
    for bad in [r#"{"maxTokenBytes":1}"#, r#"{"tokenCache":{"byte":1}}"#, r#"{"tokenCache":{"bytes":-1}}"#] {
        let rest = format!(r#","settings":{bad}"#);
        assert!(Engine::load(configuration(&[], &rest).as_bytes(), &ENVIRONMENT).is_err(), "{bad}");
    }
}
