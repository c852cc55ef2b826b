//! Costs, tables of keys, leases, and what a refusal gives back.
#![cfg(not(target_family = "wasm"))]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use common::*;
use sailcloth_core::facts::NoProperties;
use sailcloth_core::headers::HeaderBlock;
use sailcloth_ratelimit::{After, Engine, Worker};

fn details(engine: &Engine, store: &mut Memory, pairs: &[(&str, &str)], now: u64) -> Option<(u16, String)> {
    let refusal = ask(engine, store, pairs, now).refusal?;
    Some((refusal.reply.status, refusal.reply.details.replace("sailcloth_ratelimit_", "")))
}

#[test]
fn a_header_says_what_a_request_costs() {
    let engine = engine(
        r#"[{"cost": {"header": "x-n", "default": 2, "max": 5}, "limit": {"requests": 10, "per": "1h"}}]"#,
    );
    let mut store = Memory::default();
    let mut of = |n: &str| details(&engine, &mut store, &[("x-n", n)], SECOND);
    let limit = |code: &str| Some((429, format!("{code}[shop/limits#0]")));
    assert_eq!(of("6"), limit("cost_too_large"));
    assert_eq!(of("99999999999999999999"), limit("cost_too_large"));
    for unreadable in ["", "x", "-1", "1.5", "0x1", "1 2", "111111111111111111111"] {
        assert_eq!(of(unreadable), Some((400, "cost_unreadable[shop/limits#0]".into())), "{unreadable}");
    }
    assert_eq!((of("5"), of(" 4 ")), (None, None), "9 of 10");
    assert_eq!(of("2"), limit("limited"));
    assert_eq!(of("0"), None, "nothing is free: it costs 1");
    assert_eq!(of("0"), limit("limited"));
    let twice = [("x-n", "1"), ("x-n", "1")];
    let fresh = &mut Memory::default();
    assert_eq!(details(&engine, fresh, &twice, SECOND).unwrap().0, 400);
    assert_eq!([(); 6].map(|()| admits(&engine, fresh, &[], SECOND)), [true, true, true, true, true, false]);
}

/// Admits a request, then gives it its response.
fn exchange(engine: &Engine, store: &mut Memory, key: &str, response: &[(&str, &str)], now: u64) -> bool {
    let outcome = ask(engine, store, &[("k", key)], now);
    if outcome.refusal.is_some() {
        return false;
    }
    settle(engine, store, &outcome.after, response, now);
    true
}

fn settle(engine: &Engine, store: &mut Memory, after: &After, response: &[(&str, &str)], now: u64) {
    let headers = HeaderBlock::from_pairs(response.iter().copied());
    engine.settle(after, &headers, moment(now), store);
}

#[test]
fn only_failed_logins_count_where_the_response_decides() {
    let engine = engine(
        r#"[{"key": [{"header": "k"}], "cost": {"response": {"statuses": [401, "5xx"]}}, "limit": {"requests": 3, "per": "1h"}}]"#,
    );
    let mut store = Memory::default();
    let mut send =
        |key: &str, status: &str| exchange(&engine, &mut store, key, &[(":status", status)], SECOND);
    assert!((0..20).all(|_| send("a", "200")), "what succeeds is given back");
    assert!(send("a", "401") && send("a", "503") && send("a", "401"));
    assert!(!send("a", "200"), "three failures are the limit");
    assert!(send("b", "401"), "others are not touched");
    // What is under way is taken until it is known: no more than the bucket holds can be tried at once.
    let mut open = 0;
    let mut afters = Vec::new();
    for _ in 0..10 {
        let outcome = ask(&engine, &mut store, &[("k", "c")], SECOND);
        if outcome.refusal.is_none() {
            open += 1;
            afters.push(outcome.after);
        }
    }
    assert_eq!(open, 3);
    afters.iter().for_each(|after| settle(&engine, &mut store, after, &[(":status", "200")], SECOND));
    assert!(admits(&engine, &mut store, &[("k", "c")], SECOND), "and it is free again");
}

#[test]
fn a_response_that_costs_more_than_is_left_is_a_debt() {
    let engine = engine(
        r#"[{"key": [{"header": "k"}], "cost": {"response": {"header": "x-cost", "max": 50}}, "limit": {"requests": 10, "per": "10s"}}]"#,
    );
    let mut store = Memory::default();
    let mut send =
        |cost: &str, now| exchange(&engine, &mut store, "a", &[(":status", "200"), ("x-cost", cost)], now);
    assert!(send("30", SECOND));
    // 30 of 10, one a second: the next is admitted 21 seconds later.
    assert!(!send("1", 21 * SECOND) && send("1", 22 * SECOND));
    assert!(send("1000000", 60 * SECOND), "costs 50 at most");
    assert!(!send("1", 60 * SECOND + 40 * SECOND) && send("0", 60 * SECOND + 41 * SECOND));
    assert!(send("0", 60 * SECOND + 41 * SECOND), "what costs nothing is given back");
    for unreadable in ["x", ""] {
        let now = 1000 * SECOND;
        let mut store = Memory::default();
        let response = [(":status", "200"), ("x-cost", unreadable)];
        assert_eq!(
            (0..20).filter(|_| exchange(&engine, &mut store, "b", &response, now)).count(),
            10,
            "default 1"
        );
    }
}

const TABLE: &str = r#"[{"key": [{"header": "k"}, {"header": "t"}], "limit": {"requests": 2, "per": "1h"},
    "overrides": [{"key": ["gold", "*"], "limit": {"requests": 4, "per": "1h"}},
                  {"key": ["gold", "big"], "limit": {"requests": 6, "per": "1h"}},
                  {"key": ["silver", "small"], "limit": {"requests": 1, "per": "1h"}}]UNLISTED}]"#;

fn admitted(engine: &Engine, store: &mut Memory, k: &str, t: &str) -> usize {
    (0..10).filter(|_| admits(engine, store, &[("k", k), ("t", t)], SECOND)).count()
}

#[test]
fn keys_of_the_table_have_their_limits_and_invented_ones_share_one() {
    let shared = engine(&TABLE.replace("UNLISTED", ""));
    let mut store = Memory::default();
    let mut of = |k, t| admitted(&shared, &mut store, k, t);
    assert_eq!((of("gold", "big"), of("gold", "x"), of("gold", "y"), of("silver", "small")), (6, 4, 4, 1));
    assert_eq!((of("silver", "x"), of("invented", "1"), of("invented", "2")), (2, 0, 0));
    assert_eq!(of("gold", "y"), 0, "a key of the table has its own bucket");
    let separate = engine(&TABLE.replace("UNLISTED", r#", "unlisted": "separate""#));
    let mut store = Memory::default();
    let mut of = |k, t| admitted(&separate, &mut store, k, t);
    assert_eq!((of("silver", "x"), of("invented", "1"), of("gold", "big")), (2, 2, 6));
}

#[test]
fn a_missing_or_repeated_key_is_none_of_the_table() {
    let engine = engine(
        r#"[{"key": [{"header": "k"}], "limit": {"requests": 1, "per": "1h"},
             "overrides": [{"key": "", "limit": {"requests": 9, "per": "1h"}}, {"key": "a", "limit": {"requests": 9, "per": "1h"}}]}]"#,
    );
    let mut store = Memory::default();
    let mut count =
        |pairs: &[(&str, &str)]| (0..10).filter(|_| admits(&engine, &mut store, pairs, SECOND)).count();
    assert_eq!(count(&[("k", "a")]), 9);
    assert_eq!(count(&[("k", "")]), 9, "an empty key is a key");
    assert_eq!(count(&[]), 1);
    assert_eq!(count(&[("k", "a"), ("k", "a")]), 0, "shares the bucket of all others");
}

#[test]
fn an_edit_of_the_table_refills_no_other_bucket() {
    let before = engine(&TABLE.replace("UNLISTED", ""));
    let mut store = Memory::default();
    assert_eq!(admitted(&before, &mut store, "gold", "big"), 6);
    assert_eq!(admitted(&before, &mut store, "gold", "x"), 4);
    let after = engine(&TABLE.replace("UNLISTED", "").replace(r#""requests": 6"#, r#""requests": 7"#));
    assert_eq!(admitted(&after, &mut store, "gold", "x"), 0);
    assert_eq!(admitted(&after, &mut store, "gold", "big"), 7, "the limit that was edited starts afresh");
}

#[test]
fn addresses_in_a_table_are_networks() {
    let rules = r#"[{"key": [{"sourceIp": {"prefixLength": 24}}], "limit": {"requests": 1, "per": "1h"},
        "overrides": [{"key": "10.0.0.7", "limit": {"requests": 3, "per": "1h"}}]}]"#;
    let engine = engine(rules);
    let mut store = Memory::default();
    let mut from = |peer: &str| {
        let peer = Peer(peer.to_owned());
        (0..5).filter(|_| ask_with(&engine, &mut store, &[], SECOND, &peer).refusal.is_none()).count()
    };
    assert_eq!((from("10.0.0.99"), from("10.0.1.7")), (3, 1));
    let errors = Engine::load(config(&rules.replace("10.0.0.7", "ten"), "{}").as_bytes()).unwrap_err();
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        ["resources[0].spec.rules[0].overrides[0].key: is no address, which the key is made of"]
    );
}

#[test]
fn a_race_lost_in_the_second_bucket_gives_the_first_one_back() {
    let engine = engine(
        r#"[{"name": "total", "limit": {"requests": 3, "per": "1h"}},
            {"name": "client", "key": [{"header": "k"}], "limit": {"requests": 1, "per": "1h"}}]"#,
    );
    /// A store in which another worker takes the client's last request between our look and our write.
    struct Race<'e>(Memory, &'e Engine, bool, u32);
    impl sailcloth_ratelimit::Store for Race<'_> {
        fn read(
            &mut self,
            row: sailcloth_ratelimit::RowKey,
        ) -> Result<Option<(Vec<u8>, u32)>, sailcloth_ratelimit::StoreError> {
            self.0.read(row)
        }
        fn write(
            &mut self,
            row: sailcloth_ratelimit::RowKey,
            value: &[u8],
            expected: Option<u32>,
        ) -> Result<bool, sailcloth_ratelimit::StoreError> {
            self.3 += 1;
            if self.2 && self.3 == 2 {
                self.2 = false;
                assert!(admits(self.1, &mut self.0, &[("k", "a")], SECOND));
            }
            self.0.write(row, value, expected)
        }
    }
    let mut race = Race(Memory::default(), &engine, true, 0);
    let outcome = ask(&engine, &mut race, &[("k", "a")], SECOND);
    assert!(outcome.refusal.unwrap().reply.details.contains("#1"));
    assert_eq!(outcome.said.len(), 1, "only the refusal counts: {:?}", outcome.said);
    // The other worker took one of the three; the refused request none.
    let left: Vec<bool> =
        ["b", "c", "d"].map(|key| admits(&engine, &mut race.0, &[("k", key)], SECOND)).into();
    assert_eq!(left, [true, true, false]);
}

const LEASED: &str =
    r#"[{"key": [{"header": "k"}], "limit": {"requests": 10, "per": "1s", "burst": 20, "lease": 5}}]"#;

/// Workers of one process: one store, and what each keeps for itself.
fn admitted_by(engine: &Engine, store: &mut Memory, worker: &mut Worker, now: u64) -> bool {
    let step = step(engine, store, &[("k", "a")], now, &NoProperties, worker);
    step.outcome.unwrap().refusal.is_none()
}

#[test]
fn a_lease_spares_the_store_and_admits_no_more_than_the_bucket_gave() {
    let engine = engine(LEASED);
    let mut store = Memory::default();
    let mut workers = [Worker::default(), Worker::default()];
    let count = (0..40).filter(|n| admitted_by(&engine, &mut store, &mut workers[n % 2], SECOND)).count();
    assert_eq!(count, 20, "taken in fives: the burst and no more");
    let versions: u32 = store.rows.values().map(|(_, version)| *version).sum();
    assert_eq!(versions, 4, "four writes for twenty requests");
}

#[test]
fn with_leases_the_excess_is_at_most_one_lease_for_each_worker() {
    let engine = engine(LEASED);
    let mut rng = Rng(5);
    for round in 0..200 {
        let mut store = Memory::default();
        let mut workers = [Worker::default(), Worker::default(), Worker::default()];
        let (mut now, mut times) = (SECOND, Vec::new());
        for _ in 0..400 {
            now += match rng.below(50) {
                0 => rng.below(5 * SECOND),
                _ => rng.below(SECOND / 20),
            };
            let worker = usize::try_from(rng.below(3)).unwrap();
            if admitted_by(&engine, &mut store, &mut workers[worker], now) {
                times.push(now);
            }
        }
        for first in 0..times.len() {
            for last in first..times.len() {
                let taken = u64::try_from(last - first + 1).unwrap();
                let bound = 20 + (times[last] - times[first]) / (SECOND / 10) + 3 * 5;
                assert!(taken <= bound, "round {round}: {taken} from {} to {}", times[first], times[last]);
            }
        }
    }
}

#[test]
fn with_leases_a_client_that_asks_for_more_gets_its_rate() {
    let engine = engine(LEASED);
    let mut rng = Rng(6);
    let mut store = Memory::default();
    let mut workers = [Worker::default(), Worker::default(), Worker::default()];
    let (mut now, mut count) = (SECOND, 0);
    for _ in 0..20_000 {
        now += rng.below(SECOND / 40);
        let worker = usize::try_from(rng.below(3)).unwrap();
        count += u64::from(admitted_by(&engine, &mut store, &mut workers[worker], now));
    }
    // What workers hold is at most a lease each, and it is theirs to give.
    let least = 20 + (now - SECOND) / (SECOND / 10) - 3 * 5;
    assert!(count >= least, "{count} of {least}");
}

#[test]
fn a_million_clients_that_come_once_leave_a_worker_small() {
    let engine = engine(LEASED);
    let (mut store, mut worker) = (Memory::default(), Worker::default());
    for key in 0..20_000_u64 {
        let key = key.to_string();
        let _ = step(&engine, &mut store, &[("k", &key)], SECOND, &NoProperties, &mut worker);
    }
    assert!(format!("{worker:?}").matches("left").count() <= 4096);
}

#[test]
fn answers_say_where_a_client_stands() {
    let rules = r#"[{"name": "per-key", "key": [{"header": "k"}], "limit": {"requests": 5, "per": "1m"}},
        {"limit": {"requests": 100, "per": "1h", "burst": 10}}]"#;
    let headers = |settings: &str| {
        let engine = engine_with(rules, settings);
        let outcome = ask(&engine, &mut Memory::default(), &[("k", "a")], SECOND);
        let text =
            |(name, value): (String, Vec<u8>)| format!("{name}: {}", String::from_utf8(value).unwrap());
        outcome.after.headers.into_iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(headers("{}"), Vec::<String>::new());
    let old = ["x-ratelimit-limit: 5, 5;w=60", "x-ratelimit-remaining: 4", "x-ratelimit-reset: 12"];
    let new = [
        r#"ratelimit-policy: "per-key";q=5;w=60, "shop/limits#1";q=100;w=3600;sailcloth-burst=10"#,
        r#"ratelimit: "per-key";r=4;t=12, "shop/limits#1";r=9;t=36"#,
    ];
    assert_eq!(headers(r#"{"headers": "always"}"#), old);
    assert_eq!(headers(r#"{"headers": "always", "headerFormat": "ratelimit"}"#), new);
    assert_eq!(headers(r#"{"headers": "always", "headerFormat": "both"}"#), [&old[..], &new].concat());
    let engine = engine_with(rules, r#"{"headerFormat": "ratelimit"}"#);
    let mut store = Memory::default();
    let refusal = (0..6).find_map(|_| ask(&engine, &mut store, &[("k", "a")], SECOND).refusal).unwrap();
    let text: Vec<String> =
        refusal.reply.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    assert_eq!(
        text,
        [
            "retry-after: 12",
            "x-envoy-ratelimited: true",
            r#"ratelimit-policy: "per-key";q=5;w=60"#,
            r#"ratelimit: "per-key";r=0;t=60"#,
        ]
    );
}

#[test]
fn an_explanation_names_every_rule_and_no_value() {
    let engine = engine(
        r#"[{"name": "per-key", "key": [{"header": "k"}, {"cookie": "sid"}], "limit": {"requests": 2, "per": "1h"}},
            {"match": {"to": [{"operation": {"paths": ["/x"]}}]}, "limit": {"requests": 1, "per": "1m"}},
            {"mode": "shadow", "key": [{"claim": "sub"}], "limit": {"requests": 1, "per": "1m"}},
            {"key": [{"header": "k", "as": "api_key"}], "global": {"cluster": "rls", "domain": "shop", "onFailure": "deny"}}]"#,
    );
    let mut store = Memory::default();
    let pairs = [("k", "secret"), (":path", "/api")];
    let explain = |store: &mut Memory| {
        let headers = HeaderBlock::from_pairs(pairs);
        let facts = sailcloth_core::facts::Facts::new(&NoProperties, engine.sources());
        let request = sailcloth_core::request::Request { headers: &headers, facts };
        engine.explain(&request, moment(SECOND), store).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let lines = explain(&mut store);
    assert_eq!(
        lines,
        [
            "shop/limits#0: key k present, sid missing; limit 2, burst 2; 2 left; costs 1: admitted",
            "shop/limits#1: does not match",
            "shop/limits#2 (shadow): token_unavailable",
            "shop/limits#3: key api_key present; costs 1; asks `rls` for domain `shop`",
        ]
    );
    assert_eq!(explain(&mut store), lines, "an explanation takes nothing");
    let only = engine_with(r#"[{"limit": {"requests": 1, "per": "1h"}}]"#, "{}");
    let mut store = Memory::default();
    assert!(admits(&only, &mut store, &[], SECOND));
    let headers = HeaderBlock::default();
    let facts = sailcloth_core::facts::Facts::new(&NoProperties, only.sources());
    let request = sailcloth_core::request::Request { headers: &headers, facts };
    let line = only.explain(&request, moment(SECOND), &mut store)[0].to_string();
    assert_eq!(
        line,
        "shop/limits#0: key of all requests; limit 1, burst 1; 0 left; costs 1: limited for 3600 s"
    );
}
