//! Foreign functions: what Envoy does natively for a module.

use sailcloth_core::protobuf::write_bytes;

use crate::{Status, abi};

/// Calls a foreign function by name.
///
/// # Errors
/// [`Status::NotFound`] when this Envoy has no such function, else whatever the function answered.
pub fn call(name: &str, argument: &[u8]) -> Result<Vec<u8>, Status> {
    abi::call_foreign(name, argument)
}

/// Whether a signature is valid, by Envoy's `verify_signature` (BoringSSL): `hash` is `sha256`, `sha384` or `sha512`,
/// `key` an X.509 SubjectPublicKeyInfo in DER (RSA or ECDSA), an ECDSA `signature` is ASN.1 DER (`envoy-wasm.md` 2.1).
///
/// # Errors
/// The status of the call, for a host without the function. A bad key or signature is `Ok(false)`.
pub fn verify_signature(hash: &str, key: &[u8], signature: &[u8], text: &[u8]) -> Result<bool, Status> {
    let mut message = Vec::with_capacity(hash.len() + key.len() + signature.len() + text.len() + 24);
    for (field, bytes) in [(1, hash.as_bytes()), (2, key), (3, signature), (4, text)] {
        write_bytes(&mut message, field, bytes);
    }
    // The answer is a message whose field 1 is the verdict and field 2 an error text. Only the exact encoding of
    // "true and no error" is a yes.
    abi::call_foreign("verify_signature", &message).map(|answer| answer == [0x08, 0x01])
}

/// A CEL expression, compiled by Envoy (`expr_create`) for this filter configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expression(u32);

impl Expression {
    /// Compiles it. What comes of it depends on the text and on this Envoy alone, so it may decide about a configuration.
    ///
    /// # Errors
    /// [`Status::BadArgument`] for what is no expression, [`Status::NotFound`] where Envoy was built without CEL.
    pub fn compile(source: &str) -> Result<Self, Status> {
        let token = abi::call_foreign("expr_create", source.as_bytes())?;
        let token = token.try_into().map_err(|_| Status::SerializationFailure)?;
        Ok(Self(u32::from_le_bytes(token)))
    }

    /// Its value for the stream of the callback that is running, in the encoding of attributes.
    ///
    /// # Errors
    /// [`Status::InternalFailure`] when evaluating it fails, also for an attribute that is not there.
    pub fn evaluate(self) -> Result<Vec<u8>, Status> {
        abi::call_foreign("expr_evaluate", &self.0.to_le_bytes())
    }

    /// A number by which [`Self::from_number`] finds it again.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }

    /// The expression of [`Self::number`].
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        Self(number)
    }
}
