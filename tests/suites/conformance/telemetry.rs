//! Telemetry: what Istio makes of it (`cases/telemetry`), the series that come of it (`cases/metrics`), CEL (`cel`).

use std::collections::BTreeMap;

use sailcloth_core::config::Node;
use sailcloth_core::headers::HeaderBlock;
use sailcloth_emulator::Value;
use sailcloth_emulator::cel::{Attributes, Programs};
use sailcloth_metrics::LABELS;
use sailcloth_tests::conformance::{Table, configuration, document, folder};
use sailcloth_tests::facts::CaseProperties;
use sailcloth_tests::report::Report;
use sailcloth_tests::subject::metrics::Native;
use sailcloth_tests::yaml::{self, at, entries, items, map, text};

/// Istio's names of the metrics that an HTTP filter produces, and those in Prometheus without `istio_`.
const METRICS: [(&str, &str); 6] = [
    ("REQUEST_COUNT", "requests_total"),
    ("REQUEST_DURATION", "request_duration_milliseconds"),
    ("REQUEST_SIZE", "request_bytes"),
    ("RESPONSE_SIZE", "response_bytes"),
    ("GRPC_REQUEST_MESSAGES", "request_messages_total"),
    ("GRPC_RESPONSE_MESSAGES", "response_messages_total"),
];

/// How many labels the counters of messages have.
const MESSAGE_LABELS: usize = 20;

/// Metric to its labels, sorted.
type Produced = BTreeMap<String, Vec<String>>;

fn produced(configuration: &Node) -> Result<Produced, Vec<String>> {
    let (native, _) = Native::load(configuration)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let sorted = |labels: Vec<&str>| {
        let mut labels: Vec<String> = labels.into_iter().map(str::to_owned).collect();
        labels.sort();
        labels
    };
    Ok(native
        .engine()
        .metrics()
        .into_iter()
        .map(|(name, labels)| (name.to_owned(), sorted(labels)))
        .collect())
}

/// A metric's standard labels, changed.
fn labels(metric: &str, removed: &[String], added: &[String]) -> Vec<String> {
    let count = if metric.ends_with("messages_total") { MESSAGE_LABELS } else { LABELS.len() };
    let standard = LABELS[..count].iter().map(|label| (*label).to_owned());
    let mut labels: Vec<String> = standard.filter(|label| !removed.contains(label)).collect();
    labels.extend(added.iter().filter(|label| !labels.contains(label)).cloned().collect::<Vec<_>>());
    labels.sort();
    labels
}

fn all() -> Produced {
    METRICS.iter().map(|(_, name)| (format!("istio_{name}"), labels(name, &[], &[]))).collect()
}

fn differences(found: Result<Produced, Vec<String>>, expected: &Produced) -> Vec<String> {
    match found {
        Ok(found) if found == *expected => Vec::new(),
        Ok(found) => vec![format!("expected {expected:?}, produced {found:?}")],
        Err(problems) => problems,
    }
}

/// Providers that are none of ours.
fn others(metrics: &[Node]) -> Node {
    let named = metrics.iter().flat_map(|block| items(block.field("providers")));
    let names = named.filter_map(|provider| provider.field("name").and_then(Node::text));
    Node::List(names.filter(|name| !name.eq_ignore_ascii_case("prometheus")).map(text).collect())
}

fn telemetry(name: &str, namespace: &str, spec: Node) -> Node {
    document("telemetry.istio.io/v1", "Telemetry", name, namespace, spec)
}

#[test]
fn metrics_merge_as_in_istio() {
    let Some(folder) = folder() else { return };
    let mut report = Report::new("istio/cases/telemetry/TestMergeMetrics");
    for table in Table::all(&folder.join("istio/cases/telemetry")) {
        if table.name != "TestMergeMetrics" {
            continue;
        }
        for case in table.cases() {
            let defaults = match case.field("mesh") {
                Some(Node::Text(_)) | None => Node::List(Vec::new()),
                Some(mesh) => {
                    at(mesh, &["defaultProviders", "metrics"]).cloned().unwrap_or(Node::List(Vec::new()))
                }
            };
            let metrics = items(case.field("metrics"));
            let expected = at(case, &["expected", "prometheus"]);
            for (reporter, side) in [("source", "clientMetrics"), ("destination", "serverMetrics")] {
                let mut config = configuration(vec![telemetry(
                    "a",
                    "istio-system",
                    map(vec![("metrics", Node::List(metrics.to_vec()))]),
                )]);
                let settings = vec![
                    ("reporter", text(reporter)),
                    ("defaultProviders", defaults.clone()),
                    ("otherProviders", others(metrics)),
                    ("metrics", custom(metrics)),
                ];
                yaml::set(&mut config, &["settings"], map(settings));
                let wanted = expected.map_or_else(Produced::new, |provider| merged(provider.field(side)));
                let standard = produced(&config).map(|mut found| {
                    found.retain(|name, _| name.starts_with("istio_"));
                    found
                });
                report.ran(&format!("{} {reporter}", table.row(case)), &differences(standard, &wanted));
            }
        }
    }
    report.finish();
}

/// Metrics that overrides name by `customMetric`, so that they are there.
fn custom(metrics: &[Node]) -> Node {
    let mut names: Vec<&str> = metrics
        .iter()
        .flat_map(|block| items(block.field("overrides")))
        .filter_map(|over| at(over, &["match", "customMetric"]).and_then(Node::text))
        .collect();
    names.sort_unstable();
    names.dedup();
    let named = names.iter().map(|name| map(vec![("name", text(name.replace('-', "_")))]));
    Node::List(named.collect())
}

/// Istio's merged form of one side.
fn merged(side: Option<&Node>) -> Produced {
    let mut all = all();
    let Some(side) = side else { return all };
    if matches!(side.field("disabled"), Some(Node::Bool(true))) {
        return Produced::new();
    }
    for over in items(side.field("overrides")) {
        let name = over.field("name").and_then(Node::text).unwrap_or_default();
        let Some((_, metric)) = METRICS.iter().find(|(known, _)| *known == name) else { continue };
        if matches!(over.field("disabled"), Some(Node::Bool(true))) {
            all.remove(&format!("istio_{metric}"));
            continue;
        }
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for tag in items(over.field("tags")) {
            let name = tag.field("name").and_then(Node::text).unwrap_or_default().to_owned();
            let gone = matches!(tag.field("remove"), Some(Node::Bool(true)));
            if gone { removed.push(name) } else { added.push(name) }
        }
        all.insert(format!("istio_{metric}"), labels(metric, &removed, &added));
    }
    all
}

#[test]
fn telemetry_gives_the_metrics_that_istio_gives() {
    let Some(folder) = folder() else { return };
    let mut report = Report::new("istio/cases/telemetry/TestTelemetryFilters");
    for table in Table::all(&folder.join("istio/cases/telemetry")) {
        match table.name.as_str() {
            "TestTelemetryFilters" => {
                table.cases().iter().for_each(|case| filters(&table, case, &mut report))
            }
            "TestMergeMetrics" => {}
            _ => {
                table.cases().iter().for_each(|_| report.skip("tracing and access logs are Envoy's own work"))
            }
        }
    }
    report.finish();
}

fn filters(table: &Table, case: &Node, report: &mut Report) {
    let word = |path: &[&str]| at(case, path).and_then(Node::text);
    if word(&["protocol"]) == Some("TCP") {
        return report.skip("the listener is TCP, which an HTTP filter never sees");
    }
    let served = word(&["service", "attributes", "namespace"]);
    if served.is_some_and(|served| Some(served) != word(&["proxy", "configNamespace"])) {
        return report
            .skip("the waypoint serves a Service of another namespace, which `workload` cannot say");
    }
    let mut resources = Vec::new();
    let mut named = Vec::new();
    for (index, config) in items(case.field("cfgs")).iter().enumerate() {
        let meta = config.field("meta").unwrap_or(config);
        let field = |key| meta.field(key).and_then(Node::text);
        let spec = config.field("spec").cloned().unwrap_or(Node::Map(Vec::new()));
        named.extend(items(spec.field("metrics")).to_vec());
        let name = field("name").map_or_else(|| format!("t{index}"), str::to_owned);
        resources.push(telemetry(&name, field("namespace").unwrap_or("default"), spec));
    }
    let waypoint = word(&["proxy", "type"]) == Some("waypoint");
    let reporter = match word(&["class"]) {
        _ if waypoint => "waypoint",
        Some("SidecarInbound") => "destination",
        _ => "source",
    };
    let labels_of = at(case, &["proxy", "labels"]).cloned().unwrap_or(Node::Map(Vec::new()));
    let service = word(&["service", "attributes", "name"]);
    let mut workload = vec![
        ("namespace", text(word(&["proxy", "configNamespace"]).unwrap_or("default"))),
        ("labels", labels_of),
    ];
    workload.extend(service.map(|service| ("services", Node::List(vec![text(service)]))));
    let defaults = at(case, &["defaultProviders", "metrics"]).cloned().unwrap_or(Node::List(Vec::new()));
    let config = map(vec![
        ("resources", Node::List(resources)),
        ("workload", map(workload)),
        (
            "settings",
            map(vec![
                ("reporter", text(reporter)),
                ("peerIdentity", text("certificate")),
                ("defaultProviders", defaults),
                ("otherProviders", others(&named)),
                ("delegated", Node::List(vec![text("tracing"), text("accessLogging")])),
            ]),
        ),
    ]);
    let wanted = match word(&["want", "istio.stats"]) {
        Some(stats) => wanted(&Node::from_json(stats.as_bytes()).unwrap()),
        None => Produced::new(),
    };
    report.ran(&table.row(case), &differences(produced(&config), &wanted));
}

/// The configuration of Istio's own filter.
fn wanted(stats: &Node) -> Produced {
    let mut all = all();
    for entry in items(stats.field("metrics")) {
        let name = entry.field("name").and_then(Node::text).unwrap_or_default();
        if !METRICS.iter().any(|(_, known)| *known == name) {
            continue;
        }
        if matches!(entry.field("drop"), Some(Node::Bool(true))) {
            all.remove(&format!("istio_{name}"));
            continue;
        }
        let added: Vec<String> =
            entries(entry.field("dimensions")).iter().map(|(tag, _)| tag.clone()).collect();
        let removed: Vec<String> =
            items(entry.field("tags_to_remove")).iter().filter_map(Node::text).map(str::to_owned).collect();
        all.insert(format!("istio_{name}"), labels(name, &removed, &added));
    }
    all
}

#[test]
fn requests_become_istios_series() {
    let Some(folder) = folder() else { return };
    let mut report = Report::new("istio/cases/metrics");
    for table in Table::all(&folder.join("istio/cases/metrics")) {
        table.cases().iter().for_each(|case| series(&table, case, &mut report));
    }
    report.finish();
}

fn series(table: &Table, case: &Node, report: &mut Report) {
    let requests = case.field("requests").and_then(Node::text).unwrap_or_default();
    if table.name == "http_metadata_exchange" {
        return report.skip("the case is about exchange headers, which this filter does not send");
    }
    if requests.contains("TCP connections") {
        return report.skip("the case is about TCP connections, which an HTTP filter never sees");
    }
    let stats = case.field("stats_config");
    if yaml::json(stats.unwrap_or(&Node::Null)).contains("stream_peer") {
        return report
            .skip("a tag reads Istio's peer object in filter state, which a stock Envoy does not have");
    }
    let server =
        case.field("observer").and_then(Node::text).is_some_and(|observer| observer.starts_with("server"));
    let node = |key| {
        let name = case.field(key).and_then(Node::text).unwrap_or_default();
        at(&table.document, &["node_metadata", name])
    };
    let (Some(own), peer) = (node("own_node_metadata"), node("peer_metadata")) else {
        return report.skip("the case does not say who we are");
    };
    let told = |metadata: &Node, path: &[&str]| {
        at(metadata, path).and_then(Node::text).unwrap_or_default().to_owned()
    };
    let host_off = told(stats.unwrap_or(&Node::Null), &["disable_host_header_fallback"]) == "true";
    let config = map(vec![
        ("resources", Node::List(overrides(stats))),
        (
            "workload",
            map(vec![
                ("namespace", text(told(own, &["NAMESPACE"]))),
                ("labels", own.field("LABELS").cloned().unwrap_or(Node::Map(Vec::new()))),
            ]),
        ),
        (
            "settings",
            map(vec![
                ("reporter", text(if server { "destination" } else { "source" })),
                ("workloadName", text(told(own, &["WORKLOAD_NAME"]))),
                ("clusterId", text(told(own, &["CLUSTER_ID"]))),
                ("peerMetadata", text("filterState")),
                ("service", text(if server || host_off { "cluster" } else { "clusterOrHost" })),
                ("metrics", definitions(stats)),
            ]),
        ),
    ]);
    let (mut native, _) = match Native::load(&config) {
        Ok(loaded) => loaded,
        Err(problems) => {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            return report.ran(&table.row(case), &problems);
        }
    };
    let stream = Exchange::of(case, requests, server, peer);
    let expected = items(case.field("expect"));
    let count = expected.iter().filter_map(|series| match series.field("value") {
        Some(Node::Integer(value)) if !stream.grpc => Some(*value),
        _ => None,
    });
    for _ in 0..count.max().unwrap_or(1) {
        native.record(Some(&stream.headers), None, &stream.properties);
    }
    let mut found = Vec::new();
    for series in expected {
        let metric = told(series, &["metric"]);
        let ours = native.meter.values().into_iter().find_map(|(name, value)| {
            let rest = name.strip_prefix(&metric)?.to_owned();
            (rest.is_empty() || rest.starts_with(";.;")).then_some((rest, value))
        });
        match (matches!(series.field("absent"), Some(Node::Bool(true))), ours) {
            (true, None) => {}
            (true, Some(_)) => found.push(format!("{metric} should not be there")),
            (false, None) => found.push(format!("{metric} is missing")),
            (false, Some((flat, value))) => compare(&metric, series, &flat, value, &mut found),
        }
    }
    report.ran(&table.row(case), &found);
}

fn compare(metric: &str, series: &Node, flat: &str, value: i64, found: &mut Vec<String>) {
    let label = |part: &str| part.split_once("=.=").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let ours: BTreeMap<String, String> = flat.split(";.;").filter_map(label).collect();
    let theirs: BTreeMap<String, String> = entries(series.field("labels"))
        .iter()
        .map(|(name, value)| (name.clone(), value.text().unwrap_or_default().to_owned()))
        .collect();
    for name in ours.keys().chain(theirs.keys()) {
        if ours.get(name) != theirs.get(name) {
            found.push(format!(
                "{metric} {name}: expected {:?}, found {:?}",
                theirs.get(name),
                ours.get(name)
            ));
        }
    }
    if series.field("value") != Some(&Node::Integer(value)) {
        found.push(format!("{metric}: expected {:?}, counted {value}", series.field("value")));
    }
}

/// The requests of a case.
struct Exchange {
    headers: HeaderBlock,
    properties: CaseProperties,
    grpc: bool,
}

impl Exchange {
    fn of(case: &Node, requests: &str, server: bool, peer: Option<&Node>) -> Self {
        let number = |after: &str| {
            let digits = requests.split_once(after)?.1;
            digits.split(|letter: char| !letter.is_ascii_digit()).next()?.parse::<i64>().ok()
        };
        let grpc = requests.contains("gRPC");
        let code = number("answered ").or_else(|| number("rejected ")).unwrap_or(200);
        let mut attributes = vec![
            (vec!["response", "code"], code.to_le_bytes().to_vec()),
            (vec!["response", "flags"], vec![0; 8]),
            (vec!["xds", "cluster_name"], b"server-outbound-cluster".to_vec()),
            (vec!["request", "protocol"], b"HTTP/1.1".to_vec()),
        ];
        if let Some(metadata) = case.field("cluster_service_metadata").filter(|node| **node != Node::Null) {
            for part in ["host", "name", "namespace"] {
                let value = metadata.field(part).and_then(Node::text).unwrap_or_default();
                attributes.push((
                    vec!["xds", "cluster_metadata", "filter_metadata", "istio", "services", "0", part],
                    value.into(),
                ));
            }
        }
        if let Some(peer) = peer {
            let told = |path: &[&str]| at(peer, path).and_then(Node::text).unwrap_or_default();
            let parts = [
                told(&["WORKLOAD_NAME"]),
                told(&["NAMESPACE"]),
                told(&["LABELS", "service.istio.io/canonical-name"]),
                told(&["LABELS", "service.istio.io/canonical-revision"]),
                told(&["CLUSTER_ID"]),
                told(&["LABELS", "app"]),
                told(&["LABELS", "version"]),
            ];
            let state = if server { "sailcloth.downstream_peer" } else { "sailcloth.upstream_peer" };
            attributes.push((vec![state], parts.join(";").into_bytes()));
        }
        if let (Some(sent), Some(received)) = (number("open: "), number("sent, ")) {
            attributes.push((
                vec!["filter_state", "envoy.filters.http.grpc_stats"],
                format!("{sent},{received}").into_bytes(),
            ));
        }
        let content_type = if grpc { "application/grpc" } else { "text/plain" };
        let headers = HeaderBlock::from_pairs([
            (":method", "GET"),
            (":path", "/"),
            (":authority", "127.0.0.1:15001"),
            ("content-type", content_type),
        ]);
        Self { headers, properties: CaseProperties(attributes), grpc }
    }
}

/// The configuration of Istio's own filter as a Telemetry.
fn overrides(stats: Option<&Node>) -> Vec<Node> {
    let mut overrides = Vec::new();
    for entry in items(stats.and_then(|stats| stats.field("metrics"))) {
        let name = entry.field("name").and_then(Node::text);
        let known = name.and_then(|name| METRICS.iter().find(|(_, metric)| *metric == name));
        let mut tags: Vec<(String, Node)> = items(entry.field("tags_to_remove"))
            .iter()
            .filter_map(Node::text)
            .map(|tag| (tag.to_owned(), map(vec![("operation", text("REMOVE"))])))
            .collect();
        for (tag, value) in entries(entry.field("dimensions")) {
            tags.push((tag.clone(), map(vec![("value", value.clone())])));
        }
        let mut over = vec![("tagOverrides", Node::Map(tags))];
        match (known, name) {
            (Some((metric, _)), _) => over.push(("match", map(vec![("metric", text(*metric))]))),
            (None, Some(custom)) => over.push(("match", map(vec![("customMetric", text(custom))]))),
            (None, None) => {}
        }
        over.extend(entry.field("drop").map(|drop| ("disabled", drop.clone())));
        overrides.push(map(over));
    }
    if overrides.is_empty() {
        return Vec::new();
    }
    let block = map(vec![("overrides", Node::List(overrides))]);
    vec![telemetry("a", "istio-system", map(vec![("metrics", Node::List(vec![block]))]))]
}

fn definitions(stats: Option<&Node>) -> Node {
    let metric = |definition: &Node| {
        let name = definition.field("name").and_then(Node::text).unwrap_or_default();
        let value = definition.field("value").cloned().unwrap_or(Node::Null);
        map(vec![("name", text(format!("istio_{name}"))), ("value", value)])
    };
    Node::List(items(stats.and_then(|stats| stats.field("definitions"))).iter().map(metric).collect())
}

/// Nothing to ask about.
struct Nothing;

impl Attributes for Nothing {
    fn read(&self, _: &[&str]) -> Option<Vec<u8>> {
        None
    }

    fn group(&self, _: &str) -> Option<Value> {
        None
    }
}

/// What the `cel` crate answers. It must do what the folder's README asks of a filter; where it does less than the whole
/// language, the case is skipped and counted.
#[test]
fn cel_outside_envoy_evaluates_the_published_cases() {
    let Some(folder) = folder() else { return };
    // Some cases nest deeper than the parser's recursion fits into a test's stack.
    let all = std::thread::Builder::new().stack_size(512 << 20).spawn(move || {
        let mut report = Report::new("cel");
        for table in Table::all(&folder.join("cel")) {
            table.cases().iter().for_each(|case| cel(&table, case, &mut report));
        }
        report.finish();
    });
    assert!(all.unwrap().join().is_ok(), "listed above");
}

fn cel(table: &Table, case: &Node, report: &mut Report) {
    let Some(source) = case.field("expr").and_then(Node::text) else {
        return report.skip("the case carries no expression");
    };
    if case.field("needs_proto_types").is_some()
        || case.field("bindings").is_some()
        || case.field("type_env").is_some()
    {
        return report.skip("the case needs protobuf types or variables that an HTTP filter does not have");
    }
    let row = format!("{} `{source}`", table.row(case));
    let mut programs = Programs::default();
    let value = programs.create(source).and_then(|program| programs.value(program, &Nothing).ok());
    let expected = case.field("value").and_then(literal);
    match (case.field("error").is_some(), &expected, value) {
        (true, _, None) => report.ran(&row, &[]),
        (false, Some(expected), Some(value)) if same(&value, expected) => report.ran(&row, &[]),
        (false, None, _) => report.skip("the expected value is of a type that no attribute has"),
        (false, Some(_), None) => report.skip("the `cel` crate does not carry it out"),
        (true, _, Some(_)) => report.skip("the `cel` crate gives a value where CEL gives an error"),
        (false, Some(expected), Some(value)) => {
            report.ran(&row, &[format!("expected {expected:?}, found {value:?}")]);
        }
    }
}

fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Double(one), Value::Double(other)) => one == other || (one.is_nan() && other.is_nan()),
        (Value::List(one), Value::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        _ => one == other,
    }
}

fn literal(node: &Node) -> Option<Value> {
    let (kind, value) = entries(Some(node)).first()?;
    Some(match (kind.as_str(), value) {
        ("int", Node::Integer(number)) => Value::Int(*number),
        ("uint", Node::Integer(number)) => Value::Uint(number.cast_unsigned()),
        #[expect(clippy::cast_precision_loss, reason = "small whole numbers")]
        ("double", Node::Integer(number)) => Value::Double(*number as f64),
        ("double", Node::Float(number)) => Value::Double(*number),
        ("bool", Node::Bool(flag)) => Value::Bool(*flag),
        ("string", Node::Text(text)) => Value::String(text.clone()),
        ("list", Node::List(list)) => Value::List(list.iter().map(literal).collect::<Option<_>>()?),
        ("null", _) => Value::Null,
        _ => return None,
    })
}
