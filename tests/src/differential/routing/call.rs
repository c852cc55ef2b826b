//! One request of the routing comparison.

/// A request.
#[derive(Debug, Clone)]
pub struct Call {
    /// `:method`
    pub method: String,
    /// The request target as sent, query included.
    pub target: String,
    /// `:authority`
    pub host: String,
    /// Other headers; a name may repeat.
    pub headers: Vec<(String, Vec<u8>)>,
}
