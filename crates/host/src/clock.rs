//! Time. Engines take it as an argument; this is where filters get it.

use std::time::Duration;

use crate::{Status, abi};

/// Time since the Unix epoch by the system clock, which may jump.
///
/// # Errors
/// Whatever status the host gave; whoever depends on the time then fails closed.
pub fn system_time() -> Result<Duration, Status> {
    abi::current_time().map(Duration::from_nanos)
}

/// Envoy's monotonic clock in nanoseconds from an arbitrary zero: the same for all VMs of a process, never going back.
///
/// # Errors
/// WASI's error number as [`Status::Other`].
pub fn monotonic_nanoseconds() -> Result<u64, Status> {
    abi::monotonic_time()
}
