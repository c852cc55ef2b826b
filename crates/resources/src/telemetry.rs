//! Istio's `Telemetry` (`telemetry.istio.io`; `istio-api.md` section 8).

mod signals;

use sailcloth_core::config::{Fields, Node, Path, Value};

use crate::{Kind, Metadata, Resource, Scope};

/// `spec` of a Telemetry.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Where it applies.
    pub scope: Scope,
    /// `metrics[]`, in their order.
    pub metrics: Vec<MetricsBlock>,
    /// Where `tracing` stands, if it is written: Envoy's own work.
    pub tracing: Option<Path>,
    /// Where `accessLogging` stands, if it is written: Envoy's own work.
    pub access_logging: Option<Path>,
}

/// One of `metrics`.
#[derive(Debug, Clone, Default)]
pub struct MetricsBlock {
    /// The names in `providers`, each with its place; none: those of the level above.
    pub providers: Vec<(String, Path)>,
    /// `overrides`, in their order.
    pub overrides: Vec<MetricOverride>,
}

/// One of `overrides`.
#[derive(Debug, Clone)]
pub struct MetricOverride {
    /// Where it stands.
    pub path: Path,
    /// `match.metric` or `match.customMetric`.
    pub selected: Selected,
    /// Whether it is for inbound listeners (`match.mode`).
    pub server: bool,
    /// Whether it is for outbound listeners and gateways (`match.mode`).
    pub client: bool,
    /// `disabled`, where it is written.
    pub disabled: Option<bool>,
    /// `tagOverrides` by label, sorted by label: a `google.protobuf.Struct` has no order.
    pub tags: Vec<(String, TagChange)>,
}

/// What an override is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    /// `ALL_METRICS`, or nothing.
    All,
    /// One that Istio names.
    Named(MetricName),
    /// `customMetric`.
    Custom(String),
}

/// What becomes of a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagChange {
    /// `REMOVE`.
    Remove,
    /// `UPSERT`: its value is that of a CEL expression.
    Upsert(String),
}

/// The metrics that Istio names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MetricName {
    /// `istio_requests_total`.
    RequestCount,
    /// `istio_request_duration_milliseconds`.
    RequestDuration,
    /// `istio_request_bytes`.
    RequestSize,
    /// `istio_response_bytes`.
    ResponseSize,
    /// `istio_request_messages_total`.
    RequestMessages,
    /// `istio_response_messages_total`.
    ResponseMessages,
    /// A metric of TCP connections, which no HTTP filter sees.
    Tcp,
}

const METRICS: [(&str, Option<MetricName>); 11] = [
    ("ALL_METRICS", None),
    ("REQUEST_COUNT", Some(MetricName::RequestCount)),
    ("REQUEST_DURATION", Some(MetricName::RequestDuration)),
    ("REQUEST_SIZE", Some(MetricName::RequestSize)),
    ("RESPONSE_SIZE", Some(MetricName::ResponseSize)),
    ("TCP_OPENED_CONNECTIONS", Some(MetricName::Tcp)),
    ("TCP_CLOSED_CONNECTIONS", Some(MetricName::Tcp)),
    ("TCP_SENT_BYTES", Some(MetricName::Tcp)),
    ("TCP_RECEIVED_BYTES", Some(MetricName::Tcp)),
    ("GRPC_REQUEST_MESSAGES", Some(MetricName::RequestMessages)),
    ("GRPC_RESPONSE_MESSAGES", Some(MetricName::ResponseMessages)),
];

impl Resource for Telemetry {
    const KINDS: &'static [Kind] = &[Kind::TELEMETRY];
    const ANNOTATIONS: &'static [&'static str] = &[];

    fn read(_: Kind, _: &Metadata, spec: &Value<'_>) -> Option<Self> {
        let fields = spec.fields()?;
        let scope = Scope::read(&fields);
        let metrics = fields.get("metrics").and_then(|metrics| metrics.list(|block| read_metrics(&block)));
        let place = |name, read: fn(&Value<'_>)| {
            fields.get(name).map(|value| {
                read(&value);
                value.path().clone()
            })
        };
        Some(Self {
            scope,
            metrics: metrics.unwrap_or_default(),
            tracing: place("tracing", signals::check_tracing),
            access_logging: place("accessLogging", signals::check_access_logging),
        })
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }
}

fn read_metrics(value: &Value<'_>) -> Option<MetricsBlock> {
    let fields = value.fields()?;
    if let Some(interval) = fields.get("reportingInterval") {
        let _ = interval.duration();
        interval.warn("`reportingInterval` is about TCP metrics, which no HTTP filter sees");
    }
    if let Some(dimensions) = fields.get("dimensions") {
        refuse_dimensions(&dimensions);
    }
    let overrides = fields.get("overrides").and_then(|list| list.list(|entry| read_override(&entry)));
    Some(MetricsBlock { providers: read_providers(&fields), overrides: overrides.unwrap_or_default() })
}

fn read_providers(fields: &Fields<'_>) -> Vec<(String, Path)> {
    let providers = fields.get("providers").and_then(|providers| {
        providers.list(|provider| {
            let name = provider.fields()?.required("name")?;
            Some((name.non_empty_text()?.to_owned(), name.path().clone()))
        })
    });
    providers.unwrap_or_default()
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
    let (selected, server, client) =
        fields.get("match").and_then(|matched| read_match(&matched)).unwrap_or((Selected::All, true, true));
    let tags = fields.get("tagOverrides").map(|tags| read_tags(&tags));
    Some(MetricOverride {
        path: value.path().clone(),
        selected,
        server,
        client,
        // A BoolValue, which JSON writes plainly.
        disabled: fields.get("disabled").and_then(|disabled| disabled.boolean()),
        tags: tags.unwrap_or_default(),
    })
}

fn read_match(value: &Value<'_>) -> Option<(Selected, bool, bool)> {
    let fields = value.fields()?;
    let selected = match fields.one_of(&["metric", "customMetric"]) {
        Some(("metric", metric)) => metric.word(&METRICS).flatten().map_or(Selected::All, Selected::Named),
        Some((_, custom)) => Selected::Custom(custom.non_empty_text()?.to_owned()),
        None => Selected::All,
    };
    let (server, client) = fields.get("mode").and_then(|mode| read_mode(&mode)).unwrap_or((true, true));
    Some((selected, server, client))
}

/// Whether a mode is for servers, and for clients.
fn read_mode(value: &Value<'_>) -> Option<(bool, bool)> {
    value.word(&[("CLIENT_AND_SERVER", (true, true)), ("SERVER", (true, false)), ("CLIENT", (false, true))])
}

fn read_tags(value: &Value<'_>) -> Vec<(String, TagChange)> {
    let entries = value.entries().unwrap_or_default().into_iter();
    let mut tags: Vec<(String, TagChange)> = entries
        .filter_map(|(tag, change)| {
            check_label_name(tag, &change);
            Some((tag.to_owned(), change.fields().and_then(|fields| read_tag(&fields))?))
        })
        .collect();
    tags.sort_by(|one, other| one.0.cmp(&other.0));
    tags
}

/// Labels become part of Envoy's flat metric names (`host::metrics`), where other characters would end them.
pub fn check_label_name(name: &str, value: &Value<'_>) {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let starts = name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
    if !starts || !name.bytes().all(allowed) {
        value.error(format!(
            "`{name}` cannot be a label; expected letters, digits, `_`, `-` and `.`, a letter or `_` first"
        ));
    }
}

fn read_tag(fields: &Fields<'_>) -> Option<TagChange> {
    let operation = fields.get("operation").map(|word| word.word(&[("UPSERT", false), ("REMOVE", true)]));
    let removed = operation.unwrap_or(Some(false))?;
    let value = fields.get("value");
    let text = value.as_ref().and_then(|value| value.text()).unwrap_or_default();
    match (removed, &value) {
        (true, Some(value)) if !text.is_empty() => {
            value.error("must be empty where the operation is `REMOVE`");
        }
        (false, None) => fields.value().error("`UPSERT` needs a `value`"),
        (false, Some(value)) if text.is_empty() && value.node().text().is_some() => {
            value.error("must be set where the operation is `UPSERT`");
        }
        _ => {}
    }
    Some(if removed { TagChange::Remove } else { TagChange::Upsert(text.to_owned()) })
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
                 "tagOverrides": {"source_app": {"operation": "REMOVE"}, "a": {"value": "request.host"}}},
                {"match": {"customMetric": "mine", "mode": "CLIENT"}}]}]}"#,
        );
        assert_eq!(problems.errors(), Vec::<String>::new());
        let telemetry = telemetry.unwrap();
        let block = &telemetry.metrics[0];
        assert_eq!(block.providers[0].0, "Prometheus");
        let brief: Vec<_> = block
            .overrides
            .iter()
            .map(|over| (&over.selected, over.server, over.client, over.disabled, over.tags.len()))
            .collect();
        assert_eq!(
            brief,
            [
                (&Selected::All, true, true, Some(true), 0),
                (&Selected::Named(MetricName::RequestCount), true, false, Some(false), 2),
                (&Selected::Custom("mine".into()), false, true, None, 0),
            ]
        );
        assert_eq!(
            block.overrides[1].tags,
            [
                ("a".to_owned(), TagChange::Upsert("request.host".into())),
                ("source_app".to_owned(), TagChange::Remove),
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
    fn mistakes_are_located() {
        for (spec, expected) in [
            (
                r#"{"metrics": [{"overrides": [{"tagOverrides": {"a": {}}}]}]}"#,
                "metrics[0].overrides[0].tagOverrides.a: `UPSERT` needs a `value`",
            ),
            (
                r#"{"metrics": [{"overrides": [{"tagOverrides": {"a": {"value": ""}}}]}]}"#,
                "metrics[0].overrides[0].tagOverrides.a.value: must be set where the operation is `UPSERT`",
            ),
            (
                r#"{"metrics": [{"overrides": [{"tagOverrides": {"a": {"operation": "REMOVE", "value": "x"}}}]}]}"#,
                "metrics[0].overrides[0].tagOverrides.a.value: must be empty where the operation is `REMOVE`",
            ),
            (
                r#"{"metrics": [{"overrides": [{"tagOverrides": {"a;": {"value": "x"}}}]}]}"#,
                "metrics[0].overrides[0].tagOverrides[\"a;\"]: `a;` cannot be a label; expected letters, digits, `_`, `-` and `.`, a letter or `_` first",
            ),
            (
                r#"{"metrics": [{"overrides": [{"match": {"metric": "REQUESTS"}}]}]}"#,
                "metrics[0].overrides[0].match.metric: unknown value `REQUESTS`; expected `ALL_METRICS`, `REQUEST_COUNT`, `REQUEST_DURATION`, `REQUEST_SIZE`, `RESPONSE_SIZE`, `TCP_OPENED_CONNECTIONS`, `TCP_CLOSED_CONNECTIONS`, `TCP_SENT_BYTES`, `TCP_RECEIVED_BYTES`, `GRPC_REQUEST_MESSAGES`, `GRPC_RESPONSE_MESSAGES`",
            ),
            (r#"{"metric": []}"#, "metric: unknown field; did you mean `metrics`?"),
            (
                r#"{"tracing": [{"customTags": {"a": null}}]}"#,
                "tracing[0].customTags.a: expected an object, found null",
            ),
            (
                r#"{"tracing": [{"randomSamplingPercentage": 100.5}]}"#,
                "tracing[0].randomSamplingPercentage: expected a percentage from 0 to 100",
            ),
            (
                r#"{"accessLogging": [{"filter": {"expresion": "x"}}]}"#,
                "accessLogging[0].filter.expresion: unknown field; did you mean `expression`?",
            ),
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
