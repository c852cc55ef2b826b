//! Which overrides of Telemetry resources are in force for this filter, and what they leave of a metric
//! (`istio-api.md` 8).

use std::collections::HashSet;

use sailcloth_core::config::{Node, Path, Problems, Value, did_you_mean};
use sailcloth_resources::telemetry::{MetricOverride, MetricsBlock, Selected, TagChange, Telemetry};
use sailcloth_resources::{Config, Loaded};

use crate::labels::LABELS;
use crate::settings::{Reporter, Settings};

/// The provider that this filter is: Envoy's own stats, scraped by Prometheus.
const PROVIDER: &str = "prometheus";

/// What applies to this filter.
pub(crate) struct InForce<'c> {
    /// Whether metrics are produced at all.
    pub(crate) enabled: bool,
    /// The overrides, in order; the later wins, field by field.
    pub(crate) overrides: Vec<&'c MetricOverride>,
    /// How many resources apply.
    pub(crate) resources: usize,
}

/// Everything that Telemetry resources say about metrics, for this filter's mode and provider.
pub(crate) fn in_force<'c>(config: &'c Config<Telemetry, Settings>, problems: &Problems) -> InForce<'c> {
    let settings = &config.settings;
    for resource in &config.resources {
        refuse_undelegated(resource, settings, problems);
        check_metrics(resource, settings, problems);
    }
    let applied = by_level(config, problems);
    let blocks: Vec<&MetricsBlock> = applied.iter().flat_map(|resource| &resource.spec.metrics).collect();
    let is_ours = |name: &str| name.eq_ignore_ascii_case(PROVIDER);
    let by_default = settings.default_providers.iter().any(|name| is_ours(name));
    // The last list of providers decides who is asked at all; an earlier one that a later level replaced, nothing.
    let last = blocks.iter().rev().find(|block| !block.providers.is_empty());
    let ours = |block: &MetricsBlock| block.providers.iter().any(|(name, _)| is_ours(name));
    let mut enabled = last.map_or(by_default, |block| ours(block));
    let server = settings.reporter != Reporter::Source;
    let mut overrides = Vec::new();
    let (mut inherited, mut all_disabled) = (by_default, false);
    for block in blocks {
        if !block.providers.is_empty() {
            inherited = ours(block);
        }
        let for_us = |over: &&MetricOverride| inherited && if server { over.server } else { over.client };
        for over in block.overrides.iter().filter(for_us) {
            // Switching all off takes the filter away; any later override brings it back, whole.
            all_disabled = over.selected == Selected::All && over.disabled == Some(true);
            if !all_disabled {
                overrides.push(over);
            }
        }
    }
    enabled &= !all_disabled;
    InForce { enabled, overrides, resources: applied.len() }
}

/// What the overrides make of one metric: whether it is off, and what becomes of which labels.
pub(crate) fn resolve<'c>(
    overrides: &[&'c MetricOverride],
    selects: impl Fn(&Selected) -> bool,
) -> (bool, Vec<(&'c str, &'c TagChange, &'c Path)>) {
    let mut disabled = false;
    let mut tags: Vec<(&str, &TagChange, &Path)> = Vec::new();
    for over in overrides.iter().filter(|over| selects(&over.selected)) {
        disabled = over.disabled.unwrap_or(disabled);
        for (tag, change) in &over.tags {
            tags.retain(|(known, ..)| known != tag);
            tags.push((tag, change, &over.path));
        }
    }
    tags.sort_by_key(|(tag, ..)| *tag);
    (disabled, tags)
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

/// Providers that nobody serves, labels that no metric has, metrics that nobody defines.
fn check_metrics(resource: &Loaded<Telemetry>, settings: &Settings, problems: &Problems) {
    let known = |name: &str| {
        let mut served = settings.other_providers.iter().map(String::as_str).chain([PROVIDER]);
        served.any(|other| other.eq_ignore_ascii_case(name))
    };
    for block in &resource.spec.metrics {
        for (name, path) in block.providers.iter().filter(|(name, _)| !known(name)) {
            at(path, problems).error(format!(
                "provider `{name}` is not supported: metrics are Envoy's own stats, provider `prometheus`; \
                 a provider that somebody else serves is named in `settings.otherProviders`"
            ));
        }
        for over in &block.overrides {
            check_override(over, settings, problems);
        }
    }
}

fn check_override(over: &MetricOverride, settings: &Settings, problems: &Problems) {
    let custom = match &over.selected {
        Selected::Custom(name) => settings.metrics.iter().find(|metric| names(&metric.name.text, name)),
        _ => None,
    };
    if let (Selected::Custom(name), None) = (&over.selected, custom) {
        at(&over.path, problems)
            .warn(format!("no metric `{name}` in `settings.metrics`; the override changes nothing"));
        return;
    }
    let has = |tag: &str| {
        LABELS.contains(&tag)
            || custom.is_some_and(|metric| metric.labels.iter().any(|(label, _)| label == tag))
    };
    let removed = over.tags.iter().filter(|(_, change)| *change == TagChange::Remove);
    for (tag, _) in removed.filter(|(tag, _)| !has(tag)) {
        let hint = did_you_mean(tag, &LABELS);
        at(&over.path, problems).warn(format!("`{tag}` is removed and no metric has it{hint}"));
    }
}

/// Whether `customMetric` names a metric: Istio's own definitions are named without their prefix.
pub(crate) fn names(metric: &str, custom: &str) -> bool {
    metric == custom || metric.strip_prefix("istio_") == Some(custom)
}

/// A place to report at, for what is found after reading.
pub(crate) fn at<'n>(path: &Path, problems: &Problems) -> Value<'n> {
    const NOTHING: &Node = &Node::Null;
    Value::at(NOTHING, path.clone(), problems)
}
