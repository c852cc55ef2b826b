//! Verified tokens are verified once.

use super::*;
#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn a_verified_token_is_verified_once_and_ends_with_its_date() {
    let engine = engine(&[&rule("a", "")]);
    let mut cache = engine.cache([1, 2]);
    let toy = Toy::default();
    let bearer = bearer(&of("a"));
    let headers = [("authorization", bearer.as_str())];
    for _ in 0..3 {
        assert!(!decide_at(&engine, &headers, &mut cache, NOW, &toy).decision.refuses());
    }
    assert_eq!((toy.calls.get(), cache.len()), (1, 1));
    let late = Duration::from_secs(1_000_661);
    let expired = decide_at(&engine, &headers, &mut cache, late, &toy);
    assert_eq!((expired.decision.reason.code, cache.len()), ("token_expired", 0));
}

#[test]
fn a_known_token_in_another_place_is_verified_anew() {
    let rules = [
        rule("a", r#","fromHeaders":[{"name":"x"}],"audiences":["api"]"#),
        rule("a", r#","fromHeaders":[{"name":"y"}]"#),
    ];
    let engine = engine(&[&rules.join(",")]);
    let mut cache = engine.cache([1, 2]);
    let token = of("a");
    let reason =
        |cache: &mut TokenCache, header| decide(&engine, &[(header, &token)], cache).decision.reason.code;
    assert_eq!(reason(&mut cache, "y"), "valid_token");
    assert_eq!(reason(&mut cache, "x"), "wrong_audience");
    assert_eq!(reason(&mut cache, "y"), "valid_token");
}

#[test]
fn a_verifier_without_an_answer_refuses_and_is_not_remembered() {
    let engine = engine(&[&rule("a", "")]);
    let mut cache = engine.cache([1, 2]);
    let bearer = bearer(&of("a"));
    let headers = [("authorization", bearer.as_str())];
    let broken = Toy { broken: true, ..Toy::default() };
    let outcome = decide_at(&engine, &headers, &mut cache, NOW, &broken);
    assert_eq!((outcome.decision.reason.code, outcome.reply().status), ("cannot_verify", 500));
    assert!(outcome.decision.refuses() && cache.is_empty() && outcome.reply().headers.is_empty());
}
