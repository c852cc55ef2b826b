//! The named deviations of all areas.

use super::Deviation;

/// Routing joins the values of a repeated header.
pub const JOINED_HEADERS: Deviation = Deviation {
    name: "routing joins repeated headers",
    reason: "`headers` and `withoutHeaders` of a VirtualService look at the values of a repeated header joined with `,`, as Istio documents and Envoy \
             had it; Envoy 1.40 compares each value alone, and one that matches is enough.",
};

/// All of them, in the order of the page.
pub const ALL: &[Deviation] = &[JOINED_HEADERS];
