//! `settings` of the metrics filter.

use sailcloth_core::config::{Fields, Node, Path, Value};

use crate::paths::Paths;
use crate::user::UserMetric;

/// On which side of the request this proxy stands (label `reporter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reporter {
    /// An inbound listener.
    Destination,
    /// An outbound listener or a gateway.
    Source,
    /// A waypoint: between two workloads that are both peers.
    Waypoint,
}

/// Where the labels of the called service come from (`service`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Service {
    /// They are written in the settings.
    Stated { host: String, name: String, namespace: String },
    /// Our own canonical service (`own`).
    Own,
    /// The upstream cluster's metadata `istio.services`, else Istio's form of cluster names (`cluster`).
    Cluster,
    /// The same, else the Host header (`clusterOrHost`).
    ClusterOrHost,
}

/// The filter's own settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `reporter`.
    pub reporter: Reporter,
    /// `workloadName`: our own workload; the canonical service where it is absent.
    pub workload_name: Option<String>,
    /// `clusterId`: our own cluster.
    pub cluster_id: String,
    pub(crate) service: Option<Service>,
    /// `exchange`: filter state holds what metadata exchange learned of the peer.
    pub exchange: bool,
    /// `maxSeries`: label sets of one metric that one worker tells apart.
    pub max_series: usize,
    /// `maxLabelValues`: values of one label with an expression that one worker tells apart.
    pub max_label_values: usize,
    /// `standardMetrics`: whether Istio's own metrics are produced.
    pub standard_metrics: bool,
    /// `redactTags`: whether tags of Telemetry lose values that look like ids, as labels of `metrics` do.
    pub redact_tags: bool,
    /// `delegated`: whether `tracing` and `accessLogging` are carried out by Envoy itself.
    pub delegated: (bool, bool),
    /// `defaultProviders`: providers of metrics where no Telemetry names one.
    pub default_providers: Vec<String>,
    /// `otherProviders`: names that somebody else serves.
    pub other_providers: Vec<String>,
    pub(crate) metrics: Vec<UserMetric>,
    pub(crate) paths: Paths,
}

/// A text and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) text: String,
    pub(crate) path: Path,
}

impl Located {
    /// An expression: text, or a number as YAML writes it.
    pub(crate) fn read(value: &Value<'_>) -> Option<Self> {
        let text = match value.node() {
            Node::Integer(_) | Node::Float(_) => value.integer(0, i64::MAX)?.to_string(),
            _ => value.non_empty_text()?.to_owned(),
        };
        Some(Self { text, path: value.path().clone() })
    }
}

impl Settings {
    /// Reads the settings.
    #[must_use]
    pub fn read(fields: &Fields<'_>) -> Self {
        let text = |name| fields.get(name).and_then(|value| value.non_empty_text()).map(str::to_owned);
        let count = |name, default| {
            let read = fields.get(name).and_then(|value| value.integer(1, 100_000));
            read.and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
        };
        let flag = |name| fields.get(name).and_then(|value| value.boolean());
        let names = |name| fields.get(name).and_then(|list| list.strings());
        let reporter = fields.get("reporter").and_then(|value| {
            value.word(&[
                ("destination", Reporter::Destination),
                ("source", Reporter::Source),
                ("waypoint", Reporter::Waypoint),
            ])
        });
        let delegated = fields.get("delegated").and_then(|list| {
            list.list(|item| item.word(&[("tracing", (true, false)), ("accessLogging", (false, true))]))
        });
        let delegated = delegated.unwrap_or_default();
        let exchange = fields
            .get("peerMetadata")
            .and_then(|value| value.word(&[("endpoint", false), ("filterState", true)]));
        let max_series = count("maxSeries", 1000);
        let max_label_values = count("maxLabelValues", 100);
        let metrics = fields
            .get("metrics")
            .and_then(|list| list.list(|item| UserMetric::read(&item, max_series, max_label_values)));
        let metrics = metrics.unwrap_or_default();
        refuse_repeated(&metrics, fields.value());
        Self {
            reporter: reporter.unwrap_or(Reporter::Destination),
            workload_name: text("workloadName"),
            cluster_id: text("clusterId").unwrap_or_else(|| "Kubernetes".to_owned()),
            service: fields.get("service").and_then(|service| read_service(&service)),
            exchange: exchange.unwrap_or(false),
            max_series,
            max_label_values,
            standard_metrics: flag("standardMetrics").unwrap_or(true),
            redact_tags: flag("redactTags").unwrap_or(false),
            delegated: (delegated.iter().any(|(tracing, _)| *tracing), delegated.iter().any(|(_, log)| *log)),
            default_providers: names("defaultProviders").unwrap_or_else(|| vec!["prometheus".to_owned()]),
            other_providers: names("otherProviders").unwrap_or_default(),
            paths: fields.get("paths").map(|paths| Paths::read(&paths)).unwrap_or_default(),
            metrics,
        }
    }
}

fn refuse_repeated(metrics: &[UserMetric], place: &Value<'_>) {
    for (index, metric) in metrics.iter().enumerate() {
        if metrics.iter().take(index).any(|other| other.name.text == metric.name.text) {
            Value::at(place.node(), metric.name.path.clone(), place.problems())
                .error(format!("two metrics are named `{}`", metric.name.text));
        }
    }
}

fn read_service(value: &Value<'_>) -> Option<Service> {
    if value.node().text().is_some() {
        let words: [(&str, u8); 3] = [("own", 0), ("cluster", 1), ("clusterOrHost", 2)];
        return Some(match value.word(&words)? {
            0 => Service::Own,
            1 => Service::Cluster,
            _ => Service::ClusterOrHost,
        });
    }
    let fields = value.fields()?;
    let text = |name| fields.required(name).and_then(|value| value.non_empty_text()).map(str::to_owned);
    let (host, name, namespace) = (text("host"), text("name"), text("namespace"));
    Some(Service::Stated { host: host?, name: name?, namespace: namespace? })
}
