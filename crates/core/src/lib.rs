//! What two or more engines share.
//!
//! - [`config`]: reading configuration so that *every* problem is reported with its path ([`config::Value`]);
//! - [`headers`], [`request`]: the request as bytes, parsed in place from Envoy's header block;
//! - [`facts`]: what is known about the connection and the caller, and where it may be read from;
//! - [`identity`]: the caller's verified token, as the `jwt` filter hands it to the others;
//! - [`decision`]: what was decided, by which rule, why, and the reply that gives it a face;
//! - [`text`]: string patterns; [`regex`]: regular expressions; [`secret`]: values that are never printed.
//! - [`operation`]: what a request does, as AuthorizationPolicy's `to.operation` names it;
//! - [`index`]: which of many rules a request may match;
//! - [`protobuf`]: the wire format of what Envoy's interfaces take and give;
//! - [`key`]: parts of a request that tell callers apart; [`siphash`]: the keyed hash of them.
//!
//! Nothing here knows proxy-wasm, a clock, or I/O: the same code runs in Envoy, in the tests and in the CLI.

pub mod config;
pub mod decision;
pub mod facts;
pub mod headers;
pub mod identity;
pub mod index;
pub mod key;
pub mod metric;
pub mod operation;
pub mod path_template;
pub mod protobuf;
pub mod regex;
pub mod request;
pub mod secret;
pub mod siphash;
pub mod text;
