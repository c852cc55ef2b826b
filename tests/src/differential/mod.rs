//! Ours beside Envoy's own: the same policy through a native filter and through ours, and the same request to both.
//!
//! Inputs are generated from a seed that is printed. Every difference fails the suite unless it is one of the named
//! deviations of its area; `docs/differential.md` says what was compared, and `make differential` writes that page anew.

pub mod authz;
pub mod client;
pub mod deviations;
pub mod jwt;
pub mod page;
pub mod random;
pub mod routing;
pub mod shrink;
pub mod side;
pub mod tally;
pub mod token;

pub use tally::{Deviation, Tally};

/// How much is compared: a run that a developer waits for, or one that takes its time
/// (`SAILCLOTH_DIFFERENTIAL=full`; `make differential`, `make test-full`).
#[must_use]
pub fn scaled(quick: usize, full: usize) -> usize {
    if is_full() { full } else { quick }
}

/// Whether the long run is wanted.
#[must_use]
pub fn is_full() -> bool {
    std::env::var("SAILCLOTH_DIFFERENTIAL").is_ok_and(|value| value == "full")
}

/// The seed of an area: `SAILCLOTH_SEED`, or always the same.
///
/// # Panics
/// When `SAILCLOTH_SEED` is no number.
#[must_use]
pub fn seed() -> u64 {
    match std::env::var("SAILCLOTH_SEED") {
        Ok(text) if !text.is_empty() => text.parse().expect("SAILCLOTH_SEED is a number"),
        _ => 20_261_123,
    }
}
