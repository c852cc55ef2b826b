//! The engine of the `jwt` filter: RequestAuthentication (`istio-api.md` 3), compiled.
//!
//! - [`Engine::load`] reads a filter's configuration; every problem is reported.
//! - [`Engine::decide`] decides about one request, and says what to change in it: [`Outcome`].
//! - [`Engine::verify_token`] verifies one token, for tools and tests.
//! - [`Jws`], [`Claims`], [`KeySet`] are the parts of that, usable alone.
//!
//! Signatures are the host's business ([`Verifier`]): RSA inside Wasm is 54 times slower than Envoy's own, ECDSA 18
//! times, and their code would quadruple the module (`envoy-costs.md` 2). Time is an argument.
//!
//! # Which rule decides
//!
//! Istio's data plane accepts a request when for *some* rule there is a token in its places and *every* token there
//! verifies under it; when no place of any rule holds a token; and when it is a CORS preflight. Else it is refused: by
//! the first rule, in order of issuer, whose refusal is more than "not my issuer". So of two tokens in places that one
//! rule looks at, one bad token is enough for 401; a bad token in a place that only another rule looks at is not.
//!
//! # Why not the `jsonwebtoken` crate
//!
//! Version 11.1.0 was tried with `default-features = false`. It does not build for wasm32-unknown-unknown (it depends on
//! `getrandom` 0.2 and `js-sys` there); it reads the clock itself, so that time cannot be an argument; its crypto provider
//! is one per process, and it panics where none is installed; that provider answers yes or no, where "the host cannot"
//! must not look like "the signature is wrong"; it keeps the last of two duplicate claims, ignores `crit`, and folds most
//! defects into one error, where each has its own reason here. What would be left of it is base64 and a split at dots.

mod algorithm;
mod cache;
mod claims;
mod der;
mod engine;
mod jws;
mod keys;
mod outcome;
mod places;
mod reason;
mod rule;
mod settings;
#[cfg(test)]
mod tests;
mod verification;

pub use algorithm::{Algorithm, Curve, Family, Hash};
pub use cache::TokenCache;
pub use claims::{CLOCK_SKEW, Claims, bare_audience};
pub use engine::Engine;
pub use jws::Jws;
pub use keys::KeySet;
pub use outcome::{Edit, Outcome};
pub use reason::{CORS_PREFLIGHT, NO_TOKEN, Refusal, VALID_TOKEN};
pub use settings::Settings;

/// The signature could not be verified: neither right nor wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CannotVerify;

/// Whoever verifies signatures: Envoy in a filter, `ring` in native tests.
pub trait Verifier {
    /// Whether `signature` (for ECDSA in ASN.1 DER) over `signed` was made with the key whose public part is
    /// `public_key`, a SubjectPublicKeyInfo in DER: RSASSA-PKCS1-v1_5 for an RSA key, ECDSA for an EC key.
    ///
    /// # Errors
    /// [`CannotVerify`] when there is no answer; the request is refused then.
    fn verify(
        &self,
        hash: Hash,
        public_key: &[u8],
        signature: &[u8],
        signed: &[u8],
    ) -> Result<bool, CannotVerify>;
}
