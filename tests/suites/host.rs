//! `crates/host` and every filter under a host that fails: any hostcall, any status.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "helpers of tests"
)]

#[path = "host/faults.rs"]
mod faults;
#[path = "host/full_build.rs"]
mod full_build;
#[path = "host/leases.rs"]
mod leases;
#[path = "host/lifecycle.rs"]
mod lifecycle;
#[path = "host/many_routes.rs"]
mod many_routes;
#[path = "host/memory.rs"]
mod memory;
#[path = "host/probe.rs"]
mod probe;
#[path = "host/secrets.rs"]
mod secrets;
#[path = "host/ticks.rs"]
mod ticks;
