//! The demo mesh on loopback: stock Envoy with the five filters (`envoy/chain.yaml`), the example services, fresh
//! certificates, and a scripted tour whose every line is checked against what Envoy did.

pub mod certs;
pub mod mesh;
pub mod tour;
