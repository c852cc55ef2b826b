//! The configurations of `envoy/`, run on free ports, with what a test changes in them.

use std::path::Path;
use std::time::Duration;

use sailcloth_launch::http::{Client, Request, Response};
use sailcloth_launch::{Envoy, PortMap, Ports, RunDir, envoy, retarget};
use serde_json::Value;

use crate::build;
use crate::corpus::root;
use crate::echo::Echo;

/// How long an Envoy may take to show something.
pub const SOON: Duration = Duration::from_secs(10);

/// A configuration of `envoy/` on free ports, not yet started.
pub struct Shipped {
    /// The configuration.
    pub config: Value,
    /// The port of its first listener.
    pub port: u16,
    /// Where its files lie.
    pub run: RunDir,
    spec: Box<dyn Fn(String) -> envoy::Spec + Send>,
    _ports: Ports,
    _upstream: Echo,
}

impl std::fmt::Debug for Shipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shipped")
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Running")
    }
}

/// A running Envoy of a configuration.
pub struct Running {
    /// The Envoy.
    pub envoy: Envoy,
    /// What it was started from.
    pub shipped: Shipped,
}

impl Shipped {
    /// `envoy/<name>.yaml`; its upstreams are echoes.
    ///
    /// # Panics
    /// When the file cannot be read.
    #[must_use]
    pub fn new(binary: &Path, name: &str) -> Self {
        let text = std::fs::read_to_string(root().join("envoy").join(format!("{name}.yaml")))
            .expect("a shipped file");
        for filter in build::filters() {
            let _ = build::path(&filter);
        }
        let mut ports = Ports::new();
        let (port, admin) = (ports.free().unwrap(), ports.free().unwrap());
        let upstream = Echo::start();
        let upstreams = [8080, 8081, 8090].map(|port| (port, upstream.port()));
        let map: PortMap = [(10000, port), (9901, admin)].into_iter().chain(upstreams).collect();
        let config = serde_json::from_str(&retarget(&text, &map).unwrap()).unwrap();
        let (name, binary) = (name.to_owned(), binary.to_owned());
        let spec = Box::new(move |config| {
            envoy::Spec::new(name.clone(), config).binary(&binary).current_dir(root())
        });
        Self { config, port, run: RunDir::temp().unwrap(), spec, _ports: ports, _upstream: upstream }
    }

    /// Edits the text of the configuration.
    ///
    /// # Panics
    /// When the text to be replaced is not there.
    #[must_use]
    pub fn replaced(mut self, from: &str, to: &str) -> Self {
        let text = self.config.to_string();
        assert!(text.contains(from), "the configuration lacks `{from}`:\n{text}");
        self.config = serde_json::from_str(&text.replace(from, to)).unwrap();
        self
    }

    /// The HTTP filters of the first listener.
    ///
    /// # Panics
    /// When there are none.
    pub fn http_filters(&mut self) -> &mut Vec<Value> {
        let path = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters";
        self.config
            .pointer_mut(path)
            .and_then(Value::as_array_mut)
            .expect("a connection manager with filters")
    }

    /// Why Envoy does not accept it.
    ///
    /// # Panics
    /// When Envoy accepts it.
    #[must_use]
    pub fn refusal(&self) -> String {
        (self.spec)(self.config.to_string()).start(&self.run).expect_err("a refusal").to_string()
    }

    /// Starts it with that many workers.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(self, workers: u32) -> Running {
        let spec = (self.spec)(self.config.to_string()).concurrency(workers);
        let envoy = spec.start(&self.run).unwrap_or_else(|error| panic!("{error}"));
        Running { envoy, shipped: self }
    }
}

impl Running {
    /// A request to the first listener.
    ///
    /// # Panics
    /// When there is no answer.
    #[must_use]
    pub fn send(&self, request: &Request) -> Response {
        Client::local(self.shipped.port).send(request).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Counters and gauges of the modules by flat name.
    ///
    /// # Panics
    /// When admin does not answer.
    #[must_use]
    pub fn metrics(&self, filter: &str) -> Vec<(String, u64)> {
        let all = self.envoy.stats(&format!("^wasmcustom.{filter}")).unwrap();
        all.into_iter().map(|(name, value)| (name.replace("wasmcustom.", ""), value)).collect()
    }
}
