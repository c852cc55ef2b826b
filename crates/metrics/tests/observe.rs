//! What a finished stream becomes, and what Telemetry changes.
#![cfg(not(target_family = "wasm"))]

use std::collections::HashMap;

use sailcloth_core::facts::{Fact, Properties};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_metrics::{Engine, LABELS, MetricName};

#[derive(Default)]
struct Stream(HashMap<String, Vec<u8>>);

impl Stream {
    fn text(mut self, path: &str, value: &[u8]) -> Self {
        self.0.insert(path.to_owned(), value.to_vec());
        self
    }

    fn number(self, path: &str, value: i64) -> Self {
        self.text(path, &value.to_le_bytes())
    }
}

impl Properties for Stream {
    fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
        self.0.get(&path.join(".")).map_or(Fact::Absent, |value| Fact::Known(value.clone()))
    }
}

/// A host that refuses every property.
struct Refusing;

impl Properties for Refusing {
    fn property(&self, _: &[&str]) -> Fact<Vec<u8>> {
        Fact::Unavailable("internal_failure")
    }
}

const WORKLOAD: &str = r#"{"namespace": "shop", "labels": {"app": "api", "version": "v1"}}"#;

fn load(resources: &str, settings: &str) -> Result<(Engine, Vec<String>), Vec<String>> {
    let text = format!(r#"{{"resources": [{resources}], "workload": {WORKLOAD}, "settings": {settings}}}"#);
    let texts = |problems: Vec<sailcloth_core::config::Problem>| -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    };
    Engine::load(text.as_bytes()).map(|(engine, warnings)| (engine, texts(warnings))).map_err(texts)
}

fn telemetry(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        r#"{{"apiVersion": "telemetry.istio.io/v1", "kind": "Telemetry",
            "metadata": {{"name": "{name}", "namespace": "{namespace}"}}, "spec": {{{spec}}}}}"#
    )
}

fn labels(engine: &Engine, headers: &[(&str, &str)], properties: &dyn Properties) -> HashMap<String, String> {
    let headers = HeaderBlock::from_pairs(headers.iter().copied());
    let observation = engine.observe(Some(&headers), properties);
    let labels = engine.labels(Some(&observation.key));
    labels.into_iter().map(|(label, value)| (label.to_owned(), value.into_owned())).collect()
}

fn mtls() -> Stream {
    Stream::default()
        .number("response.code", 200)
        .number("response.flags", 0)
        .text("connection.uri_san_peer_certificate", b"spiffe://cluster.local/ns/front/sa/web")
        .text("connection.uri_san_local_certificate", b"spiffe://cluster.local/ns/shop/sa/api")
}

#[test]
fn an_inbound_request_over_mtls_has_istios_labels() {
    let (engine, _) = load("", "{}").unwrap();
    let host = ("host", "evil;.;reporter=.=x");
    let labels = labels(&engine, &[(":method", "BREW"), (":authority", host.1)], &mtls());
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
    for (label, value) in expected {
        assert_eq!(labels[label], value, "{label}");
    }
}

#[test]
fn an_outbound_request_reads_the_upstream_side() {
    let (engine, _) = load("", r#"{"reporter": "source", "workloadName": "api-v1"}"#).unwrap();
    let stream = mtls()
        .text("upstream.uri_san_peer_certificate", b"spiffe://cluster.local/ns/data/sa/db")
        .text("upstream.uri_san_local_certificate", b"spiffe://cluster.local/ns/shop/sa/api")
        .text("xds.cluster_name", b"outbound|80||db.data.svc.cluster.local");
    let labels = labels(&engine, &[], &stream);
    for (label, value) in [
        ("reporter", "source"),
        ("source_workload", "api-v1"),
        ("source_principal", "spiffe://cluster.local/ns/shop/sa/api"),
        ("destination_principal", "spiffe://cluster.local/ns/data/sa/db"),
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
fn a_stream_without_answer_headers_or_properties_is_counted_as_0_and_unknown() {
    let (engine, _) = load("", "{}").unwrap();
    for properties in [&Stream::default() as &dyn Properties, &Refusing] {
        let observation = engine.observe(None, properties);
        assert_eq!(observation.duration, None);
        let labels: HashMap<_, _> = engine.labels(Some(&observation.key)).into_iter().collect();
        assert_eq!(labels["response_code"], "0");
        assert_eq!(labels["request_protocol"], "http");
        assert_eq!(labels["source_principal"], "unknown");
        assert_eq!(labels["connection_security_policy"], "none");
    }
}

#[test]
fn odd_numbers_never_become_labels() {
    let (engine, _) = load("", "{}").unwrap();
    let grpc = &[("content-type", "application/grpc+proto")];
    for (code, grpc_status, expected) in
        [(-1, -1, ("0", "")), (99_999, 17, ("0", "")), (i64::MAX, 255, ("0", "")), (599, 16, ("599", "16"))]
    {
        let stream =
            Stream::default().number("response.code", code).number("response.grpc_status", grpc_status);
        let labels = labels(&engine, grpc, &stream);
        assert_eq!((labels["response_code"].as_str(), labels["grpc_response_status"].as_str()), expected);
        assert_eq!(labels["request_protocol"], "grpc");
    }
    // Envoy makes up a gRPC status for plain HTTP.
    let stream = Stream::default().number("response.code", 503).number("response.grpc_status", 14);
    assert_eq!(labels(&engine, &[("content-type", "text/html")], &stream)["grpc_response_status"], "");
}

#[test]
fn numbers_are_milliseconds_and_bytes() {
    let (engine, _) = load("", "{}").unwrap();
    let stream = Stream::default()
        .number("request.duration", 12_999_999)
        .number("request.total_size", 120)
        .number("response.total_size", -5);
    let observation = engine.observe(None, &stream);
    assert_eq!(
        (observation.duration, observation.request_bytes, observation.response_bytes),
        (Some(12), Some(120), None)
    );
}

#[test]
fn beyond_the_budget_everything_of_the_request_is_other() {
    let (engine, _) = load("", "{}").unwrap();
    let labels: HashMap<_, _> = engine.labels(None).into_iter().collect();
    for label in ["response_code", "source_principal", "source_workload_namespace", "response_flags"] {
        assert_eq!(labels[label], "other", "{label}");
    }
    assert_eq!(labels["destination_workload"], "api");
}

fn produced(engine: &Engine) -> Vec<MetricName> {
    engine.metrics().iter().map(|metric| metric.metric).collect()
}

#[test]
fn overrides_apply_from_the_mesh_to_the_workload() {
    let off = r#""metrics": [{"overrides": [{"disabled": true}]}]"#;
    let count_on =
        r#""metrics": [{"overrides": [{"match": {"metric": "REQUEST_COUNT"}, "disabled": false}]}]"#;
    let mine = r#""selector": {"matchLabels": {"app": "api"}}, "metrics": [{"overrides": [{"match": {"metric": "REQUEST_DURATION", "mode": "SERVER"}, "disabled": false}, {"match": {"mode": "CLIENT"}, "disabled": true}]}]"#;
    let theirs =
        r#""selector": {"matchLabels": {"app": "web"}}, "metrics": [{"overrides": [{"disabled": false}]}]"#;
    // Written in the opposite order of their levels.
    let resources = [
        telemetry("mine", "shop", mine),
        telemetry("theirs", "shop", theirs),
        telemetry("ns", "shop", count_on),
        telemetry("mesh", "istio-system", off),
    ]
    .join(",");
    let (engine, warnings) = load(&resources, "{}").unwrap();
    assert_eq!(produced(&engine), [MetricName::RequestCount, MetricName::RequestDuration]);
    assert!(warnings.is_empty());
    let (client, _) = load(&resources, r#"{"reporter": "source"}"#).unwrap();
    assert_eq!(produced(&client), []);
}

#[test]
fn a_second_telemetry_without_selector_in_a_namespace_is_not_used_and_said_so() {
    let remove = r#""metrics": [{"overrides": [{"tagOverrides": {"source_ap": {"operation": "REMOVE"}, "source_app": {"operation": "REMOVE"}}}]}]"#;
    let off = r#""metrics": [{"overrides": [{"disabled": true}]}]"#;
    let resources = [telemetry("a", "shop", remove), telemetry("b", "shop", off)].join(",");
    let (engine, warnings) = load(&resources, "{}").unwrap();
    assert_eq!(produced(&engine).len(), 4);
    assert!(engine.metrics().iter().all(|metric| metric.removed.contains("source_app")));
    assert_eq!(
        warnings,
        [
            "resources[0]: `source_ap` is removed and no metric has it; did you mean `source_app`?",
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
    let settings = r#"{"reporter": "waypoint", "maxSeries": 0, "service": {"host": "a"}, "metrics": {}, "reporters": 1}"#;
    assert_eq!(
        load("", settings).unwrap_err(),
        [
            "settings.reporter: `waypoint` is not supported by this version of the metrics filter",
            "settings.metrics: `metrics` is not supported by this version of the metrics filter",
            "settings.maxSeries: 0 is out of range; expected 1 to 100000",
            "settings.service: missing field `name`",
            "settings.service: missing field `namespace`",
            "settings.reporters: unknown field; did you mean `reporter`?",
        ]
    );
}
