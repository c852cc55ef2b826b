//! Istio's standard metrics, and a user's own, from what Envoy knows when a request is over.
//!
//! - [`Engine::load`] compiles Telemetry resources and `settings.metrics` into the metrics to produce, each with its
//!   labels, its value and its condition;
//! - [`Recorder::record`] turns one finished [`Stream`] into counts and samples on a [`Meter`].
//!
//! A request costs the reads that the configured labels and values need and no others, one hash lookup for each set of
//! labels that metrics share, and one call of the meter per metric. Names are built once, when a combination of values
//! is new; how many there may be is bounded, per label and per metric, because Envoy frees no metric.

mod attribute;
mod budget;
mod engine;
mod expression;
mod facts;
mod flags;
mod labels;
mod overrides;
mod paths;
mod peer;
mod plan;
mod recorder;
mod redact;
mod settings;
mod stream;
mod user;

pub use engine::Engine;
pub use expression::{Compiler, NoCompiler};
pub use labels::LABELS;
pub use peer::Peer;
pub use recorder::Recorder;
pub use sailcloth_resources::telemetry::MetricName;
pub use settings::{Reporter, Settings};
pub use stream::{Kind, Meter, Stream};
