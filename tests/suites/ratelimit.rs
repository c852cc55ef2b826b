//! Rate limits where one request and one worker are not enough: several VMs, services that fail, load.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "helpers of tests"
)]

#[path = "ratelimit/global.rs"]
mod global;
#[path = "ratelimit/load.rs"]
mod load;
#[path = "ratelimit/schema.rs"]
mod schema;
#[path = "ratelimit/workers.rs"]
mod workers;
