//! An OIDC issuer for demos and tests: keys, tokens good and bad, and the server.

mod keys;
mod server;
mod token;

pub use keys::{Algorithm, Key, Keys};
pub use server::{Args, TokenArgs, run};
pub use token::{Defect, compact};
