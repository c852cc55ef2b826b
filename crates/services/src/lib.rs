//! The example services of the demo, and the parts of them that tests use: keys and tokens of an OIDC issuer
//! ([`issuer`]), and load with its tally ([`load`]).
//!
//! **For demos and tests only**: the issuer gives a token for anything to anybody who asks.

pub mod api_service;
mod client;
pub mod duration;
mod error;
pub mod issuer;
pub mod load;
mod serve;
pub mod web_service;

pub use error::{Error, Result};
