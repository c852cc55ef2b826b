//! The engine of AuthorizationPolicy: who may do what, and which rule said so.
//!
//! [`Engine::load`] makes an engine of a filter's configuration, [`Engine::decide`] answers for one request: DENY
//! policies first, then ALLOW (`istio-api.md` 2.1). What a rule asks about the connection or the caller is fetched only
//! when a rule gets that far, and at most once per request. A fact that cannot be known never lets a request in: a DENY
//! rule that needs it denies, an ALLOW rule does not match.
//!
//! Rules are tried in order, so cost grows with their number in this version.

mod caller;
mod engine;
mod matcher;

pub use engine::{Engine, Outcome};
