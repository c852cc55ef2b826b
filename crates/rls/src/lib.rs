//! A rate limit service for demos and tests: Limitador's counters in memory, or counters in Redis, behind Envoy's
//! `envoy.service.ratelimit.v3` gRPC API. **No product**: use envoyproxy/ratelimit or Limitador itself in production.

pub mod limits;
pub mod proto;
mod redis;
pub mod server;

pub use limits::{LimitSpec, Limits};
pub use server::serve;
