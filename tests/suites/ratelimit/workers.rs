//! Several VMs of one process on the same keys.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sailcloth_emulator::{HeaderMap, PluginConfig, Process, Stream, Threads, VmOptions};
use sailcloth_tests::build;

fn configuration(limit: &str, settings: &str) -> String {
    format!(
        r#"{{"resources":[{{"apiVersion":"sailcloth.dev/v1alpha1","kind":"RateLimit","metadata":{{"name":"l","namespace":"n"}},
            "spec":{{"rules":[{{"key":[{{"header":"k"}}],"limit":{limit}}}]}}}}],"settings":{settings}}}"#
    )
}

fn threads(process: &Process, workers: usize, limit: &str, settings: &str) -> Threads {
    let config = PluginConfig::new("ratelimit", configuration(limit, settings));
    let options = VmOptions { vm_id: "sailcloth-ratelimit".into(), ..VmOptions::default() };
    Threads::configure(process, &build::module("ratelimit"), &options, &config, workers).unwrap()
}

fn admits(process: &Process, plugin: &sailcloth_emulator::Plugin, key: &str) -> bool {
    let pairs: HeaderMap =
        [(":method", "GET"), (":path", "/"), (":authority", "a"), ("k", key)].into_iter().collect();
    let mut stream = Stream::new(process, &[plugin], pairs);
    stream.request_headers(true);
    let passed = stream.reached_upstream();
    if passed {
        stream.response_headers([(":status", "200")], true);
    }
    stream.finish().unwrap();
    passed
}

/// Each worker sends `requests` requests for keys 0 to `keys`, all at the same time of the process's clock.
fn hammer(process: &Process, threads: &Threads, requests: u64, keys: u64) -> Vec<u64> {
    let counts: Vec<AtomicU64> = (0..keys).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for plugin in threads.workers() {
            let counts = &counts;
            scope.spawn(move || {
                for number in 0..requests {
                    let key = number % keys;
                    if admits(process, plugin, &key.to_string()) {
                        counts[usize::try_from(key).unwrap()].fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
}

#[test]
fn workers_share_exactly_one_bucket_for_each_key() {
    let process = Process::new();
    let threads = threads(&process, 4, r#"{"requests":20,"per":"1s"}"#, "{}");
    assert_eq!(hammer(&process, &threads, 400, 5), [20; 5]);
    process.advance(Duration::from_millis(500));
    assert_eq!(hammer(&process, &threads, 200, 5), [10; 5], "half a second is half the rate");
}

#[test]
fn with_leases_workers_take_no_more_than_the_bucket_gives() {
    let process = Process::new();
    let threads = threads(&process, 4, r#"{"requests":40,"per":"1h","lease":8}"#, "{}");
    let counts = hammer(&process, &threads, 400, 5);
    assert!(counts.iter().all(|count| *count == 40), "{counts:?}");
}

#[test]
fn a_flood_of_keys_resets_no_bucket_and_memory_stays_what_was_configured() {
    let process = Process::new();
    let threads = threads(&process, 2, r#"{"requests":3,"per":"1h"}"#, r#"{"slots":512}"#);
    let [first, second] = threads.workers() else { panic!("two workers") };
    let victim = |n: usize| admits(&process, [first, second][n % 2], "victim");
    assert_eq!((0..10).filter(|n| victim(*n)).count(), 3);
    for key in 0..20_000 {
        let plugin = if key % 2 == 0 { first } else { second };
        let _ = admits(&process, plugin, &format!("flood-{key}"));
    }
    assert!(!(0..10).any(victim), "the victim's bucket was reset");
    let rows = process.shared_keys("sailcloth-ratelimit");
    let bytes: usize = rows
        .iter()
        .map(|key| {
            key.len() + process.shared_data("sailcloth-ratelimit", key).map_or(0, |(value, _)| value.len())
        })
        .sum();
    assert!(rows.len() <= 512 / 16 + 1 && bytes <= 33 * (32 + 9 + 256), "{} rows, {bytes} bytes", rows.len());
    let slots = process.gauge("sailcloth_ratelimit_slots_used;.;policy=.=n/l;.;rule=.=0").unwrap();
    assert!((1..=512).contains(&slots), "{slots}");
}
