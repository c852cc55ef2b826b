//! Istio's resources and ours, typed: parsed strictly, validated, scoped to a workload.
//!
//! A filter's configuration is `resources` (the documents as they are), `workload` (whom they are for) and `settings`
//! (what Istio has no word for). [`Config::read`] reads all three; a type of this crate that implements [`Resource`]
//! says which kind a filter owns. What a document says is understood whole or the configuration is refused whole.

pub mod authorization_policy;
mod config;
pub mod deny_reply;
pub mod host_name;
mod key;
mod kind;
mod metadata;
pub mod operation;
pub mod rate_limit;
pub mod request_authentication;
mod scope;
pub mod sticky;
pub mod telemetry;
pub mod virtual_service;

pub use config::{CommonSettings, Config, Loaded, Resource};
pub use key::is_token;
pub use kind::Kind;
pub use metadata::{MODE, Metadata};
pub use scope::{Scope, TargetRef, Workload};
