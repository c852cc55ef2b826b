//! Rules that ask a rate limit service, in the emulator: every way in which it answers, or does not.

use std::time::Duration;

use sailcloth_core::config::Node;
use sailcloth_core::protobuf::{Field, read_field, write_bytes, write_number};
use sailcloth_emulator::{Answer, Callout, Cluster, Hostcall, Injection, Progress, Status, Stream, VmState};
use sailcloth_tests::emulator::Bench;
use sailcloth_tests::yaml;

fn configuration(rules: &str) -> Node {
    let text = format!(
        "resources:\n- apiVersion: sailcloth.dev/v1alpha1\n  kind: RateLimit\n  metadata: {{name: limits, namespace: shop}}\n  \
         spec: {{rules: {rules}}}\n"
    );
    yaml::parse(&text).unwrap()
}

fn bench(rules: &str) -> Bench {
    let bench =
        Bench::new("ratelimit", &configuration(rules)).map_err(|(_, process)| process.logs()).unwrap();
    bench.process.set_cluster("rls", Cluster::Reachable);
    bench
}

fn rule(on_failure: &str) -> String {
    format!(
        "[{{key: [{{header: x-api-key, as: api_key}}], global: {{cluster: rls, domain: shop, timeout: 50ms, {on_failure}, \
         circuitBreaker: {{failures: 3, openFor: 1s}}}}}}]"
    )
}

const LOCAL: &str = "onFailure: local, local: {requests: 2, per: hour}";

fn request(bench: &Bench, headers: &[(&str, &str)]) -> Stream {
    let base = [(":method", "GET"), (":path", "/"), (":authority", "shop"), (":scheme", "http")];
    let pairs: Vec<(&str, &str)> = base.iter().chain(headers).copied().collect();
    Stream::new(
        &bench.process,
        &[&bench.plugin],
        pairs.into_iter().collect::<sailcloth_emulator::HeaderMap>(),
    )
}

fn call(bench: &Bench) -> Callout {
    let mut calls = bench.vm.callouts();
    assert_eq!(calls.len(), 1, "{calls:?}");
    calls.remove(0)
}

/// domain, descriptors, hits_addend
fn asked(call: &Callout) -> (String, Vec<Vec<(String, String)>>, u64) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (mut domain, mut descriptors, mut hits) = (String::new(), Vec::new(), 1);
    let mut bytes = call.body.as_slice();
    while let Some(field) = read_field(&mut bytes) {
        match field {
            (1, Field::Bytes(name)) => domain = text(name),
            (2, Field::Bytes(mut descriptor)) => {
                let mut entries = Vec::new();
                while let Some((1, Field::Bytes(mut entry))) = read_field(&mut descriptor) {
                    let Some((1, Field::Bytes(key))) = read_field(&mut entry) else {
                        panic!("an entry without a key")
                    };
                    let Some((2, Field::Bytes(value))) = read_field(&mut entry) else {
                        panic!("without a value")
                    };
                    entries.push((text(key), text(value)));
                }
                descriptors.push(entries);
            }
            (3, Field::Varint(number)) => hits = number,
            other => panic!("{other:?}"),
        }
    }
    (domain, descriptors, hits)
}

const OK: u64 = 1;
const OVER: u64 = 2;

/// A response: its code, for each descriptor code, what is left of 10 a minute and seconds to wait, and headers.
fn says(overall: u64, statuses: &[(u64, u64, u64)], headers: &[(u32, &str, &str)]) -> Answer {
    let mut out = Vec::new();
    write_number(&mut out, 1, overall);
    for (code, remaining, seconds) in statuses {
        let (mut status, mut limit, mut reset) = (Vec::new(), Vec::new(), Vec::new());
        write_number(&mut limit, 1, 10);
        write_number(&mut limit, 2, 2);
        write_number(&mut reset, 1, *seconds);
        write_number(&mut status, 1, *code);
        write_bytes(&mut status, 2, &limit);
        write_number(&mut status, 3, *remaining);
        write_bytes(&mut status, 4, &reset);
        write_bytes(&mut out, 2, &status);
    }
    for (field, key, value) in headers {
        let mut header = Vec::new();
        write_bytes(&mut header, 1, key.as_bytes());
        write_bytes(&mut header, 2, value.as_bytes());
        write_bytes(&mut out, *field, &header);
    }
    Answer::GrpcMessage(out)
}

/// Sends a request whose call gets this answer; the reply, if it is refused.
fn exchange(bench: &Bench, answer: Answer) -> Option<sailcloth_emulator::LocalReply> {
    let mut stream = request(bench, &[("x-api-key", "a")]);
    if stream.request_headers(true) == Progress::Paused(0) {
        bench.vm.answer(&call(bench), answer).unwrap();
        stream.proceed();
    }
    ended(bench, stream)
}

fn ended(bench: &Bench, mut stream: Stream) -> Option<sailcloth_emulator::LocalReply> {
    let reply = stream.local_reply();
    assert_eq!(stream.reached_upstream(), reply.is_none(), "neither answered nor passed on");
    if reply.is_none() {
        stream.response_headers([(":status", "200")], true);
    }
    stream.finish().unwrap();
    assert_eq!(bench.vm.state(), VmState::Running);
    reply
}

fn calls_of(bench: &Bench, result: &str) -> u64 {
    let name = format!("sailcloth_ratelimit_calls_total;.;cluster=.=rls;.;result=.={result}");
    bench.process.counter(&name).unwrap_or(0)
}

fn decisions(bench: &Bench, outcome: &str, reason: &str) -> u64 {
    let name = format!(
        "sailcloth_ratelimit_decisions_total;.;policy=.=shop/limits;.;rule=.=0;.;outcome=.={outcome};.;reason=.={reason}"
    );
    bench.process.counter(&name).unwrap_or(0)
}

#[test]
fn a_request_waits_for_the_answer_and_passes_with_the_headers_of_the_service() {
    let bench = bench(&rule("onFailure: deny"));
    let mut stream = request(&bench, &[("x-api-key", "gold")]);
    assert_eq!(stream.request_headers(true), Progress::Paused(0));
    let call = call(&bench);
    assert_eq!(call.cluster, "rls");
    let method = ("envoy.service.ratelimit.v3.RateLimitService".to_owned(), "ShouldRateLimit".to_owned());
    assert_eq!((call.grpc.clone(), call.timeout), (Some(method), Some(Duration::from_millis(50))));
    let entry = ("api_key".to_owned(), "gold".to_owned());
    assert_eq!(asked(&call), ("shop".to_owned(), vec![vec![entry]], 1));
    let headers = [
        (3, "X-Left", "9"),
        (4, "x-tier", "gold"),
        (4, ":path", "/admin"),
        (4, "host", "evil"),
        (3, "bad\nname", "x"),
    ];
    bench.vm.answer(&call, says(OK, &[(OK, 9, 60)], &headers)).unwrap();
    assert_eq!(stream.proceed(), Progress::Continue);
    let upstream = stream.current_request_headers();
    assert_eq!(upstream.get("x-tier"), Some(b"gold".as_slice()));
    assert_eq!(upstream.get(":path"), Some(b"/".as_slice()), "no pseudo header is the service's to write");
    assert_eq!(upstream.get("host"), None);
    stream.response_headers([(":status", "200")], true);
    assert_eq!(stream.current_response_headers().unwrap().get("x-left"), Some(b"9".as_slice()));
    assert_eq!((calls_of(&bench, "answered"), decisions(&bench, "allow", "within_limit")), (1, 1));
}

#[test]
fn a_request_over_the_limit_is_429_with_what_the_service_says() {
    let bench = bench(&rule("onFailure: allow"));
    let reply = exchange(&bench, says(OVER, &[(OVER, 0, 17)], &[(3, "x-why", "busy")])).unwrap();
    assert_eq!((reply.status, reply.grpc_status), (429, Some(8)));
    assert_eq!(reply.details, "sailcloth_ratelimit_limited_globally[shop/limits#0]");
    for (name, value) in [
        ("retry-after", "17"),
        ("x-envoy-ratelimited", "true"),
        ("x-ratelimit-limit", "10, 10;w=60"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "17"),
        ("x-why", "busy"),
    ] {
        assert_eq!(reply.headers.get(name), Some(value.as_bytes()), "{name}");
    }
}

#[test]
fn values_reach_the_service_as_text_whatever_they_are() {
    let rules = "[{key: [{header: k}, {sourceIp: {prefixLength: 24}}, {constant: all}], cost: {header: x-n}, \
        global: {cluster: rls, domain: d, onFailure: deny}}]";
    let bench = bench(rules);
    let ask = |headers: Vec<(&str, Vec<u8>)>| {
        let base = [(":method", b"GET".to_vec()), (":path", b"/".to_vec()), (":authority", b"shop".to_vec())];
        let pairs: sailcloth_emulator::HeaderMap = base.into_iter().chain(headers).collect();
        let mut stream = Stream::new(&bench.process, &[&bench.plugin], pairs);
        stream.set_filter_state("sailcloth.source_ip", "10.1.2.3");
        assert_eq!(stream.request_headers(true), Progress::Paused(0));
        let call = call(&bench);
        let asked = asked(&call);
        bench.vm.answer(&call, says(OK, &[], &[])).unwrap();
        stream.proceed();
        (asked.1[0][0].1.clone(), asked.1[0][1..].to_vec(), asked.2)
    };
    let rest = [("remote_address", "10.1.2.0/24"), ("generic_key", "all")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(ask(vec![("k", b"a".to_vec()), ("x-n", b"7".to_vec())]), ("a".into(), rest.to_vec(), 7));
    assert_eq!(ask(vec![("k", b"caf\xe9%".to_vec())]).0, "caf%E9%25");
    assert_eq!(ask(vec![]).0, "", "a missing key is an entry without a value, so that it escapes nothing");
    assert_eq!(ask(vec![("k", b"a".to_vec()), ("k", b"b".to_vec())]).0, "");
    let long = ask(vec![("k", vec![b'x'; 1 << 20])]).0;
    assert!(long.starts_with("hash:") && long.len() == 37, "{long}");
    assert_ne!(long, ask(vec![("k", vec![b'x'; (1 << 20) + 1])]).0);
}

#[test]
fn rules_of_one_domain_go_together_and_a_refusal_names_its_rule() {
    let rules = "[{key: [{header: k}], global: {cluster: rls, domain: d, onFailure: deny}},
        {key: [{constant: all}], global: {cluster: rls, domain: d, onFailure: deny}, deny: {status: 503, body: full}},
        {key: [{constant: all}], global: {cluster: rls, domain: other, onFailure: deny}}]";
    let bench = bench(rules);
    let mut stream = request(&bench, &[("k", "a")]);
    assert_eq!(stream.request_headers(true), Progress::Paused(0));
    let calls = bench.vm.callouts();
    assert_eq!(calls.iter().map(|call| asked(call).1.len()).collect::<Vec<_>>(), [2, 1]);
    bench.vm.answer(&calls[1], says(OK, &[(OK, 5, 1)], &[])).unwrap();
    assert_eq!(stream.proceed(), Progress::Paused(0), "the other one is not there yet");
    bench.vm.answer(&calls[0], says(OVER, &[(OK, 5, 1), (OVER, 0, 3)], &[])).unwrap();
    assert_eq!(stream.proceed(), Progress::LocalReply);
    let reply = stream.local_reply().unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (503, b"full".as_slice()));
    assert!(reply.details.contains("#1"), "{}", reply.details);
}

#[test]
fn a_service_that_refuses_gives_back_what_local_rules_took() {
    let rules = "[{limit: {requests: 2, per: hour}},
        {key: [{header: x-api-key}], global: {cluster: rls, domain: d, onFailure: deny}}]";
    let bench = bench(rules);
    for _ in 0..10 {
        assert_eq!(exchange(&bench, says(OVER, &[(OVER, 0, 1)], &[])).unwrap().status, 429);
    }
    assert!(exchange(&bench, says(OK, &[(OK, 1, 1)], &[])).is_none(), "the local bucket is still full");
    assert!(exchange(&bench, says(OK, &[(OK, 1, 1)], &[])).is_none());
    bench.process.reset_calls();
    let reply = exchange(&bench, Answer::Timeout).unwrap();
    assert!(reply.details.contains("limited[shop/limits#0]"), "{}", reply.details);
    assert_eq!(bench.process.calls().hostcall(Hostcall::GrpcCall), 0, "a local refusal asks nobody");
}

/// Each way of not answering.
fn failures() -> Vec<(&'static str, Answer)> {
    let unreadable = |bytes: &[u8]| Answer::GrpcMessage(bytes.to_vec());
    vec![
        ("unavailable", Answer::Timeout),
        ("unavailable", Answer::ConnectionRefused),
        ("error", Answer::Reset),
        ("error", Answer::GrpcClose(2, "unknown".into())),
        ("unreadable", unreadable(b"")),
        ("unreadable", unreadable(b"\xff\xff")),
        ("unreadable", unreadable(b"\x08\x00")),
        ("unreadable", unreadable(b"\x08\x07")),
        ("unreadable", unreadable(b"\x0a\x05")),
    ]
}

#[test]
fn whatever_fails_ends_as_on_failure_says() {
    for (result, answer) in failures() {
        let allow = bench(&rule("onFailure: allow"));
        assert!(exchange(&allow, answer.clone()).is_none(), "{answer:?}");
        assert_eq!(
            (calls_of(&allow, result), decisions(&allow, "allow", "fallback_allow")),
            (1, 1),
            "{answer:?}"
        );

        let deny = bench(&rule("onFailure: deny"));
        let reply = exchange(&deny, answer.clone()).unwrap();
        assert_eq!((reply.status, reply.grpc_status), (503, Some(14)), "{answer:?}");
        assert_eq!(reply.details, "sailcloth_ratelimit_fallback_deny[shop/limits#0]");

        let local = bench(&rule(LOCAL));
        assert!(exchange(&local, answer.clone()).is_none() && exchange(&local, answer.clone()).is_none());
        let reply = exchange(&local, answer.clone()).unwrap();
        assert_eq!(
            (reply.status, reply.details.as_str()),
            (429, "sailcloth_ratelimit_fallback_limited[shop/limits#0]")
        );
        assert_eq!(decisions(&local, "allow", "fallback_within_limit"), 2, "{answer:?}");
        let answered = exchange(&local, says(OK, &[(OK, 1, 1)], &[]));
        assert_eq!(
            answered.is_none(),
            calls_of(&local, "breaker_open") == 0,
            "the breaker opened after three"
        );
    }
}

#[test]
fn a_cluster_without_endpoints_or_of_no_name_never_hangs_a_request() {
    let bench = bench(&rule(LOCAL));
    for nothing in [Some(Cluster::NoEndpoints), None] {
        match nothing {
            Some(cluster) => bench.process.set_cluster("rls", cluster),
            None => bench.process.remove_cluster("rls"),
        }
        bench.process.advance(Duration::from_secs(3600));
        for admitted in [true, true, false] {
            let mut stream = request(&bench, &[("x-api-key", "a")]);
            assert_ne!(stream.request_headers(true), Progress::Paused(0));
            assert_eq!(ended(&bench, stream).is_none(), admitted, "{nothing:?}");
        }
    }
    assert!(calls_of(&bench, "refused") >= 4);
}

#[test]
fn the_circuit_breaker_opens_lets_one_try_and_closes() {
    let bench = bench(&rule("onFailure: allow"));
    (0..3).for_each(|_| drop(exchange(&bench, Answer::Timeout)));
    bench.process.reset_calls();
    (0..10).for_each(|_| assert!(exchange(&bench, Answer::Timeout).is_none()));
    assert_eq!(
        (bench.process.calls().hostcall(Hostcall::GrpcCall), calls_of(&bench, "breaker_open")),
        (0, 10)
    );
    bench.process.advance(Duration::from_secs(1));
    assert!(exchange(&bench, Answer::Timeout).is_none(), "one tries, in vain");
    assert_eq!(bench.process.calls().hostcall(Hostcall::GrpcCall), 1);
    assert!(exchange(&bench, says(OVER, &[], &[])).is_none(), "still open");
    bench.process.advance(Duration::from_secs(1));
    assert_eq!(exchange(&bench, says(OVER, &[], &[])).unwrap().status, 429, "one tries, and it answers");
    assert_eq!(exchange(&bench, says(OVER, &[], &[])).unwrap().status, 429, "closed");
}

#[test]
fn a_client_that_leaves_meanwhile_leaves_nothing() {
    let bench = bench(&rule("onFailure: deny"));
    let mut stream = request(&bench, &[("x-api-key", "a")]);
    assert_eq!(stream.request_headers(true), Progress::Paused(0));
    let call = call(&bench);
    stream.finish().unwrap();
    bench.vm.answer(&call, says(OVER, &[(OVER, 0, 1)], &[])).unwrap();
    assert_eq!(bench.vm.state(), VmState::Running);
    assert_eq!(calls_of(&bench, "answered"), 1);
    assert!(exchange(&bench, says(OK, &[(OK, 1, 1)], &[])).is_none(), "others are not touched");
}

#[test]
fn an_answer_that_never_comes_ends_at_the_filters_own_deadline() {
    let bench = bench(&rule("onFailure: deny"));
    let mut stream = request(&bench, &[("x-api-key", "a")]);
    assert_eq!(stream.request_headers(true), Progress::Paused(0));
    // Envoy's own timeout is what never comes: the call is forgotten with it.
    bench.process.inject(Hostcall::GrpcCall, Injection::always(Status::Ok));
    let mut lost = request(&bench, &[("x-api-key", "a")]);
    assert_eq!(lost.request_headers(true), Progress::Paused(0), "a call that the host took and forgot");
    bench.process.clear_injections();
    for _ in 0..3 {
        bench.process.advance(Duration::from_secs(1));
        bench.vm.run_timers().unwrap();
    }
    assert_eq!((stream.proceed(), lost.proceed()), (Progress::LocalReply, Progress::LocalReply));
    assert_eq!(lost.local_reply().unwrap().details, "sailcloth_ratelimit_fallback_deny[shop/limits#0]");
}

#[test]
fn a_rule_in_shadow_mode_asks_and_nobody_waits() {
    let rules = rule("onFailure: deny").replace("[{key", "[{mode: shadow, key");
    let bench = bench(&rules);
    let mut stream = request(&bench, &[("x-api-key", "a")]);
    assert_eq!(stream.request_headers(true), Progress::Continue);
    let call = call(&bench);
    assert!(ended(&bench, stream).is_none());
    bench.vm.answer(&call, says(OVER, &[(OVER, 0, 1)], &[])).unwrap();
    assert_eq!(decisions(&bench, "shadow_limit", "limited_globally"), 1);
    let mut stream = request(&bench, &[("x-api-key", "a")]);
    bench.process.set_cluster("rls", Cluster::NoEndpoints);
    assert_eq!(stream.request_headers(true), Progress::Continue);
    assert_eq!(decisions(&bench, "shadow_deny", "fallback_deny"), 1);
}

#[test]
fn hostile_cluster_names_are_encoded_and_refused_ones_located() {
    // Each of these, sent plain, aborts some Envoy.
    for name in ["authz-rls", "rls", "\u{7f1d}", "a b", "0", "outbound|8081||rls.svc"] {
        let bench = bench(&rule("onFailure: deny").replace("cluster: rls", &format!("cluster: '{name}'")));
        bench.process.set_cluster(name, Cluster::Reachable);
        let mut stream = request(&bench, &[("x-api-key", "a")]);
        assert_eq!(stream.request_headers(true), Progress::Paused(0), "{name}");
        assert_eq!(call(&bench).cluster, name);
    }
    for name in ["''", "\"a\\u0001b\"", "7"] {
        let rules = rule("onFailure: deny").replace("cluster: rls", &format!("cluster: {name}"));
        assert!(Bench::new("ratelimit", &configuration(&rules)).is_err(), "{name}");
    }
}
