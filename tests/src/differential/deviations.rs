//! The named deviations of all areas.

use super::Deviation;

/// All of them, in the order of the page.
pub const ALL: &[Deviation] = &[];
