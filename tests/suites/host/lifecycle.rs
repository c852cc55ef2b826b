//! Configuring, serving, removing; callouts; two filters in one VM.

use std::time::Duration;

use sailcloth_emulator::{
    Answer, Cluster, ConfigureError, Hostcall, Injection, Level, PluginConfig, Process, Progress, Status,
    Stream, Vm, VmOptions,
};
use sailcloth_tests::build;
use sailcloth_tests::emulator::Bench;

use crate::probe::{probe, request, said};

const INFO: &str = "sailcloth_config_info;.;filter=.=metrics;.;";

fn in_force(process: &Process) -> Vec<u64> {
    let metrics = process.metrics().into_iter().filter(|(_, name, _)| name.starts_with(INFO));
    metrics.map(|(_, _, value)| value).collect()
}

fn vm(process: &Process) -> Vm {
    Vm::new(process, &build::module("probe"), VmOptions::default()).unwrap()
}

#[test]
fn a_refused_configuration_logs_every_problem_and_is_counted() {
    let process = Process::new();
    let refused = vm(&process).configure(PluginConfig::new("p", r#"{"problems": ["one", "two", "three"]}"#));
    assert_eq!(refused.err(), Some(ConfigureError::Refused));
    let lines: Vec<String> = process
        .logs()
        .into_iter()
        .filter(|line| line.level == Level::Error)
        .map(|line| line.message)
        .collect();
    assert_eq!(
        lines,
        [
            "sailcloth metrics: probe: one",
            "sailcloth metrics: probe: two",
            "sailcloth metrics: probe: three",
            "sailcloth metrics: configuration refused: 3 problem(s), listed above",
        ]
    );
    assert_eq!(process.counter("sailcloth_config_refused_total;.;filter=.=metrics"), Some(1));
    assert!(
        process.gauge("sailcloth_config_refused_time_seconds;.;filter=.=metrics").is_some_and(|at| at > 0)
    );
}

#[test]
fn a_configuration_that_cannot_be_read_is_refused() {
    for status in [Status::NotFound, Status::BadArgument, Status::InternalFailure] {
        let process = Process::new();
        process.inject(Hostcall::GetBufferBytes, Injection::always(status));
        assert_eq!(
            vm(&process).configure(PluginConfig::new("p", "{}")).err(),
            Some(ConfigureError::Refused),
            "{status:?}"
        );
        assert!(process.logs()[0].message.contains("could not be read from Envoy"), "{status:?}");
    }
    for text in ["", "{", "[]", "\u{1}\u{2}", "nonsense"] {
        let configured = vm(&Process::new()).configure(PluginConfig::new("p", text));
        assert!(!matches!(configured, Err(ConfigureError::Trap(_))), "`{text}` traps");
    }
}

#[test]
fn no_failing_hostcall_traps_or_refuses_a_good_configuration() {
    for call in [
        Hostcall::DefineMetric,
        Hostcall::IncrementMetric,
        Hostcall::RecordMetric,
        Hostcall::Log,
        Hostcall::GetCurrentTime,
    ] {
        let process = Process::new();
        process.inject(call, Injection::always(Status::InternalFailure));
        let configured = vm(&process).configure(PluginConfig::new("p", r#"{"warnings": ["w"]}"#));
        assert!(configured.is_ok(), "{call}: {:?}", configured.err());
    }
}

#[test]
fn warnings_are_logged_and_accepted() {
    let process = Process::new();
    vm(&process).configure(PluginConfig::new("p", r#"{"warnings": ["beware"]}"#)).unwrap();
    let line = process.logs().into_iter().find(|line| line.level == Level::Warn).unwrap();
    assert_eq!(line.message, "sailcloth metrics: probe: beware");
}

#[test]
fn what_is_in_force_is_shown_from_the_first_stream_until_it_is_removed() {
    let process = Process::new();
    let worker = vm(&process);
    let old = worker.configure(PluginConfig::new("p", r#"{"name": "old"}"#)).unwrap();
    assert_eq!(in_force(&process), [0], "configured, and serves nobody yet");
    let serve = |plugin: &_| {
        let mut stream = Stream::new(&process, &[plugin], [(":path", "/")]);
        stream.request_headers(true);
        stream.finish().unwrap();
    };
    (0..3).for_each(|_| serve(&old));
    assert_eq!(in_force(&process), [1]);
    let new = worker.configure(PluginConfig::new("p", r#"{"name": "new"}"#)).unwrap();
    serve(&new);
    assert_eq!(in_force(&process).iter().sum::<u64>(), 2, "both, while the old one drains");
    old.shut_down().unwrap();
    let mut shown = in_force(&process);
    shown.sort_unstable();
    assert_eq!(shown, [0, 1], "the new one alone");
    assert_eq!(process.gauge("sailcloth_config_resources;.;filter=.=metrics;.;kind=.=Probe"), Some(1));
}

#[test]
fn two_filters_in_one_vm_keep_apart() {
    let process = Process::new();
    let worker = vm(&process);
    let one = worker.configure(PluginConfig::new("one", r#"{"name": "one"}"#)).unwrap();
    let two = worker.configure(PluginConfig::new("two", r#"{"name": "two"}"#)).unwrap();
    for plugin in [&one, &two, &one] {
        let mut stream = Stream::new(&process, &[plugin], [(":path", "/")]);
        stream.request_headers(true);
        stream.finish().unwrap();
    }
    let logged: Vec<String> = process
        .logs()
        .into_iter()
        .filter_map(|line| line.message.strip_prefix("probe log: ").map(str::to_owned))
        .collect();
    assert_eq!(logged, ["one 1", "two 1", "one 2"]);
}

#[test]
fn streams_leave_nothing_behind() {
    let bench = probe();
    let contexts = bench.vm.contexts();
    for _ in 0..1000 {
        let mut stream = request(&bench, "time,property");
        stream.request_headers(true);
        stream.response_headers([(":status", "200")], true);
        stream.finish().unwrap();
    }
    assert_eq!(bench.vm.contexts(), contexts);
    assert!(bench.vm.memory_bytes() < 4 << 20, "{} bytes", bench.vm.memory_bytes());
}

/// A stream of a root that the module does not know (removed, or never configured) must not be let through.
#[test]
fn a_root_without_configuration_answers_503() {
    let bench = probe();
    bench.plugin.shut_down().unwrap();
    let mut stream = request(&bench, "");
    assert_eq!(stream.request_headers(true), Progress::LocalReply);
    let reply = stream.local_reply().unwrap();
    assert_eq!((reply.status, reply.details.as_str()), (503, "sailcloth_metrics_not_configured"));
}

fn calling() -> (Bench, Stream) {
    let bench = probe();
    bench.process.set_cluster("upstream", Cluster::Reachable);
    let stream = request(&bench, "callout");
    (bench, stream)
}

#[test]
fn a_callout_pauses_and_its_answer_goes_on() {
    for (answer, word) in [
        (Answer::response(200, "body"), "200 4 bytes"),
        (Answer::response(204, ""), "204 0 bytes"),
        (Answer::Timeout, "504 24 bytes"),
        (Answer::Reset, "failed"),
    ] {
        let (bench, mut stream) = calling();
        assert_eq!(stream.request_headers(true), Progress::Paused(0), "{word}");
        let pending = bench.vm.callouts();
        assert_eq!(pending.len(), 1);
        bench.vm.answer(&pending[0], answer).unwrap();
        assert_eq!(stream.proceed(), Progress::Continue, "{word}");
        let line = said(&bench, "answer").remove(0);
        assert!(line.starts_with(word) && line.ends_with("stream there"), "{line}");
        stream.finish().unwrap();
    }
}

#[test]
fn an_answer_whose_stream_is_gone_finds_nobody() {
    let (bench, mut stream) = calling();
    stream.request_headers(true);
    let pending = bench.vm.callouts();
    stream.finish().unwrap();
    bench.vm.answer(&pending[0], Answer::response(200, "late")).unwrap();
    assert!(said(&bench, "answer")[0].ends_with("stream gone"), "{:?}", said(&bench, "answer"));
}

#[test]
fn a_callout_that_cannot_be_sent_refuses_at_once() {
    for cluster in [None, Some(Cluster::NoEndpoints)] {
        let bench = probe();
        if let Some(cluster) = cluster {
            bench.process.set_cluster("upstream", cluster);
        }
        let mut stream = request(&bench, "callout");
        assert_eq!(stream.request_headers(true), Progress::LocalReply, "{cluster:?}");
        assert_eq!(stream.local_reply().unwrap().status, 500);
        assert!(bench.vm.callouts().is_empty());
    }
}

/// Envoy may answer a call that it also refused (`envoy-wasm.md` 11.7): a token nobody waits for.
#[test]
fn an_answer_with_an_unknown_token_does_no_harm() {
    let (bench, mut stream) = calling();
    stream.request_headers(true);
    let mut pending = bench.vm.callouts();
    // The second answer of the same call carries a token that is no longer known.
    bench.vm.answer(&pending[0], Answer::response(200, "once")).unwrap();
    assert_eq!(stream.proceed(), Progress::Continue);
    assert!(bench.vm.answer(&pending.remove(0), Answer::response(200, "twice")).is_err());
    // A second stream whose answer fails in every hostcall that reads it.
    for call in [
        Hostcall::GetHeaderMapPairs,
        Hostcall::GetBufferBytes,
        Hostcall::SetEffectiveContext,
        Hostcall::ContinueStream,
    ] {
        let (bench, mut stream) = calling();
        stream.request_headers(true);
        bench.process.inject(call, Injection::always(Status::BadArgument));
        let pending = bench.vm.callouts();
        bench
            .vm
            .answer(&pending[0], Answer::response(200, "body"))
            .unwrap_or_else(|error| panic!("{call}: {error}"));
        stream.finish().unwrap_or_else(|trap| panic!("{call}: {trap}"));
    }
    bench.process.advance(Duration::from_secs(1));
    bench.vm.run_timers().unwrap();
}
