//! Cases nobody here wrote: Istio's validation tables, its translation tables judged by meaning, its integration tests.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "helpers of tests"
)]

#[path = "conformance/authentication.rs"]
mod authentication;
#[path = "conformance/builder.rs"]
mod builder;
#[path = "conformance/chain.rs"]
mod chain;
#[path = "conformance/e2e.rs"]
mod e2e;
#[path = "conformance/fields.rs"]
mod fields;
#[path = "conformance/matching.rs"]
mod matching;
#[path = "conformance/selection.rs"]
mod selection;
#[path = "conformance/telemetry.rs"]
mod telemetry;
#[path = "conformance/templates.rs"]
mod templates;
#[path = "conformance/validation.rs"]
mod validation;
