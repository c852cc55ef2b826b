//! The engine of AuthorizationPolicy: who may do what, and which rule said so.
//!
//! [`Engine::load`] makes an engine of a filter's configuration. One request is asked about in Istio's order
//! (`istio-api.md` 2.1): [`Engine::ask`] names the external providers that CUSTOM policies want asked, one after the
//! other; [`Engine::decide`] then decides by DENY and ALLOW. What a rule asks about the connection or the caller is fetched
//! only when a rule gets that far, and at most once per request. A fact that cannot be known never lets a request in: a
//! DENY rule that needs it denies, an ALLOW rule does not match.
//!
//! Rules are filed by what they can match ([`sailcloth_core::index`]), so a request meets the rules near it, however many
//! there are. Their order changes nothing: of several that match, the lowest-numbered is named.

mod addresses;
mod caller;
mod check;
mod engine;
mod explain;
mod face;
mod principals;
mod provider;
mod reasons;
mod rule;
mod rules;
mod settings;
mod stage;
mod subject;
#[cfg(test)]
mod tests;

pub use engine::{Ask, Asked, Engine, Outcome, Refusal};
pub use explain::{ExplainedPolicy, ExplainedRule, Explanation, FailedCondition, Truth};
pub use provider::{Answer, Pairs, Provider, Ruling};
