//! A module that does what a test tells it: exercises every hostcall of `crates/host`, hands on an identity in place of
//! the `jwt` filter, and panics on demand. Never shipped.
//!
//! Request header `x-probe` lists operations; each logs `probe <operation>: <ok or status>`. Header `x-probe-token`
//! (hexadecimal) becomes the filter state that the `jwt` filter writes. The configuration is `{"problems": [...]}`: not
//! empty means refused, with these problems.

use std::cell::Cell;
use std::time::Duration;

use sailcloth_core::config::{Node, Problem, Severity};
use sailcloth_core::decision::Filter;
use sailcloth_core::facts::{Fact, Properties, TOKEN_STATE};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_host::callout::{self, Answer, Token};
use sailcloth_host::lease::Leases;
use sailcloth_host::metrics::{Counter, Gauge, Histogram};
use sailcloth_host::{
    Action, Http, Plugin, Status, StreamId, Streams, clock, foreign, log, random, shared, timer,
};

/// The configured probe.
struct Probe {
    requests: u32,
    name: String,
    /// Streams that the next tick continues (true) or answers (false).
    paused: Vec<(StreamId, bool)>,
}

impl Plugin for Probe {
    const FILTER: Filter = Filter::Metrics;
    type Stream = Vec<String>;

    fn configure(configuration: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let problem = |severity, message: String| Problem { severity, path: "probe".to_owned(), message };
        let list = |key| match configuration.field(key) {
            Some(Node::List(items)) => items.iter().filter_map(Node::text).map(str::to_owned).collect(),
            _ => Vec::<String>::new(),
        };
        let problems = list("problems");
        if problems.is_empty() {
            let warnings =
                list("warnings").into_iter().map(|text| problem(Severity::Warning, text)).collect();
            let name = configuration.field("name").and_then(Node::text).unwrap_or_default().to_owned();
            return Ok((Self { requests: 0, name, paused: Vec::new() }, warnings));
        }
        Err(problems.into_iter().map(|text| problem(Severity::Error, text)).collect())
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        vec![("Probe", 1)]
    }

    fn request_headers(&mut self, stream: &mut Vec<String>, http: Http) -> Action {
        self.requests += 1;
        let headers = match http.request_headers() {
            Ok(headers) => headers,
            Err(status) => return http.fail_closed("request headers", status),
        };
        let operations = text(&headers, "x-probe");
        if let Err(status) = hand_on(&headers, http) {
            return http.fail_closed("identity", status);
        }
        stream.push(format!("{} {}", self.name, self.requests));
        let mut action = Action::Continue;
        for operation in operations.split(',').filter(|operation| !operation.is_empty()) {
            action = match operation {
                "tick-continues" | "tick-replies" => self.pause(http, operation == "tick-continues"),
                _ => perform(operation, http, &headers),
            };
        }
        action
    }

    fn response_headers(&mut self, _: &mut Vec<String>, http: Http) -> Action {
        let block = http.response_headers().map(|headers| headers.len());
        say("response-headers", &block.map(|_| ()));
        say("set-response-header", &http.set_response_header("x-probe-response", b"\xe9"));
        Action::Continue
    }

    fn log(&mut self, stream: &mut Vec<String>, http: Http) {
        say("log-headers", &http.request_headers().map(|_| ()));
        log::info(&format!("probe log: {}", stream.join(";")));
    }

    fn callout(
        &mut self,
        streams: &mut Streams<'_, Self>,
        sender: Option<StreamId>,
        token: Token,
        answer: Answer,
    ) {
        let stream = sender.and_then(|stream| streams.get(stream));
        let outcome = match &answer {
            Answer::Response { status, body, .. } => format!("{status} {} bytes", body.len()),
            Answer::TooLarge => "too large".to_owned(),
            Answer::Failed => "failed".to_owned(),
        };
        log::info(&format!(
            "probe answer: {outcome} of {token:?}, stream {}",
            if stream.is_some() { "there" } else { "gone" }
        ));
        if let Some((_, http)) = stream {
            say("continue", &http.continue_request());
        }
    }

    fn tick(&mut self, streams: &mut Streams<'_, Self>) {
        say("stop-ticks", &timer::set_period(None));
        log::warn(&format!("probe tick: {} paused", self.paused.len()));
        for (id, on) in self.paused.drain(..) {
            match streams.get(id) {
                None => log::info("probe tick: stream out of reach"),
                Some((_, http)) if on => say("continue", &http.continue_request()),
                Some((_, http)) => {
                    http.fail_closed("a tick", Status::Empty);
                }
            }
        }
    }

    fn ended(&mut self, id: StreamId, stream: Vec<String>) {
        log::info(&format!("probe ended: {}", stream.join(";")));
        self.paused.retain(|(paused, _)| *paused != id);
    }
}

impl Probe {
    fn pause(&mut self, http: Http, on: bool) -> Action {
        self.paused.push((http.stream(), on));
        let ticking = timer::set_period(Some(Duration::from_millis(50)));
        say("set-period", &ticking);
        match ticking {
            Ok(()) => Action::Stop,
            Err(status) => http.fail_closed("no ticks", status),
        }
    }
}

/// In place of the `jwt` filter, for filters that read its hand-over.
fn hand_on(headers: &HeaderBlock, http: Http) -> Result<(), Status> {
    let digits = text(headers, "x-probe-token");
    if digits.is_empty() {
        return Ok(());
    }
    let digit =
        |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    let mut rest = digits.bytes();
    while let (Some(high), Some(low)) = (rest.next(), rest.next()) {
        bytes.push(digit(high) << 4 | digit(low));
    }
    http.set_state(TOKEN_STATE, &bytes)?;
    http.remove_request_header("x-probe-token")
}

fn text(headers: &HeaderBlock, name: &str) -> String {
    headers.first(name).map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
}

fn say(operation: &str, result: &Result<(), Status>) {
    let word = match result {
        Ok(()) => "ok",
        Err(status) => status.name(),
    };
    log::info(&format!("probe {operation}: {word}"));
}

#[expect(clippy::panic, reason = "a test asks for it: what happens after a crash is what it tests")]
fn perform(operation: &str, http: Http, headers: &HeaderBlock) -> Action {
    let result = match operation {
        "panic" => panic!("as the test asked"),
        "property" => property(http, &["source", "address"]),
        "missing-property" => property(http, &["no", "such"]),
        "set-header" => http.set_request_header("x-set", b"caf\xe9"),
        "add-header" => http.add_request_header("x-set", b"again"),
        "remove-header" => http.remove_request_header("x-probe-remove"),
        "state" => http.set_state("probe.state", b"\xff\x00"),
        "time" => clock::system_time().map(|_| ()),
        "monotonic" => clock::monotonic_nanoseconds().map(|_| ()),
        "random" => random::next().map(|_| ()),
        "read" => shared::read(b"probe/key").map(|_| ()),
        "create" => shared::write(b"probe/key", b"value", None).map(|_| ()),
        "rewrite" => shared::read(b"probe/key").and_then(|found| {
            shared::write(b"probe/key", b"next", found.map(|(_, version)| version)).map(|_| ())
        }),
        "claim" => lease(10, |leases, now, until| {
            leases.claim(LEASE, now, until).map(|mine| log::info(&format!("probe lease claimed: {mine}")))
        }),
        "settle" => lease(2, |leases, now, until| {
            let settled = leases.settle(LEASE, now, until, b"note");
            settled.map(|mine| log::info(&format!("probe lease settled: {mine}")))
        }),
        "lease" => lease(0, |leases, now, _| {
            leases.read(LEASE, now).map(|lease| {
                let left = lease.until.saturating_sub(now) / 1_000_000_000;
                let note = String::from_utf8_lossy(&lease.note).into_owned();
                log::info(&format!("probe lease: {left} s, held {}, `{note}`", lease.is_held()));
            })
        }),
        "counter" => Counter::define("probe_count").map(|counter| counter.add(1)),
        "gauge" => Gauge::define("probe_gauge").map(|gauge| {
            gauge.set(7);
            gauge.add(-2);
        }),
        "histogram" => Histogram::define("probe_histogram").map(|histogram| histogram.record(3)),
        "foreign" => foreign::call("clear_route_cache", b"").map(|_| ()),
        "missing-foreign" => foreign::call("no_such_function", b"").map(|_| ()),
        "verify" => foreign::verify_signature("sha256", b"key", b"signature", b"text").map(|valid| {
            log::info(&format!("probe valid: {valid}"));
        }),
        "bytes" => {
            log::info(&format!("probe bytes: {:?}", headers.first("x-bytes")));
            Ok(())
        }
        "fail-closed" => return http.fail_closed("the probe", Status::InternalFailure),
        "callout" => return call(http),
        "callout-and-go" => {
            let _ = call(http);
            return Action::Continue;
        }
        _ => Err(Status::NotFound),
    };
    say(operation, &result);
    Action::Continue
}

const LEASE: &[u8] = b"probe/lease";

thread_local! {
    static LEASES: Cell<Option<Leases>> = const { Cell::new(None) };
}

/// With this VM's name, now and so many seconds later.
fn lease(seconds: u64, work: impl FnOnce(Leases, u64, u64) -> Result<(), Status>) -> Result<(), Status> {
    let leases = match LEASES.get() {
        Some(leases) => leases,
        None => Leases::new()?,
    };
    LEASES.set(Some(leases));
    let now = clock::monotonic_nanoseconds()?;
    work(leases, now, now.saturating_add(seconds * 1_000_000_000))
}

fn property(http: Http, path: &[&str]) -> Result<(), Status> {
    match http.property(path) {
        Fact::Known(_) => Ok(()),
        Fact::Absent => Err(Status::NotFound),
        Fact::Unavailable(why) => {
            log::info(&format!("probe unavailable: {why}"));
            Err(Status::InternalFailure)
        }
    }
}

fn call(http: Http) -> Action {
    let headers: [(&str, &[u8]); 3] = [(":method", b"GET"), (":path", b"/"), (":authority", b"upstream")];
    let sent = callout::send("upstream", &headers, b"body", Duration::from_millis(500));
    say("callout", &sent.map(|_| ()));
    match sent {
        Ok(_) => Action::Stop,
        Err(status) => http.fail_closed("callout", status),
    }
}

sailcloth_host::export!(Probe: request_headers, response_headers, log, callout, tick);
