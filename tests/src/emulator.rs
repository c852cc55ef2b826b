//! The emulator runner: the built module in the stateful host of `sailcloth-emulator`.

use std::collections::BTreeMap;

use sailcloth_core::config::Node;
use sailcloth_emulator::{
    Answer, Cluster, ConfigureError, HeaderMap, LocalReply, MetricKind, Plugin, PluginConfig, Process,
    Progress, Stream, Value, Vm, VmOptions,
};

use crate::case::{Case, CaseFile, Headers};
use crate::facts;
use crate::judge::{self, Decided, Observed, counted};
use crate::native::{Clock, headers, refusal_differences};
use crate::report::Report;
use crate::subject::{Subject, filter_of};
use crate::{build, provider, template, yaml};

/// Runs the files of a filter.
#[must_use]
pub fn run(subject: &Subject, files: &[CaseFile]) -> Report {
    let mut report = Report::new(&format!("emulator {}", subject.name));
    files.iter().for_each(|file| run_file(subject.name, file, &mut report));
    report
}

/// A process of one worker with one configured filter.
pub struct Bench {
    /// The process.
    pub process: Process,
    /// The worker's VM.
    pub vm: Vm,
    /// The filter.
    pub plugin: Plugin,
}

impl Bench {
    /// Configures a module; the configuration goes in as JSON text, as from Istio.
    ///
    /// # Errors
    /// As [`Vm::configure`]; what the module logged is in the process.
    pub fn new(module: &str, configuration: &Node) -> Result<Self, (ConfigureError, Process)> {
        let process = Process::new();
        sailcloth_emulator::crypto::register(&process);
        for name in provider::clusters(configuration) {
            process.set_cluster(&name, Cluster::Reachable);
        }
        let options = VmOptions { vm_id: format!("sailcloth-{module}"), ..VmOptions::default() };
        let vm = match Vm::new(&process, &build::module(module), options) {
            Ok(vm) => vm,
            Err(trap) => return Err((trap.into(), process)),
        };
        match vm.configure(PluginConfig::new(module, yaml::json(configuration))) {
            Ok(plugin) => Ok(Self { process, vm, plugin }),
            Err(error) => Err((error, process)),
        }
    }

    /// A stream of a case through the filter, its facts set.
    #[must_use]
    pub fn stream(&self, case: &Case, configuration: &Node, request: &Headers) -> Stream {
        let stream = Stream::new(&self.process, &[&self.plugin], header_map(request));
        for (path, value) in facts::attributes(case, configuration) {
            match path.as_slice() {
                ["filter_state", key] => stream.set_filter_state(key, value),
                [state] => stream.set_filter_state(&format!("wasm.{state}"), value),
                path => stream.set_attribute(path, Value::Bytes(value)),
            }
        }
        stream
    }
}

/// Headers as the emulator takes them.
#[must_use]
pub fn header_map(headers: &Headers) -> HeaderMap {
    headers.iter().map(|(name, value)| (name, value)).collect()
}

fn run_file(module: &str, file: &CaseFile, report: &mut Report) {
    let filter = filter_of(module);
    let mut clock = Clock::new(file);
    let configuration = match template::expand_node(&file.configuration, clock.seconds()) {
        Ok(configuration) => configuration,
        Err(error) => return report.ran(&file.name, &[error]),
    };
    let bench = Bench::new(module, &configuration);
    if let Some(expected) = &file.refused {
        return report.ran(&file.name, &refused(filter, expected, bench));
    }
    let bench = match bench {
        Ok(bench) => bench,
        Err((error, process)) => {
            let logs = process.logs().into_iter().map(|line| line.message);
            return report
                .ran(&file.name, &std::iter::once(error.to_string()).chain(logs).collect::<Vec<_>>());
        }
    };
    for case in &file.cases {
        clock.go_to(case);
        bench.process.advance(case.at);
        bench.process.set_realtime_ns(clock.0);
        let row = format!("{}: {}", file.name, case.name);
        let mut arms = judge::Arms::default();
        for repetition in 0..case.repeat {
            let request = match headers(case, clock.seconds(), repetition) {
                Ok(request) => request,
                Err(error) => {
                    report.ran(&row, &[error]);
                    continue;
                }
            };
            let stream = bench.stream(case, &configuration, &request);
            let observed = observe(filter, &bench, stream);
            arms.count(&observed);
            report.ran(&row, &judge::differences(&case.expect, &observed));
        }
        report.judge_shares(&row, &arms.differences(&case.expect));
    }
}

fn refused(
    filter: &str,
    expected: &[String],
    bench: Result<Bench, (ConfigureError, Process)>,
) -> Vec<String> {
    let Err((error, process)) = bench else { return refusal_differences(expected, &[]) };
    let mut differences = refusal_differences(expected, &logged_problems(filter, &process));
    if error != ConfigureError::Refused {
        differences.push(error.to_string());
    }
    let counter = format!("sailcloth_config_refused_total;.;filter=.={filter}");
    if process.counter(&counter) != Some(1) {
        differences.push(format!("counter {counter} is {:?}, expected 1", process.counter(&counter)));
    }
    differences
}

/// The problems that a module logged, without its own closing line.
fn logged_problems(filter: &str, process: &Process) -> Vec<String> {
    let prefix = format!("sailcloth {filter}: ");
    let errors = process.logs().into_iter().filter(|line| line.level == sailcloth_emulator::Level::Error);
    let texts = errors.filter_map(|line| line.message.strip_prefix(&prefix).map(str::to_owned));
    texts.filter(|text| !text.starts_with("configuration refused")).collect()
}

fn answer(question: &Headers) -> Answer {
    match provider::answer(question) {
        provider::Reply::Silence => Answer::Timeout,
        provider::Reply::Response(status, headers, body) => {
            let status = status.to_string();
            let headers = std::iter::once((":status", status.as_str())).chain(headers).collect();
            Answer::Response { headers, body: body.into_bytes(), trailers: HeaderMap::default() }
        }
    }
}

/// Sends the request through, and a plain 200 back where it got to the upstream.
#[must_use]
pub fn observe(filter: &str, bench: &Bench, mut stream: Stream) -> Observed {
    let process = &bench.process;
    let before = metrics(process);
    let mut observed = Observed::default();
    let mut progress = stream.request_headers(true);
    while let (Progress::Paused(_), [callout, ..]) = (&progress, bench.vm.callouts().as_slice()) {
        if let Err(error) = bench.vm.answer(callout, answer(&pairs(&callout.headers))) {
            observed.faults.push(format!("the callout could not be answered: {error:?}"));
            break;
        }
        progress = stream.proceed();
    }
    if stream.reached_upstream() {
        let mut upstream = pairs(&stream.current_request_headers());
        // Where the route of a shipped configuration reads the cluster, and removes it.
        observed.cluster = take(&mut upstream, sailcloth_routing::CLUSTER_HEADER);
        observed.upstream = Some(upstream);
        progress = stream.response_headers([(":status", "200")], true);
    }
    if let Progress::Paused(_) | Progress::Reset = progress {
        observed.faults.push(format!("the stream ended as {progress:?}"));
    }
    let reply = stream.local_reply();
    observed.status = status(&stream, reply.as_ref());
    observed.headers = stream.current_response_headers().map(|headers| pairs(&headers));
    observed.body = reply.as_ref().map(|reply| reply.body.clone());
    let state = stream.filter_state(&format!("wasm.sailcloth.{filter}"));
    if let Err(trap) = stream.finish() {
        observed.faults.push(trap.to_string());
    }
    let changes = changes(&before, &metrics(process));
    decide(filter, &mut observed, state, reply.as_ref().map(|reply| reply.details.as_str()), &changes);
    observed.metrics = Some(changes);
    observed
}

/// Puts together what filter state, response code details and counters say about the decision. The three must agree.
pub fn decide(
    filter: &str,
    observed: &mut Observed,
    state: Option<Vec<u8>>,
    details: Option<&str>,
    changes: &[(String, i64)],
) {
    let (acted, shadow) = counted(filter, changes);
    let status = observed.status.unwrap_or_default();
    let told = details.filter(|details| details.starts_with("sailcloth_"));
    if let Some(details) = told {
        observed.decided = Decided::of_details(filter, details, status).map(|told| {
            // Whether it was a denial or a limit the status does not always say (gRPC: 200); the counter knows.
            let same = acted.iter().find(|counted| counted.by == told.by && counted.reason == told.reason);
            same.cloned().unwrap_or(told)
        });
        if observed.decided.is_none() {
            observed.faults.push(format!("response code details `{details}` name no decision of {filter}"));
        }
    } else {
        let state = state.and_then(|state| String::from_utf8(state).ok());
        observed.decided = state.as_deref().and_then(Decided::of_state).or_else(|| acted.first().cloned());
    }
    // ratelimit counts what each rule did, and routing adds a label.
    let told_alike = matches!(filter, "authz" | "jwt" | "routing");
    if let (Some(decided), true) = (&observed.decided, told_alike)
        && !acted.iter().any(|counted| counted == decided)
    {
        observed.faults.push(format!("decided `{decided}`, but counted {acted:?}"));
    }
    observed.shadow = shadow.first().cloned();
    let arm = |(name, _): &(String, i64)| name.split_once(";.;arm=.=").map(|(_, arm)| arm.to_owned());
    let acted = changes.iter().filter(|(name, _)| !name.contains(";.;outcome=.=shadow_"));
    observed.arm = acted.filter_map(arm).next().filter(|arm| arm != "none");
}

fn status(stream: &Stream, reply: Option<&LocalReply>) -> Option<u16> {
    if let Some(reply) = reply {
        return u16::try_from(reply.status).ok();
    }
    stream.current_response_headers()?.text(":status")?.parse().ok()
}

fn take(headers: &mut Headers, name: &str) -> Option<String> {
    let index = headers.iter().position(|(other, _)| other == name)?;
    String::from_utf8(headers.remove(index).1).ok()
}

fn pairs(headers: &HeaderMap) -> Headers {
    let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    headers.pairs().iter().map(|pair| (name(&pair.0), pair.1.clone())).collect()
}

/// Counters and gauges by name.
#[must_use]
pub fn metrics(process: &Process) -> BTreeMap<String, u64> {
    let numbers = process.metrics().into_iter().filter(|(kind, ..)| *kind != MetricKind::Histogram);
    numbers.map(|(_, name, value)| (name, value)).collect()
}

/// What changed from one reading to the next.
#[must_use]
pub fn changes(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Vec<(String, i64)> {
    let change = |name: &String, value: u64| {
        value.cast_signed() - before.get(name).copied().unwrap_or(0).cast_signed()
    };
    after
        .iter()
        .map(|(name, value)| (name.clone(), change(name, *value)))
        .filter(|(_, change)| *change != 0)
        .collect()
}
