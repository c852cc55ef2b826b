//! Leases in shared data: one holder, an end, and whatever else may lie under their key.

use std::time::Duration;

use sailcloth_emulator::{
    Hostcall, Injection, Plugin, PluginConfig, Process, Status, Stream, Threads, VmOptions,
};
use sailcloth_tests::build;

const SECOND: Duration = Duration::from_secs(1);
const KEY: &[u8] = b"probe/lease";

fn workers() -> (Process, Threads) {
    let process = Process::new();
    let config = PluginConfig::new("probe", "{}");
    let threads =
        Threads::configure(&process, &build::module("probe"), &VmOptions::default(), &config, 2).unwrap();
    (process, threads)
}

/// What a worker says when it does this.
fn does(process: &Process, plugin: &Plugin, operation: &str) -> String {
    let mut stream = Stream::new(process, &[plugin], [(":path", "/"), ("x-probe", operation)]);
    stream.request_headers(true);
    stream.finish().unwrap();
    let lines = process.logs().into_iter().rev().map(|line| line.message);
    let mut told = lines.filter(|line| line != "probe lease: ok");
    told.find_map(|line| line.strip_prefix("probe lease").map(str::to_owned)).unwrap()
}

#[test]
fn one_worker_holds_it_until_it_gives_it_back_or_it_ends() {
    let (process, threads) = workers();
    let [one, two] = threads.workers() else { panic!("two workers") };
    assert_eq!(does(&process, one, "lease"), ": 0 s, held false, ``");
    assert_eq!(does(&process, one, "claim"), " claimed: true");
    assert_eq!(does(&process, two, "claim"), " claimed: false");
    assert_eq!(does(&process, one, "claim"), " claimed: false", "nor twice by its holder");
    assert_eq!(does(&process, two, "settle"), " settled: false", "only its holder ends it");
    assert_eq!(does(&process, two, "lease"), ": 10 s, held true, ``");
    assert_eq!(does(&process, one, "settle"), " settled: true");
    assert_eq!(does(&process, two, "lease"), ": 2 s, held false, `note`");
    assert_eq!(does(&process, two, "claim"), " claimed: false", "not before the time it was given back for");
    process.advance(2 * SECOND);
    assert_eq!(does(&process, two, "claim"), " claimed: true");
    assert_eq!(does(&process, one, "lease"), ": 10 s, held true, `note`", "the note stays");
    // The holder dies.
    process.advance(10 * SECOND);
    assert_eq!(does(&process, one, "claim"), " claimed: true");
    assert_eq!(does(&process, two, "settle"), " settled: false", "it has lost it");
}

#[test]
fn whoever_loses_the_race_has_no_lease() {
    let (process, threads) = workers();
    process.inject(Hostcall::SetSharedData, Injection::first(1, Status::CasMismatch));
    assert_eq!(does(&process, &threads.workers()[0], "claim"), " claimed: false");
    assert_eq!(does(&process, &threads.workers()[1], "claim"), " claimed: true");
}

/// A clock that was elsewhere, another program's bytes: as good as a lease that has ended.
#[test]
fn an_end_too_far_ahead_and_foreign_bytes_hold_nobody_up() {
    let (process, threads) = workers();
    let far = [&[1][..], &7_u64.to_le_bytes(), &u64::MAX.to_le_bytes()].concat();
    for bytes in [&far[..], b"", b"\x01", &[0xff; 40], b"{}"] {
        process.set_shared_data("", KEY, bytes, 0).unwrap();
        assert_eq!(does(&process, &threads.workers()[0], "claim"), " claimed: true", "{bytes:?}");
    }
}
