//! What a rule may say.

use std::time::Duration;

use sailcloth_core::config::{Node, Problems};
use sailcloth_core::key::KeyPart;
#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;

fn read(spec: &str) -> Result<RateLimit, Vec<String>> {
    let node = Node::from_json(spec.as_bytes()).unwrap();
    let problems = Problems::default();
    let policy = RateLimit::read(Kind::RATE_LIMIT, &Metadata::default(), &Value::root(&node, &problems));
    policy.filter(|_| !problems.refuse()).ok_or_else(|| problems.errors())
}

fn rule(fields: &str) -> Result<LimitRule, Vec<String>> {
    read(&format!(r#"{{"rules": [{{{fields}}}]}}"#)).map(|mut policy| policy.rules.remove(0))
}

fn local(rule: LimitRule) -> Local {
    match rule.bound {
        Bound::Local(local) => local,
        Bound::Global(global) => panic!("{global:?}"),
    }
}

const LIMIT: &str = r#""limit": {"requests": 100, "per": "1m"}"#;
const KEY: &str = r#""key": [{"header": "k"}], "limit": {"requests": 100, "per": "1m"}"#;
const TWO: &str = r#""key": [{"header": "k"}, {"method": {}}], "limit": {"requests": 100, "per": "1m"}"#;
const ASK: &str =
    r#""key": [{"header": "k"}], "global": {"cluster": "rls", "domain": "shop", "onFailure": "deny"}"#;

#[test]
fn a_limit_alone_is_one_bucket_for_all_with_a_burst_of_its_requests() {
    let rule = rule(LIMIT).unwrap();
    assert_eq!((rule.key.len(), rule.to.len(), rule.shadow), (0, 0, false));
    assert_eq!((rule.cost.clone(), rule.on_missing_key), (Cost::Fixed(1), MissingKey::Shared));
    let limit = Limit { requests: 100, per: Duration::from_secs(60), burst: 100, lease: 1 };
    assert_eq!(local(rule), Local { limit, overrides: Vec::new(), unlisted: Unlisted::Separate });
}

#[test]
fn every_key_part_is_read_with_its_name_in_a_descriptor() {
    let key = r#""key": [{"header": "X-API-Key"}, {"cookie": "sid", "as": "session"}, {"queryParameter": "q"}, {"claim": "sub"},
        {"claim": ["realm", "id"]}, {"sourceIp": {}}, {"sourceIp": {"prefixLength": 24, "prefixLengthV6": 48}},
        {"method": {}}, {"principal": {}}, {"requestPrincipal": {}}, {"constant": "all"}]"#;
    let rule = rule(&format!("{LIMIT}, {key}")).unwrap();
    let read: Vec<(KeyPart, String)> =
        rule.key.iter().map(|item| (item.part.clone(), item.entry())).collect();
    let expected = [
        (KeyPart::Header("x-api-key".into()), "x-api-key"),
        (KeyPart::Cookie("sid".into()), "session"),
        (KeyPart::QueryParameter("q".into()), "q"),
        (KeyPart::Claim(vec!["sub".into()]), "sub"),
        (KeyPart::Claim(vec!["realm".into(), "id".into()]), "realm.id"),
        (KeyPart::SourceIp { prefix: 32, prefix_v6: 64 }, "remote_address"),
        (KeyPart::SourceIp { prefix: 24, prefix_v6: 48 }, "remote_address"),
        (KeyPart::Method, "method"),
        (KeyPart::Principal, "principal"),
        (KeyPart::RequestPrincipal, "request_principal"),
        (KeyPart::Constant("all".into()), "generic_key"),
    ];
    assert_eq!(read, expected.map(|(part, name)| (part, name.to_owned())));
}

#[test]
fn periods_are_units_or_durations() {
    for (per, seconds) in [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400), ("1m30s", 90)] {
        let rule = rule(&format!(r#""limit": {{"requests": 1, "per": "{per}"}}"#)).unwrap();
        assert_eq!(local(rule).limit.per, Duration::from_secs(seconds), "{per}");
    }
}

#[test]
fn a_table_is_read_and_its_keys_are_not_printed() {
    let table = format!(
        r#"{TWO}, "overrides": [{{"key": ["gold", "*"], "limit": {{"requests": 7, "per": "1s"}}}}], "unlisted": "separate""#
    );
    let rule = rule(&table).unwrap();
    assert!(!format!("{rule:?}").contains("gold"), "{rule:?}");
    let local = local(rule);
    let keys: Vec<Vec<Option<&str>>> = local
        .overrides
        .iter()
        .map(|over| {
            over.key.iter().map(|value| value.as_ref().map(|value| value.expose().as_str())).collect()
        })
        .collect();
    assert_eq!(keys, [[Some("gold"), None]]);
    assert_eq!((local.overrides[0].limit.requests, local.unlisted), (7, Unlisted::Separate));
    let one = format!(r#"{KEY}, "overrides": [{{"key": "gold", "limit": {{"requests": 7, "per": "1s"}}}}]"#);
    assert_eq!(super::tests::local(super::tests::rule(&one).unwrap()).unlisted, Unlisted::Shared);
}

#[test]
fn costs_are_numbers_or_what_a_header_or_the_response_says() {
    let cost = |json: &str| rule(&format!(r#"{LIMIT}, "cost": {json}"#)).unwrap().cost;
    assert_eq!(cost("5"), Cost::Fixed(5));
    let header = |default, max| Cost::Header { name: "x-n".into(), default, max };
    assert_eq!(cost(r#"{"header": "X-N"}"#), header(1, None));
    assert_eq!(cost(r#"{"header": "x-n", "default": 2, "max": 9}"#), header(2, Some(9)));
    assert_eq!(
        cost(r#"{"response": {"header": "x-n", "statuses": [401, "5xx"], "default": 0, "max": 500}}"#),
        Cost::Response(ResponseCost {
            header: Some("x-n".into()),
            statuses: vec![Statuses { first: 401, last: 401 }, Statuses { first: 500, last: 599 }],
            default: 0,
            max: Some(500),
        })
    );
}

#[test]
fn a_service_is_read_with_its_defaults() {
    let global = |fields: &str| match rule(&format!(r#""key": [{{"header": "k"}}], "global": {fields}"#))
        .unwrap()
        .bound
    {
        Bound::Global(global) => global,
        Bound::Local(local) => panic!("{local:?}"),
    };
    let plain = global(r#"{"cluster": "rls", "domain": "shop", "onFailure": "allow"}"#);
    assert_eq!(
        plain,
        Global {
            cluster: "rls".into(),
            domain: "shop".into(),
            timeout: Duration::from_millis(20),
            on_failure: OnFailure::Allow,
            breaker: Breaker { failures: 5, open_for: Duration::from_secs(1) },
        }
    );
    let full = global(
        r#"{"cluster": "rls", "domain": "shop", "timeout": "250ms", "onFailure": "local",
            "local": {"requests": 10, "per": "minute"}, "circuitBreaker": {"failures": 3, "openFor": "5s"}}"#,
    );
    let limit = Limit { requests: 10, per: Duration::from_secs(60), burst: 10, lease: 1 };
    assert_eq!((full.timeout, full.on_failure), (Duration::from_millis(250), OnFailure::Local(limit)));
    assert_eq!(full.breaker, Breaker { failures: 3, open_for: Duration::from_secs(5) });
}

#[test]
fn bad_rules_are_located_errors() {
    let later = "is not supported by this version of the ratelimit filter";
    let limit = |limit: &str| format!(r#""limit": {limit}"#);
    let with = |base: &str, more: &str| format!("{base}, {more}");
    let cases: Vec<(String, String)> = [
        (limit(r#"{"requests": 0, "per": "1m"}"#), "limit.requests: 0 is out of range; expected 1 to 1000000000"),
        (limit(r#"{"requests": -1, "per": "1m"}"#), "limit.requests: -1 is out of range; expected 1 to 1000000000"),
        (limit(r#"{"requests": 1.5, "per": "1m"}"#), "limit.requests: expected a whole number, found a number"),
        (limit(r#"{"requests": 1, "per": "0s"}"#), "limit.per: `0s` is out of range; expected more than 0 and at most 366 days"),
        (limit(r#"{"requests": 1, "per": "fortnight"}"#), "limit.per: unknown unit `fortnight`; expected `second`, `minute`, `hour`, `day` or a duration like `30s`"),
        (limit(r#"{"requests": 1, "per": "1x"}"#), "limit.per: `1x` is not a duration; expected a form like `10s`, `1m30s` or `250ms`"),
        (limit(r#"{"requests": 1, "per": "1s", "burst": 0}"#), "limit.burst: 0 is out of range; expected 1 to 1000000000"),
        (limit(r#"{"requests": 9, "per": "1s", "burst": 2, "lease": 3}"#), "limit.lease: a worker cannot take more at once than the burst of 2"),
        (limit(r#"{"requests": 9, "per": "1s", "burst": 2}, "cost": 3"#), "limit: one request costs 3, which a burst of 2 can never give; raise `burst` or lower the cost"),
        (limit(r#"{"requests": 9, "per": "1s", "burst": 2}, "cost": {"header": "x", "max": 3}"#), "limit: one request may cost 3, which a burst of 2 can never give; raise `burst` or lower the cost"),
        (limit(r#"{"requests": 9, "per": "1s", "burst": 2}, "cost": {"header": "x", "default": 3}"#), "limit: a request without the header costs 3, which a burst of 2 can never give; raise `burst` or lower the cost"),
        (with(LIMIT, r#""cost": 0"#), "cost: 0 is out of range; expected 1 to 1000000000"),
        (with(LIMIT, r#""cost": {}"#), "cost: expected a number, `header` or `response`"),
        (with(LIMIT, r#""cost": {"header": "x", "default": 5, "max": 2}"#), "cost.max: is less than the default of 5"),
        (with(LIMIT, r#""cost": {"header": "x", "response": {"header": "y"}}"#), "cost.header: `header` beside `response` has no meaning; write it inside"),
        (with(LIMIT, r#""cost": {"response": {}}"#), "cost.response: needs `header` or `statuses`, which say what a response costs"),
        (with(LIMIT, r#""cost": {"response": {"statuses": ["6xx"]}}"#), "cost.response.statuses[0]: `6xx` is not a status; expected a form like `401` or `4xx`"),
        (with(LIMIT, r#""cost": {"response": {"statuses": [99]}}"#), "cost.response.statuses[0]: 99 is out of range; expected 100 to 599"),
        (with(ASK, LIMIT), ": `limit` and `global` exclude each other; keep one"),
        (r#""name": "x""#.into(), ": needs `limit`, or `global` to ask a rate limit service"),
        (ASK.replace(r#""key": [{"header": "k"}], "#, ""), "global: needs a `key`, of which its descriptor is made; for one bucket write `key: [{constant: all}]`"),
        (ASK.replace("deny", "local"), "global: `onFailure: local` needs `local`, the limit that holds meanwhile"),
        (ASK.replace(r#", "onFailure": "deny""#, ""), "global: missing field `onFailure`"),
        (ASK.replace(r#""rls""#, r#""""#), "global.cluster: may not be empty"),
        (ASK.replace(r#""rls""#, r#""r\u0001s""#), "global.cluster: a cluster's name holds no control characters"),
        (ASK.replace(r#""shop""#, r#""shop", "timeout": "0s""#), "global.timeout: `0s` is out of range; expected 1ms to 10s"),
        (ASK.replace(r#""shop""#, r#""shop", "local": {"requests": 1, "per": "1s"}"#), "global.local: takes no effect with `onFailure: deny`; write `onFailure: local`"),
        (ASK.replace(r#""shop""#, r#""shop", "circuitBreaker": {"failures": 0}"#), "global.circuitBreaker.failures: 0 is out of range; expected 1 to 10000"),
        (with(ASK, r#""overrides": []"#), "overrides: `overrides` has no meaning beside `global`: the rate limit service has its own table"),
        (with(ASK, r#""cost": {"response": {"header": "x"}}"#), "cost: a cost that only the response knows cannot be asked of a rate limit service; use `limit`"),
        (with(KEY, r#""overrides": []"#), "overrides: may not be empty; leave `overrides` out where no key has a limit of its own"),
        (with(LIMIT, r#""overrides": [{"key": "a", "limit": {"requests": 1, "per": "1s"}}]"#), "overrides: needs a `key`, whose values it lists"),
        (with(TWO, r#""overrides": [{"key": ["a"], "limit": {"requests": 1, "per": "1s"}}]"#), "overrides[0].key: has 1 values where `key` has 2 parts; give one for each, `*` for any"),
        (with(TWO, r#""overrides": [{"key": ["*", "*"], "limit": {"requests": 1, "per": "1s"}}]"#), "overrides[0].key: is every key, whose limit is the rule's own `limit`"),
        (with(KEY, r#""overrides": [{"key": "a", "limit": {"requests": 1, "per": "1s"}}, {"key": ["a"], "limit": {"requests": 2, "per": "1s"}}]"#), "overrides[1]: is the same key as an earlier one; keep one"),
        (with(KEY, r#""unlisted": "shared""#), "unlisted: says what becomes of keys that `overrides` does not name, and there are no `overrides`"),
        (with(LIMIT, r#""name": "a\"b""#), "name: may hold only printable ASCII without quotes and backslashes; it stands in response headers"),
        (with(LIMIT, r#""match": {}"#), "match: may not be empty; leave `match` out to count every request"),
        (with(LIMIT, r#""match": {"from": []}"#), &format!("match.from: `from` {later}")),
        (with(LIMIT, r#""match": {"to": [{"operation": {"path": []}}]}"#), "match.to[0].operation.path: unknown field; did you mean `paths`?"),
        (with(LIMIT, r#""key": []"#), "key: may not be empty; leave `key` out for one bucket that all requests share"),
        (with(LIMIT, r#""key": [{"header": "a b"}]"#), "key[0].header: `a b` is not a header name"),
        (with(LIMIT, r#""key": [{"sourceIp": {"prefixLength": 33}}]"#), "key[0].sourceIp.prefixLength: 33 is out of range; expected 0 to 32"),
        (with(LIMIT, r#""key": [{"header": "a", "cookie": "b"}]"#), "key[0]: `header` and `cookie` exclude each other; keep one"),
        (with(LIMIT, r#""deny": {"status": 200}"#), "deny.status: 200 is out of range; expected 400 to 599"),
        (with(LIMIT, r#""deny": {"headers": {"a": "b\nc"}}"#), "deny.headers.a: a header value may not contain line breaks or NUL"),
        (with(LIMIT, r#""mode": "dryrun""#), "mode: unknown value `dryrun`; expected `enforce`, `shadow`"),
        (with(LIMIT, r#""dryRun": true"#), "dryRun: `dryRun` is written `mode: shadow`"),
    ]
    .into_iter()
    .map(|(json, expected)| (json, expected.to_owned()))
    .collect();
    for (json, expected) in cases {
        let expected = format!("rules[0].{expected}").replace(".:", ":");
        let errors = rule(&json).unwrap_err();
        assert!(errors.contains(&expected), "{json}\n  expected {expected}\n  found {errors:?}");
    }
}

#[test]
fn a_policy_without_rules_is_refused() {
    assert_eq!(read("{}").unwrap_err(), ["missing field `rules`"]);
    assert_eq!(
        read(r#"{"rules": []}"#).unwrap_err(),
        ["rules: may not be empty; a RateLimit without rules limits nothing"]
    );
}
