//! Which metrics are produced, with which labels.

use std::collections::HashSet;

use sailcloth_core::config::{Fields, Node, Path, Problem, Problems, Value, did_you_mean};
use sailcloth_core::facts::{PeerIdentitySource, Sources};
use sailcloth_resources::telemetry::{MetricName, MetricOverride, Telemetry};
use sailcloth_resources::{Config, Loaded};

use crate::labels::{LABELS, Own};

/// The standard metrics of HTTP, in the order of `Engine::metrics`.
const STANDARD: [(MetricName, &str); 4] = [
    (MetricName::RequestCount, "istio_requests_total"),
    (MetricName::RequestDuration, "istio_request_duration_milliseconds"),
    (MetricName::RequestSize, "istio_request_bytes"),
    (MetricName::ResponseSize, "istio_response_bytes"),
];

/// On which side of the request this proxy stands (label `reporter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reporter {
    /// An inbound listener.
    Destination,
    /// An outbound listener or a gateway.
    Source,
}

/// The filter's own settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `reporter`.
    pub reporter: Reporter,
    /// `workloadName`: our own workload; the canonical service where it is absent.
    pub workload_name: Option<String>,
    /// `clusterId`: our own cluster.
    pub cluster_id: String,
    /// `service`: the service that is called here, as host, name and namespace.
    pub service: Option<(String, String, String)>,
    /// `maxSeries`: label sets that one worker tells apart.
    pub max_series: usize,
    /// `delegated`: whether `tracing` and `accessLogging` are carried out by Envoy itself.
    pub delegated: (bool, bool),
}

impl Settings {
    /// Reads the settings.
    #[must_use]
    pub fn read(fields: &Fields<'_>) -> Self {
        let text = |name| fields.get(name).and_then(|value| value.non_empty_text()).map(str::to_owned);
        let reporter = fields.get("reporter").and_then(|value| {
            if value.node().text() == Some("waypoint") {
                value.error("`waypoint` is not supported by this version of the metrics filter");
                return None;
            }
            value.word(&[("destination", Reporter::Destination), ("source", Reporter::Source)])
        });
        fields.refuse("metrics", "is not supported by this version of the metrics filter");
        let series = fields.get("maxSeries").and_then(|value| value.integer(1, 100_000));
        let delegated = fields.get("delegated").and_then(|list| {
            list.list(|item| item.word(&[("tracing", (true, false)), ("accessLogging", (false, true))]))
        });
        let delegated = delegated.unwrap_or_default();
        Self {
            reporter: reporter.unwrap_or(Reporter::Destination),
            workload_name: text("workloadName"),
            cluster_id: text("clusterId").unwrap_or_else(|| "Kubernetes".to_owned()),
            service: fields.get("service").and_then(|service| read_service(&service)),
            max_series: series.and_then(|series| usize::try_from(series).ok()).unwrap_or(1000),
            delegated: (delegated.iter().any(|(tracing, _)| *tracing), delegated.iter().any(|(_, log)| *log)),
        }
    }
}

fn read_service(value: &Value<'_>) -> Option<(String, String, String)> {
    let fields = value.fields()?;
    let text = |name| fields.required(name).and_then(|value| value.non_empty_text()).map(str::to_owned);
    let (host, name, namespace) = (text("host"), text("name"), text("namespace"));
    Some((host?, name?, namespace?))
}

/// One metric to produce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// Which.
    pub metric: MetricName,
    /// Its name in Prometheus.
    pub name: &'static str,
    /// Labels that it does not carry.
    pub removed: HashSet<String>,
}

/// A compiled configuration.
#[derive(Debug)]
pub struct Engine {
    metrics: Vec<Metric>,
    own: Own,
    settings: Settings,
    sources: Sources,
    resources: usize,
}

impl Engine {
    /// Compiles a configuration from what Envoy hands over.
    ///
    /// # Errors
    /// All problems, when at least one refuses the configuration.
    pub fn load(text: &[u8]) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Config::load(text, Settings::read, Self::compile)
    }

    /// [`Self::load`] from a tree that was parsed elsewhere.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_node(node: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Config::load_node(node, Settings::read, Self::compile)
    }

    fn compile(config: Config<Telemetry, Settings>, problems: &Problems) -> Self {
        for resource in &config.resources {
            refuse_undelegated(resource, &config.settings, problems);
            warn_unknown_tags(resource, problems);
        }
        let applied = by_level(&config, problems);
        let server = config.settings.reporter == Reporter::Destination;
        let overrides: Vec<&MetricOverride> =
            applied.iter().flat_map(|resource| &resource.spec.overrides).collect();
        let applies = |over: &&&MetricOverride| if server { over.server } else { over.client };
        let ours: Vec<&MetricOverride> = overrides.iter().filter(applies).copied().collect();
        let own = Own::new(
            config.workload.as_ref(),
            config.settings.workload_name.as_deref(),
            &config.settings.cluster_id,
        );
        Self {
            metrics: STANDARD.into_iter().filter_map(|(metric, name)| resolve(metric, name, &ours)).collect(),
            own,
            sources: config.common.sources,
            resources: applied.len(),
            settings: config.settings,
        }
    }

    /// Resources in force, by kind.
    #[must_use]
    pub fn resources(&self) -> Vec<(&'static str, usize)> {
        vec![("Telemetry", self.resources)]
    }

    /// Where facts are read.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The metrics to produce.
    #[must_use]
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// Label sets that one worker tells apart.
    #[must_use]
    pub fn max_series(&self) -> usize {
        self.settings.max_series
    }

    pub(crate) fn produces(&self, metric: MetricName) -> bool {
        self.metrics.iter().any(|produced| produced.metric == metric)
    }

    pub(crate) fn reporter(&self) -> Reporter {
        self.settings.reporter
    }

    pub(crate) fn peer_identity(&self) -> PeerIdentitySource {
        self.sources.peer_identity
    }

    pub(crate) fn own(&self) -> &Own {
        &self.own
    }

    pub(crate) fn stated_service(&self) -> Option<(&str, &str, &str)> {
        let (host, name, namespace) = self.settings.service.as_ref()?;
        Some((host, name, namespace))
    }
}

/// Overrides in order; the later wins, field by field.
fn resolve(metric: MetricName, name: &'static str, overrides: &[&MetricOverride]) -> Option<Metric> {
    let mut disabled = false;
    let mut removed = HashSet::new();
    for over in overrides.iter().filter(|over| over.metric.is_none_or(|named| named == metric)) {
        disabled = over.disabled.unwrap_or(disabled);
        removed.extend(over.removed.iter().cloned());
    }
    (!disabled).then_some(Metric { metric, name, removed })
}

/// What applies, from the general to the particular: the mesh's, the namespace's, then those with a selector. Of
/// several without a selector in one namespace only the first counts (`istio-api.md` 8.1).
fn by_level<'c>(config: &'c Config<Telemetry, Settings>, problems: &Problems) -> Vec<&'c Loaded<Telemetry>> {
    let mut seen = HashSet::new();
    let mut applied = Vec::new();
    for resource in config.applicable() {
        let namespace = resource.metadata.namespace.as_str();
        let selects =
            !resource.spec.scope.match_labels.is_empty() || !resource.spec.scope.target_refs.is_empty();
        if !selects && !seen.insert(namespace) {
            at(&resource.path, problems).warn(format!(
                "`{}` is not used: namespace `{namespace}` has an earlier Telemetry without a selector, and one is all it may have",
                resource.metadata.id()
            ));
            continue;
        }
        let level = match selects {
            true => 2,
            false => u8::from(namespace != config.common.root_namespace),
        };
        applied.push((level, resource));
    }
    applied.sort_by_key(|(level, _)| *level);
    applied.into_iter().map(|(_, resource)| resource).collect()
}

fn refuse_undelegated(resource: &Loaded<Telemetry>, settings: &Settings, problems: &Problems) {
    let (tracing, access_logging) = settings.delegated;
    for (name, place, delegated) in [
        ("tracing", &resource.spec.tracing, tracing),
        ("accessLogging", &resource.spec.access_logging, access_logging),
    ] {
        if let Some(path) = place.as_ref().filter(|_| !delegated) {
            at(path, problems).error(format!(
                "`{name}` is Envoy's own work, which a filter cannot do; configure it there and name it in `settings.delegated`"
            ));
        }
    }
}

fn warn_unknown_tags(resource: &Loaded<Telemetry>, problems: &Problems) {
    for tag in resource.spec.overrides.iter().flat_map(|over| &over.removed) {
        if !LABELS.contains(&tag.as_str()) {
            let hint = did_you_mean(tag, &LABELS);
            at(&resource.path, problems).warn(format!("`{tag}` is removed and no metric has it{hint}"));
        }
    }
}

fn at<'n>(path: &Path, problems: &Problems) -> Value<'n> {
    const NOTHING: &Node = &Node::Null;
    Value::at(NOTHING, path.clone(), problems)
}
