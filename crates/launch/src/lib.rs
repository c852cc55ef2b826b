//! Starts stock Envoys and other processes on loopback, waits until they answer, and stops them whatever happens.
//!
//! Used by the demo tour, the test harness and the benchmark. Everything blocks; every wait has a deadline and ends
//! early when Ctrl-C or SIGTERM arrives ([`interrupt`]). Linux only: ownership of children rests on
//! `PR_SET_PDEATHSIG`, the identity of a detached process on `/proc`.
//!
//! ```no_run
//! use sailcloth_launch::{PortMap, Ports, RunDir, envoy, http, retarget};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! sailcloth_launch::interrupt::install()?;
//! let (mut ports, run) = (Ports::new(), RunDir::temp()?);
//! let (listener, admin) = (ports.free()?, ports.free()?);
//! let yaml = std::fs::read_to_string("envoy/authz.yaml")?;
//! let config = retarget(&yaml, &PortMap::from([(10000, listener), (9901, admin)]))?;
//! let envoy = envoy::Spec::new("authz", config).start(&run)?;
//! let answer = http::Client::local(listener).send(&http::Request::get("/"))?;
//! assert_eq!(answer.status, 200, "{}", envoy.logs()?);
//! # Ok(()) // the Envoy is stopped here, as it is on an error or a panic
//! # }
//! ```

pub mod detached;
pub mod envoy;
mod error;
pub mod http;
pub mod interrupt;
mod ports;
pub mod process;
mod retarget;
mod run_dir;
mod wait;

pub use detached::Detached;
pub use envoy::Envoy;
pub use error::{Error, Result};
pub use ports::Ports;
pub use process::Process;
pub use retarget::{PortMap, listening_ports, retarget};
pub use run_dir::{RunDir, repository_root};
pub use wait::{until, until_accepting, until_http};
