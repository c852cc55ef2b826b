//! Istio's standard metrics from what Envoy knows when a request is over.
//!
//! - [`Engine::load`] compiles Telemetry resources into the metrics to produce and the labels each keeps;
//! - [`Engine::observe`] turns a finished stream into a [`Observation`]: what to record, and a small key that stands for
//!   all its labels;
//! - [`Engine::labels`] spells the labels of a key out, once per new key ([`Series`] keeps what was made of it).
//!
//! Nothing a client writes becomes a label but what is bounded: the status code, Envoy's flags, the gRPC status, and the
//! identity in a certificate.

mod engine;
mod flags;
mod labels;
mod observe;
mod series;

pub use engine::{Engine, Metric, Reporter, Settings};
pub use labels::LABELS;
pub use observe::{Key, Observation};
pub use sailcloth_resources::telemetry::MetricName;
pub use series::Series;
