//! The case corpus and its three runners, one judge for all of them, and the readers of other people's cases.
//!
//! A case file (`tests/cases/<filter>/*.yaml`) is a filter's configuration and requests with what must come of them. The
//! same file runs natively against the engine ([`native`]), in the emulator against the module ([`emulator`]) and through
//! a real Envoy ([`envoy`]); [`judge`] compares what each observed with what the file expects. `docs/testing.md` says how
//! to add a case and how to run one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test harness ends a test by panicking; nothing here serves a request"
)]

pub mod build;
pub mod case;
pub mod certificates;
pub mod conformance;
pub mod corpus;
pub mod differential;
pub mod echo;
pub mod emulator;
pub mod envoy;
pub mod facts;
pub mod field_table;
pub mod issuer;
pub mod judge;
pub mod keys;
pub mod native;
pub mod provider;
pub mod report;
pub mod shipped;
pub mod subject;
pub mod template;
pub mod yaml;
