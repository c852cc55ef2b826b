//! Rate limits: `RateLimit` as GCRA over a store that all workers share, and by rate limit services.
//!
//! - [`Engine::load`] compiles a configuration; [`Engine::decide`] decides one request, or says what must be asked of a
//!   service first: [`Engine::answer`] takes in what it says, [`Engine::finish`] decides then;
//! - [`Engine::settle`] settles what only the response of a request decides;
//! - [`Store`] is the shared memory, [`Moment`] the time and the hash seed, [`Worker`] what a worker keeps for itself: all
//!   are arguments, so the engine has no clock, no randomness and no I/O;
//! - a rule's buckets live in a fixed number of *rows* of sixteen ([`Row`]); a row is read and written as a whole under
//!   compare-and-swap, so a decision is exact whatever the other workers do.
//!
//! What is promised: per key and rule, never more than `burst + requests/per × time` admitted, for any interleaving of
//! workers, any number of clients and any clock jump; and never less than `requests/per` for a client that has a slot.
//! A `lease` adds at most itself for each worker.

mod answer;
mod ask;
mod breaker;
mod compile;
mod engine;
mod explain;
mod gcra;
mod index;
mod outcome;
mod reasons;
mod rls;
mod row;
mod rule;
mod settings;
mod store;
mod tier;
mod worker;

pub use ask::{Asking, Call, Failure};
pub use engine::{Engine, Service, Step};
pub use explain::{Explained, KeyState, What};
pub use gcra::{Gcra, Take};
pub use outcome::{After, Outcome, Refusal};
pub use reasons::Reasons;
pub use rls::{METHOD as RLS_METHOD, SERVICE as RLS_SERVICE};
pub use row::Row;
pub use settings::{Format, Settings, Told};
pub use store::{Moment, RowKey, SEED_KEY, Seed, Store, StoreError, Stored};
pub use worker::Worker;
