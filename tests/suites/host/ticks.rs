//! Ticks: streams that stop and are continued or answered later, in the emulator.

use std::time::Duration;

use sailcloth_emulator::{
    Callback, ConfigureError, Hostcall, Injection, PluginConfig, Process, Progress, Status, Stream, Threads,
    VmOptions,
};
use sailcloth_tests::build;

use crate::probe::{complete, probe, request, said};

const PERIOD: Duration = Duration::from_millis(50);

fn threads(workers: usize) -> (Process, Threads) {
    let process = Process::new();
    let config = PluginConfig::new("probe", "{}");
    let module = build::module("probe");
    let threads = Threads::configure(&process, &module, &VmOptions::default(), &config, workers).unwrap();
    (process, threads)
}

#[test]
fn a_tick_continues_one_stream_and_answers_another() {
    let bench = probe();
    let mut passes = request(&bench, "tick-continues");
    let mut refused = request(&bench, "tick-replies");
    for stream in [&mut passes, &mut refused] {
        assert_eq!(stream.request_headers(true), Progress::Paused(0));
    }
    bench.process.advance(PERIOD);
    bench.vm.run_timers().unwrap();
    assert_eq!(passes.proceed(), Progress::Continue);
    assert_eq!(refused.proceed(), Progress::LocalReply);
    assert_eq!(refused.local_reply().unwrap().details, "sailcloth_metrics_host_error[empty]");
    // The reply of a tick stops its own stream and no other.
    assert_eq!(complete(&mut request(&bench, "time")), Progress::Continue);
}

#[test]
fn the_period_begins_anew_when_it_is_set_and_ends_when_it_is_taken_back() {
    let bench = probe();
    assert_eq!(bench.plugin.tick_period(), None);
    request(&bench, "tick-continues").request_headers(true);
    bench.process.advance(PERIOD / 2);
    request(&bench, "tick-continues").request_headers(true);
    bench.process.advance(PERIOD / 2);
    bench.vm.run_timers().unwrap();
    assert!(said(&bench, "tick").is_empty());
    bench.process.advance(PERIOD / 2);
    bench.vm.run_timers().unwrap();
    assert_eq!(said(&bench, "tick"), ["2 paused"]);
    assert_eq!(bench.plugin.tick_period(), None, "the probe stops its ticks");
}

#[test]
fn a_stream_that_ends_while_it_waits_is_forgotten() {
    let bench = probe();
    let mut stream = request(&bench, "tick-continues");
    stream.request_headers(true);
    stream.finish().unwrap();
    assert_eq!(said(&bench, "ended"), [" 1"]);
    bench.process.advance(PERIOD);
    bench.vm.run_timers().unwrap();
    assert_eq!(said(&bench, "tick"), ["0 paused"]);
}

#[test]
fn a_stream_that_envoy_no_longer_knows_is_out_of_reach() {
    let bench = probe();
    request(&bench, "tick-replies").request_headers(true);
    bench.process.inject(Hostcall::SetEffectiveContext, Injection::always(Status::BadArgument));
    bench.process.advance(PERIOD);
    bench.vm.run_timers().unwrap();
    assert_eq!(said(&bench, "tick"), ["1 paused", "stream out of reach"]);
}

#[test]
fn a_host_that_gives_no_ticks_is_an_answer() {
    let bench = probe();
    bench.process.inject(Hostcall::SetTickPeriod, Injection::always(Status::InternalFailure));
    let mut stream = request(&bench, "tick-continues");
    assert_eq!(stream.request_headers(true), Progress::LocalReply);
    assert_eq!(stream.local_reply().unwrap().status, 500);
}

/// `envoy-wasm.md` 1.1: W + 2 configures, ticks in W + 1 instances.
#[test]
fn an_envoy_of_two_workers_configures_four_times_and_ticks_in_three() {
    let (process, threads) = threads(2);
    assert_eq!(process.calls().callback(Callback::OnConfigure), 4);
    for plugin in threads.workers() {
        Stream::new(&process, &[plugin], [(":path", "/"), ("x-probe", "tick-continues")])
            .request_headers(true);
    }
    threads.main().tick().unwrap();
    threads.advance(PERIOD - Duration::from_millis(1)).unwrap();
    assert_eq!(process.calls().callback(Callback::OnTick), 1);
    threads.advance(Duration::from_secs(1)).unwrap();
    assert_eq!(process.calls().callback(Callback::OnTick), 3);
}

#[test]
fn a_configuration_that_the_canary_refuses_reaches_no_worker() {
    let process = Process::new();
    let config = PluginConfig::new("probe", r#"{"problems": ["wrong"]}"#);
    let threads = Threads::configure(&process, &build::module("probe"), &VmOptions::default(), &config, 2);
    assert_eq!(threads.err(), Some(ConfigureError::Refused));
    assert_eq!(process.calls().callback(Callback::OnConfigure), 1);
}
