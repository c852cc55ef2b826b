//! Istio's standard metrics from Envoy: callbacks in, actions out; what is measured is `sailcloth-metrics`'s.

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::Filter;
use sailcloth_host::metrics::{Counter, Histogram, name};
use sailcloth_host::{Http, Plugin};
use sailcloth_metrics::{Engine, Key, Metric, MetricName, Observation, Series};

/// The filter.
struct MetricsFilter {
    engine: Engine,
    series: Series<Key, Handles>,
    /// Where everything beyond the budget goes.
    other: Option<Handles>,
    overflow: Option<Counter>,
}

/// The metrics of one label set; what is disabled, or what the host refused, is not there.
#[derive(Debug, Clone, Copy, Default)]
struct Handles {
    requests: Option<Counter>,
    duration: Option<Histogram>,
    request_bytes: Option<Histogram>,
    response_bytes: Option<Histogram>,
}

impl Plugin for MetricsFilter {
    const FILTER: Filter = Filter::Metrics;
    /// Whether the stream has been counted.
    type Stream = bool;

    fn configure(configuration: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let (engine, warnings) = Engine::load_node(configuration)?;
        let series = Series::new(engine.max_series());
        Ok((Self { engine, series, other: None, overflow: None }, warnings))
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.engine.resources()
    }

    fn log(&mut self, counted: &mut bool, http: Http) {
        if *counted || self.engine.metrics().is_empty() {
            return;
        }
        *counted = true;
        let headers = http.request_headers().ok();
        let observation = self.engine.observe(headers.as_ref(), &http);
        let engine = &self.engine;
        let made = self.series.get(observation.key.clone(), |key| Handles::define(engine, Some(key)));
        let handles = match made {
            Some(handles) => handles,
            None => self.overflowing(),
        };
        handles.record(&observation);
    }
}

impl MetricsFilter {
    fn overflowing(&mut self) -> Handles {
        let overflow = name("sailcloth_metrics_overflow_total", &[("filter", Self::FILTER.name())]);
        self.overflow = self.overflow.or_else(|| Counter::define(&overflow).ok());
        if let Some(counter) = self.overflow {
            counter.add(1);
        }
        *self.other.get_or_insert_with(|| Handles::define(&self.engine, None))
    }
}

impl Handles {
    fn define(engine: &Engine, key: Option<&Key>) -> Self {
        let labels = engine.labels(key);
        let flat = |metric: &Metric| {
            let kept = labels.iter().filter(|(label, _)| !metric.removed.contains(*label));
            let kept: Vec<(&str, &str)> = kept.map(|(label, value)| (*label, value.as_ref())).collect();
            name(metric.name, &kept)
        };
        let mut handles = Self::default();
        for metric in engine.metrics() {
            let histogram = || Histogram::define(&flat(metric)).ok();
            match metric.metric {
                MetricName::RequestCount => handles.requests = Counter::define(&flat(metric)).ok(),
                MetricName::RequestDuration => handles.duration = histogram(),
                MetricName::RequestSize => handles.request_bytes = histogram(),
                MetricName::ResponseSize => handles.response_bytes = histogram(),
                MetricName::Other => {}
            }
        }
        handles
    }

    fn record(self, observation: &Observation) {
        if let Some(counter) = self.requests {
            counter.add(1);
        }
        for (histogram, value) in [
            (self.duration, observation.duration),
            (self.request_bytes, observation.request_bytes),
            (self.response_bytes, observation.response_bytes),
        ] {
            if let (Some(histogram), Some(value)) = (histogram, value) {
                histogram.record(value);
            }
        }
    }
}

sailcloth_host::export!(MetricsFilter: log);
