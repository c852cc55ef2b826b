//! The adapter between the engines and Envoy's Wasm host (proxy-wasm ABI 0.2.1): the only code that speaks it.
//!
//! Every hostcall returns its status as a value, every header and property is bytes, and nothing here panics: a panic
//! stops all requests of an Envoy worker. A filter implements [`Plugin`] and names the callbacks it uses in
//! [`export!`]; the module then exports those and no others, because each exported callback costs every request a
//! crossing into the VM (why this is not the proxy-wasm SDK: `docs/decisions/001-own-abi-layer.md`).
//!
//! A filter is one type and one line: `impl Plugin for JwtFilter { … }`, `export!(JwtFilter: request_headers);`.

mod abi;
pub mod callout;
pub mod clock;
mod context;
mod export;
pub mod foreign;
mod http;
pub mod lease;
pub mod log;
pub mod metrics;
mod plugin;
pub mod random;
pub mod shared;
mod streams;
pub mod timer;

pub use abi::Status;
pub use context::Registry;
#[doc(hidden)]
pub use export::{allocate, initialize};
pub use http::{Action, Http, StreamId};
pub use plugin::Plugin;
pub use streams::Streams;
