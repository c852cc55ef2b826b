//! Tests of the engine as a whole.

use sailcloth_core::decision::Verdict;
use sailcloth_core::facts::{Facts, NoProperties};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::request::Request;
#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use crate::{Edit, Engine};

/// The VirtualService of the seed, as JSON.
const SEED: &str = r#"{"apiVersion":"networking.istio.io/v1beta1","kind":"VirtualService",
 "metadata":{"name":"api-service","namespace":"production"},
 "spec":{"hosts":["api-service","api-service.production.svc.cluster.local"],"http":[
  {"match":[{"uri":{"prefix":"/api/v1"}}],"route":[
    {"destination":{"host":"api-service","subset":"v1"},"weight":90},
    {"destination":{"host":"api-service","subset":"v2"},"weight":10}],
   "timeout":"30s","retries":{"attempts":3,"perTryTimeout":"10s"}},
  {"match":[{"headers":{"user-agent":{"regex":".*Chrome.*"}}}],
   "route":[{"destination":{"host":"api-service","subset":"v2"}}],"timeout":"30s"},
  {"route":[{"destination":{"host":"api-service","subset":"v1"},"weight":100}],
   "timeout":"30s","retries":{"attempts":3,"perTryTimeout":"10s"}}]}}"#;

const V1: &str = "outbound|80|v1|api-service.production.svc.cluster.local";
const V2: &str = "outbound|80|v2|api-service.production.svc.cluster.local";

fn config(resources: &str, clusters: &[&str]) -> String {
    let clusters: Vec<String> = clusters.iter().map(|cluster| format!("{cluster:?}")).collect();
    format!(r#"{{"resources":[{resources}],"settings":{{"clusters":[{}]}}}}"#, clusters.join(","))
}

fn engine(text: &str) -> Engine {
    Engine::load(text.as_bytes()).unwrap_or_else(|problems| panic!("{problems:#?}")).0
}

fn seed() -> Engine {
    engine(&config(SEED, &[V1, V2]))
}

fn errors(text: &str) -> Vec<String> {
    Engine::load(text.as_bytes()).unwrap_err().iter().map(ToString::to_string).collect()
}

/// A VirtualService for hosts `*` of a gateway, whose destinations are clusters by their host.
fn rules(http: &str) -> String {
    format!(
        r#"{{"resources":[{{"apiVersion":"networking.istio.io/v1","kind":"VirtualService",
        "metadata":{{"name":"r","namespace":"n"}},"spec":{{"hosts":["*"],"gateways":["g"],"http":[{http}]}}}}],
        "settings":{{"cluster":"{{host}}","clusters":["a.x","b.x","c.x","d.x"]}}}}"#
    )
}

fn to(host: &str) -> String {
    format!(r#""route":[{{"destination":{{"host":"{host}.x"}}}}]"#)
}

fn chosen(engine: &Engine, headers: &[(&str, &str)], random: u64) -> String {
    let headers = HeaderBlock::from_pairs(headers.iter().copied());
    let request = Request { headers: &headers, facts: Facts::new(&NoProperties, engine.sources()) };
    let outcome = engine.decide(&request, random);
    match outcome.cluster() {
        Some(cluster) => cluster.to_owned(),
        None => outcome.decision.reason.code.to_owned(),
    }
}

fn get(engine: &Engine, path: &str) -> String {
    chosen(engine, &[(":method", "GET"), (":path", path), (":authority", "api-service")], 0)
}

#[test]
fn the_seed_routes_as_written() {
    let engine = seed();
    assert_eq!(get(&engine, "/api/v1/x?y"), V1);
    assert_eq!(get(&engine, "/api/v10"), V1);
    assert_eq!(get(&engine, "/"), V1);
    let with = |path, agent, random| {
        chosen(&engine, &[(":path", path), (":authority", "API-Service:8080"), ("user-agent", agent)], random)
    };
    assert_eq!(with("/other", "Mozilla Chrome/1", 0), V2);
    assert_eq!(with("/other", "curl", u64::MAX), V1);
    // Rules are tried in their order: Chrome on /api/v1 is in the canary, not in the rule for Chrome.
    assert_eq!(with("/api/v1", "Mozilla Chrome/1", 0), V1);
    assert_eq!(with("/api/v1", "curl", u64::MAX), V2);
}

#[test]
fn a_decision_names_its_rule_and_arm() {
    let engine = seed();
    let headers = HeaderBlock::from_pairs([(":path", "/x"), (":authority", "api-service")]);
    let request = Request { headers: &headers, facts: Facts::new(&NoProperties, engine.sources()) };
    let outcome = engine.decide(&request, 7);
    assert_eq!(outcome.decision.verdict, Verdict::Route);
    assert_eq!(outcome.decision.state(), "route production/api-service#2 matched");
    assert_eq!(outcome.arm(), Some((0, "v1")));
}

#[test]
fn unknown_hosts_and_paths_are_404() {
    let engine = engine(&rules(&format!(r#"{{"match":[{{"uri":{{"exact":"/a"}}}}],{}}}"#, to("a"))));
    assert_eq!(chosen(&engine, &[(":path", "/a?q"), (":authority", "anything")], 0), "a.x");
    assert_eq!(chosen(&engine, &[(":path", "/a/"), (":authority", "anything")], 0), "no_route");
    assert_eq!(chosen(&seed(), &[(":path", "/"), (":authority", "other")], 0), "no_virtual_host");
    let headers = HeaderBlock::from_pairs([(":path", "/"), (":authority", "other")]);
    let seed = seed();
    let request = Request { headers: &headers, facts: Facts::new(&NoProperties, seed.sources()) };
    let reply = seed.decide(&request, 0).decision.reply();
    assert_eq!((reply.status, reply.body.as_ref()), (404, ""));
    assert_eq!(reply.details, "sailcloth_routing_no_virtual_host[none]");
}

#[test]
fn all_names_of_a_service_reach_it() {
    let engine = seed();
    for host in [
        "api-service",
        "api-service.production",
        "api-service.production.svc:80",
        "API-SERVICE.production.svc.cluster.local.",
    ] {
        assert_eq!(chosen(&engine, &[(":path", "/"), (":authority", host)], 0), V1, "{host}");
    }
    for host in ["api-service.staging", "x.api-service", "api-service.production.svc.cluster.local.evil"] {
        assert_eq!(chosen(&engine, &[(":path", "/"), (":authority", host)], 0), "no_virtual_host", "{host}");
    }
}

#[test]
fn conditions_mean_what_istio_means() {
    for (condition, headers, expected) in [
        (r#""uri":{"prefix":"/a"}"#, vec![(":path", "/ab")], true),
        (r#""uri":{"prefix":"/a"}"#, vec![(":path", "/A")], false),
        (r#""uri":{"prefix":""}"#, vec![(":path", "*")], true),
        (r#""method":{"exact":"OPTIONS"}"#, vec![(":path", "*"), (":method", "OPTIONS")], false),
        (r#""uri":{"prefix":"/a"},"ignoreUriCase":true"#, vec![(":path", "/AB")], true),
        (r#""uri":{"exact":"/a"},"ignoreUriCase":true"#, vec![(":path", "/A?x")], true),
        (r#""uri":{"exact":"/a"},"ignoreUriCase":true"#, vec![(":path", "/AB")], false),
        (r#""uri":{"regex":"/a[0-9]"}"#, vec![(":path", "/a1?x=/")], true),
        (r#""uri":{"regex":"/a[0-9]"}"#, vec![(":path", "/a12")], false),
        (r#""method":{"exact":"GET"}"#, vec![(":path", "/"), (":method", "GET")], true),
        (r#""method":{"exact":"GET"}"#, vec![(":path", "/"), (":method", "get")], false),
        (r#""scheme":{"exact":"https"}"#, vec![(":path", "/"), (":scheme", "http")], false),
        (r#""authority":{"exact":"h:80"}"#, vec![(":path", "/"), (":authority", "h:80")], true),
        (r#""authority":{"exact":"h"}"#, vec![(":path", "/"), (":authority", "h:80")], false),
        (r#""headers":{"Host":{"exact":"h"}}"#, vec![(":path", "/"), (":authority", "h")], true),
        (r#""headers":{"X-A":{"exact":"1"}}"#, vec![(":path", "/"), ("x-a", "1")], true),
        (r#""headers":{"x-a":{"exact":"1"}}"#, vec![(":path", "/"), ("x-a", "0"), ("x-a", "1")], true),
        (r#""headers":{"x-a":{"exact":"1,2"}}"#, vec![(":path", "/"), ("x-a", "1"), ("x-a", "2")], false),
        (
            r#""withoutHeaders":{"x-a":{"exact":"1"}}"#,
            vec![(":path", "/"), ("x-a", "0"), ("x-a", "1")],
            false,
        ),
        (r#""withoutHeaders":{"x-a":{"exact":"1"}}"#, vec![(":path", "/"), ("x-a", "0"), ("x-a", "2")], true),
        (r#""headers":{"x-a":{}}"#, vec![(":path", "/"), ("x-a", "")], true),
        (r#""headers":{"x-a":{"regex":"*"}}"#, vec![(":path", "/")], false),
        (r#""headers":{"x-a":{"regex":".*"}}"#, vec![(":path", "/")], false),
        (r#""headers":{":method":{"exact":"GET"}}"#, vec![(":path", "/"), (":method", "POST")], false),
        (r#""withoutHeaders":{"x-a":{"exact":"1"}}"#, vec![(":path", "/")], true),
        (r#""withoutHeaders":{"x-a":{"exact":"1"}}"#, vec![(":path", "/"), ("x-a", "1")], false),
        (r#""withoutHeaders":{"x-a":{}}"#, vec![(":path", "/"), ("x-a", "")], false),
        (r#""withoutHeaders":{"x-a":{}}"#, vec![(":path", "/")], true),
        (r#""withoutHeaders":{"x-a":{"regex":".*"}}"#, vec![(":path", "/")], false),
        (r#""queryParams":{"q":{"exact":""}}"#, vec![(":path", "/?q")], true),
        (r#""queryParams":{"q":{"exact":""}}"#, vec![(":path", "/?q=")], true),
        (r#""queryParams":{"q":{}}"#, vec![(":path", "/?p=q")], false),
        (r#""queryParams":{"q":{"exact":"1"}}"#, vec![(":path", "/?a=b&q=1&q=2")], true),
        (r#""queryParams":{"q":{"exact":"2"}}"#, vec![(":path", "/?a=b&q=1&q=2")], false),
        (r#""queryParams":{"q":{"exact":"a b"}}"#, vec![(":path", "/?q=a%20b")], false),
        (r#""queryParams":{"q":{"regex":"[0-9]+"}}"#, vec![(":path", "/?q=12x")], false),
    ] {
        let engine = engine(&rules(&format!(r#"{{"match":[{{{condition}}}],{}}}"#, to("a"))));
        let expected = if expected { "a.x" } else { "no_route" };
        assert_eq!(chosen(&engine, &headers, 0), expected, "{condition} on {headers:?}");
    }
}

#[test]
fn bytes_that_are_not_text_are_characters_and_do_no_harm() {
    let http = format!(
        r#"{{"match":[{{"headers":{{"x-a":{{"regex":"[ -~]*"}}}}}}],{}}},{{"match":[{{"headers":{{"x-a":{{"regex":".*"}}}}}}],{}}}"#,
        to("a"),
        to("b")
    );
    let engine = engine(&rules(&http));
    let headers = HeaderBlock::from_pairs([
        (":path", b"/\xff\xfe".as_slice()),
        (":authority", b"\xff"),
        ("x-a", b"\xff"),
    ]);
    let request = Request { headers: &headers, facts: Facts::new(&NoProperties, engine.sources()) };
    assert_eq!(engine.decide(&request, 0).cluster(), Some("b.x"));
}

#[test]
fn matches_of_a_rule_are_alternatives_and_the_first_rule_wins() {
    let http = format!(
        r#"{{"match":[{{"uri":{{"exact":"/1"}}}},{{"uri":{{"prefix":"/2"}},"method":{{"exact":"GET"}}}}],{}}},
           {{"match":[{{"uri":{{"prefix":"/"}}}}],{}}},{{"match":[{{"uri":{{"exact":"/3"}}}}],{}}}"#,
        to("a"),
        to("b"),
        to("c")
    );
    let engine = engine(&rules(&http));
    assert_eq!(get(&engine, "/1"), "a.x");
    assert_eq!(get(&engine, "/2x"), "a.x");
    assert_eq!(chosen(&engine, &[(":path", "/2"), (":method", "PUT")], 0), "b.x");
    assert_eq!(get(&engine, "/3"), "b.x");
}

fn weighted(weights: &[u32]) -> Result<Engine, Vec<String>> {
    let names = ["a", "b", "c", "d"];
    let route: Vec<String> = weights
        .iter()
        .zip(names)
        .map(|(weight, name)| format!(r#"{{"destination":{{"host":"{name}.x"}},"weight":{weight}}}"#))
        .collect();
    let text = rules(&format!(r#"{{"route":[{}]}}"#, route.join(",")));
    let loaded = Engine::load(text.as_bytes());
    loaded.map(|(engine, _)| engine).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn weights_are_shares_of_their_sum() {
    for weights in [
        &[90, 10][..],
        &[1, 1, 1],
        &[0, 5, 95],
        &[33, 33, 34],
        &[1, 0, 999],
        &[7, 2_000_000_000, 2_000_000_000],
    ] {
        let engine = weighted(weights).unwrap();
        let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        // A grid over all numbers hits each destination in proportion, to within one point per border.
        let points: u64 = 9973;
        let step = u64::MAX / points;
        let mut hits = [0_u64; 4];
        for point in 0..points {
            let arm = chosen(&engine, &[(":path", "/")], point * step + step / 2);
            hits["abcd".find(arm.trim_end_matches(".x")).unwrap()] += 1;
        }
        for (index, weight) in weights.iter().enumerate() {
            let share = u64::from(*weight) * points / sum;
            assert!(hits[index].abs_diff(share) <= 2, "{weights:?}: {hits:?}");
            assert!(*weight > 0 || hits[index] == 0, "{weights:?}: {hits:?}");
        }
    }
}

#[test]
fn a_single_destination_takes_everything_and_a_sum_of_zero_is_refused() {
    let one = weighted(&[0]).unwrap();
    assert_eq!(chosen(&one, &[(":path", "/")], u64::MAX), "a.x");
    let problems = weighted(&[0, 0]).unwrap_err();
    assert_eq!(
        problems,
        ["resources[0].spec.http[0].route: the weights add up to 0; at least one destination needs a weight"]
    );
}

fn effects(http: &str, client: &[(&str, &str)]) -> (Vec<(String, String)>, Vec<String>) {
    let engine = engine(&rules(http));
    let headers = HeaderBlock::from_pairs([(":path", "/")].iter().chain(client).copied());
    let request = Request { headers: &headers, facts: Facts::new(&NoProperties, engine.sources()) };
    let edits = engine.decide(&request, 0).request;
    let (mut set, mut remove) = (Vec::new(), Vec::new());
    for edit in edits {
        match edit {
            Edit::Set(name, value) => {
                set.push((name.into_owned(), String::from_utf8(value.into_owned()).unwrap()));
            }
            Edit::Remove(name) => remove.push(name.into_owned()),
            Edit::Add(..) => panic!("{edit:?}"),
        }
    }
    (set, remove)
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn istios_defaults_are_set_where_the_rule_says_nothing() {
    let (set, remove) = effects(&format!("{{{}}}", to("a")), &[]);
    let expected = pairs(&[
        ("x-sailcloth-cluster", "a.x"),
        ("x-envoy-upstream-rq-timeout-ms", "0"),
        ("x-envoy-max-retries", "2"),
        ("x-envoy-retry-on", "connect-failure,refused-stream,retriable-status-codes"),
        ("x-envoy-retry-grpc-on", "unavailable,cancelled"),
    ]);
    assert_eq!((set, remove), (expected, vec![]));
}

#[test]
fn timeouts_and_retries_become_envoys_headers() {
    let http = format!(
        r#"{{{},"timeout":"1.5s","retries":{{"attempts":3,"perTryTimeout":"500ms","retryOn":"5xx,503,cancelled,429"}}}}"#,
        to("a")
    );
    let (set, _) = effects(&http, &[]);
    let expected = pairs(&[
        ("x-sailcloth-cluster", "a.x"),
        ("x-envoy-upstream-rq-timeout-ms", "1500"),
        ("x-envoy-max-retries", "3"),
        ("x-envoy-retry-on", "5xx,retriable-status-codes"),
        ("x-envoy-retry-grpc-on", "cancelled"),
        ("x-envoy-retriable-status-codes", "503,429"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "500"),
    ]);
    assert_eq!(set, expected);
}

#[test]
fn what_a_client_sent_is_replaced_or_removed_never_merged() {
    let http = format!(r#"{{{},"retries":{{"attempts":0}}}}"#, to("a"));
    let (set, remove) = effects(
        &http,
        &[
            ("x-sailcloth-cluster", "evil"),
            ("x-sailcloth-user", "root"),
            ("x-sailcloth-user", "root"),
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-max-retries", "100"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
            ("x-sail", "kept"),
        ],
    );
    let expected = pairs(&[
        ("x-sailcloth-cluster", "a.x"),
        ("x-envoy-upstream-rq-timeout-ms", "0"),
        ("x-envoy-max-retries", "0"),
    ]);
    assert_eq!(set, expected);
    assert_eq!(remove, ["x-sailcloth-user", "x-envoy-retry-on", "x-envoy-upstream-rq-per-try-timeout-ms"]);
}

#[test]
fn a_cluster_that_does_not_exist_is_refused_where_it_is_named() {
    assert_eq!(
        errors(&config(SEED, &[V1])),
        [
            format!(
                "resources[0].spec.http[0].route[1].destination: its cluster `{V2}` is not in `settings.clusters`; did you mean `{V1}`?"
            ),
            format!(
                "resources[0].spec.http[1].route[0].destination: its cluster `{V2}` is not in `settings.clusters`; did you mean `{V1}`?"
            ),
        ]
    );
    let without = format!(r#"{{"resources":[{SEED}]}}"#);
    assert!(errors(&without).concat().contains("missing field `clusters`"));
}

#[test]
fn three_mistakes_are_three_located_messages() {
    let http = format!(
        r#"{{"match":[{{"uri":{{"prefx":"/"}}}},{{"headers":{{"x":{{"regex":"(?=a)"}}}}}}],{},"timeout":"2.5ms"}}"#,
        to("a")
    );
    assert_eq!(
        errors(&rules(&http)),
        [
            "resources[0].spec.http[0].match[0].uri.prefx: unknown field; did you mean `prefix`?",
            "resources[0].spec.http[0].match[1].headers.x.regex: `(?=a)` is not a regular expression of RE2's dialect: look-around is not supported",
            "resources[0].spec.http[0].timeout: must be in whole milliseconds, at least `1ms`",
        ]
    );
}

fn service(name: &str, host: &str, extra: &str, destination: &str) -> String {
    format!(
        r#"{{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{{"name":"{name}","namespace":"n"}},
        "spec":{{"hosts":["{host}"]{extra},"http":[{destination}]}}}}"#
    )
}

fn with_workload(documents: &[String], workload: &str) -> String {
    format!(
        r#"{{"resources":[{}],"workload":{workload},"settings":{{"cluster":"{{host}}","clusters":["a.x","b.x"]}}}}"#,
        documents.join(",")
    )
}

#[test]
fn in_a_mesh_the_first_document_of_a_host_has_it_alone() {
    let documents = [
        service("one", "h.x", "", &format!(r#"{{"match":[{{"uri":{{"exact":"/1"}}}}],{}}}"#, to("a"))),
        service("two", "h.x", "", &format!("{{{}}}", to("b"))),
    ];
    let text = with_workload(&documents, r#"{"namespace":"n"}"#);
    let (engine, warnings) = Engine::load(text.as_bytes()).unwrap();
    assert_eq!(chosen(&engine, &[(":path", "/2"), (":authority", "h.x")], 0), "no_route");
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["resources[1]: host `h.x` has its rules in `n/one`; these take no effect on it"]
    );
}

#[test]
fn a_gateway_joins_the_documents_of_a_host_and_tries_catch_alls_last() {
    let gateways = r#","gateways":["g"]"#;
    let documents = [
        service("one", "h.x", gateways, &format!("{{{}}}", to("a"))),
        service("two", "h.x", gateways, &format!(r#"{{"match":[{{"uri":{{"exact":"/2"}}}}],{}}}"#, to("b"))),
    ];
    let engine = engine(&with_workload(&documents, r#"{"namespace":"n","gateway":"g"}"#));
    assert_eq!(chosen(&engine, &[(":path", "/2"), (":authority", "h.x")], 0), "b.x");
    assert_eq!(chosen(&engine, &[(":path", "/1"), (":authority", "h.x")], 0), "a.x");
}

#[test]
fn only_what_is_bound_to_the_proxy_and_visible_takes_effect() {
    for (extra, workload, applies) in [
        ("", r#"{"namespace":"n"}"#, true),
        ("", r#"{"namespace":"n","gateway":"g"}"#, false),
        (r#","gateways":["g"]"#, r#"{"namespace":"n"}"#, false),
        (r#","gateways":["g","mesh"]"#, r#"{"namespace":"n"}"#, true),
        (r#","gateways":["g"]"#, r#"{"namespace":"n","gateway":"g"}"#, true),
        (r#","gateways":["g"]"#, r#"{"namespace":"m","gateway":"g"}"#, false),
        (r#","gateways":["m/g"]"#, r#"{"namespace":"m","gateway":"g"}"#, true),
        (r#","exportTo":["."]"#, r#"{"namespace":"m"}"#, false),
        (r#","exportTo":["m"]"#, r#"{"namespace":"m"}"#, true),
        (r#","exportTo":["*"]"#, r#"{"namespace":"m"}"#, true),
    ] {
        let engine =
            engine(&with_workload(&[service("one", "h.x", extra, &format!("{{{}}}", to("a")))], workload));
        let expected = if applies { "a.x" } else { "no_virtual_host" };
        assert_eq!(
            chosen(&engine, &[(":path", "/"), (":authority", "h.x")], 0),
            expected,
            "{extra} {workload}"
        );
        assert_eq!(engine.resources(), [("VirtualService", usize::from(applies))]);
    }
}

#[test]
fn an_unreachable_rule_is_a_warning() {
    let text = rules(&format!("{{{}}},{{{}}}", to("a"), to("b")));
    let (_, warnings) = Engine::load(text.as_bytes()).unwrap();
    assert_eq!(
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "resources[0].spec.http[1]: is never reached: an earlier rule has no `match` and takes every request"
        ]
    );
}

/// A small generator, so that the cases are the same on every run and every target.
struct Dice(u64);

impl Dice {
    fn roll<T: Copy>(&mut self, of: &[T]) -> T {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let index = (self.0 >> 33) % of.len() as u64;
        of[usize::try_from(index).unwrap()]
    }
}

/// The obvious version: every entry in order, every condition asked.
fn oracle(engine: &Engine, authority: &str, request: &Request<'_>) -> Option<usize> {
    let table = engine.enforced.hosts.find(authority.as_bytes())?;
    let view = crate::condition::View::new(request);
    let entries = &engine.enforced.tables[table].entries;
    let found = entries.iter().find(|entry| {
        entry.conditions.path.matches(request.path()) && entry.conditions.hold_beside_path(&view)
    });
    found.map(|entry| entry.rule)
}

#[test]
fn the_index_decides_as_the_naive_loop_does() {
    let paths = ["/", "/a", "/a/", "/a/b", "/a/bc", "/ab", "/b", "/b/c/d", "/A", "", "/z?a", "/a?x=1", "*"];
    let texts = ["/", "/a", "/a/", "/a/b", "/ab", "/b", "/b/c", "/A/", ""];
    let kinds = ["exact", "prefix", "prefix", "regex"];
    let mut dice = Dice(42);
    let mut routed = 0;
    for _ in 0..400 {
        let mut http = Vec::new();
        for _ in 0..dice.roll(&[1, 3, 8, 20]) {
            let kind = dice.roll(&kinds);
            let text = dice.roll(&texts);
            let text = if kind == "regex" { format!("{text}.?") } else { text.to_owned() };
            let case = dice.roll(&["", "", "", r#","ignoreUriCase":true"#]);
            let header =
                dice.roll(&["", "", r#","headers":{"x":{"exact":"1"}}"#, r#","withoutHeaders":{"x":{}}"#]);
            let uri = if dice.roll(&[true, true, true, false]) {
                format!(r#""uri":{{"{kind}":"{text}"}}{case}{header}"#)
            } else {
                header.trim_start_matches(',').to_owned()
            };
            http.push(format!(r#"{{"match":[{{{uri}}}],{}}}"#, to(dice.roll(&["a", "b", "c"]))));
        }
        let engine = engine(&rules(&http.join(",")));
        for path in paths {
            for value in ["", "1"] {
                let headers = [(":path", path), (":authority", "h"), ("x", value)];
                let headers =
                    HeaderBlock::from_pairs(headers.into_iter().filter(|(_, value)| !value.is_empty()));
                let request =
                    Request { headers: &headers, facts: Facts::new(&NoProperties, engine.sources()) };
                let expected = oracle(&engine, "h", &request);
                let outcome = engine.decide(&request, 0);
                let actual = outcome.decision.by.map(|by| by.id);
                assert_eq!(actual, expected, "{path} x={value} by {http:?}");
                routed += usize::from(actual.is_some());
            }
        }
    }
    assert!(routed > 2000, "the cases route too little to say something: {routed}");
}
