//! The engine of the `jwt` filter: RequestAuthentication (`istio-api.md` 3), compiled.
//!
//! - [`Engine::load`] reads a filter's configuration; every problem is reported.
//! - [`Engine::decide`] decides about one request, and says what to change in it: [`Outcome`].
//! - [`Engine::verify_token`] verifies one token, for tools and tests.
//! - [`KeyStore`] fetches key sets that are not inline, and says which requests wait for them.
//! - [`Jws`], [`Claims`], [`KeySet`] are the parts of that, usable alone.
//!
//! RSA and ECDSA signatures are the host's business ([`Verifier`]): inside Wasm they are 54 and 18 times slower than
//! Envoy's own, and their code would more than double the module. EdDSA and HS* are verified here. Time is an argument.
//!
//! # Which rule decides
//!
//! Istio's data plane accepts a request when for *some* rule there is a token in its places and *every* token there
//! verifies under it; when no place of any rule holds a token; and when it is a CORS preflight. Else it is refused: by
//! the first rule, in order of issuer, whose refusal is more than "not my issuer". So of two tokens in places that one
//! rule looks at, one bad token is enough for 401; a bad token in a place that only another rule looks at is not.
//!
//! Why tokens are decoded by code of our own, and who verifies which signature: `docs/decisions/003-jose.md`.

mod algorithm;
mod cache;
mod claim_header;
mod claims;
mod der;
mod engine;
mod issuer;
mod jws;
mod keys;
mod keystore;
mod local;
mod outcome;
mod places;
mod reason;
mod rule;
mod settings;
#[cfg(test)]
mod tests;
mod url;
mod verification;

pub use algorithm::{Algorithm, Algorithms, Curve, Family, Hash, Scheme};
pub use cache::TokenCache;
pub use claims::{CLOCK_SKEW, Claims, bare_audience};
pub use engine::Engine;
pub use issuer::{IssuerSettings, Issuers};
pub use jws::Jws;
pub use keys::{KeySet, Origin};
pub use keystore::{
    Answer, Call, Event, FetchError, FetchSettings, KeySource, KeyStore, Lease, Note, Surroundings, Wait,
    Want,
};
pub use outcome::{Edit, Outcome};
pub use reason::{CORS_PREFLIGHT, NO_TOKEN, Refusal, VALID_TOKEN};
pub use settings::Settings;
pub use url::Url;

/// What surrounds an engine when it is loaded.
#[derive(Debug, Clone, Copy)]
pub struct Environment {
    /// The algorithms that the [`Verifier`] of this build has, and those that need none.
    pub algorithms: Algorithms,
    /// An environment variable, for `${env:NAME}`.
    pub variable: fn(&str) -> Option<String>,
}

/// The signature could not be verified: neither right nor wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CannotVerify;

/// Whoever verifies signatures with a public key: Envoy in the filter, Rust code in the full build and in native tests.
/// EdDSA and HS* need nobody: they are verified here.
pub trait Verifier {
    /// Whether `signature` (for ECDSA in ASN.1 DER) over `signed` was made by `algorithm` (RS*, PS* or ES*) with the key
    /// whose public part is `public_key`, a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// [`CannotVerify`] when there is no answer; the request is refused then.
    fn verify(
        &self,
        algorithm: Algorithm,
        public_key: &[u8],
        signature: &[u8],
        signed: &[u8],
    ) -> Result<bool, CannotVerify>;
}
