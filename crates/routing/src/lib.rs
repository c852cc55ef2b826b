//! The routing engine: `VirtualService` documents, compiled into an index by host, path, headers and parameters.
//!
//! [`Engine::decide`] takes a request and a random number and says which rule matched and which destination was drawn;
//! [`Outcome`] is also what the filter has to do so that a stock Envoy carries it out.
//! Rules are tried in their order and the first that matches is taken; the index only skips what cannot match.
//!
//! ```
//! use sailcloth_core::facts::{Facts, NoProperties};
//! use sailcloth_core::headers::HeaderBlock;
//! use sailcloth_core::request::Request;
//! use sailcloth_routing::Engine;
//!
//! let (engine, _) = Engine::load(br#"{
//!   "resources": [{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
//!     "metadata": {"name": "reviews", "namespace": "shop"},
//!     "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews"}}]}]}}],
//!   "settings": {"clusters": ["outbound|80||reviews.shop.svc.cluster.local"]}
//! }"#).unwrap();
//! let headers = HeaderBlock::from_pairs([(":authority", "reviews:80"), (":path", "/")]);
//! let request = Request { headers: &headers, facts: Facts::new(&NoProperties, engine.sources()) };
//! let outcome = engine.decide(&request, 0);
//! assert_eq!(outcome.cluster(), Some("outbound|80||reviews.shop.svc.cluster.local"));
//! ```

mod compile;
mod condition;
mod cors;
mod delegate;
mod dice;
mod edit;
mod effects;
mod engine;
mod explain;
mod format;
mod hosts;
mod index;
mod outcome;
mod paired;
mod redirect;
mod rewrite;
mod settings;
mod sticky;
mod work;

#[cfg(test)]
mod tests;

pub use edit::Edit;
pub use effects::CLUSTER_HEADER;
pub use engine::Engine;
pub use explain::{Explanation, Miss, Tried};
pub use outcome::{Answer, Outcome};
pub use settings::Settings;
