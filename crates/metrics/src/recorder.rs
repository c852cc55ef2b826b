//! Counting: from a finished stream to the metrics of its labels.

use std::borrow::Cow;

use sailcloth_core::metric::flat_name;

use crate::attribute::Reading;
use crate::budget::{Bounded, OTHER};
use crate::expression::Expression;
use crate::facts::{Facts, need, write_text};
use crate::labels::{Called, Speller, UNKNOWN, service_of_cluster, spell, spell_other};
use crate::peer::bounded;
use crate::plan::{Amount, Group, Metric, Slot, Source};
use crate::redact::{REDACTED, is_id, is_secret};
use crate::{Engine, Kind, Meter, Stream};

/// How many clusters' services are remembered; each is one of Envoy's configured clusters.
const MAX_CLUSTERS: usize = 4096;

/// Counts streams for one configuration, in one worker.
#[derive(Debug)]
pub struct Recorder {
    engine: Engine,
    groups: Vec<Series>,
    slots: Vec<Values>,
    services: Bounded<Option<Called>>,
    key: Vec<u8>,
}

/// The series of a group.
#[derive(Debug)]
struct Series {
    /// A label set's place in `rows`.
    known: Bounded<usize>,
    rows: Vec<Row>,
    /// The row of everything beyond the budget.
    other: Option<usize>,
    overflow: Option<Option<u32>>,
}

/// Handles, metric after metric; one whose name the host refused is not tried again.
type Row = Vec<Option<u32>>;

/// The values of a label seen so far.
#[derive(Debug)]
struct Values {
    seen: Bounded<()>,
    overflow: Option<Option<u32>>,
    /// Of the stream at hand.
    now: Option<String>,
}

impl Recorder {
    /// One that has counted nothing.
    #[must_use]
    pub fn new(engine: Engine) -> Self {
        let series = |group: &Group| Series {
            known: Bounded::new(group.max_series),
            rows: Vec::new(),
            other: None,
            overflow: None,
        };
        let values = |slot: &Slot| Values { seen: Bounded::new(slot.max_values), overflow: None, now: None };
        Self {
            groups: engine.plan.groups.iter().map(series).collect(),
            slots: engine.plan.slots.iter().map(values).collect(),
            services: Bounded::new(MAX_CLUSTERS),
            key: Vec::new(),
            engine,
        }
    }

    /// What is counted, and how.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Counts a stream. Nothing here can fail: what is not known is `unknown`, `0` or not recorded.
    pub fn record(&mut self, stream: &dyn Stream, meter: &dyn Meter) {
        let Self { engine, groups, slots, services, key } = self;
        let plan = &engine.plan;
        if plan.groups.is_empty() {
            return;
        }
        let reading = Reading::new(stream);
        let mut facts = Facts::read(plan.needs & !need::HOST, engine.places, &reading);
        if plan.needs & need::CLUSTER != 0 {
            learn(services, &facts.cluster, &reading);
        }
        let told = services.get(&facts.cluster).and_then(Option::as_ref);
        if plan.needs & need::HOST != 0 && told.is_none() {
            // Only where nothing else names the service.
            facts.host = reading.request_header(":authority").map(Cow::into_owned).unwrap_or_default();
        }
        slots.iter_mut().for_each(|slot| slot.now = None);
        let speller =
            Speller { reporter: engine.places.reporter, own: &engine.own, service: &engine.service, told };
        for (group, series) in plan.groups.iter().zip(groups.iter_mut()) {
            let Some(amounts) = Amounts::read(group, &facts, &reading) else { continue };
            key.clear();
            facts.write_key(group.needs, key);
            for place in &group.slots {
                if let (Some(values), Some(slot)) = (slots.get_mut(*place), plan.slots.get(*place)) {
                    write_text(values.of(slot, engine, &reading, meter).as_bytes(), key);
                }
            }
            let row = match series.known.get(key) {
                Some(row) => *row,
                None => series.new_row(key, group, meter, |metric, beyond| {
                    let spelled =
                        if beyond { spell_other(&speller, &facts) } else { spell(&speller, &facts) };
                    labelled(metric, &spelled, |slot| {
                        let now = slots.get(slot).and_then(|values| values.now.as_deref());
                        now.filter(|_| !beyond).unwrap_or(OTHER)
                    })
                }),
            };
            if let Some(row) = series.rows.get(row) {
                amounts.record(group, row, meter);
            }
        }
    }
}

impl Series {
    /// The row of a label set that is not known yet: a new one, or that of everything beyond the budget.
    fn new_row(
        &mut self,
        key: &[u8],
        group: &Group,
        meter: &dyn Meter,
        name: impl Fn(&Metric, bool) -> String,
    ) -> usize {
        let beyond = self.known.is_full();
        if beyond {
            let metric = group.metrics.first().map(|metric| metric.name.as_str()).unwrap_or_default();
            count_overflow(&mut self.overflow, metric, "series", meter);
        }
        if let (true, Some(row)) = (beyond, self.other) {
            return row;
        }
        let mut handles = Row::new();
        for metric in &group.metrics {
            define(metric, &name(metric, beyond), meter, &mut handles);
        }
        let row = self.rows.len();
        self.rows.push(handles);
        if beyond {
            self.other = Some(row);
        } else {
            self.known.insert(key, row);
        }
        row
    }
}

impl Values {
    /// The label's value for the stream at hand, within its budget.
    fn of(&mut self, slot: &Slot, engine: &Engine, reading: &Reading<'_>, meter: &dyn Meter) -> &str {
        if self.now.is_none() {
            let value = shaped(slot, engine, reading);
            let free = slot.shape.is_bounded()
                || match &slot.expression {
                    Expression::Literal(_) => true,
                    Expression::Attribute(attribute) => attribute.is_bounded(),
                    Expression::Program(_) => false,
                };
            let known = free || self.seen.get(value.as_bytes()).is_some();
            if known || !self.seen.is_full() {
                if !known {
                    self.seen.insert(value.as_bytes(), ());
                }
                self.now = Some(value);
            } else {
                count_overflow(&mut self.overflow, &slot.metric, &slot.label, meter);
                self.now = Some(OTHER.to_owned());
            }
        }
        self.now.as_deref().unwrap_or(OTHER)
    }
}

/// What a budget left out is counted, so that `other` is seen to grow and by what.
fn count_overflow(handle: &mut Option<Option<u32>>, metric: &str, budget: &str, meter: &dyn Meter) {
    let counter = handle.get_or_insert_with(|| {
        let labels = [("filter", "metrics"), ("metric", metric), ("budget", budget)];
        meter.define(Kind::Counter, &flat_name("sailcloth_metrics_overflow_total", &labels))
    });
    if let Some(counter) = counter {
        meter.record(Kind::Counter, *counter, 1);
    }
}

/// The value of an expression as a label: shaped, redacted, of a bounded length.
fn shaped(slot: &Slot, engine: &Engine, reading: &Reading<'_>) -> String {
    let Some(raw) = slot.expression.as_text(reading) else {
        return slot.shape.otherwise.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    };
    let text = bounded(&raw);
    let shape = &slot.shape;
    if shape.template {
        return engine.paths.template(&String::from_utf8_lossy(&raw)).to_owned();
    }
    if shape.class {
        return class(&text).to_owned();
    }
    if let Some((_, name)) = shape.map.iter().find(|(from, _)| *from == text) {
        return name.clone();
    }
    if let Some(otherwise) = &shape.otherwise {
        return otherwise.clone();
    }
    match slot.expression {
        // The configuration itself says it.
        Expression::Literal(_) => text.into_owned(),
        _ if is_secret(&text) || (!shape.ids && is_id(&text)) => REDACTED.to_owned(),
        _ => text.into_owned(),
    }
}

/// The class of a status: `4xx`; `0` where there was no response.
fn class(status: &str) -> &'static str {
    match (status.len(), status.bytes().next()) {
        (3, Some(b'1')) => "1xx",
        (3, Some(b'2')) => "2xx",
        (3, Some(b'3')) => "3xx",
        (3, Some(b'4')) => "4xx",
        (3, Some(b'5')) => "5xx",
        _ => "0",
    }
}

/// Remembers what is known of a cluster's service: by its metadata `istio.services`, by its name in Istio's form, or,
/// where there is no cluster, by the route's special name.
fn learn(services: &mut Bounded<Option<Called>>, cluster: &[u8], reading: &Reading<'_>) {
    if services.get(cluster).is_some() {
        return;
    }
    let told = |name: &str| {
        let path = ["xds", "cluster_metadata", "filter_metadata", "istio", "services", "0", name];
        reading.bytes(&path).filter(|text| !text.is_empty()).map(|text| bounded(&text).into_owned())
    };
    let service = match told("host") {
        _ if cluster.is_empty() => None,
        Some(host) => {
            let first = || host.split('.').next().unwrap_or(UNKNOWN).to_owned();
            Some(Called { name: told("name").unwrap_or_else(first), namespace: told("namespace"), host })
        }
        None => service_of_cluster(cluster),
    };
    services.insert(cluster, service);
}

/// The flat name of a metric with these values.
fn labelled<'v>(metric: &'v Metric, standard: &'v [Cow<'v, str>], slot: impl Fn(usize) -> &'v str) -> String {
    let value = |source: &Source| match source {
        Source::Standard(place) => standard.get(*place).map(AsRef::as_ref).unwrap_or_default(),
        Source::Slot(place) => slot(*place),
    };
    let labels: Vec<(&str, &str)> =
        metric.labels.iter().map(|(label, source)| (label.as_str(), value(source))).collect();
    flat_name(&metric.name, &labels)
}

/// Appends the handles of a metric: one, or those of a histogram made of counters.
fn define(metric: &Metric, name: &str, meter: &dyn Meter, handles: &mut Row) {
    if metric.buckets.is_empty() {
        handles.push(meter.define(metric.kind, name));
        return;
    }
    let labels = name.strip_prefix(metric.name.as_str()).unwrap_or_default();
    let mut counter = |suffix: &str, le: Option<&str>| {
        let le = le.map(|le| [";.;le=.=", le].concat()).unwrap_or_default();
        handles.push(meter.define(Kind::Counter, &[&metric.name, suffix, labels, &le].concat()));
    };
    for bound in &metric.buckets {
        counter("_bucket", Some(&bound.to_string()));
    }
    counter("_bucket", Some("+Inf"));
    counter("_sum", None);
    counter("_count", None);
}

/// What a group's metrics record of a stream.
struct Amounts([Option<u64>; Group::MOST]);

impl Amounts {
    /// `None` when there is nothing to record.
    fn read(group: &Group, facts: &Facts, reading: &Reading<'_>) -> Option<Self> {
        let mut amounts = [None; Group::MOST];
        let messages = group.metrics.first().is_some_and(|metric| metric.amount.is_messages());
        if messages && !facts.grpc || group.when.as_ref().is_some_and(|when| !when.holds(reading)) {
            return None;
        }
        let (requests, responses) = if messages { count_messages(reading) } else { (None, None) };
        let bytes = |path: &[&str]| reading.integer(path).and_then(|number| u64::try_from(number).ok());
        for (amount, metric) in amounts.iter_mut().zip(&group.metrics) {
            *amount = match &metric.amount {
                Amount::One => Some(1),
                Amount::Duration => bytes(&["request", "duration"]).map(|time| time / 1_000_000),
                Amount::RequestBytes => bytes(&["request", "total_size"]),
                Amount::ResponseBytes => bytes(&["response", "total_size"]),
                Amount::RequestMessages => requests,
                Amount::ResponseMessages => responses,
                Amount::Expression(expression) => expression.as_number(reading),
            };
        }
        amounts.iter().any(Option::is_some).then_some(Self(amounts))
    }

    fn record(&self, group: &Group, row: &Row, meter: &dyn Meter) {
        let mut handles = row.iter();
        for (amount, metric) in self.0.iter().zip(&group.metrics) {
            let mut next = |kind, value| {
                if let (Some(Some(handle)), Some(value)) = (handles.next(), value) {
                    meter.record(kind, *handle, value);
                }
            };
            if metric.buckets.is_empty() {
                next(metric.kind, *amount);
                continue;
            }
            for bound in &metric.buckets {
                next(Kind::Counter, amount.filter(|amount| amount <= bound).map(|_| 1));
            }
            next(Kind::Counter, amount.map(|_| 1));
            next(Kind::Counter, *amount);
            next(Kind::Counter, amount.map(|_| 1));
        }
    }
}

/// What the stock `grpc_stats` filter counted (`emit_filter_state`): `requests,responses`.
fn count_messages(reading: &Reading<'_>) -> (Option<u64>, Option<u64>) {
    let state = reading.bytes(&["filter_state", "envoy.filters.http.grpc_stats"]).unwrap_or_default();
    let text = std::str::from_utf8(&state).unwrap_or_default();
    let (requests, responses) = text.split_once(',').unwrap_or_default();
    (requests.parse().ok(), responses.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn statuses_have_classes() {
        for (status, expected) in
            [("200", "2xx"), ("404", "4xx"), ("599", "5xx"), ("0", "0"), ("", "0"), ("9000", "0")]
        {
            assert_eq!(class(status), expected, "{status}");
        }
    }
}
