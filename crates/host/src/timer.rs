//! The timer: one for each configuration of a filter, in each worker and on Envoy's main thread.

use std::time::Duration;

use crate::{Status, abi};

/// Asks for [`Plugin::tick`](crate::Plugin::tick) in this period, from now on, in whole milliseconds, at least one;
/// `None` stops the ticks. The period begins anew with every call, so one per request would put the tick off for ever.
///
/// # Errors
/// The status of the host; then nothing will tick.
pub fn set_period(period: Option<Duration>) -> Result<(), Status> {
    let milliseconds = |period: Duration| u32::try_from(period.as_millis()).unwrap_or(u32::MAX).max(1);
    abi::set_tick_period(period.map_or(0, milliseconds))
}
