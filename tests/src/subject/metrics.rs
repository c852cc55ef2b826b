//! `metrics`: Telemetry.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "part of the tests: a wrong harness must fail"
)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use sailcloth_core::config::Node;
use sailcloth_core::facts::{Fact, Properties};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_emulator::cel::{Attributes, Programs};
use sailcloth_emulator::{Value, pairs};
use sailcloth_metrics::{Compiler, Engine as Metrics, Kind, Meter, Recorder, Stream};

use super::{Engine, Exchange, Loaded, Subject};
use crate::judge::Observed;

pub(super) const SUBJECT: Subject = Subject { name: "metrics", load, callbacks: &["proxy_on_log"] };

fn load(configuration: &Node) -> Loaded {
    let (engine, warnings) = Native::load(configuration)?;
    Ok((Box::new(engine), warnings))
}

/// The engine with CEL and metrics in memory.
pub struct Native {
    recorder: Recorder,
    cel: Cel,
    /// Counters and gauges by flat name.
    pub meter: Memory,
}

/// CEL by the `cel` crate.
#[derive(Clone, Default)]
pub struct Cel(Rc<RefCell<Programs>>);

/// Metrics in memory.
#[derive(Default)]
pub struct Memory {
    names: RefCell<Vec<(Kind, String)>>,
    values: RefCell<BTreeMap<String, u64>>,
    samples: RefCell<BTreeMap<String, Vec<u64>>>,
}

impl Native {
    /// Loads a configuration.
    ///
    /// # Errors
    /// All its problems.
    pub fn load(
        configuration: &Node,
    ) -> Result<(Self, Vec<sailcloth_core::config::Problem>), Vec<sailcloth_core::config::Problem>> {
        let cel = Cel::default();
        let (engine, warnings) = Metrics::load_node(configuration, &cel)?;
        Ok((Self { recorder: Recorder::new(engine), cel, meter: Memory::default() }, warnings))
    }

    /// The compiled configuration.
    #[must_use]
    pub fn engine(&self) -> &Metrics {
        self.recorder.engine()
    }

    /// Counts a finished stream.
    pub fn record(
        &mut self,
        request: Option<&HeaderBlock>,
        response: Option<&HeaderBlock>,
        properties: &dyn Properties,
    ) {
        let finished = Finished { request, response, properties, cel: &self.cel };
        self.recorder.record(&finished, &self.meter);
    }
}

impl Memory {
    /// Counters and gauges that are not 0.
    #[must_use]
    pub fn values(&self) -> Vec<(String, i64)> {
        self.values.borrow().iter().map(|(name, value)| (name.clone(), value.cast_signed())).collect()
    }

    /// The samples of histograms.
    #[must_use]
    pub fn samples(&self) -> BTreeMap<String, Vec<u64>> {
        self.samples.borrow().clone()
    }

    fn clear(&self) {
        self.values.borrow_mut().clear();
    }
}

impl Engine for Native {
    /// It decides nothing; the request is answered 200.
    fn decide(&mut self, exchange: &Exchange<'_>) -> Observed {
        let response = HeaderBlock::from_pairs([(":status", "200")]);
        self.meter.clear();
        self.record(Some(exchange.headers), Some(&response), &Answered(exchange.properties));
        Observed { status: Some(200), metrics: Some(self.meter.values()), ..Observed::default() }
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.recorder.engine().resources()
    }
}

/// What the other runners' plain 200 adds to a case's facts.
struct Answered<'c>(&'c dyn Properties);

impl Properties for Answered<'_> {
    fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
        match (path, self.0.property(path)) {
            (["response", "code"], Fact::Absent) => Fact::Known(200_i64.to_le_bytes().to_vec()),
            (["response", "flags"], Fact::Absent) => Fact::Known(vec![0; 8]),
            (_, fact) => fact,
        }
    }
}

struct Finished<'c> {
    request: Option<&'c HeaderBlock>,
    response: Option<&'c HeaderBlock>,
    properties: &'c dyn Properties,
    cel: &'c Cel,
}

impl Compiler for Cel {
    fn compile(&self, expression: &str) -> Result<u32, &'static str> {
        self.0.borrow_mut().create(expression).ok_or("Envoy cannot read it as a CEL expression")
    }
}

impl Stream for Finished<'_> {
    fn request_headers(&self) -> Option<HeaderBlock> {
        self.request.cloned()
    }

    fn request_header(&self, name: &str) -> Option<Vec<u8>> {
        self.request?.first(name).map(<[u8]>::to_vec)
    }

    fn response_headers(&self) -> Option<HeaderBlock> {
        self.response.cloned()
    }

    fn evaluate(&self, program: u32) -> Option<Vec<u8>> {
        self.cel.0.borrow().evaluate(program, self).ok()
    }
}

impl Properties for Finished<'_> {
    fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
        self.properties.property(path)
    }
}

impl Attributes for Finished<'_> {
    fn read(&self, path: &[&str]) -> Option<Vec<u8>> {
        let header = |name: &str| {
            self.request.and_then(|headers| headers.joined(name)).map(std::borrow::Cow::into_owned)
        };
        let cut = |path: Vec<u8>| {
            path.iter()
                .position(|byte| *byte == b'?')
                .map_or((path.clone(), Vec::new()), |at| (path[..at].to_vec(), path[at + 1..].to_vec()))
        };
        match path {
            ["request", "path"] => header(":path"),
            ["request", "url_path"] => header(":path").map(|path| cut(path).0),
            ["request", "query"] => header(":path").map(|path| cut(path).1),
            ["request", "host"] => header(":authority"),
            ["request", "method"] => header(":method"),
            ["request", "scheme"] => header(":scheme"),
            ["request", "headers"] => self.request.map(block),
            ["response", "headers"] => self.response.map(block),
            _ => match self.properties.property(path) {
                Fact::Known(value) => Some(value),
                _ => None,
            },
        }
    }

    /// Metadata is what a case says by full path; such properties have no group.
    fn group(&self, _: &str) -> Option<Value> {
        None
    }
}

fn block(headers: &HeaderBlock) -> Vec<u8> {
    let pairs: Vec<pairs::Pair> =
        headers.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    pairs::encode(&pairs)
}

impl Meter for Memory {
    fn define(&self, kind: Kind, name: &str) -> Option<u32> {
        let mut names = self.names.borrow_mut();
        names.push((kind, name.to_owned()));
        u32::try_from(names.len() - 1).ok()
    }

    fn record(&self, kind: Kind, handle: u32, value: u64) {
        let names = self.names.borrow();
        let (defined, name) = &names[usize::try_from(handle).unwrap()];
        assert_eq!(*defined, kind, "{name}");
        let name = name.clone();
        match kind {
            Kind::Counter => *self.values.borrow_mut().entry(name).or_default() += value,
            Kind::Gauge => {
                self.values.borrow_mut().insert(name, value);
            }
            Kind::Histogram => self.samples.borrow_mut().entry(name).or_default().push(value),
        }
    }
}
