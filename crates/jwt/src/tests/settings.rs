//! What a configuration may say.

use super::*;
#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn what_this_version_cannot_do_is_refused_by_name() {
    for (rule, message) in [
        (r#"{"issuer":"a","jwksUri":"https://me@a/jwks"}"#, "jwtRules[0].jwksUri: may not name a user (`@`)"),
        (
            r#"{"issuer":"a"}"#,
            "jwtRules[0]: has neither `jwks` nor `jwksUri`, and its `issuer` must begin with `http://`",
        ),
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
fn settings_of_fetching_are_read_and_bounded() {
    let load = |jwks: &str| {
        let text = configuration(&[], &format!(r#","settings":{{"jwks":{jwks}}}"#));
        Engine::load(text.as_bytes(), &ENVIRONMENT).map_err(|problems| problems[0].to_string())
    };
    let all = r#"{"clusters":{"A.example":"a","b.example:8443":"b"},"refreshInterval":"1m",
        "refetchInterval":"500ms","maxAge":"2h","maxBytes":4096,"maxWaiting":0}"#;
    let jwks = load(all).unwrap().0.settings.jwks;
    assert_eq!((jwks.max_bytes, jwks.max_waiting), (4096, 0));
    for (url, cluster) in [
        ("https://a.example/k", "a"),
        ("https://a.example:9/k", "a"),
        ("https://b.example:8443/k", "b"),
        ("https://b.example/k", "outbound|443||b.example"),
        ("http://c.example/k", "outbound|80||c.example"),
    ] {
        assert_eq!(jwks.cluster(&crate::Url::parse(url).unwrap()), cluster, "{url}");
    }
    for (bad, why) in [
        (r#"{"refreshInterval":"1s"}"#, "settings.jwks.refreshInterval: must be from `10s` to `24h`"),
        (r#"{"refetchInterval":"1ms"}"#, "settings.jwks.refetchInterval: must be from `100ms` to `1m`"),
        (r#"{"maxAge":"1m"}"#, "settings.jwks.maxAge: must be from `5m` to `720h`"),
        (r#"{"maxBytes":1}"#, "settings.jwks.maxBytes: 1 is out of range"),
        (r#"{"maxWaiting":-1}"#, "settings.jwks.maxWaiting: -1 is out of range"),
        (r#"{"clusters":{"https://a":"x"}}"#, "is not for a host"),
        (r#"{"clusters":{"a":""}}"#, "may not be empty"),
        (r#"{"cluster":{}}"#, "did you mean `clusters`"),
    ] {
        let found = load(bad).map(|_| ()).unwrap_err();
        assert!(found.contains(why), "{bad}: {found}");
    }
}

#[test]
fn settings_bound_the_token_and_the_cache() {
    let rest = r#","settings":{"maxTokenBytes":256,"tokenCache":{"bytes":0}}"#;
    let (engine, _) = Engine::load(configuration(&[&rule("a", "")], rest).as_bytes(), &ENVIRONMENT).unwrap();
    let long = bearer(&token(1, &format!(r#"{{"iss":"a","x":"{}"}}"#, "y".repeat(256))));
    assert_eq!(summary(&engine, &[("authorization", &long)]), "deny token_too_large 401 none");
    let mut cache = engine.cache([1, 2]);
    let short = bearer(&token(1, r#"{"iss":"a"}"#));
    assert!(!decide(&engine, &[("authorization", &short)], &mut cache).decision.refuses());
    assert!(cache.is_empty());
    for bad in [r#"{"maxTokenBytes":1}"#, r#"{"tokenCache":{"byte":1}}"#, r#"{"tokenCache":{"bytes":-1}}"#] {
        let rest = format!(r#","settings":{bad}"#);
        assert!(Engine::load(configuration(&[], &rest).as_bytes(), &ENVIRONMENT).is_err(), "{bad}");
    }
}

fn with_issuers(rules: &str, issuers: &str) -> Result<Engine, Vec<String>> {
    let rest = format!(r#","settings":{{"issuers":{issuers}}}"#);
    let loaded = Engine::load(configuration(&[rules], &rest).as_bytes(), &ENVIRONMENT);
    loaded.map(|(engine, _)| engine).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn an_issuers_settings_hold_for_its_tokens_alone() {
    let rules = [rule("a", ""), rule("b", "")].join(",");
    let settings = r#"{"a":{"leeway":"10s","requiredClaims":["exp","org.id"],"maxLifetime":"10m","algorithms":["RS256","ES256"]}}"#;
    let engine = with_issuers(&rules, settings).unwrap();
    for (claims, expected) in [
        (r#""exp":1000100,"iat":999500,"org":{"id":7}"#, "allow valid_token 0 n/r0#0"),
        (r#""exp":1000101,"iat":999500,"org":{"id":7}"#, "deny lifetime_too_long 401 n/r0#0"),
        (r#""exp":999989,"iat":999500,"org":{"id":7}"#, "deny token_expired 401 n/r0#0"),
        (r#""exp":999990,"iat":999500,"org":{"id":7}"#, "allow valid_token 0 n/r0#0"),
        (r#""exp":1000100,"nbf":1000011,"iat":999500,"org":{"id":7}"#, "deny token_not_yet_valid 401 n/r0#0"),
        (r#""iat":999500,"org":{"id":7}"#, "deny claim_missing 401 n/r0#0"),
        (r#""exp":1000100,"org":{"id":7}"#, "deny claim_missing 401 n/r0#0"),
        (r#""exp":1000100,"iat":999500,"org":{"id":null}"#, "deny claim_missing 401 n/r0#0"),
        (r#""exp":1000100,"iat":999500,"org":"id""#, "deny claim_missing 401 n/r0#0"),
    ] {
        let token = bearer(&token(1, &format!(r#"{{"iss":"a",{claims}}}"#)));
        assert_eq!(summary(&engine, &[("authorization", &token)]), expected, "{claims}");
    }
    let other = bearer(&token(1, r#"{"iss":"b","exp":999940}"#));
    assert_eq!(summary(&engine, &[("authorization", &other)]), "allow valid_token 0 n/r0#1");
}

#[test]
fn an_algorithm_that_is_not_listed_is_refused() {
    let engine = with_issuers(&rule("a", ""), r#"{"*":{"algorithms":["ES256"]}}"#).unwrap();
    let token = bearer(&of("a"));
    assert_eq!(summary(&engine, &[("authorization", &token)]), "deny alg_not_allowed 401 n/r0#0");
}

#[test]
fn presence_may_be_required_by_issuer() {
    let engine = with_issuers(&rule("a", ""), r#"{"a":{"presence":"required"}}"#).unwrap();
    assert_eq!(summary(&engine, &[]), "deny token_missing 401 n/r0#0");
}

#[test]
fn in_shadow_a_refusal_is_said_and_the_request_passes_as_nobody() {
    let rules = [rule("a", ""), rule("b", "")].join(",");
    let engine = with_issuers(&rules, r#"{"a":{"mode":"shadow","presence":"required"}}"#).unwrap();
    let expired = |issuer: &str| bearer(&token(1, &format!(r#"{{"iss":"{issuer}","exp":1}}"#)));
    let mut cache = engine.cache([1, 2]);
    let headers = [("authorization", expired("a"))];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for headers in [headers.as_slice(), &[]] {
        let outcome = decide(&engine, headers, &mut cache);
        assert_eq!(outcome.decision.verdict, Verdict::Deny);
        assert!(!outcome.decision.refuses() && outcome.token().is_none() && outcome.edits.is_empty());
        assert_eq!(outcome.state(), Token::anonymous_state());
    }
    let good = bearer(&of("a"));
    assert!(decide(&engine, &[("authorization", &good)], &mut cache).token().is_some());
    // The other issuer is not in shadow, nor is a token of nobody.
    for bad in [expired("b"), bearer(&of("c")), bearer("x")] {
        assert!(decide(&engine, &[("authorization", &bad)], &mut cache).decision.refuses(), "{bad}");
    }
    let all = with_issuers(&rules, r#"{"*":{"mode":"shadow"}}"#).unwrap();
    for bad in [expired("b"), bearer(&of("c")), bearer("x")] {
        assert!(
            !decide(&all, &[("authorization", &bad)], &mut all.cache([1, 2])).decision.refuses(),
            "{bad}"
        );
    }
}

#[test]
fn a_rule_that_acts_is_not_hidden_by_one_in_shadow() {
    // The rule without an issuer stands first, and refuses first.
    let any = format!(r#"{{"jwks":"{}"}}"#, jwks(&[1]));
    let rules = [any, rule("b", "")].join(",");
    let engine = with_issuers(&rules, r#"{"*":{"mode":"shadow"},"b":{}}"#).unwrap();
    let expired = bearer(&token(1, r#"{"iss":"b","exp":1}"#));
    let outcome = decide(&engine, &[("authorization", &expired)], &mut engine.cache([1, 2])).decision;
    assert!(outcome.refuses() && outcome.by.unwrap().rule == 1);
}

#[test]
fn mistakes_in_an_issuers_settings_are_located() {
    for (issuers, message) in [
        (r#"{"b":{}}"#, "settings.issuers.b: no rule has this issuer"),
        (r#"{"a":{"leway":"1s"}}"#, "settings.issuers.a.leway: unknown field; did you mean `leeway`?"),
        (r#"{"a":{"leeway":"2h"}}"#, "settings.issuers.a.leeway: may not be more than `1h`"),
        (r#"{"a":{"leeway":60}}"#, "settings.issuers.a.leeway: expected a string, found a number"),
        (r#"{"a":{"maxLifetime":"0s"}}"#, "settings.issuers.a.maxLifetime: must be at least `1s`"),
        (r#"{"a":{"algorithms":[]}}"#, "settings.issuers.a.algorithms: may not be empty"),
        (r#"{"a":{"algorithms":["none"]}}"#, "settings.issuers.a.algorithms[0]: unknown value `none`"),
        (r#"{"a":{"requiredClaims":[""]}}"#, "settings.issuers.a.requiredClaims[0]: may not be empty"),
        (r#"{"a":{"presence":"REQUIRED"}}"#, "expected `optional`, `required`"),
        (r#"{"a":{"mode":"report"}}"#, "expected `enforce`, `shadow`"),
    ] {
        let problems = with_issuers(&rule("a", ""), issuers).unwrap_err().join("\n");
        assert!(problems.contains(message), "{issuers}: {problems}");
    }
    let usual = Environment { algorithms: Algorithms::USUAL, ..ENVIRONMENT };
    let rest = r#","settings":{"issuers":{"a":{"algorithms":["PS256"]}}}"#;
    let problems = Engine::load(configuration(&[&rule("a", "")], rest).as_bytes(), &usual).unwrap_err();
    assert!(
        problems[0].to_string().contains("settings.issuers.a: `PS256` needs the full build"),
        "{problems:?}"
    );
}
