//! Metrics from Envoy: callbacks in, actions out; what is measured is `sailcloth-metrics`'s.

use std::cell::RefCell;

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::Filter;
use sailcloth_core::facts::{Fact, Properties};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_host::foreign::Expression;
use sailcloth_host::metrics::{Counter, Gauge, Histogram};
use sailcloth_host::{Http, Plugin, Status};
use sailcloth_metrics::{Compiler, Engine, Kind, Meter, Recorder, Stream};

/// The filter.
struct MetricsFilter {
    recorder: Recorder,
    handles: Handles,
}

/// Metrics of the host, each by its place.
#[derive(Default)]
struct Handles(RefCell<Vec<Handle>>);

#[derive(Clone, Copy)]
enum Handle {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

/// Envoy's own CEL.
struct Envoy;

/// A stream when it is over.
struct Finished(Http);

impl Plugin for MetricsFilter {
    const FILTER: Filter = Filter::Metrics;
    /// Whether the stream has been counted.
    type Stream = bool;

    fn configure(configuration: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let (engine, warnings) = Engine::load_node(configuration, &Envoy)?;
        Ok((Self { recorder: Recorder::new(engine), handles: Handles::default() }, warnings))
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.recorder.engine().resources()
    }

    fn log(&mut self, counted: &mut bool, http: Http) {
        if !std::mem::replace(counted, true) {
            self.recorder.record(&Finished(http), &self.handles);
        }
    }
}

impl Compiler for Envoy {
    fn compile(&self, expression: &str) -> Result<u32, &'static str> {
        Expression::compile(expression).map(Expression::number).map_err(|status| match status {
            Status::BadArgument => "Envoy cannot read it as a CEL expression",
            Status::NotFound => {
                "this Envoy was built without CEL; only plain attributes such as `request.method` work"
            }
            other => other.name(),
        })
    }
}

impl Stream for Finished {
    fn request_headers(&self) -> Option<HeaderBlock> {
        self.0.request_headers().ok()
    }

    fn request_header(&self, name: &str) -> Option<Vec<u8>> {
        self.0.request_header(name).ok()
    }

    fn response_headers(&self) -> Option<HeaderBlock> {
        self.0.response_headers().ok().filter(|headers| !headers.is_empty())
    }

    fn evaluate(&self, program: u32) -> Option<Vec<u8>> {
        Expression::from_number(program).evaluate().ok()
    }
}

impl Properties for Finished {
    fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
        self.0.property(path)
    }
}

impl Meter for Handles {
    fn define(&self, kind: Kind, name: &str) -> Option<u32> {
        let handle = match kind {
            Kind::Counter => Handle::Counter(Counter::define(name).ok()?),
            Kind::Gauge => Handle::Gauge(Gauge::define(name).ok()?),
            Kind::Histogram => Handle::Histogram(Histogram::define(name).ok()?),
        };
        let mut handles = self.0.try_borrow_mut().ok()?;
        handles.push(handle);
        u32::try_from(handles.len() - 1).ok()
    }

    fn record(&self, _: Kind, handle: u32, value: u64) {
        let known =
            usize::try_from(handle).ok().and_then(|place| self.0.try_borrow().ok()?.get(place).copied());
        match known {
            Some(Handle::Counter(counter)) => counter.add_many(value),
            Some(Handle::Gauge(gauge)) => gauge.set(value),
            Some(Handle::Histogram(histogram)) => histogram.record(value),
            None => {}
        }
    }
}

sailcloth_host::export!(MetricsFilter: log);
