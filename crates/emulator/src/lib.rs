//! A stateful emulator of Envoy's proxy-wasm host (ABI 0.2.1) for tests.
//!
//! It runs a `.wasm` filter as Envoy would and keeps the state that Envoy keeps: shared data with compare-and-swap across
//! VMs, metrics, a clock that the test moves, properties, header maps as bytes, callouts, filter state, logs. A test feeds
//! requests and asks what happened; it does not script hostcalls. Any hostcall can be made to answer any status.
//!
//! # Run a request through a filter
//!
//! ```no_run
//! use sailcloth_emulator::{Module, PluginConfig, Process, Progress, Stream, Vm, VmOptions};
//!
//! let module = Module::compile(&std::fs::read("filter.wasm")?)?; // once: this is the slow part
//! let process = Process::new();
//! let worker = Vm::new(&process, &module, VmOptions::default())?;
//! let plugin = worker.configure(PluginConfig::new("my-filter", r#"{"deny": ["/admin"]}"#))?;
//!
//! let headers = [(":method", "GET"), (":path", "/admin"), (":authority", "shop.example")];
//! let mut stream = Stream::new(&process, &[&plugin], headers);
//! assert_eq!(stream.request_headers(true), Progress::LocalReply);
//! assert_eq!(stream.local_reply().map(|reply| reply.status), Some(403));
//! stream.finish()?; // proxy_on_log, proxy_on_done, proxy_on_delete
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Tasks
//!
//! - **Several workers**: make several [`Vm`]s of one [`Process`]; those with the same `vm_id` share data. A VM can be used
//!   from its own thread. [`Threads`] makes all of them that Envoy would, main thread and canary too.
//! - **A chain**: give several plugins to [`Stream::new`]. Requests go through in order and stop at the first pause or reply,
//!   responses come back in reverse, [`Stream::log`] calls all of them.
//! - **Who is calling**: [`Stream::set_attribute`], [`Stream::set_filter_state`], [`Process::set_attribute`] for `xds.node`.
//! - **Time**: [`Process::advance`], [`Process::set_realtime_ns`], then [`Vm::run_timers`] or [`Plugin::tick`];
//!   [`Threads::advance`] does both for all threads.
//! - **Callouts**: name the cluster with [`Process::set_cluster`]; the call waits in [`Vm::callouts`]; end it with
//!   [`Vm::answer`] and go on with [`Stream::proceed`].
//! - **Faults**: [`Process::inject`] for statuses; a trap is a value ([`Trap`]) and leaves the VM dead, so that later streams
//!   get 503 with details `wasm_fail_stream`; [`VmOptions::max_memory`] and [`VmOptions::deadline`] bound what runs away.
//! - **Costs**: [`Process::calls`] counts every hostcall and callback.
//! - **Foreign functions**: `clear_route_cache`, `set_envoy_filter_state` and `declare_property` are built in; register
//!   others with [`Process::set_foreign_function`]. Feature `crypto` brings `verify_signature`, feature `cel` the `expr_*`.
//! - **What loads**: [`Module::compile`] refuses every import that Envoy 1.36 does not link, by name.
//!
//! # Where it is less than Envoy
//!
//! - Shared queues and gRPC streams link, and trap with "is not emulated" when called. No network filters, no
//!   `sign`, no compression.
//! - Attributes of the connection, the route and the metadata are what the test sets. `metadata` and `xds` cannot be read as
//!   one protobuf message unless the test sets [`Value::Message`].
//! - A header of which Envoy keeps only one (`content-type` given twice) is not merged here: every entry stays.
//! - Trailers cannot be added where the message has none (Envoy allows it with the last chunk of the body).
//! - Clearing the route cache is counted; no route is chosen.
//! - Capability restriction and `FAIL_RELOAD` are not there: a new [`Vm`] is the reload.

mod abi;
mod callout;
#[cfg(feature = "cel")]
pub mod cel;
#[cfg(feature = "crypto")]
pub mod crypto;
mod foreign;
mod guest;
mod headers;
mod hostcalls;
mod module;
pub mod pairs;
mod plugin;
mod process;
mod property;
mod stream;
mod threads;
mod value;
mod vm;
mod wasi;

pub use abi::{Callback, Hostcall, Level, Status};
pub use callout::{Answer, AnswerError, Callout};
pub use headers::HeaderMap;
pub use module::{Module, ModuleError};
pub use plugin::{ConfigureError, Plugin, PluginConfig};
pub use process::{Calls, Cluster, ForeignFunction, Injection, LogLine, MetricKind, Process};
pub use stream::{LocalReply, Progress, Stream};
pub use threads::Threads;
pub use value::Value;
pub use vm::{ENVOY_MAX_MEMORY, Trap, Vm, VmOptions, VmState};
