//! The promise: never above burst + rate × time, never below the rate, whatever workers, clients and clocks do.
#![cfg(not(target_family = "wasm"))]
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "an oracle and its stores, for tests only")]

mod common;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use sailcloth_ratelimit::{Engine, Gcra, RowKey, Store, StoreError, Take};
use sailcloth_resources::rate_limit::Limit;

/// The slow and obvious limiter: it remembers every admission, and admits when, over every stretch of time that ends
/// now, no more than the burst and what flowed in since would have been taken.
struct Oracle {
    interval: u128,
    burst: u128,
    admitted: Vec<(u64, u128)>,
}

impl Oracle {
    fn admits(&mut self, now: u64, cost: u128) -> bool {
        let fits = |since: u64, taken: u128| {
            (taken + cost) * self.interval <= self.burst * self.interval + u128::from(now - since)
        };
        let within = fits(now, 0)
            && (0..self.admitted.len()).all(|first| {
                let taken = self.admitted[first..].iter().map(|(_, cost)| cost).sum();
                fits(self.admitted[first].0, taken)
            });
        if within {
            self.admitted.push((now, cost));
        }
        within
    }
}

#[test]
fn one_client_is_limited_exactly_as_the_oracle_says() {
    let mut rng = Rng(7);
    for round in 0..300 {
        let requests = 1 + u32::try_from(rng.below(50)).unwrap();
        let per = Duration::from_nanos((1 + rng.below(60)) * SECOND / (1 + rng.below(1000)) + 50_000);
        let burst = 1 + u32::try_from(rng.below(20)).unwrap();
        let cost = 1 + u32::try_from(rng.below(u64::from(burst))).unwrap();
        let interval = u64::try_from(per.as_nanos().div_ceil(u128::from(requests))).unwrap();
        let gcra = Gcra::new(Limit { requests, per, burst, lease: 1 }, 0).unwrap();
        let mut oracle =
            Oracle { interval: u128::from(interval), burst: u128::from(burst), admitted: Vec::new() };
        let (mut tat, mut now) = (0, SECOND);
        for step in 0..120 {
            // Bursts, gaps around the interval, and long pauses.
            now += match rng.below(4) {
                0 => 0,
                1 => rng.below(interval),
                2 => rng.below(3) * interval / 2,
                _ => rng.below(interval * u64::from(burst)),
            };
            let take = gcra.take(tat, now, cost);
            let admitted = match take {
                Take::Admitted { tat: next } => {
                    tat = next;
                    true
                }
                Take::Limited { .. } | Take::TooLarge => false,
            };
            assert_eq!(admitted, oracle.admits(now, u128::from(cost)), "round {round} step {step}: {take:?}");
        }
    }
}

const RULE: &str = r#"[{"key": [{"header": "k"}], "limit": {"requests": 10, "per": "1s", "burst": 5}}]"#;

/// A store in which, before any write, other workers may decide whole requests: every interleaving of reads and writes
/// that can matter under compare-and-swap.
struct Crowd<'e> {
    memory: Memory,
    engine: &'e Engine,
    rng: Rng,
    now: u64,
    depth: u32,
    admitted: u64,
}

impl Store for Crowd<'_> {
    fn read(&mut self, row: RowKey) -> Result<Option<(Vec<u8>, u32)>, StoreError> {
        self.memory.read(row)
    }

    fn write(&mut self, row: RowKey, value: &[u8], expected: Option<u32>) -> Result<bool, StoreError> {
        if self.depth < 4 && self.rng.below(2) == 0 {
            self.depth += 1;
            let (engine, now) = (self.engine, self.now);
            let admitted = admits(engine, self, &[("k", "a")], now);
            self.admitted += u64::from(admitted);
            self.depth -= 1;
        }
        self.memory.write(row, value, expected)
    }
}

#[test]
fn no_interleaving_of_workers_admits_one_too_many() {
    let engine = engine(RULE);
    for seed in 0..200 {
        let memory = Memory::default();
        let mut crowd = Crowd { memory, engine: &engine, rng: Rng(seed), now: SECOND, depth: 0, admitted: 0 };
        let mut retried = false;
        for _ in 0..200 {
            crowd.now += crowd.rng.below(SECOND / 40);
            let now = crowd.now;
            let outcome = ask(&engine, &mut crowd, &[("k", "a")], now);
            retried |= !outcome.retries.is_empty();
            crowd.admitted += u64::from(outcome.refusal.is_none());
            let bound = 5 + (crowd.now - SECOND) / (SECOND / 10);
            assert!(crowd.admitted <= bound, "seed {seed}: {} admitted, bound {bound}", crowd.admitted);
        }
        let least = 5 + (crowd.now - SECOND) / (SECOND / 10) - 1;
        assert!(retried && crowd.admitted >= least, "seed {seed}: {} admitted of {least}", crowd.admitted);
    }
}

/// The store of real threads.
#[derive(Default)]
struct Locked(Mutex<Memory>);

impl Store for &Locked {
    fn read(&mut self, row: RowKey) -> Result<Option<(Vec<u8>, u32)>, StoreError> {
        self.0.lock().unwrap().read(row)
    }

    fn write(&mut self, row: RowKey, value: &[u8], expected: Option<u32>) -> Result<bool, StoreError> {
        self.0.lock().unwrap().write(row, value, expected)
    }
}

#[test]
fn threads_on_the_same_keys_share_exactly_one_bucket_per_key() {
    let shared = Locked::default();
    let counts: Vec<AtomicU64> = (0..10).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (shared, counts) = (&shared, &counts);
            scope.spawn(move || {
                let engine = engine_with(RULE, r#"{"slots": 16}"#);
                let mut rng = Rng(worker);
                for _ in 0..2000 {
                    let client = rng.below(6);
                    let name = client.to_string();
                    if admits(&engine, &mut &*shared, &[("k", &name)], SECOND) {
                        counts[usize::try_from(client).unwrap()].fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let counts: Vec<u64> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert_eq!(counts, [5, 5, 5, 5, 5, 5, 0, 0, 0, 0]);
}

#[test]
fn no_client_gains_by_crowding_or_by_moving_between_buckets() {
    // Sixteen slots, sixty clients: everybody is pushed out and let in again all the time.
    let engine = engine_with(RULE, r#"{"slots": 16}"#);
    let mut store = Memory::default();
    let mut rng = Rng(11);
    let mut admitted: HashMap<u64, Vec<u64>> = HashMap::new();
    let mut now = SECOND;
    for _ in 0..20_000 {
        now += rng.below(SECOND / 200);
        let client = rng.below(60);
        if admits(&engine, &mut store, &[("k", &client.to_string())], now) {
            admitted.entry(client).or_default().push(now);
        }
    }
    for (client, times) in &admitted {
        for first in 0..times.len() {
            for last in first..times.len().min(first + 60) {
                let taken = u64::try_from(last - first + 1).unwrap();
                let bound = 5 + (times[last] - times[first]) / (SECOND / 10);
                assert!(taken <= bound, "client {client}: {taken} in {} ns", times[last] - times[first]);
            }
        }
    }
    assert_eq!(admitted.len(), 60, "everybody got something");
    assert!(store.rows.len() == 1);
}

#[test]
fn a_flood_of_keys_resets_nobody_and_grows_nothing() {
    let rule = r#"[{"key": [{"header": "k"}], "limit": {"requests": 10, "per": "1m"}}]"#;
    let engine = engine_with(rule, r#"{"slots": 4096}"#);
    let mut store = Memory::default();
    assert_eq!((0..20).filter(|_| admits(&engine, &mut store, &[("k", "victim")], SECOND)).count(), 10);
    // 300,000 keys within a second: every slot is taken many times over.
    for key in 0..300_000_u64 {
        let _ = ask(&engine, &mut store, &[("k", &key.to_string())], SECOND + key * 3_333);
    }
    assert!(!admits(&engine, &mut store, &[("k", "victim")], 2 * SECOND), "the victim's bucket was reset");
    assert!(admits(&engine, &mut store, &[("k", "victim")], 7 * SECOND), "and it refills at its rate");
    let bytes: usize = store.rows.values().map(|(row, _)| row.len()).sum();
    assert!(
        store.rows.len() <= 256 && bytes <= 256 * (9 + 16 * 16),
        "{} rows, {bytes} bytes",
        store.rows.len()
    );
}

#[test]
fn a_clock_that_jumps_neither_refills_nor_starves() {
    let engine = engine(RULE);
    let mut rng = Rng(3);
    for round in 0..100 {
        let mut store = Memory::default();
        // What really passes, and a clock that jumps by up to an hour in both directions.
        let (mut real, mut clock) = (0_u64, 10_000 * SECOND);
        let mut admitted = 0_u64;
        for _ in 0..300 {
            let step = rng.below(SECOND / 20);
            real += step;
            clock += step;
            if rng.below(60) == 0 {
                clock = clock.saturating_sub(rng.below(3600) * SECOND).max(SECOND);
            }
            admitted += u64::from(admits(&engine, &mut store, &[("k", "a")], clock));
            let bound = 5 + real / (SECOND / 10);
            assert!(admitted <= bound, "round {round}: {admitted} admitted, bound {bound}");
        }
        // After the last jump the client gets its rate again, at the latest after the slack of one second.
        clock += 2 * SECOND;
        assert!(admits(&engine, &mut store, &[("k", "a")], clock), "round {round}");
    }
}

#[test]
fn an_edit_elsewhere_refills_no_bucket_and_an_edit_of_the_limit_does() {
    let limited = r#"{"key": [{"header": "k"}], "limit": {"requests": 1, "per": "1m"}}"#;
    let other =
        r#"{"match": {"to": [{"operation": {"paths": ["/x"]}}]}, "limit": {"requests": 9, "per": "1m"}}"#;
    let mut store = Memory::default();
    assert!(admits(&engine(&format!("[{limited}]")), &mut store, &[("k", "a")], SECOND));
    for (what, rules, refilled) in [
        ("the same", format!("[{limited}]"), false),
        ("a rule before it", format!("[{other}, {limited}]"), false),
        (
            "another answer",
            format!("[{}]", limited.replace("\"key\"", r#""deny": {"status": 503}, "key""#)),
            false,
        ),
        ("another limit", format!("[{}]", limited.replace(": 1,", ": 2,")), true),
    ] {
        assert_eq!(admits(&engine(&rules), &mut store, &[("k", "a")], SECOND), refilled, "{what}");
    }
}
