//! What a finished stream becomes, and what Telemetry and `settings.metrics` change. Without CEL: what needs it is tested
//! with the corpus (tests/cases/metrics) in all three runners.
#![cfg(not(target_family = "wasm"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "helpers of tests"
)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use sailcloth_core::facts::{Fact, Properties};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_metrics::{Engine, Kind, LABELS, Meter, NoCompiler, Recorder, Stream};

/// A stream of these headers and properties.
#[derive(Default)]
struct Finished {
    properties: HashMap<String, Vec<u8>>,
    headers: Option<HeaderBlock>,
    reads: RefCell<Vec<String>>,
}

impl Finished {
    fn text(mut self, path: &str, value: &[u8]) -> Self {
        self.properties.insert(path.to_owned(), value.to_vec());
        self
    }

    fn number(self, path: &str, value: i64) -> Self {
        self.text(path, &value.to_le_bytes())
    }

    fn headers(mut self, headers: &[(&str, &str)]) -> Self {
        self.headers = Some(HeaderBlock::from_pairs(headers.iter().copied()));
        self
    }
}

impl Properties for Finished {
    fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
        self.reads.borrow_mut().push(path.join("."));
        self.properties.get(&path.join(".")).map_or(Fact::Absent, |value| Fact::Known(value.clone()))
    }
}

impl Stream for Finished {
    fn request_headers(&self) -> Option<HeaderBlock> {
        self.reads.borrow_mut().push("request headers".into());
        self.headers.clone()
    }

    fn request_header(&self, name: &str) -> Option<Vec<u8>> {
        self.reads.borrow_mut().push(format!("header {name}"));
        self.headers.as_ref()?.first(name).map(<[u8]>::to_vec)
    }

    fn response_headers(&self) -> Option<HeaderBlock> {
        None
    }

    fn evaluate(&self, _: u32) -> Option<Vec<u8>> {
        None
    }
}

/// Metrics in memory: counters and gauges by name, the samples of histograms.
#[derive(Default)]
struct Memory {
    names: RefCell<Vec<String>>,
    values: RefCell<BTreeMap<String, Vec<u64>>>,
}

impl Meter for Memory {
    fn define(&self, _: Kind, name: &str) -> Option<u32> {
        self.names.borrow_mut().push(name.to_owned());
        u32::try_from(self.names.borrow().len() - 1).ok()
    }

    fn record(&self, kind: Kind, handle: u32, value: u64) {
        let name = self.names.borrow()[usize::try_from(handle).unwrap()].clone();
        let mut values = self.values.borrow_mut();
        let values = values.entry(name).or_default();
        match (kind, values.last_mut()) {
            (Kind::Counter, Some(sum)) => *sum += value,
            (Kind::Gauge, Some(last)) => *last = value,
            _ => values.push(value),
        }
    }
}

impl Memory {
    fn of(&self, metric: &str) -> Vec<(String, Vec<u64>)> {
        let values = self.values.borrow();
        let of_metric = values.iter().filter_map(|(name, values)| {
            let rest = name.strip_prefix(metric)?;
            (rest.is_empty() || rest.starts_with(";.;")).then(|| (rest.to_owned(), values.clone()))
        });
        of_metric.collect()
    }
}

const WORKLOAD: &str = r#"{"namespace": "shop", "labels": {"app": "api", "version": "v1"}}"#;

fn load(resources: &str, settings: &str) -> Result<(Engine, Vec<String>), Vec<String>> {
    let text = format!(r#"{{"resources": [{resources}], "workload": {WORKLOAD}, "settings": {settings}}}"#);
    let texts = |problems: Vec<sailcloth_core::config::Problem>| -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    };
    Engine::load(text.as_bytes(), &NoCompiler)
        .map(|(engine, warnings)| (engine, texts(warnings)))
        .map_err(texts)
}

fn telemetry(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        r#"{{"apiVersion": "telemetry.istio.io/v1", "kind": "Telemetry",
            "metadata": {{"name": "{name}", "namespace": "{namespace}"}}, "spec": {{{spec}}}}}"#
    )
}

fn metrics(overrides: &str) -> String {
    telemetry("a", "shop", &format!(r#""metrics": [{{"overrides": [{overrides}]}}]"#))
}

fn record(settings: &str, streams: &[Finished]) -> Memory {
    record_with("", settings, streams)
}

fn record_with(resources: &str, settings: &str, streams: &[Finished]) -> Memory {
    let (engine, _) = load(resources, settings).unwrap();
    let (mut recorder, memory) = (Recorder::new(engine), Memory::default());
    streams.iter().for_each(|stream| recorder.record(stream, &memory));
    memory
}

fn labels(settings: &str, stream: Finished) -> HashMap<String, String> {
    let memory = record(settings, &[stream]);
    let series = memory.of("istio_requests_total");
    assert_eq!(series.len(), 1);
    let label =
        |part: &str| part.split_once("=.=").map(|(label, value)| (label.to_owned(), value.to_owned()));
    series[0].0.split(";.;").filter_map(label).collect()
}

fn mtls() -> Finished {
    Finished::default()
        .number("response.code", 200)
        .number("response.flags", 0)
        .text("connection.uri_san_peer_certificate", b"spiffe://cluster.local/ns/front/sa/web")
        .text("connection.uri_san_local_certificate", b"spiffe://cluster.local/ns/shop/sa/api")
}

#[test]
fn an_inbound_request_over_mtls_has_istios_labels() {
    let memory =
        record("{}", &[mtls().headers(&[(":method", "BREW"), (":authority", "evil;.;reporter=.=x")])]);
    let expected = [
        ("reporter", "destination"),
        ("source_workload", "unknown"),
        ("source_canonical_service", "unknown"),
        ("source_canonical_revision", "latest"),
        ("source_workload_namespace", "front"),
        ("source_principal", "spiffe://cluster.local/ns/front/sa/web"),
        ("source_app", "unknown"),
        ("source_version", "unknown"),
        ("source_cluster", "unknown"),
        ("destination_workload", "api"),
        ("destination_workload_namespace", "shop"),
        ("destination_principal", "spiffe://cluster.local/ns/shop/sa/api"),
        ("destination_app", "api"),
        ("destination_version", "v1"),
        ("destination_service", "api"),
        ("destination_canonical_service", "api"),
        ("destination_canonical_revision", "v1"),
        ("destination_service_name", "api"),
        ("destination_service_namespace", "shop"),
        ("destination_cluster", "Kubernetes"),
        ("request_protocol", "http"),
        ("response_code", "200"),
        ("grpc_response_status", ""),
        ("response_flags", "-"),
        ("connection_security_policy", "mutual_tls"),
    ];
    assert_eq!(expected.map(|(label, _)| label), LABELS);
    let flat: String = expected.iter().map(|(label, value)| format!(";.;{label}=.={value}")).collect();
    assert_eq!(memory.of("istio_requests_total"), [(flat, vec![1])]);
}

#[test]
fn a_peers_own_words_name_it_and_the_certificate_identifies_it() {
    let told = b"web-v1;elsewhere;web;v1;east;web;v1;spiffe://forged".as_slice();
    let stream = mtls().text("sailcloth.downstream_peer", told);
    let labels = labels(r#"{"peerMetadata": "filterState"}"#, stream);
    for (label, value) in [
        ("source_workload", "web-v1"),
        ("source_workload_namespace", "front"),
        ("source_principal", "spiffe://cluster.local/ns/front/sa/web"),
        ("source_canonical_service", "web"),
        ("source_canonical_revision", "v1"),
        ("source_app", "web"),
        ("source_version", "v1"),
        ("source_cluster", "east"),
    ] {
        assert_eq!(labels[label], value, "{label}");
    }
}

#[test]
fn an_outbound_request_reads_the_upstream_side() {
    let stream = mtls()
        .text("upstream.uri_san_peer_certificate", b"spiffe://cluster.local/ns/data/sa/db")
        .text("upstream.uri_san_local_certificate", b"spiffe://cluster.local/ns/shop/sa/api")
        .text("xds.upstream_host_metadata.filter_metadata.istio.workload", b"db-v2;data;db;v2;east")
        .text("xds.cluster_name", b"outbound|80||db.data.svc.cluster.local")
        .headers(&[(":authority", "db:80")]);
    let labels = labels(r#"{"reporter": "source", "workloadName": "api-v1"}"#, stream);
    for (label, value) in [
        ("reporter", "source"),
        ("source_workload", "api-v1"),
        ("source_principal", "spiffe://cluster.local/ns/shop/sa/api"),
        ("destination_principal", "spiffe://cluster.local/ns/data/sa/db"),
        ("destination_workload", "db-v2"),
        ("destination_canonical_service", "db"),
        ("destination_canonical_revision", "v2"),
        ("destination_cluster", "east"),
        ("destination_app", "unknown"),
        ("destination_workload_namespace", "data"),
        ("destination_service", "db.data.svc.cluster.local"),
        ("destination_service_name", "db"),
        ("destination_service_namespace", "data"),
        ("connection_security_policy", "unknown"),
    ] {
        assert_eq!(labels[label], value, "{label}");
    }
}

#[test]
fn a_waypoint_stands_between_two_peers() {
    let stream = mtls()
        .text("upstream.uri_san_peer_certificate", b"spiffe://cluster.local/ns/data/sa/db")
        .text("xds.upstream_host_metadata.filter_metadata.istio.workload", b"db-v2;data;db;v2;east")
        .text("xds.cluster_name", b"inbound-vip|80|http|db.data.svc.cluster.local");
    let labels = labels(r#"{"reporter": "waypoint", "peerIdentity": "certificate"}"#, stream);
    for (label, value) in [
        ("reporter", "waypoint"),
        ("source_principal", "spiffe://cluster.local/ns/front/sa/web"),
        ("source_workload_namespace", "front"),
        ("destination_workload", "db-v2"),
        ("destination_service", "db.data.svc.cluster.local"),
        ("connection_security_policy", "mutual_tls"),
    ] {
        assert_eq!(labels[label], value, "{label}");
    }
}

#[test]
fn the_called_service_is_named_by_whoever_knows_it() {
    let cluster = |name: &str| Finished::default().text("xds.cluster_name", name.as_bytes());
    let host = [(":authority", "shop.example:8080")];
    let source = r#"{"reporter": "source"}"#;
    let without_host = r#"{"reporter": "source", "service": "cluster"}"#;
    for (settings, stream, expected) in [
        (
            source,
            cluster("c")
                .text("xds.cluster_metadata.filter_metadata.istio.services.0.host", b"a.b.svc")
                .text("xds.cluster_metadata.filter_metadata.istio.services.0.namespace", b"n"),
            ("a.b.svc", "a", "n"),
        ),
        (source, cluster("c").headers(&host), ("shop.example:8080", "shop.example:8080", "unknown")),
        (without_host, cluster("c").headers(&host), ("unknown", "unknown", "unknown")),
        (
            source,
            cluster("PassthroughCluster").headers(&host),
            ("PassthroughCluster", "PassthroughCluster", "unknown"),
        ),
        (r#"{"service": "cluster"}"#, cluster("c").headers(&host), ("api", "api", "shop")),
        (
            r#"{"service": "clusterOrHost"}"#,
            cluster("c").headers(&host),
            ("shop.example:8080", "shop.example:8080", "shop"),
        ),
        (
            r#"{"service": {"host": "h", "name": "n", "namespace": "ns"}}"#,
            cluster("c").headers(&host),
            ("h", "n", "ns"),
        ),
    ] {
        let labels = labels(settings, stream);
        let found = ["destination_service", "destination_service_name", "destination_service_namespace"]
            .map(|l| labels[l].as_str());
        assert_eq!((found[0], found[1], found[2]), expected, "{settings}");
    }
}

#[test]
fn a_stream_without_answer_headers_or_properties_is_counted_as_0_and_unknown() {
    let labels = labels("{}", Finished::default());
    assert_eq!(labels["response_code"], "0");
    assert_eq!(labels["request_protocol"], "http");
    assert_eq!(labels["source_principal"], "unknown");
    assert_eq!(labels["connection_security_policy"], "none");
}

#[test]
fn odd_numbers_never_become_labels() {
    for (code, grpc_status, expected) in
        [(-1, -1, ("0", "")), (99_999, 17, ("0", "")), (i64::MAX, 255, ("0", "")), (599, 16, ("599", "16"))]
    {
        let stream = Finished::default()
            .number("response.code", code)
            .number("response.grpc_status", grpc_status)
            .headers(&[("content-type", "application/grpc+proto")]);
        let labels = labels("{}", stream);
        assert_eq!((labels["response_code"].as_str(), labels["grpc_response_status"].as_str()), expected);
        assert_eq!(labels["request_protocol"], "grpc");
    }
    // Envoy makes up a gRPC status for plain HTTP.
    let stream = Finished::default()
        .number("response.code", 503)
        .number("response.grpc_status", 14)
        .headers(&[("content-type", "text/html")]);
    assert_eq!(labels("{}", stream)["grpc_response_status"], "");
}

#[test]
fn numbers_are_milliseconds_and_bytes() {
    let stream = Finished::default()
        .number("request.duration", 12_999_999)
        .number("request.total_size", 120)
        .number("response.total_size", -5);
    let memory = record("{}", &[stream]);
    let samples = |metric| memory.of(metric).into_iter().map(|(_, values)| values).collect::<Vec<_>>();
    assert_eq!(samples("istio_request_duration_milliseconds"), [vec![12]]);
    assert_eq!(samples("istio_request_bytes"), [vec![120]]);
    assert_eq!(samples("istio_response_bytes"), Vec::<Vec<u64>>::new());
}

#[test]
fn messages_of_grpc_requests_are_counted_with_the_labels_of_the_two_sides() {
    let grpc = || {
        mtls()
            .text("filter_state.envoy.filters.http.grpc_stats", b"3,13")
            .headers(&[("content-type", "application/grpc")])
    };
    let plain = mtls().text("filter_state.envoy.filters.http.grpc_stats", b"9,9").headers(&[]);
    let memory = record("{}", &[grpc(), plain, grpc()]);
    for (metric, expected) in [("istio_request_messages_total", 6), ("istio_response_messages_total", 26)] {
        let series = memory.of(metric);
        assert_eq!(series.len(), 1);
        assert_eq!(series[0].1, [expected]);
        assert!(series[0].0.ends_with(";.;destination_cluster=.=Kubernetes"), "{}", series[0].0);
    }
    for odd in [b"".as_slice(), b"x,y", b"3", b"\xff"] {
        let stream = mtls()
            .text("filter_state.envoy.filters.http.grpc_stats", odd)
            .headers(&[("content-type", "application/grpc")]);
        assert_eq!(
            record("{}", &[stream]).of("istio_request_messages_total").len(),
            usize::from(odd == b"3,")
        );
    }
}

#[test]
fn a_request_reads_what_its_labels_need_and_no_more() {
    let reads = |resources: &str, settings: &str| {
        let stream = Finished::default().number("response.code", 200).headers(&[(":path", "/")]);
        let (engine, _) = load(resources, settings).unwrap();
        Recorder::new(engine).record(&stream, &Memory::default());
        stream.reads.into_inner()
    };
    assert_eq!(
        reads("", "{}"),
        [
            "header content-type",
            "response.code",
            "response.flags",
            "connection.uri_san_local_certificate",
            "connection.uri_san_peer_certificate",
            "request.duration",
            "request.total_size",
            "response.total_size",
        ]
    );
    let few = metrics(
        r#"{"match": {"metric": "REQUEST_DURATION"}, "disabled": true}, {"match": {"metric": "REQUEST_SIZE"}, "disabled": true},
           {"match": {"metric": "RESPONSE_SIZE"}, "disabled": true}, {"match": {"metric": "GRPC_REQUEST_MESSAGES"}, "disabled": true},
           {"match": {"metric": "GRPC_RESPONSE_MESSAGES"}, "disabled": true},
           {"tagOverrides": {"source_principal": {"operation": "REMOVE"}, "destination_principal": {"operation": "REMOVE"},
            "source_workload_namespace": {"operation": "REMOVE"}, "connection_security_policy": {"operation": "REMOVE"},
            "request_protocol": {"operation": "REMOVE"}, "grpc_response_status": {"operation": "REMOVE"},
            "response_flags": {"operation": "REMOVE"}}}"#,
    );
    assert_eq!(reads(&few, "{}"), ["response.code"]);
    assert_eq!(reads("", r#"{"standardMetrics": false}"#), Vec::<String>::new());
}

#[test]
fn beyond_the_budget_everything_of_the_request_is_other_and_counted() {
    let stream = |code| Finished::default().number("response.code", code);
    let streams: Vec<Finished> = (200..600).map(stream).chain([stream(200), stream(201)]).collect();
    let memory = record(r#"{"maxSeries": 2}"#, &streams);
    let series = memory.of("istio_requests_total");
    assert_eq!(series.iter().map(|(_, count)| count[0]).sum::<u64>(), 402);
    assert_eq!(series.len(), 3);
    let other = series.iter().find(|(name, _)| name.contains("response_code=.=other")).unwrap();
    assert_eq!(other.1, [398]);
    for label in ["source_principal", "source_workload_namespace", "response_flags", "request_protocol"] {
        assert!(other.0.contains(&format!(";.;{label}=.=other")), "{label}");
    }
    assert!(other.0.contains(";.;destination_workload=.=api;.;"));
    let overflow = memory.of("sailcloth_metrics_overflow_total");
    assert_eq!(
        overflow,
        [(";.;filter=.=metrics;.;metric=.=istio_requests_total;.;budget=.=series".to_owned(), vec![398])]
    );
}

#[test]
fn a_million_paths_are_as_many_values_as_the_budget_allows() {
    let settings = r#"{"standardMetrics": false, "metrics": [{"name": "hits_total", "labels": {"path": {"value": "request.path", "maxValues": 20}}}]}"#;
    let (engine, _) = load("", settings).unwrap();
    let (mut recorder, memory) = (Recorder::new(engine), Memory::default());
    for n in 0..1_000_000 {
        let path = format!("/p/x{n}y");
        recorder.record(&Finished::default().headers(&[(":path", &path)]), &memory);
    }
    assert_eq!(memory.of("hits_total").len(), 21);
    assert!(memory.names.borrow().len() < 25, "{}", memory.names.borrow().len());
    let other = memory.of("hits_total").into_iter().find(|(name, _)| name == ";.;path=.=other").unwrap();
    assert_eq!(other.1, [999_980]);
    assert_eq!(
        memory.of("sailcloth_metrics_overflow_total"),
        [(";.;filter=.=metrics;.;metric=.=hits_total;.;budget=.=path".to_owned(), vec![999_980])]
    );
}

#[test]
fn no_value_of_a_client_forges_a_label_or_a_series() {
    let settings =
        r#"{"standardMetrics": false, "metrics": [{"name": "m", "labels": {"x": "request.headers['x']"}}]}"#;
    let long = "a".repeat(65_536);
    for (value, expected) in [
        ("a\"b", "a_b"),
        ("a\nb", "a_b"),
        (";.;path=.=y", "_._path=.=y"),
        ("\u{0}\u{7f}\u{85}", "___"),
        (long.as_str(), &long[..256]),
        ("Bearer abc", "redacted"),
        ("4711471147", "redacted"),
    ] {
        let memory = record(settings, &[Finished::default().headers(&[("x", value)])]);
        assert_eq!(memory.of("m"), [(format!(";.;x=.={expected}"), vec![1])]);
    }
    let bytes = Finished {
        headers: Some(HeaderBlock::from_pairs([("x", b"caf\xe9".as_slice())])),
        ..Finished::default()
    };
    assert_eq!(record(settings, &[bytes]).of("m"), [(";.;x=.=caf\u{fffd}".to_owned(), vec![1])]);
    assert_eq!(record(settings, &[Finished::default()]).of("m"), [(";.;x=.=unknown".to_owned(), vec![1])]);
}

#[test]
fn a_users_labels_are_shaped() {
    let settings = r#"{"standardMetrics": false,
        "paths": {"templates": ["/users/{id}", "/users/{id}/orders"]},
        "metrics": [{"name": "m", "istioLabels": ["response_code"], "labels": {
            "path": {"template": true}, "class": {"class": true},
            "tier": {"value": "request.headers['x-tier']", "map": {"1": "gold", "2": "silver"}, "otherwise": "none"},
            "user": {"value": "request.headers['x-user']", "redact": false}}}]}"#;
    let stream = |path: &str, tier: &str| {
        Finished::default().number("response.code", 404).headers(&[
            (":path", path),
            ("x-tier", tier),
            ("x-user", "4711471147"),
        ])
    };
    let memory = record(settings, &[stream("/users/12?x", "1"), stream("/users/13", "1"), stream("/x", "9")]);
    assert_eq!(
        memory.of("m"),
        [
            (
                ";.;response_code=.=404;.;class=.=4xx;.;path=.=/users/{id};.;tier=.=gold;.;user=.=4711471147"
                    .to_owned(),
                vec![2]
            ),
            (
                ";.;response_code=.=404;.;class=.=4xx;.;path=.=other;.;tier=.=none;.;user=.=4711471147"
                    .to_owned(),
                vec![1]
            ),
        ]
    );
}

#[test]
fn values_are_counted_set_and_recorded() {
    let settings = r#"{"standardMetrics": false, "metrics": [
        {"name": "units_total", "value": "request.headers['x-units']"},
        {"name": "depth", "type": "gauge", "value": "response.code"},
        {"name": "took", "type": "histogram", "value": "request.duration"},
        {"name": "size", "type": "histogram", "value": "request.total_size", "buckets": [10, 100]},
        {"name": "fixed_total", "value": 3}]}"#;
    let stream = |units: &str, code| {
        Finished::default()
            .number("response.code", code)
            .number("request.duration", 7_000_000)
            .number("request.total_size", 50)
            .headers(&[("x-units", units)])
    };
    let memory =
        record(settings, &[stream("2.5", 200), stream("none", 404), stream("-1", 503), stream("4", 201)]);
    for (metric, expected) in [
        ("units_total", vec![("", vec![7])]),
        ("depth", vec![("", vec![201])]),
        ("took", vec![("", vec![7, 7, 7, 7])]),
        ("size_bucket", vec![(";.;le=.=+Inf", vec![4]), (";.;le=.=100", vec![4])]),
        ("size_sum", vec![("", vec![200])]),
        ("size_count", vec![("", vec![4])]),
        ("fixed_total", vec![("", vec![12])]),
    ] {
        let found = memory.of(metric);
        let found: Vec<_> = found.iter().map(|(name, values)| (name.as_str(), values.clone())).collect();
        assert_eq!(found, expected, "{metric}");
    }
}

fn produced(engine: &Engine) -> Vec<&str> {
    engine.metrics().iter().map(|(name, _)| *name).collect()
}

const ALL: [&str; 6] = [
    "istio_requests_total",
    "istio_request_duration_milliseconds",
    "istio_request_bytes",
    "istio_response_bytes",
    "istio_request_messages_total",
    "istio_response_messages_total",
];

#[test]
fn overrides_apply_from_the_mesh_to_the_workload() {
    let block = |overrides: &str| format!(r#""metrics": [{{"overrides": [{overrides}]}}]"#);
    let off = block(
        r#"{"match": {"metric": "REQUEST_SIZE"}, "disabled": true}, {"match": {"metric": "RESPONSE_SIZE"}, "disabled": true}"#,
    );
    let back = block(r#"{"match": {"metric": "REQUEST_SIZE"}, "disabled": false}"#);
    let mine = format!(
        r#""selector": {{"matchLabels": {{"app": "api"}}}}, {}"#,
        block(
            r#"{"match": {"metric": "REQUEST_DURATION", "mode": "SERVER"}, "disabled": true}, {"match": {"mode": "CLIENT"}, "disabled": true}"#
        )
    );
    let theirs =
        format!(r#""selector": {{"matchLabels": {{"app": "web"}}}}, {}"#, block(r#"{"disabled": false}"#));
    // Written in the opposite order of their levels.
    let resources = [
        telemetry("mine", "shop", &mine),
        telemetry("theirs", "shop", &theirs),
        telemetry("ns", "shop", &back),
        telemetry("mesh", "istio-system", &off),
    ]
    .join(",");
    let (engine, warnings) = load(&resources, "{}").unwrap();
    assert_eq!(produced(&engine), [ALL[0], ALL[2], ALL[4], ALL[5]]);
    assert!(warnings.is_empty(), "{warnings:?}");
    let (client, _) = load(&resources, r#"{"reporter": "source"}"#).unwrap();
    assert_eq!(produced(&client), Vec::<&str>::new());
}

#[test]
fn switching_all_off_holds_until_a_later_override_brings_the_filter_back() {
    for (overrides, expected) in [
        (r#"{"disabled": true}"#, [].as_slice()),
        (r#"{"match": {"metric": "ALL_METRICS", "mode": "SERVER"}, "disabled": true}"#, &[]),
        (r#"{"match": {"metric": "ALL_METRICS", "mode": "CLIENT"}, "disabled": true}"#, &ALL),
        (
            r#"{"disabled": true}, {"match": {"metric": "REQUEST_COUNT"}, "tagOverrides": {"source_app": {"operation": "REMOVE"}}}"#,
            &ALL,
        ),
        (
            r#"{"disabled": true}, {"match": {"metric": "REQUEST_COUNT", "mode": "CLIENT"}, "disabled": false}"#,
            &[],
        ),
    ] {
        let (engine, _) = load(&metrics(overrides), "{}").unwrap();
        assert_eq!(produced(&engine), expected, "{overrides}");
    }
}

#[test]
fn providers_decide_whether_an_override_is_ours() {
    let block = |providers: &str, overrides: &str| {
        format!(r#"{{"providers": [{providers}], "overrides": [{overrides}]}}"#)
    };
    let off = r#"{"match": {"metric": "REQUEST_COUNT"}, "disabled": true}"#;
    let (ours, theirs) = (r#"{"name": "Prometheus"}"#, r#"{"name": "stackdriver"}"#);
    let without = &ALL[1..];
    for (blocks, defaults, expected) in [
        (vec![], r#"["prometheus"]"#, ALL.as_slice()),
        (vec![], "[]", &[]),
        (vec![block(ours, "")], "[]", &ALL),
        (vec![block("", off)], r#"["prometheus"]"#, without),
        (vec![block("", off)], "[]", &[]),
        (vec![block(ours, off)], "[]", without),
        // The others' blocks are none of ours, and who names others last names us no more.
        (vec![block(theirs, off), block(ours, "")], "[]", &ALL),
        (vec![block(ours, ""), block(theirs, "")], r#"["prometheus"]"#, &[]),
        (vec![block(ours, ""), block("", off)], "[]", without),
    ] {
        let resource = telemetry("a", "shop", &format!(r#""metrics": [{}]"#, blocks.join(",")));
        let settings = format!(r#"{{"defaultProviders": {defaults}, "otherProviders": ["Stackdriver"]}}"#);
        let (engine, _) = load(&resource, &settings).unwrap();
        assert_eq!(produced(&engine), expected, "{blocks:?} {defaults}");
    }
    assert_eq!(
        load(&telemetry("a", "shop", &format!(r#""metrics": [{}]"#, block(theirs, ""))), "{}").unwrap_err(),
        [
            "resources[0].spec.metrics[0].providers[0].name: provider `stackdriver` is not supported: metrics are Envoy's own stats, provider `prometheus`; a provider that somebody else serves is named in `settings.otherProviders`"
        ]
    );
}

#[test]
fn tags_are_removed_replaced_and_added() {
    let resources = metrics(
        r#"{"tagOverrides": {"source_app": {"operation": "REMOVE"}, "zone": {"value": "'east'"}}},
           {"match": {"metric": "REQUEST_COUNT"}, "tagOverrides": {"response_code": {"value": "request.method"},
             "zone": {"operation": "REMOVE"}, "source_app": {"value": "'back'"}, "broken": {"value": "a b"}, "source_version": {"value": "a b"}}}"#,
    );
    let (engine, warnings) = load(&resources, "{}").unwrap();
    let labels = |metric: &str| engine.metrics().into_iter().find(|(name, _)| *name == metric).unwrap().1;
    let count = labels("istio_requests_total");
    assert!(count.contains(&"source_app") && count.contains(&"response_code"));
    assert!(!["zone", "broken", "source_version"].iter().any(|label| count.contains(label)));
    assert_eq!(labels("istio_request_bytes").last(), Some(&"zone"));
    assert!(!labels("istio_request_bytes").contains(&"source_app"));
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    let stream = Finished::default().headers(&[(":method", "PURGE")]);
    let series = record_with(&resources, "{}", &[stream]).of("istio_requests_total");
    assert!(
        series[0].0.contains(";.;response_code=.=PURGE;.;")
            && series[0].0.contains(";.;source_app=.=back;.;")
    );
}

#[test]
fn a_custom_metric_is_overridden_by_its_name() {
    let settings =
        r#"{"metrics": [{"name": "istio_custom", "labels": {"a": "request.method"}}, {"name": "mine"}]}"#;
    let resources = metrics(
        r#"{"match": {"customMetric": "custom"}, "tagOverrides": {"b": {"value": "'x'"}}},
           {"match": {"customMetric": "mine"}, "disabled": true},
           {"match": {"customMetric": "nobody"}, "disabled": true}"#,
    );
    let (engine, warnings) = load(&resources, settings).unwrap();
    let found = engine.metrics();
    assert!(found.contains(&("istio_custom", vec!["a", "b"])));
    assert!(!found.iter().any(|(name, _)| *name == "mine"));
    assert_eq!(
        warnings,
        [
            "resources[0].spec.metrics[0].overrides[2]: no metric `nobody` in `settings.metrics`; the override changes nothing"
        ]
    );
}

#[test]
fn a_second_telemetry_without_selector_in_a_namespace_is_not_used_and_said_so() {
    let remove = r#""metrics": [{"overrides": [{"tagOverrides": {"source_ap": {"operation": "REMOVE"}, "source_app": {"operation": "REMOVE"}}}]}]"#;
    let off = r#""metrics": [{"overrides": [{"disabled": true}]}]"#;
    let resources = [telemetry("a", "shop", remove), telemetry("b", "shop", off)].join(",");
    let (engine, warnings) = load(&resources, "{}").unwrap();
    assert_eq!(produced(&engine), ALL);
    assert!(engine.metrics().iter().all(|(_, labels)| !labels.contains(&"source_app")));
    assert_eq!(
        warnings,
        [
            "resources[0].spec.metrics[0].overrides[0]: `source_ap` is removed and no metric has it; did you mean `source_app`?",
            "resources[1]: `shop/b` is not used: namespace `shop` has an earlier Telemetry without a selector, and one is all it may have",
        ]
    );
}

#[test]
fn envoys_own_work_must_be_delegated() {
    let both =
        telemetry("a", "shop", r#""tracing": [{"providers": [{"name": "jaeger"}]}], "accessLogging": [{}]"#);
    let hint = "is Envoy's own work, which a filter cannot do; configure it there and name it in `settings.delegated`";
    assert_eq!(
        load(&both, "{}").unwrap_err(),
        [
            format!("resources[0].spec.tracing: `tracing` {hint}"),
            format!("resources[0].spec.accessLogging: `accessLogging` {hint}"),
        ]
    );
    assert!(load(&both, r#"{"delegated": ["tracing", "accessLogging"]}"#).is_ok());
    assert_eq!(load(&both, r#"{"delegated": ["tracing"]}"#).unwrap_err().len(), 1);
}

#[test]
fn settings_are_read_strictly() {
    for (settings, expected) in [
        (r#"{"maxSeries": 0}"#, vec!["settings.maxSeries: 0 is out of range; expected 1 to 100000"]),
        (
            r#"{"service": {"host": "a"}}"#,
            vec!["settings.service: missing field `name`", "settings.service: missing field `namespace`"],
        ),
        (
            r#"{"service": "host"}"#,
            vec!["settings.service: unknown value `host`; expected `own`, `cluster`, `clusterOrHost`"],
        ),
        (r#"{"reporters": 1}"#, vec!["settings.reporters: unknown field; did you mean `reporter`?"]),
        (
            r#"{"metrics": [{"name": "a-b"}]}"#,
            vec![
                "settings.metrics[0].name: `a-b` cannot be a metric; expected letters, digits and `_`, no digit first",
            ],
        ),
        (
            r#"{"metrics": [{"name": "sailcloth_x"}]}"#,
            vec!["settings.metrics[0].name: metrics named `sailcloth_…` are the filters' own"],
        ),
        (
            r#"{"metrics": [{"name": "a"}, {"name": "a"}]}"#,
            vec!["settings.metrics[1].name: two metrics are named `a`"],
        ),
        (
            r#"{"metrics": [{"name": "a", "type": "gauge"}]}"#,
            vec!["settings.metrics[0]: a gauge or a histogram needs a `value`"],
        ),
        (
            r#"{"metrics": [{"name": "a", "buckets": [1]}]}"#,
            vec!["settings.metrics[0].buckets: only a histogram has buckets"],
        ),
        (
            r#"{"metrics": [{"name": "a", "type": "histogram", "value": 1, "buckets": [2, 2]}]}"#,
            vec!["settings.metrics[0].buckets: expected 1 to 50 upper bounds, each above the one before"],
        ),
        (
            r#"{"metrics": [{"name": "a", "labels": {"le": "request.path"}}]}"#,
            vec!["settings.metrics[0].labels.le: `le` is a label of Prometheus' own"],
        ),
        (
            r#"{"metrics": [{"name": "a", "labels": {"p": {"template": true}}}]}"#,
            vec![
                "settings.metrics[0].labels.p: `template` needs path templates; write them in `settings.paths`",
            ],
        ),
        (
            r#"{"metrics": [{"name": "a", "labels": {"p": {"map": {"a": "b"}}}}]}"#,
            vec!["settings.metrics[0].labels.p: missing field `value`"],
        ),
        (
            r#"{"metrics": [{"name": "a", "istioLabels": ["response_cod"]}]}"#,
            vec![
                "settings.metrics[0].istioLabels[0]: `response_cod` is no label of Istio's; did you mean `response_code`?",
            ],
        ),
        (
            r#"{"metrics": [{"name": "a", "when": "request.method == 'GET'"}]}"#,
            vec![
                "settings.metrics[0].when: `request.method == 'GET'`: this host evaluates no CEL expressions, only plain attributes such as `request.method`",
            ],
        ),
    ] {
        assert_eq!(load("", settings).map(|_| ()).unwrap_err(), expected, "{settings}");
    }
}
