//! The module in the emulator: several VMs of one process, its clock and its shared data in the test's hand.

use std::time::Duration;

use sailcloth_core::config::Node;
use sailcloth_emulator::{
    Answer, Cluster, Hostcall, Injection, PluginConfig, Process, Progress, Status, Stream, Threads,
    VmOptions, VmState,
};
use sailcloth_tests::issuer::token;
use sailcloth_tests::keys::TestKey;
use sailcloth_tests::{build, yaml};

const CLUSTER: &str = "outbound|443||issuer.example";
const SECOND: Duration = Duration::from_secs(1);

fn configuration() -> Vec<u8> {
    let text = r"
resources:
  - apiVersion: security.istio.io/v1
    kind: RequestAuthentication
    metadata: {name: a, namespace: n}
    spec: {jwtRules: [{issuer: i, jwksUri: 'https://issuer.example/keys'}]}
";
    let node: Node = yaml::parse(text).unwrap();
    yaml::json(&node).into()
}

fn process(workers: usize) -> (Process, Threads) {
    let process = Process::new();
    sailcloth_emulator::crypto::register(&process);
    process.set_cluster(CLUSTER, Cluster::Reachable);
    let threads = start(&process, workers);
    (process, threads)
}

fn start(process: &Process, workers: usize) -> Threads {
    let config = PluginConfig::new("jwt", configuration());
    Threads::configure(process, &build::module("jwt"), &VmOptions::default(), &config, workers).unwrap()
}

fn set(keys: &[&str]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| TestKey::named(key).unwrap().jwk()).collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(","))
}

fn stream(process: &Process, threads: &Threads, worker: usize, key: &str) -> Stream {
    let bearer = format!("Bearer {}", token(key, r#"{"iss":"i","sub":"s"}"#));
    let headers = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "a"),
        (":path", "/"),
        ("authorization", bearer.as_str()),
    ];
    Stream::new(process, &[&threads.workers()[worker]], headers)
}

fn answer(threads: &Threads, answer: Answer) {
    let calls = threads.callouts();
    assert_eq!(calls.len(), 1, "one fetch at a time");
    threads.answer(&calls[0], answer).unwrap();
}

fn status(stream: &Stream) -> Option<u64> {
    stream.local_reply().map(|reply| u64::from(reply.status))
}

#[test]
fn four_instances_fetch_once_and_all_have_the_keys() {
    let (process, threads) = process(3);
    assert!(threads.callouts().is_empty(), "not while it is configured: the canary would too");
    threads.advance(SECOND / 100).unwrap();
    let call = threads.callouts().remove(0).1;
    let header = |name| call.headers.text(name).unwrap_or_default();
    assert_eq!(call.cluster, CLUSTER);
    assert_eq!((header(":method"), header(":path")), ("GET", "/keys"));
    assert_eq!((header(":authority"), header(":scheme")), ("issuer.example", "https"));
    assert_eq!(call.timeout, Some(5 * SECOND));
    answer(&threads, Answer::response(200, set(&["ec1"])));
    for worker in 0..3 {
        assert_eq!(stream(&process, &threads, worker, "ec1").request_headers(true), Progress::Continue);
    }
    assert!(threads.callouts().is_empty());
    threads.advance(60 * SECOND).unwrap();
    assert!(threads.callouts().is_empty());
    let keys = process.shared_keys("");
    assert_eq!(keys.len(), 2, "a lease and a record, whatever happens: {keys:?}");
    // Jitter: within the last tenth of the interval.
    threads.advance(209 * SECOND).unwrap();
    assert!(threads.callouts().is_empty());
    threads.advance(32 * SECOND).unwrap();
    assert_eq!(threads.callouts().len(), 1);
}

#[test]
fn requests_of_all_workers_wait_for_one_fetch() {
    let (process, threads) = process(2);
    let mut streams: Vec<Stream> =
        (0..4).map(|number| stream(&process, &threads, number % 2, "ec1")).collect();
    for stream in &mut streams {
        assert_eq!(stream.request_headers(true), Progress::Paused(0));
    }
    threads.advance(SECOND).unwrap();
    answer(&threads, Answer::response(200, set(&["ec1"])));
    threads.advance(SECOND / 50).unwrap();
    for stream in &mut streams {
        assert_eq!(stream.proceed(), Progress::Continue);
    }
    // An unknown key: one more fetch, by whoever is asked first.
    threads.advance(2 * SECOND).unwrap();
    let mut waits: Vec<Stream> = (0..2).map(|worker| stream(&process, &threads, worker, "ec2")).collect();
    for stream in &mut waits {
        assert_eq!(stream.request_headers(true), Progress::Paused(0));
    }
    answer(&threads, Answer::response(200, set(&["ec1", "ec2"])));
    threads.advance(SECOND / 50).unwrap();
    for stream in &mut waits {
        assert_eq!(stream.proceed(), Progress::Continue);
    }
}

#[test]
fn an_unknown_key_is_refused_after_one_fetch_and_then_without() {
    let (process, threads) = process(1);
    threads.advance(SECOND).unwrap();
    answer(&threads, Answer::response(200, set(&["ec1"])));
    threads.advance(10 * SECOND).unwrap();
    let mut first = stream(&process, &threads, 0, "ec2");
    assert_eq!(first.request_headers(true), Progress::Paused(0));
    answer(&threads, Answer::response(200, set(&["ec1"])));
    threads.advance(SECOND / 50).unwrap();
    assert_eq!((first.proceed(), status(&first)), (Progress::LocalReply, Some(401)));
    assert!(first.local_reply().unwrap().details.contains("unknown_kid"));
    let mut second = stream(&process, &threads, 0, "ec2");
    assert_eq!(second.request_headers(true), Progress::LocalReply);
    assert!(threads.callouts().is_empty());
}

#[test]
fn nobody_waits_longer_than_the_timeout() {
    let (process, threads) = process(2);
    threads.advance(SECOND).unwrap();
    let mut waiting = stream(&process, &threads, 1, "ec1");
    assert_eq!(waiting.request_headers(true), Progress::Paused(0));
    threads.advance(Duration::from_millis(3900)).unwrap();
    assert_eq!(waiting.proceed(), Progress::Paused(0));
    threads.advance(Duration::from_millis(1200)).unwrap();
    assert_eq!((waiting.proceed(), status(&waiting)), (Progress::LocalReply, Some(401)));
    assert!(waiting.local_reply().unwrap().details.contains("keys_unavailable"));
}

#[test]
fn a_fetch_is_taken_over_from_a_process_part_that_died() {
    let (process, threads) = process(1);
    threads.advance(SECOND).unwrap();
    assert_eq!(threads.callouts().len(), 1);
    // All instances are gone, as after a crash that reloads them; what they shared is not.
    drop(threads);
    let threads = start(&process, 1);
    threads.advance(5 * SECOND).unwrap();
    assert!(threads.callouts().is_empty(), "the lease of the dead holds");
    threads.advance(2 * SECOND).unwrap();
    answer(&threads, Answer::response(200, set(&["ec1"])));
    assert_eq!(stream(&process, &threads, 0, "ec1").request_headers(true), Progress::Continue);
}

#[test]
fn a_stream_that_leaves_while_it_waits_is_no_trouble() {
    let (process, threads) = process(1);
    let mut leaves = stream(&process, &threads, 0, "ec1");
    assert_eq!(leaves.request_headers(true), Progress::Paused(0));
    leaves.finish().unwrap();
    answer(&threads, Answer::response(200, set(&["ec1"])));
    assert_eq!(threads.workers()[0].vm().state(), VmState::Running);
    assert_eq!(threads.workers()[0].tick_period(), Some(Duration::from_millis(20)));
    threads.advance(SECOND).unwrap();
    assert_eq!(threads.workers()[0].tick_period(), Some(SECOND));
}

/// Whatever the host answers while keys are fetched: no trap, no request let through, none left waiting.
#[test]
fn no_failing_hostcall_opens_or_hangs() {
    for call in [
        Hostcall::GetSharedData,
        Hostcall::SetSharedData,
        Hostcall::HttpCall,
        Hostcall::SetTickPeriod,
        Hostcall::WasiClockTimeGet,
        Hostcall::WasiRandomGet,
        Hostcall::GetCurrentTime,
        Hostcall::GetHeaderMapPairs,
        Hostcall::GetBufferBytes,
        Hostcall::SetEffectiveContext,
        Hostcall::DefineMetric,
        Hostcall::CallForeignFunction,
    ] {
        for injection in
            [1, 2, 3, 5, 8].map(|n| Injection::nth(n, Status::InternalFailure)).into_iter().chain([
                Injection::always(Status::InternalFailure),
                Injection::always(Status::BadArgument),
                Injection::first(3, Status::CasMismatch),
            ])
        {
            let (process, threads) = process(1);
            process.inject(call, injection);
            let mut stream = stream(&process, &threads, 0, "ec2");
            let mut progress = stream.request_headers(true);
            for _ in 0..40 {
                if progress != Progress::Paused(0) {
                    break;
                }
                for pending in threads.callouts() {
                    let _ = threads.answer(&pending, Answer::response(200, set(&["ec1"])));
                }
                threads.advance(SECOND / 5).unwrap();
                progress = stream.proceed();
            }
            let row = format!("{call} {injection:?}: {progress:?}");
            // A request that Envoy itself no longer knows is not there to be answered.
            if call != Hostcall::SetEffectiveContext {
                assert_eq!(progress, Progress::LocalReply, "{row}");
                assert!(matches!(status(&stream), Some(401 | 500)), "{row}");
            }
            assert!(!stream.reached_upstream(), "{row}");
            assert_eq!(threads.workers()[0].vm().state(), VmState::Running, "{row}");
        }
    }
}

/// In Istio every plugin may write every key.
#[test]
fn what_others_write_to_shared_data_is_tolerated() {
    let (process, threads) = process(2);
    threads.advance(SECOND).unwrap();
    answer(&threads, Answer::response(200, set(&["ec1"])));
    threads.advance(SECOND).unwrap();
    let ok = |threads: &Threads| {
        for worker in 0..2 {
            assert_eq!(stream(&process, threads, worker, "ec1").request_headers(true), Progress::Continue);
        }
    };
    ok(&threads);
    for garbage in [&b""[..], b"\x01", &[0; 17], &[0xff; 200], &[1; 58]] {
        for key in process.shared_keys("") {
            process.set_shared_data("", &key, garbage, 0).unwrap();
        }
        threads.advance(3 * SECOND).unwrap();
        ok(&threads);
        for pending in threads.callouts() {
            threads.answer(&pending, Answer::response(200, set(&["ec1"]))).unwrap();
        }
        threads.advance(SECOND).unwrap();
        ok(&threads);
    }
}
