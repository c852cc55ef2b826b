//! Istio's `Telemetry` (`telemetry.istio.io`; `istio-api.md` section 8).

use sailcloth_core::config::{Fields, Node, Path, Value};

use crate::{Kind, Metadata, Resource, Scope};

/// Why a field of the schema is refused.
const NOT_YET: &str = "is not supported by this version of the metrics filter";

/// `spec` of a Telemetry.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Where it applies.
    pub scope: Scope,
    /// `metrics[].overrides[]`, in their order.
    pub overrides: Vec<MetricOverride>,
    /// Where `tracing` stands, if it is written: Envoy's own work.
    pub tracing: Option<Path>,
    /// Where `accessLogging` stands, if it is written: Envoy's own work.
    pub access_logging: Option<Path>,
}

/// One of `overrides`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricOverride {
    /// `match.metric`; `None` is `ALL_METRICS`.
    pub metric: Option<MetricName>,
    /// Whether it is for inbound listeners (`match.mode`).
    pub server: bool,
    /// Whether it is for outbound listeners and gateways (`match.mode`).
    pub client: bool,
    /// `disabled`, where it is written.
    pub disabled: Option<bool>,
    /// Labels that `tagOverrides` removes.
    pub removed: Vec<String>,
}

/// The metrics that Istio names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricName {
    /// `istio_requests_total`.
    RequestCount,
    /// `istio_request_duration_milliseconds`.
    RequestDuration,
    /// `istio_request_bytes`.
    RequestSize,
    /// `istio_response_bytes`.
    ResponseSize,
    /// A metric of TCP connections or gRPC messages, which this suite's filter does not produce.
    Other,
}

const METRICS: [(&str, Option<MetricName>); 11] = [
    ("ALL_METRICS", None),
    ("REQUEST_COUNT", Some(MetricName::RequestCount)),
    ("REQUEST_DURATION", Some(MetricName::RequestDuration)),
    ("REQUEST_SIZE", Some(MetricName::RequestSize)),
    ("RESPONSE_SIZE", Some(MetricName::ResponseSize)),
    ("TCP_OPENED_CONNECTIONS", Some(MetricName::Other)),
    ("TCP_CLOSED_CONNECTIONS", Some(MetricName::Other)),
    ("TCP_SENT_BYTES", Some(MetricName::Other)),
    ("TCP_RECEIVED_BYTES", Some(MetricName::Other)),
    ("GRPC_REQUEST_MESSAGES", Some(MetricName::Other)),
    ("GRPC_RESPONSE_MESSAGES", Some(MetricName::Other)),
];

impl Resource for Telemetry {
    const KINDS: &'static [Kind] = &[Kind::TELEMETRY];
    const ANNOTATIONS: &'static [&'static str] = &[];

    fn read(_: Kind, _: &Metadata, spec: &Value<'_>) -> Option<Self> {
        let fields = spec.fields()?;
        let scope = Scope::read(&fields);
        let metrics = fields.get("metrics").and_then(|metrics| metrics.list(|block| read_metrics(&block)));
        let place = |name| fields.get(name).map(|value| value.path().clone());
        Some(Self {
            scope,
            overrides: metrics.unwrap_or_default().concat(),
            tracing: place("tracing"),
            access_logging: place("accessLogging"),
        })
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }
}

fn read_metrics(value: &Value<'_>) -> Option<Vec<MetricOverride>> {
    let fields = value.fields()?;
    if let Some(providers) = fields.get("providers") {
        let _ = providers.list(|provider| read_provider(&provider));
    }
    if let Some(interval) = fields.get("reportingInterval") {
        let _ = interval.duration();
        interval.warn("`reportingInterval` is about TCP metrics, which this filter does not produce");
    }
    if let Some(dimensions) = fields.get("dimensions") {
        refuse_dimensions(&dimensions);
    }
    fields.get("overrides")?.list(|entry| read_override(&entry))
}

fn read_provider(value: &Value<'_>) -> Option<()> {
    let name = value.fields()?.required("name")?;
    let text = name.non_empty_text()?;
    if !text.eq_ignore_ascii_case("prometheus") {
        name.error(format!("provider `{text}` {NOT_YET}; metrics are shown by Envoy, provider `prometheus`"));
    }
    Some(())
}

/// A shape that circulates and that no Istio has ever had: say what was meant.
fn refuse_dimensions(value: &Value<'_>) {
    let names = value.node();
    let first = match names {
        Node::List(items) => items.first().and_then(Node::text),
        _ => None,
    };
    let attribute = first.unwrap_or("request.url_path");
    let tag = attribute.replace('.', "_");
    value.error(format!(
        "Telemetry has no `dimensions`; a label is added with `overrides: [{{match: {{metric: REQUEST_COUNT}}, \
         tagOverrides: {{{tag}: {{operation: UPSERT, value: {attribute}}}}}}}]`"
    ));
}

fn read_override(value: &Value<'_>) -> Option<MetricOverride> {
    let fields = value.fields()?;
    let (metric, server, client) =
        fields.get("match").and_then(|matched| read_match(&matched)).unwrap_or((None, true, true));
    let tags = fields.get("tagOverrides").map(|tags| read_tags(&tags));
    Some(MetricOverride {
        metric,
        server,
        client,
        disabled: fields.get("disabled").and_then(|disabled| read_flag(&disabled)),
        removed: tags.unwrap_or_default(),
    })
}

fn read_match(value: &Value<'_>) -> Option<(Option<MetricName>, bool, bool)> {
    let fields = value.fields()?;
    fields.refuse("customMetric", NOT_YET);
    let metric = fields.get("metric").and_then(|metric| metric.word(&METRICS));
    let mode = fields.get("mode").and_then(|mode| {
        mode.word(&[
            ("CLIENT_AND_SERVER", (true, true)),
            ("SERVER", (true, false)),
            ("CLIENT", (false, true)),
        ])
    });
    let (server, client) = mode.unwrap_or((true, true));
    Some((metric.flatten(), server, client))
}

/// `disabled` is a BoolValue; JSON writes it plainly.
fn read_flag(value: &Value<'_>) -> Option<bool> {
    value.boolean()
}

fn read_tags(value: &Value<'_>) -> Vec<String> {
    let mut removed = Vec::new();
    for (tag, change) in value.entries().unwrap_or_default() {
        if change.fields().and_then(|fields| read_tag(&fields)) == Some(true) {
            removed.push(tag.to_owned());
        }
    }
    removed
}

/// Whether the tag is removed.
fn read_tag(fields: &Fields<'_>) -> Option<bool> {
    let operation = fields.get("operation").map(|word| word.word(&[("UPSERT", false), ("REMOVE", true)]));
    let removed = operation.unwrap_or(Some(false))?;
    let value = fields.get("value");
    match (removed, value) {
        (true, Some(value)) if value.text().is_some_and(|text| !text.is_empty()) => {
            value.error("must be empty where the operation is `REMOVE`");
        }
        (false, None) => fields.value().error("`UPSERT` needs a `value`"),
        (false, Some(value)) => value.error(format!("`UPSERT` with a CEL expression {NOT_YET}")),
        _ => {}
    }
    Some(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sailcloth_core::config::Problems;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read(spec: &str) -> (Option<Telemetry>, Problems) {
        let node = Node::from_json(spec.as_bytes()).unwrap();
        let problems = Problems::default();
        let read = Telemetry::read(Kind::TELEMETRY, &Metadata::default(), &Value::root(&node, &problems));
        (read, problems)
    }

    #[test]
    fn overrides_are_read_in_their_order() {
        let (telemetry, problems) = read(
            r#"{"metrics": [{"providers": [{"name": "Prometheus"}], "overrides": [
                {"disabled": true},
                {"match": {"metric": "REQUEST_COUNT", "mode": "SERVER"}, "disabled": false,
                 "tagOverrides": {"source_app": {"operation": "REMOVE"}}}]}]}"#,
        );
        assert_eq!(problems.errors(), Vec::<String>::new());
        assert_eq!(
            telemetry.unwrap().overrides,
            [
                MetricOverride {
                    metric: None,
                    server: true,
                    client: true,
                    disabled: Some(true),
                    removed: vec![]
                },
                MetricOverride {
                    metric: Some(MetricName::RequestCount),
                    server: true,
                    client: false,
                    disabled: Some(false),
                    removed: vec!["source_app".into()],
                },
            ]
        );
    }

    #[test]
    fn the_old_shape_is_refused_with_the_right_one() {
        let (_, problems) = read(
            r#"{"metrics": [{"providers": [{"name": "prometheus"}], "dimensions": ["request.path", "response.code"]}]}"#,
        );
        assert_eq!(
            problems.errors(),
            [
                "metrics[0].dimensions: Telemetry has no `dimensions`; a label is added with `overrides: [{match: {metric: REQUEST_COUNT}, tagOverrides: {request_path: {operation: UPSERT, value: request.path}}}]`"
            ]
        );
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_by_name() {
        for (spec, expected) in [
            (
                r#"{"metrics": [{"overrides": [{"tagOverrides": {"a": {"value": "request.host"}}}]}]}"#,
                "metrics[0].overrides[0].tagOverrides.a.value: `UPSERT` with a CEL expression is not supported by this version of the metrics filter",
            ),
            (
                r#"{"metrics": [{"overrides": [{"tagOverrides": {"a": {}}}]}]}"#,
                "metrics[0].overrides[0].tagOverrides.a: `UPSERT` needs a `value`",
            ),
            (
                r#"{"metrics": [{"overrides": [{"tagOverrides": {"a": {"operation": "REMOVE", "value": "x"}}}]}]}"#,
                "metrics[0].overrides[0].tagOverrides.a.value: must be empty where the operation is `REMOVE`",
            ),
            (
                r#"{"metrics": [{"overrides": [{"match": {"customMetric": "x"}}]}]}"#,
                "metrics[0].overrides[0].match.customMetric: `customMetric` is not supported by this version of the metrics filter",
            ),
            (
                r#"{"metrics": [{"providers": [{"name": "stackdriver"}]}]}"#,
                "metrics[0].providers[0].name: provider `stackdriver` is not supported by this version of the metrics filter; metrics are shown by Envoy, provider `prometheus`",
            ),
            (r#"{"metric": []}"#, "metric: unknown field; did you mean `metrics`?"),
        ] {
            assert_eq!(read(spec).1.errors(), [expected], "{spec}");
        }
    }

    #[test]
    fn tracing_and_access_logs_are_noted_with_their_place() {
        let (telemetry, problems) = read(r#"{"tracing": [{}], "accessLogging": [{}]}"#);
        let telemetry = telemetry.unwrap();
        assert!(problems.errors().is_empty());
        assert_eq!(telemetry.tracing.unwrap().to_string(), "tracing");
        assert_eq!(telemetry.access_logging.unwrap().to_string(), "accessLogging");
    }
}
