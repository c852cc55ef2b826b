//! Ours beside Envoy's own (`sailcloth_tests::differential`, `docs/differential.md`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends by panicking"
)]

#[path = "differential/authz_envoy.rs"]
mod authz_envoy;
#[path = "differential/authz_plain.rs"]
mod authz_plain;
#[path = "differential/authz_published.rs"]
mod authz_published;
#[path = "differential/jwt.rs"]
mod jwt;
#[path = "differential/routing.rs"]
mod routing;

use sailcloth_launch::envoy;
use sailcloth_tests::differential::{deviations, page};

#[test]
fn the_page_has_the_deviations_as_they_are() {
    let text = std::fs::read_to_string(page::path()).unwrap();
    assert!(
        text.ends_with(&page::deviations_text(deviations::ALL)),
        "docs/differential.md is out of date; `make differential` writes it anew"
    );
}

/// The last step of `make differential`.
#[test]
#[ignore = "writes docs/differential.md from the rows of a full run"]
fn write_the_page() {
    let binary = envoy::find().unwrap();
    page::write(&envoy::version(&binary).unwrap());
}
