//! `crates/host` and every filter under a host that fails: any hostcall, any status.

#[path = "host/faults.rs"]
mod faults;
#[path = "host/lifecycle.rs"]
mod lifecycle;
#[path = "host/probe.rs"]
mod probe;
