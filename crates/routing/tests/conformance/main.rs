//! Cases that nobody here wrote (`shared/conformance`): Istio's validation tables, its translation of VirtualServices, host
//! names and integration tests, and Envoy's route tables. What cannot run is skipped by a property of the case, and counted.
//!
//! `SAILCLOTH_CONFORMANCE` names the folder; without it the tests say that they skipped, unless
//! `REQUIRE_CONFORMANCE=1`.
#![cfg(not(target_family = "wasm"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic; helpers of tests are not covered by clippy.toml"
)]

mod common;
mod delegation;
mod hosts;
mod integration;
mod router_check;
mod translation;
mod validation;
