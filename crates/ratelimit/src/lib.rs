//! Rate limits: `RateLimit` as GCRA over a store that all workers share.
//!
//! - [`Engine::load`] compiles a configuration; [`Engine::decide`] decides one request;
//! - [`Store`] is the shared memory, [`Moment`] the time and the hash seed: both are arguments, so the engine has no
//!   clock, no randomness and no I/O;
//! - a rule's buckets live in a fixed number of *rows* of sixteen ([`row`]); a row is read and written as a whole under
//!   compare-and-swap, so a decision is exact whatever the other workers do.
//!
//! What is promised: per key and rule, never more than `burst + requests/per × time` admitted, for any interleaving of
//! workers, any number of clients and any clock jump; and never less than `requests/per` for a client that has a slot.

mod engine;
mod gcra;
mod index;
mod reasons;
mod row;
mod store;

pub use engine::{Engine, Outcome, Refusal, Settings};
pub use gcra::{Gcra, Take};
pub use reasons::Reasons;
pub use row::Row;
pub use store::{Moment, RowKey, SEED_KEY, Seed, Store, StoreError, Stored};
