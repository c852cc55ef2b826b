//! `settings.metrics`: metrics that a user defines.

use sailcloth_core::config::{Fields, Value};
use sailcloth_resources::telemetry::check_label_name;

use crate::Kind;
use crate::labels::LABELS;
use crate::settings::Located;

/// One of `settings.metrics`.
#[derive(Debug, Clone)]
pub(crate) struct UserMetric {
    pub(crate) name: Located,
    pub(crate) kind: Kind,
    /// What is counted or recorded; absent: 1, for a counter.
    pub(crate) value: Option<Located>,
    pub(crate) when: Option<Located>,
    /// Sorted by name: a `google.protobuf.Struct` has no order.
    pub(crate) labels: Vec<(String, UserLabel)>,
    /// Labels of Istio's that it carries, as places in [`LABELS`].
    pub(crate) istio_labels: Vec<usize>,
    /// Upper bounds of a histogram's buckets; empty: Envoy's own.
    pub(crate) buckets: Vec<u64>,
    pub(crate) max_series: usize,
}

/// One of its labels.
#[derive(Debug, Clone)]
pub(crate) struct UserLabel {
    pub(crate) value: Located,
    pub(crate) shape: Shape,
    pub(crate) max_values: usize,
}

/// What becomes of an expression's value before it is a label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The template of `settings.paths` that a path has.
    pub(crate) template: bool,
    /// `404` becomes `4xx`.
    pub(crate) class: bool,
    /// Values by name.
    pub(crate) map: Vec<(String, String)>,
    /// What is written for a value that `map` does not name.
    pub(crate) otherwise: Option<String>,
    /// Whether values that look like ids are shown all the same.
    pub(crate) ids: bool,
}

impl Shape {
    /// Whether only the configuration decides how many values there are.
    pub(crate) fn is_bounded(&self) -> bool {
        self.template || self.class || self.otherwise.is_some()
    }
}

const HISTOGRAM_SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

impl UserMetric {
    pub(crate) fn read(value: &Value<'_>, max_series: usize, max_values: usize) -> Option<Self> {
        let fields = value.fields()?;
        let name = fields.required("name").and_then(|name| {
            check_metric_name(&name);
            Located::read(&name)
        });
        let kind = fields.get("type").and_then(|kind| {
            kind.word(&[("counter", Kind::Counter), ("gauge", Kind::Gauge), ("histogram", Kind::Histogram)])
        });
        let kind = kind.unwrap_or(Kind::Counter);
        let amount = fields.get("value").and_then(|value| Located::read(&value));
        if amount.is_none() && kind != Kind::Counter {
            value.error("a gauge or a histogram needs a `value`");
        }
        let buckets = fields.get("buckets").and_then(|list| read_buckets(&list, kind)).unwrap_or_default();
        let when = fields.get("when").and_then(|when| Located::read(&when));
        let labels = fields.get("labels").map(|labels| read_labels(&labels, max_values)).unwrap_or_default();
        let istio_labels =
            fields.get("istioLabels").and_then(|list| list.list(|item| read_istio_label(&item)));
        Some(Self {
            name: name?,
            kind,
            value: amount,
            when,
            labels,
            istio_labels: istio_labels.unwrap_or_default(),
            buckets,
            max_series: limit(&fields, "maxSeries", max_series),
        })
    }
}

fn limit(fields: &Fields<'_>, name: &'static str, default: usize) -> usize {
    let read = fields.get(name).and_then(|value| value.integer(1, 100_000));
    read.and_then(|number| usize::try_from(number).ok()).unwrap_or(default)
}

fn check_metric_name(value: &Value<'_>) {
    let Some(name) = value.node().text() else { return };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts = name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
    if !starts || !name.bytes().all(plain) {
        value.error(format!("`{name}` cannot be a metric; expected letters, digits and `_`, no digit first"));
    }
    if name.starts_with("sailcloth_") {
        value.error("metrics named `sailcloth_…` are the filters' own");
    }
}

/// Whole numbers, each above the one before.
fn read_buckets(list: &Value<'_>, kind: Kind) -> Option<Vec<u64>> {
    if kind != Kind::Histogram {
        list.error("only a histogram has buckets");
    }
    let bounds = list.list(|item| item.integer(0, i64::MAX).and_then(|bound| u64::try_from(bound).ok()))?;
    if bounds.is_empty() || bounds.len() > 50 || bounds.windows(2).any(|pair| pair.first() >= pair.get(1)) {
        list.error("expected 1 to 50 upper bounds, each above the one before");
    }
    Some(bounds)
}

fn read_istio_label(item: &Value<'_>) -> Option<usize> {
    let name = item.text()?;
    let found = LABELS.iter().position(|label| *label == name);
    if found.is_none() {
        let hint = sailcloth_core::config::did_you_mean(name, &LABELS);
        item.error(format!("`{name}` is no label of Istio's{hint}"));
    }
    found
}

fn read_labels(labels: &Value<'_>, max_values: usize) -> Vec<(String, UserLabel)> {
    let entries = labels.entries().unwrap_or_default().into_iter();
    let mut read: Vec<(String, UserLabel)> = entries
        .filter_map(|(name, value)| {
            check_label_name(name, &value);
            if name == "le" || HISTOGRAM_SUFFIXES.contains(&name) {
                value.error(format!("`{name}` is a label of Prometheus' own"));
            }
            Some((name.to_owned(), read_label(&value, max_values)?))
        })
        .collect();
    read.sort_by(|one, other| one.0.cmp(&other.0));
    read
}

/// An expression, or an object with more.
fn read_label(value: &Value<'_>, max_values: usize) -> Option<UserLabel> {
    if value.node().text().is_some() {
        return Some(UserLabel { value: Located::read(value)?, shape: Shape::default(), max_values });
    }
    let fields = value.fields()?;
    let flag = |name| fields.get(name).and_then(|flag| flag.boolean());
    let template = flag("template").unwrap_or(false);
    let class = flag("class").unwrap_or(false);
    let map = fields.get("map").and_then(|map| map.string_map()).unwrap_or_default();
    let otherwise = fields.get("otherwise").and_then(|text| text.text()).map(str::to_owned);
    if [template, class, !map.is_empty()].iter().filter(|shape| **shape).count() > 1 {
        value.error("`template`, `class` and `map` exclude each other; keep one");
    }
    if otherwise.is_some() && map.is_empty() {
        value.error("`otherwise` says what a value becomes that `map` does not name; there is no `map`");
    }
    let default = match (template, class) {
        (true, _) => Some("request.url_path"),
        (_, true) => Some("response.code"),
        _ => None,
    };
    let source = match (fields.get("value"), default) {
        (Some(source), _) => Located::read(&source)?,
        (None, Some(default)) => Located { text: default.to_owned(), path: value.path().clone() },
        (None, None) => {
            value.error("missing field `value`");
            return None;
        }
    };
    let ids = !flag("redact").unwrap_or(true);
    let max_values = limit(&fields, "maxValues", max_values);
    Some(UserLabel { value: source, shape: Shape { template, class, map, otherwise, ids }, max_values })
}
