//! Reading configuration so that a document is understood whole or refused whole.
//!
//! Two layers: a [`Node`] is the text as a tree (duplicate keys included), a [`Value`] is a node with its path and a
//! place to report [`Problem`]s. A reader asks a [`Fields`] for the fields it knows; whatever it did not ask for is
//! reported as unknown when the `Fields` goes out of scope, so a forgotten field can never be ignored.
//!
//! ```
//! use sailcloth_core::config::{Node, Problems, Value};
//!
//! let node = Node::from_json(br#"{"methods": ["GET"], "pathz": ["/a"]}"#).unwrap();
//! let problems = Problems::default();
//! {
//!     let operation = Value::root(&node, &problems).fields().unwrap();
//!     let methods = operation.get("methods").map(|v| v.strings());
//!     let paths = operation.get("paths").map(|v| v.strings());
//!     assert!(methods.is_some() && paths.is_none());
//! }
//! assert_eq!(problems.errors(), ["pathz: unknown field; did you mean `paths`?"]);
//! ```

mod duration;
mod node;
mod path;
mod problem;
mod protobuf_struct;
mod value;

pub use duration::parse as parse_duration;
pub(crate) use node::repeats;
pub use node::{MalformedText, Node};
pub use path::Path;
pub use problem::{Problem, Problems, Severity};
pub use value::{Fields, Value, did_you_mean};
