//! `metrics`: Telemetry.

use sailcloth_core::config::Node;
use sailcloth_metrics as metrics;

use super::{Engine, Exchange, Loaded, Subject};
use crate::judge::Observed;

pub(super) const SUBJECT: Subject = Subject { name: "metrics", load, callbacks: &["proxy_on_log"] };

fn load(configuration: &Node) -> Loaded {
    let (engine, warnings) = metrics::Engine::load_node(configuration)?;
    Ok((Box::new(Metrics(engine)), warnings))
}

struct Metrics(metrics::Engine);

impl Engine for Metrics {
    /// It decides nothing: what it counts is seen where there is a response, in the emulator and in Envoy.
    fn decide(&mut self, exchange: &Exchange<'_>) -> Observed {
        let _ = self.0.observe(Some(exchange.headers), exchange.properties);
        Observed { status: Some(200), ..Observed::default() }
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.0.resources()
    }
}
