//! What is produced: metrics with their labels, grouped by what their labels are made of.

use sailcloth_core::config::Problems;
use sailcloth_resources::telemetry::{MetricName, MetricOverride, Selected, TagChange};

use crate::Kind;
use crate::expression::{Compiler, Expression};
use crate::facts::need;
use crate::labels::{LABELS, MESSAGE_LABELS, needs};
use crate::overrides::{at, names, resolve};
use crate::settings::{Located, Reporter, Service, Settings};
use crate::user::{Shape, UserMetric};

/// The standard metrics of HTTP.
const STANDARD: [(MetricName, &str, Kind, Amount); 6] = [
    (MetricName::RequestCount, "istio_requests_total", Kind::Counter, Amount::One),
    (MetricName::RequestDuration, "istio_request_duration_milliseconds", Kind::Histogram, Amount::Duration),
    (MetricName::RequestSize, "istio_request_bytes", Kind::Histogram, Amount::RequestBytes),
    (MetricName::ResponseSize, "istio_response_bytes", Kind::Histogram, Amount::ResponseBytes),
    (MetricName::RequestMessages, "istio_request_messages_total", Kind::Counter, Amount::RequestMessages),
    (MetricName::ResponseMessages, "istio_response_messages_total", Kind::Counter, Amount::ResponseMessages),
];

/// Everything that is produced.
#[derive(Debug)]
pub(crate) struct Plan {
    /// All facts that any label needs.
    pub(crate) needs: u16,
    pub(crate) slots: Vec<Slot>,
    pub(crate) groups: Vec<Group>,
}

/// A label with an expression; metrics that have the same share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The metric that had it first, for the counter of what is beyond its budget.
    pub(crate) metric: String,
    pub(crate) label: String,
    pub(crate) expression: Expression,
    pub(crate) shape: Shape,
    pub(crate) max_values: usize,
}

/// Metrics whose labels are made of the same facts and expressions: one lookup finds the series of all.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) needs: u16,
    /// Places in [`Plan::slots`].
    pub(crate) slots: Vec<usize>,
    pub(crate) max_series: usize,
    pub(crate) when: Option<Expression>,
    pub(crate) metrics: Vec<Metric>,
}

impl Group {
    /// How many metrics share a lookup.
    pub(crate) const MOST: usize = 8;
}

/// One metric.
#[derive(Debug)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) amount: Amount,
    /// In the order of the flat name.
    pub(crate) labels: Vec<(String, Source)>,
    /// Upper bounds, for a histogram made of counters.
    pub(crate) buckets: Vec<u64>,
}

/// Where a label's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A place in [`LABELS`].
    Standard(usize),
    /// A place in [`Plan::slots`].
    Slot(usize),
}

/// What is counted or recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Amount {
    One,
    Duration,
    RequestBytes,
    ResponseBytes,
    RequestMessages,
    ResponseMessages,
    Expression(Expression),
}

impl Amount {
    /// Whether only gRPC requests have it.
    pub(crate) fn is_messages(&self) -> bool {
        matches!(self, Self::RequestMessages | Self::ResponseMessages)
    }
}

/// Builds a plan.
pub(crate) struct Planner<'c> {
    pub(crate) settings: &'c Settings,
    pub(crate) service: &'c Service,
    pub(crate) overrides: Vec<&'c MetricOverride>,
    pub(crate) compiler: &'c dyn Compiler,
    pub(crate) problems: &'c Problems,
    pub(crate) plan: Plan,
}

impl Planner<'_> {
    pub(crate) fn build(mut self, standard: bool) -> Plan {
        if standard {
            for (metric, name, kind, amount) in STANDARD {
                self.standard(metric, name, kind, amount);
            }
        }
        for metric in &self.settings.metrics {
            self.user(metric);
        }
        let messages = |group: &Group| group.metrics.iter().any(|metric| metric.amount.is_messages());
        self.plan.needs = self
            .plan
            .groups
            .iter()
            .fold(0, |all, group| all | group.needs | if messages(group) { need::PROTOCOL } else { 0 });
        self.plan
    }

    fn standard(&mut self, metric: MetricName, name: &'static str, kind: Kind, amount: Amount) {
        let selects = |selected: &Selected| match selected {
            Selected::All => true,
            Selected::Named(named) => *named == metric,
            Selected::Custom(_) => false,
        };
        let (disabled, tags) = resolve(&self.overrides, selects);
        if disabled {
            return;
        }
        let count = if amount.is_messages() { MESSAGE_LABELS } else { LABELS.len() };
        let mut labels: Vec<(String, Source)> = standard_labels(0..count);
        self.change(name, &mut labels, tags, self.settings.max_label_values);
        let buckets = Vec::new();
        let metric = Metric { name: name.to_owned(), kind, amount, labels, buckets };
        self.add(metric, None, self.settings.max_series);
    }

    fn user(&mut self, metric: &UserMetric) {
        let selects = |selected: &Selected| matches!(selected, Selected::Custom(name) if names(&metric.name.text, name));
        let (disabled, tags) = resolve(&self.overrides, selects);
        let compiler = self.compiler;
        let amount = metric.value.as_ref().map(|value| {
            let compiled = Expression::number(&value.text, compiler);
            self.required(value, compiled)
        });
        let when = metric.when.as_ref().map(|when| {
            let compiled = Expression::condition(&when.text, compiler);
            self.required(when, compiled)
        });
        let mut labels = standard_labels(metric.istio_labels.iter().copied());
        for (label, user) in &metric.labels {
            if user.shape.template && self.settings.paths.is_empty() {
                at(&user.value.path, self.problems)
                    .error("`template` needs path templates; write them in `settings.paths`");
            }
            if labels.iter().any(|(known, _)| known == label) {
                at(&user.value.path, self.problems).error(format!("`{label}` is in `istioLabels` already"));
            }
            let compiled = Expression::text(&user.value.text, compiler);
            if let Some(expression) = self.required(&user.value, compiled) {
                let slot = self.slot(Slot {
                    metric: metric.name.text.clone(),
                    label: label.clone(),
                    expression,
                    shape: user.shape.clone(),
                    max_values: user.max_values,
                });
                labels.push((label.clone(), Source::Slot(slot)));
            }
        }
        self.change(&metric.name.text, &mut labels, tags, self.settings.max_label_values);
        if disabled {
            return;
        }
        let produced = Metric {
            name: metric.name.text.clone(),
            kind: metric.kind,
            amount: amount.flatten().map_or(Amount::One, Amount::Expression),
            labels,
            buckets: metric.buckets.clone(),
        };
        self.add(produced, when.flatten(), metric.max_series);
    }

    /// An expression without which the metric would be another one.
    fn required(&self, place: &Located, compiled: Result<Expression, &'static str>) -> Option<Expression> {
        compiled.map_err(|why| at(&place.path, self.problems).error(format!("`{}`: {why}", place.text))).ok()
    }

    /// `tagOverrides`. An expression that does not parse takes a standard label away and adds no new one, as in Istio.
    fn change(
        &mut self,
        metric: &str,
        labels: &mut Vec<(String, Source)>,
        tags: Vec<(&str, &TagChange, &sailcloth_core::config::Path)>,
        max_values: usize,
    ) {
        for (tag, change, path) in tags {
            let source = match change {
                TagChange::Remove => None,
                TagChange::Upsert(source) => {
                    let compiled = Expression::text(source, self.compiler).map_err(|why| {
                        at(path, self.problems)
                            .warn(format!("label `{tag}` is left out, as in Istio: `{source}`: {why}"));
                    });
                    let shape = Shape { ids: !self.settings.redact_tags, ..Shape::default() };
                    let slot = compiled.ok().map(|expression| Slot {
                        metric: metric.to_owned(),
                        label: tag.to_owned(),
                        expression,
                        shape,
                        max_values,
                    });
                    slot.map(|slot| Source::Slot(self.slot(slot)))
                }
            };
            match (labels.iter().position(|(known, _)| known == tag), source) {
                (Some(place), Some(source)) => {
                    if let Some(label) = labels.get_mut(place) {
                        label.1 = source;
                    }
                }
                (Some(place), None) => {
                    labels.remove(place);
                }
                (None, Some(source)) => labels.push((tag.to_owned(), source)),
                (None, None) => {}
            }
        }
    }

    fn slot(&mut self, slot: Slot) -> usize {
        let same = |known: &Slot| {
            known.label == slot.label
                && known.expression == slot.expression
                && known.shape == slot.shape
                && known.max_values == slot.max_values
        };
        self.plan.slots.iter().position(same).unwrap_or_else(|| {
            self.plan.slots.push(slot);
            self.plan.slots.len() - 1
        })
    }

    fn add(&mut self, metric: Metric, when: Option<Expression>, max_series: usize) {
        let (mut facts, mut slots) = (0, Vec::new());
        for (_, source) in &metric.labels {
            match source {
                Source::Standard(label) => facts |= needs(*label, self.settings.reporter, self.service),
                Source::Slot(slot) => slots.push(*slot),
            }
        }
        slots.sort_unstable();
        let messages = metric.amount.is_messages();
        let same = |group: &&mut Group| {
            group.needs == facts
                && group.slots == slots
                && group.when == when
                && group.max_series == max_series
                && group.metrics.len() < Group::MOST
                && group.metrics.iter().all(|known| known.amount.is_messages() == messages)
        };
        match self.plan.groups.iter_mut().find(same) {
            Some(group) => group.metrics.push(metric),
            None => {
                self.plan.groups.push(Group { needs: facts, slots, max_series, when, metrics: vec![metric] });
            }
        }
    }
}

fn standard_labels(places: impl IntoIterator<Item = usize>) -> Vec<(String, Source)> {
    let label = |place: usize| LABELS.get(place).map(|label| ((*label).to_owned(), Source::Standard(place)));
    places.into_iter().filter_map(label).collect()
}

/// Where the service's labels come from, where the settings do not say: Istio's own way for each side. Inbound it is our
/// own service: a client would otherwise make series by its Host header.
pub(crate) fn default_service(reporter: Reporter, gateway: bool) -> Service {
    match reporter {
        Reporter::Destination => Service::Own,
        Reporter::Source if !gateway => Service::ClusterOrHost,
        Reporter::Source | Reporter::Waypoint => Service::Cluster,
    }
}
