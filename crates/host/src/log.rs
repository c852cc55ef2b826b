//! Envoy's log. Nothing of a request's headers, tokens or keys is ever written here.

use crate::abi;

/// Logs at level `info`.
pub fn info(text: &str) {
    abi::log(2, text);
}

/// Logs at level `warn`.
pub fn warn(text: &str) {
    abi::log(3, text);
}

/// Logs at level `error`.
pub fn error(text: &str) {
    abi::log(4, text);
}
