//! Every hostcall of `crates/host`, by the probe module: each answered with each status, and odd data.

use sailcloth_core::config::Node;
use sailcloth_emulator::{Hostcall, Injection, Progress, Status, Stream, VmState};
use sailcloth_tests::emulator::Bench;

/// Each operation of the probe, the hostcall it makes, and what it says when nothing fails.
const OPERATIONS: &[(&str, Hostcall, &str)] = &[
    ("property", Hostcall::GetProperty, "ok"),
    ("missing-property", Hostcall::GetProperty, "not_found"),
    ("set-header", Hostcall::ReplaceHeaderMapValue, "ok"),
    ("add-header", Hostcall::AddHeaderMapValue, "ok"),
    ("remove-header", Hostcall::RemoveHeaderMapValue, "ok"),
    ("state", Hostcall::SetProperty, "ok"),
    ("time", Hostcall::GetCurrentTime, "ok"),
    ("monotonic", Hostcall::WasiClockTimeGet, "ok"),
    ("random", Hostcall::WasiRandomGet, "ok"),
    ("read", Hostcall::GetSharedData, "ok"),
    ("create", Hostcall::SetSharedData, "ok"),
    ("rewrite", Hostcall::SetSharedData, "ok"),
    ("claim", Hostcall::GetSharedData, "ok"),
    ("claim,settle", Hostcall::SetSharedData, ""),
    ("lease", Hostcall::GetSharedData, "ok"),
    ("counter", Hostcall::DefineMetric, "ok"),
    ("counter", Hostcall::IncrementMetric, "ok"),
    ("gauge", Hostcall::DefineMetric, "ok"),
    ("gauge", Hostcall::RecordMetric, "ok"),
    ("histogram", Hostcall::DefineMetric, "ok"),
    ("histogram", Hostcall::RecordMetric, "ok"),
    ("foreign", Hostcall::CallForeignFunction, "ok"),
    ("missing-foreign", Hostcall::CallForeignFunction, "not_found"),
    ("verify", Hostcall::CallForeignFunction, "ok"),
    ("fail-closed", Hostcall::SendLocalResponse, ""),
    ("callout", Hostcall::HttpCall, "bad_argument"),
    ("tick-continues", Hostcall::SetTickPeriod, ""),
    ("bytes", Hostcall::GetHeaderMapPairs, "ok"),
    ("bytes", Hostcall::Log, "ok"),
];

/// Statuses of the ABI, numbers that no ABI names, and errors of WASI.
const CODES: [u32; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 76, 255, u32::MAX];

pub(crate) fn probe() -> Bench {
    Bench::new("probe", &Node::Map(Vec::new())).map_err(|(error, _)| error).unwrap()
}

pub(crate) fn request(bench: &Bench, operations: &str) -> Stream {
    let headers = [
        (":method", "GET"),
        (":path", "/"),
        (":authority", "a"),
        ("x-probe", operations),
        ("x-probe-remove", "x"),
    ];
    Stream::new(&bench.process, &[&bench.plugin], headers)
}

pub(crate) fn said(bench: &Bench, operation: &str) -> Vec<String> {
    let prefix = format!("probe {operation}: ");
    let lines = bench.process.logs().into_iter();
    lines.filter_map(|line| line.message.strip_prefix(&prefix).map(str::to_owned)).collect()
}

pub(crate) fn complete(stream: &mut Stream) -> Progress {
    let progress = stream.request_headers(true);
    if stream.reached_upstream() {
        return stream.response_headers([(":status", "200")], true);
    }
    progress
}

#[test]
fn every_hostcall_of_the_host_is_exercised() {
    let bench = probe();
    for (operation, call, expected) in OPERATIONS {
        bench.process.reset_calls();
        let mut stream = request(&bench, operation);
        complete(&mut stream);
        stream.finish().unwrap();
        let count = bench.process.calls().hostcall(*call);
        // The generator is seeded once per VM, by the first who asks.
        assert!(count > 0 || *operation == "random", "{operation} does not call {call}");
        let said = said(&bench, operation);
        assert!(
            expected.is_empty() || said.last().is_some_and(|word| word == expected),
            "{operation}: {said:?}"
        );
    }
    let used: Vec<Hostcall> = OPERATIONS.iter().map(|(_, call, _)| *call).collect();
    let elsewhere = [Hostcall::GetBufferBytes, Hostcall::SetEffectiveContext, Hostcall::ContinueStream];
    for import in sailcloth_tests::build::module("probe").imports() {
        let known = Hostcall::ALL.iter().find(|call| import.ends_with(&format!(".{call}")));
        let known = *known.unwrap_or_else(|| panic!("{import}"));
        // The standard library's own start-up and panic message; they cannot fail in a way that we see.
        let of_std = known.is_wasi() && !used.contains(&known);
        assert!(used.contains(&known) || elsewhere.contains(&known) || of_std, "no operation makes {import}");
    }
}

#[test]
fn no_status_of_any_hostcall_traps() {
    for (operation, call, _) in OPERATIONS {
        for code in CODES {
            let bench = probe();
            bench.process.inject(*call, Injection::always(Status::Ok).with_code(code));
            let row = format!("{operation}: {call} answers {code}");
            let mut stream = request(&bench, operation);
            complete(&mut stream);
            assert_eq!(bench.vm.state(), VmState::Running, "{row}");
            stream.finish().unwrap_or_else(|trap| panic!("{row}: {trap}"));
            bench.process.clear_injections();
            let mut next = request(&bench, "time");
            assert_eq!(complete(&mut next), Progress::Continue, "{row}: the next request");
            next.finish().unwrap();
        }
    }
}

#[test]
fn a_failed_hostcall_is_reported_by_its_status() {
    for (operation, call, word) in [
        ("set-header", Hostcall::ReplaceHeaderMapValue, "internal_failure"),
        ("read", Hostcall::GetSharedData, "internal_failure"),
        ("time", Hostcall::GetCurrentTime, "internal_failure"),
        ("foreign", Hostcall::CallForeignFunction, "internal_failure"),
        ("counter", Hostcall::DefineMetric, "internal_failure"),
    ] {
        let bench = probe();
        bench.process.inject(call, Injection::always(Status::InternalFailure));
        complete(&mut request(&bench, operation));
        assert_eq!(said(&bench, operation), [word], "{operation}");
    }
}

#[test]
fn request_headers_that_cannot_be_read_refuse_the_request() {
    let bench = probe();
    bench.process.inject(Hostcall::GetHeaderMapPairs, Injection::first(1, Status::BadArgument));
    let mut stream = request(&bench, "");
    assert_eq!(stream.request_headers(true), Progress::LocalReply);
    let reply = stream.local_reply().unwrap();
    assert_eq!((reply.status, reply.details.as_str()), (500, "sailcloth_metrics_host_error[bad_argument]"));
}

#[test]
fn bytes_that_are_no_text_pass_through() {
    let bench = probe();
    let mut stream = Stream::new(
        &bench.process,
        &[&bench.plugin],
        vec![
            (b":path".to_vec(), b"/caf\xe9".to_vec()),
            (b"x-probe".to_vec(), b"bytes,set-header".to_vec()),
            (b"x-bytes".to_vec(), vec![0x80, 0xff, 0xfe]),
        ],
    );
    assert_eq!(stream.request_headers(true), Progress::Continue);
    assert_eq!(said(&bench, "bytes"), ["Some([128, 255, 254])", "ok"]);
    assert_eq!(stream.current_request_headers().get("x-set"), Some(b"caf\xe9".as_slice()));
}

#[test]
fn a_panic_kills_the_vm_and_nothing_else() {
    let bench = probe();
    let mut stream = request(&bench, "panic");
    assert_eq!(stream.request_headers(true), Progress::LocalReply);
    assert!(matches!(bench.vm.state(), VmState::Failed(_)));
    let mut next = request(&bench, "time");
    next.request_headers(true);
    assert_eq!(next.local_reply().unwrap().details, "wasm_fail_stream");
    // FAIL_RELOAD: a new VM of the same process.
    assert_eq!(complete(&mut request(&probe(), "time")), Progress::Continue);
}
