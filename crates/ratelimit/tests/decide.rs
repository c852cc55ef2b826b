//! What the engine decides and answers.
#![cfg(not(target_family = "wasm"))]

mod common;

use common::*;
use sailcloth_core::decision::{Mode, Verdict};
use sailcloth_ratelimit::{Engine, RowKey, Store, StoreError};

const GET: &[(&str, &str)] = &[(":method", "GET"), (":path", "/api"), (":authority", "shop")];

fn said(outcome: &sailcloth_ratelimit::Outcome<'_>) -> Vec<String> {
    outcome.said.iter().map(sailcloth_core::decision::Decision::state).collect()
}

#[test]
fn a_limited_request_is_429_with_honest_headers() {
    let engine = engine(r#"[{"limit": {"requests": 2, "per": "1m", "burst": 3}}]"#);
    let mut store = Memory::default();
    for _ in 0..3 {
        assert!(admits(&engine, &mut store, GET, SECOND));
    }
    let outcome = ask(&engine, &mut store, GET, SECOND + 1);
    let reply = outcome.refusal.unwrap().reply;
    assert_eq!((reply.status, reply.grpc_status, reply.body.as_ref()), (429, 8, "rate limit exceeded"));
    assert_eq!(reply.details, "sailcloth_ratelimit_limited[shop/limits#0]");
    let headers: Vec<(&str, &str)> =
        reply.headers.iter().map(|(name, value)| (*name, value.as_ref())).collect();
    assert_eq!(
        headers,
        [
            ("retry-after", "30"),
            ("x-envoy-ratelimited", "true"),
            ("x-ratelimit-limit", "2, 2;w=60;burst=3"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "90"),
        ]
    );
    assert!(admits(&engine, &mut store, GET, 31 * SECOND), "after retry-after it is admitted");
}

#[test]
fn the_answer_can_be_written() {
    let rules = r#"[{"limit": {"requests": 1, "per": "1m"},
        "deny": {"status": 503, "body": "slow down", "headers": {"Retry-After": "7", "x-why": "limit"}}}]"#;
    let engine = engine_with(rules, r#"{"headers": "never"}"#);
    let mut store = Memory::default();
    assert!(admits(&engine, &mut store, GET, SECOND));
    let refusal = ask(&engine, &mut store, GET, SECOND).refusal.unwrap();
    assert_eq!((refusal.reply.status, refusal.reply.body.as_ref()), (503, "slow down"));
    assert_eq!(refusal.reply.headers, [("x-envoy-ratelimited", "true".into())]);
    assert_eq!(refusal.headers, [("retry-after".into(), "7".into()), ("x-why".into(), "limit".into())]);
}

#[test]
fn all_matching_rules_must_pass_and_a_refusal_takes_from_none() {
    let engine = engine(
        r#"[{"name": "total", "limit": {"requests": 3, "per": "1h"}},
            {"name": "client", "key": [{"header": "k"}], "limit": {"requests": 1, "per": "1m"}},
            {"name": "other", "match": {"to": [{"operation": {"paths": ["/other"]}}]}, "limit": {"requests": 1, "per": "1m"}}]"#,
    );
    let mut store = Memory::default();
    let mut from = |client: &str, now| {
        let pairs = [GET, &[("k", client)]].concat();
        let outcome = ask(&engine, &mut store, &pairs, now);
        (outcome.refusal.map(|refusal| refusal.reply.details), outcome.enforced.by.map(|by| by.rule))
    };
    assert_eq!(from("a", SECOND), (None, Some(0)));
    for _ in 0..10 {
        let (details, by) = from("a", SECOND);
        assert_eq!((details.unwrap().as_str(), by), ("sailcloth_ratelimit_limited[shop/limits#1]", Some(1)));
    }
    assert_eq!(from("b", SECOND).0, None, "ten refusals took nothing from the total");
    assert_eq!(from("c", SECOND).0, None);
    assert!(from("d", SECOND).0.unwrap().contains("#0"));
    // Both are over: the one that lasts longer is told.
    assert!(from("a", SECOND).0.unwrap().contains("#0"));
}

#[test]
fn a_shadow_rule_counts_and_refuses_nothing() {
    let engine = engine(r#"[{"mode": "shadow", "limit": {"requests": 1, "per": "1m"}}]"#);
    let mut store = Memory::default();
    let first = ask(&engine, &mut store, GET, SECOND);
    assert_eq!(said(&first), ["allow shop/limits#0 within_limit"]);
    let outcome = ask(&engine, &mut store, GET, SECOND);
    assert_eq!(outcome.refusal, None);
    assert_eq!(outcome.enforced.state(), "allow none no_rule_matched");
    let shadow = outcome.shadow.clone().unwrap();
    assert_eq!((shadow.mode, shadow.verdict), (Mode::Shadow, Verdict::Limit));
    assert_eq!(said(&outcome), ["limit shop/limits#0 limited"]);
}

#[test]
fn a_missing_key_shares_a_bucket_or_skips_the_rule() {
    let rules = |missing: &str| {
        engine(&format!(
            r#"[{{"key": [{{"header": "k"}}], "onMissingKey": "{missing}", "limit": {{"requests": 1, "per": "1m"}}}}]"#
        ))
    };
    let (shared, skip) = (rules("shared"), rules("skip"));
    let mut store = Memory::default();
    assert!(admits(&shared, &mut store, GET, SECOND) && !admits(&shared, &mut store, GET, SECOND));
    let empty = [GET, &[("k", "")]].concat();
    assert!(admits(&shared, &mut store, &empty, SECOND), "an empty key is a key");
    for _ in 0..3 {
        let outcome = ask(&skip, &mut store, GET, SECOND);
        assert_eq!(said(&outcome), ["allow shop/limits#0 key_missing"]);
        assert_eq!(outcome.refusal, None);
    }
}

#[test]
fn a_repeated_key_escapes_nothing_even_where_missing_ones_are_skipped() {
    let engine = engine(
        r#"[{"key": [{"header": "k"}], "onMissingKey": "skip", "limit": {"requests": 1, "per": "1m"}}]"#,
    );
    let mut store = Memory::default();
    assert!(admits(&engine, &mut store, &[("k", "a"), ("k", "1")], SECOND));
    assert!(!admits(&engine, &mut store, &[("k", "a"), ("k", "2")], SECOND));
}

#[test]
fn an_unknown_peer_address_is_refused_whatever_the_client_forwards() {
    let engine = engine(r#"[{"key": [{"sourceIp": {}}], "limit": {"requests": 1, "per": "1m"}}]"#);
    let mut store = Memory::default();
    let spoofed = [GET, &[("x-forwarded-for", "9.9.9.9")]].concat();
    let refusal = ask(&engine, &mut store, &spoofed, SECOND).refusal.unwrap();
    assert_eq!(refusal.reply.status, 500);
    assert_eq!(refusal.reply.details, "sailcloth_ratelimit_peer_address_unavailable[shop/limits#0]");
    let peer = Peer("10.0.0.1".into());
    let mut admitted = |forwarded: &str| {
        let pairs = [GET, &[("x-forwarded-for", forwarded)]].concat();
        ask_with(&engine, &mut store, &pairs, SECOND, &peer).refusal.is_none()
    };
    assert_eq!(["1.1.1.1", "2.2.2.2", "3.3.3.3"].map(&mut admitted), [true, false, false]);
}

#[test]
fn bytes_that_are_no_text_are_a_key_like_any_other() {
    let engine = engine(r#"[{"key": [{"header": "k"}], "limit": {"requests": 1, "per": "1m"}}]"#);
    let mut store = Memory::default();
    let mut ask = |value: &[u8]| {
        let headers = sailcloth_core::headers::HeaderBlock::from_pairs([("k", value)]);
        let facts = sailcloth_core::facts::Facts::new(&sailcloth_core::facts::NoProperties, engine.sources());
        let request = sailcloth_core::request::Request { headers: &headers, facts };
        let step =
            engine.decide(&request, moment(SECOND), &mut store, &mut sailcloth_ratelimit::Worker::default());
        step.outcome.unwrap().refusal.is_none()
    };
    assert!(ask(b"caf\xe9") && !ask(b"caf\xe9") && ask(b"caf\xe8"));
    assert!(ask(&vec![b'x'; 1 << 20]));
}

/// A store that fails or is always too slow.
struct Broken {
    read: bool,
    contended: bool,
}

impl Store for Broken {
    fn read(&mut self, _: RowKey) -> Result<Option<(Vec<u8>, u32)>, StoreError> {
        if self.read { Ok(None) } else { Err(StoreError("internal_failure")) }
    }

    fn write(&mut self, _: RowKey, _: &[u8], _: Option<u32>) -> Result<bool, StoreError> {
        if self.contended { Ok(false) } else { Err(StoreError("internal_failure")) }
    }
}

#[test]
fn a_store_that_fails_refuses_with_500_and_one_that_is_always_busy_with_429() {
    let rule = r#"{"limit": {"requests": 1, "per": "1m"}}"#;
    let enforced = engine(&format!("[{rule}]"));
    let shadow = engine(&format!("[{}]", rule.replacen('{', r#"{"mode": "shadow", "#, 1)));
    for (name, read, contended, status, code) in [
        ("read fails", false, false, 500, "store_error"),
        ("write fails", true, false, 500, "store_error"),
        ("always contended", true, true, 429, "contended"),
    ] {
        let outcome = ask(&enforced, &mut Broken { read, contended }, GET, SECOND);
        let reply = outcome.refusal.expect(name).reply;
        assert_eq!(reply.status, status, "{name}");
        assert_eq!(reply.details, format!("sailcloth_ratelimit_{code}[shop/limits#0]"), "{name}");
        assert_eq!(ask(&shadow, &mut Broken { read, contended }, GET, SECOND).refusal, None, "{name}");
    }
}

#[test]
fn rules_for_other_paths_and_methods_do_not_count() {
    let engine = engine(
        r#"[{"match": {"to": [{"operation": {"methods": ["POST"], "paths": ["/api"]}},
                              {"operation": {"paths": ["/api/*"]}}]}, "limit": {"requests": 1, "per": "1m"}}]"#,
    );
    let mut store = Memory::default();
    for (method, path, counted) in
        [("GET", "/api", false), ("POST", "/api", true), ("GET", "/api/x?y", true), ("GET", "/other", false)]
    {
        let outcome = ask(&engine, &mut store, &[(":method", method), (":path", path)], SECOND);
        assert_eq!(!outcome.said.is_empty(), counted, "{method} {path}");
    }
}

#[test]
fn mistakes_across_rules_and_policies_are_located() {
    let errors = |text: &str| -> Vec<String> {
        Engine::load(text.as_bytes()).unwrap_err().iter().map(ToString::to_string).collect()
    };
    let rule = r#"{"limit": {"requests": 1, "per": "1m"}}"#;
    assert_eq!(
        errors(&config(&format!("[{rule}, {rule}]"), "{}")),
        [
            "resources[0].spec.rules[1]: is the same as an earlier rule, so it would share its buckets; remove it or give it a `name`"
        ]
    );
    assert_eq!(
        errors(&config(r#"[{"limit": {"requests": 2000000, "per": "1s"}}]"#, "{}")),
        [
            "resources[0].spec.rules[0].limit: more than 1000000 requests a second cannot be told apart; lower `requests`"
        ]
    );
    assert_eq!(
        errors(&config(r#"[{"limit": {"requests": 1, "per": "day", "burst": 1000000000}}]"#, "{}")),
        ["resources[0].spec.rules[0].limit: a burst of that size would take more than ten years to refill"]
    );
    assert_eq!(
        errors(&config(&format!("[{rule}]"), r#"{"slots": 1, "headers": "sometimes", "slot": 3}"#)),
        [
            "settings.slots: 1 is out of range; expected 16 to 16777216",
            "settings.headers: unknown value `sometimes`; expected `limited`, `always`, `never`",
            "settings.slot: unknown field; did you mean `slots`?",
        ]
    );
    let twice = config(&format!("[{rule}]"), "{}").replace("\"resources\": [", "\"resources\": [DOC, ");
    let document = r#"{"apiVersion": "sailcloth.dev/v1alpha1", "kind": "RateLimit",
        "metadata": {"name": "limits", "namespace": "shop"}, "spec": {"rules": [{"limit": {"requests": 2, "per": "1m"}}]}}"#;
    assert_eq!(
        errors(&twice.replace("DOC", document)),
        ["resources[1]: `shop/limits` is defined twice; keep one"]
    );
}
