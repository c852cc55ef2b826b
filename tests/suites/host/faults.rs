//! A property of every filter: a host that fails never makes it trap, and never makes it more permissive.
//!
//! For each case of the corpus, each hostcall that the request makes and each status: what was refused without the fault
//! is not let through with it, and what is let through reaches the upstream with the same headers, identity and cluster. A
//! callout that cannot be sent may let a request through where the configuration asks for that (`failOpen`), and is counted so.

use std::collections::BTreeMap;

use sailcloth_core::config::Node;
use sailcloth_emulator::{Hostcall, Injection, Status, VmState};
use sailcloth_tests::case::{Case, CaseFile, Headers};
use sailcloth_tests::emulator::Bench;
use sailcloth_tests::native::{Clock, headers};
use sailcloth_tests::report::Report;
use sailcloth_tests::subject::{ALL, Subject};
use sailcloth_tests::{corpus, template};

const CODES: [u32; 6] = [
    Status::NotFound as u32,
    Status::BadArgument as u32,
    Status::SerializationFailure as u32,
    Status::CasMismatch as u32,
    Status::InternalFailure as u32,
    255,
];

/// The reason of a decision that only `failOpen` of an extension provider makes.
const FAILED_OPEN: &str = "reason=.=external_error_ignored";

fn counted(bench: &Bench, label: &str) -> bool {
    bench.process.metrics().iter().any(|(_, name, value)| name.contains(label) && *value > 0)
}

/// What a stream came to: refused (or stuck), or passed on with this.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Refused,
    Passed { upstream: Vec<(String, Vec<u8>)>, states: Vec<Option<Vec<u8>>> },
}

#[test]
fn no_fault_of_the_host_traps_a_filter_or_opens_it() {
    for subject in ALL {
        let mut report = Report::new(&format!("faults of the host under {}", subject.name));
        let mut closed = 0;
        for file in corpus::files(subject.name).iter().filter(|file| file.refused.is_none()) {
            closed += check_file(subject, file, &mut report);
        }
        // Where something is decided, some fault must have closed a request: else nothing was injected.
        assert!(closed > 0 || subject.name == "metrics", "{}: no fault changed anything", subject.name);
        report.finish();
    }
}

struct Prepared<'f> {
    subject: &'f Subject,
    file: &'f CaseFile,
    configuration: Node,
    requests: Vec<(Headers, u64)>,
}

/// How many faults refused a request that passes without them.
fn check_file(subject: &Subject, file: &CaseFile, report: &mut Report) -> usize {
    let mut clock = Clock::new(file);
    let configuration = template::expand_node(&file.configuration, clock.seconds()).unwrap();
    let requests = file.cases.iter().map(|case| {
        clock.go_to(case);
        (headers(case, clock.seconds(), 0).unwrap(), clock.0)
    });
    let prepared = Prepared { subject, file, configuration, requests: requests.collect() };
    (0..file.cases.len()).map(|number| prepared.check(number, report)).sum()
}

impl Prepared<'_> {
    fn check(&self, number: usize, report: &mut Report) -> usize {
        let mut closed = 0;
        let (bench, expected) = self.run(number, None);
        let used: Vec<Hostcall> = bench.process.calls().hostcalls.into_keys().collect();
        for call in used {
            for code in CODES {
                let case = &self.file.cases[number];
                let row = format!("{}: {} with {call} answering {code}", self.file.name, case.name);
                let (bench, found) = self.run(number, Some((call, code)));
                let mut differences = Vec::new();
                if let VmState::Failed(reason) = bench.vm.state() {
                    differences.push(format!("the module trapped: {reason}"));
                }
                match (&expected, &found) {
                    (Fate::Passed { .. }, Fate::Refused) => closed += 1,
                    (Fate::Refused, Fate::Refused) => {}
                    (Fate::Refused, Fate::Passed { .. })
                        if call == Hostcall::HttpCall && counted(&bench, FAILED_OPEN) => {}
                    (Fate::Refused, Fate::Passed { .. }) => {
                        differences.push("what was refused is let through".to_owned())
                    }
                    (Fate::Passed { .. }, Fate::Passed { .. }) if expected != found => {
                        differences.push(format!("let through otherwise: {expected:?}, now {found:?}"));
                    }
                    _ => {}
                }
                report.ran(&row, &differences);
            }
        }
        closed
    }

    /// Replays the cases before, then the case, under a fault; calls are counted for the case alone.
    fn run(&self, number: usize, fault: Option<(Hostcall, u32)>) -> (Bench, Fate) {
        let bench = Bench::new(self.subject.name, &self.configuration).map_err(|(error, _)| error).unwrap();
        let mut fate = Fate::Refused;
        for (index, (case, (request, now))) in
            self.file.cases.iter().zip(&self.requests).enumerate().take(number + 1)
        {
            bench.process.advance(case.at);
            bench.process.set_realtime_ns(*now);
            for _ in 1..case.repeat.min(if index == number { 1 } else { u32::MAX }) {
                self.exchange(&bench, case, request);
            }
            if index == number {
                bench.process.reset_calls();
                if let Some((call, code)) = fault {
                    bench.process.inject(call, Injection::always(Status::Ok).with_code(code));
                }
            }
            fate = self.exchange(&bench, case, request);
        }
        (bench, fate)
    }

    fn exchange(&self, bench: &Bench, case: &Case, request: &Headers) -> Fate {
        let mut stream = bench.stream(case, &self.configuration, request);
        stream.request_headers(true);
        let passed = stream.reached_upstream();
        if passed {
            stream.response_headers([(":status", "200")], true);
        }
        let fate = if passed {
            let mut upstream: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            for (name, value) in stream.current_request_headers().pairs() {
                upstream.entry(String::from_utf8_lossy(name).into_owned()).or_default().extend(value);
            }
            let states = ["jwt", "jwt.principal", "authz"]
                .map(|name| stream.filter_state(&format!("wasm.sailcloth.{name}")));
            Fate::Passed { upstream: upstream.into_iter().collect(), states: states.to_vec() }
        } else {
            Fate::Refused
        };
        // A trap shows in the VM's state.
        let _ = stream.finish();
        fate
    }
}
