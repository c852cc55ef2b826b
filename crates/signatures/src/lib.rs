//! RSA and ECDSA signatures verified in Rust.
//!
//! Envoy verifies RS* and ES* 18 to 54 times faster than this code inside Wasm, and this code makes a module two and a half
//! times as large (docs/decisions/003-jose.md). So it is for what the host cannot do: PS256, PS384 and PS512, which
//! `verify_signature` has not, and everything on a host without that function. The full build of the `jwt` filter has it
//! (`jwt-full.wasm`), and native tools and tests.

use p256::ecdsa::signature::hazmat::PrehashVerifier;
use rsa::pkcs8::SubjectPublicKeyInfoRef;
use rsa::{BigUint, Pkcs1v15Sign, Pss, RsaPublicKey, pkcs1};
use sailcloth_jwt::{Algorithm, CannotVerify, Curve, Family, Hash, Scheme, Verifier};
use sha2::{Digest, Sha256, Sha384, Sha512};

/// The longest modulus that a key set may hold (`sailcloth_jwt::KeySet`).
const MAX_RSA_BITS: usize = 8192;

/// Verifies RS*, PS* and ES*.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rust;

impl Verifier for Rust {
    fn verify(
        &self,
        algorithm: Algorithm,
        public_key: &[u8],
        signature: &[u8],
        signed: &[u8],
    ) -> Result<bool, CannotVerify> {
        let digest = digest(algorithm.hash, signed);
        match (algorithm.family, algorithm.scheme) {
            (Family::Rsa, Scheme::Pkcs1 | Scheme::Pss) => {
                Ok(rsa(algorithm, public_key, signature, &digest).unwrap_or(false))
            }
            (Family::Ec(curve), Scheme::Ecdsa) => {
                Ok(ecdsa(curve, public_key, signature, &digest).unwrap_or(false))
            }
            _ => Err(CannotVerify),
        }
    }
}

fn digest(hash: Hash, text: &[u8]) -> Vec<u8> {
    match hash {
        Hash::Sha256 => Sha256::digest(text).to_vec(),
        Hash::Sha384 => Sha384::digest(text).to_vec(),
        Hash::Sha512 => Sha512::digest(text).to_vec(),
    }
}

/// `None` for a key that is none, as for the host: not valid.
fn rsa(algorithm: Algorithm, key: &[u8], signature: &[u8], digest: &[u8]) -> Option<bool> {
    let key = rsa_key(key)?;
    let verified = match (algorithm.scheme, algorithm.hash) {
        (Scheme::Pss, Hash::Sha256) => key.verify(Pss::new::<Sha256>(), digest, signature),
        (Scheme::Pss, Hash::Sha384) => key.verify(Pss::new::<Sha384>(), digest, signature),
        (Scheme::Pss, Hash::Sha512) => key.verify(Pss::new::<Sha512>(), digest, signature),
        (_, Hash::Sha256) => key.verify(Pkcs1v15Sign::new::<Sha256>(), digest, signature),
        (_, Hash::Sha384) => key.verify(Pkcs1v15Sign::new::<Sha384>(), digest, signature),
        (_, Hash::Sha512) => key.verify(Pkcs1v15Sign::new::<Sha512>(), digest, signature),
    };
    Some(verified.is_ok())
}

fn rsa_key(key: &[u8]) -> Option<RsaPublicKey> {
    let key = SubjectPublicKeyInfoRef::try_from(key).ok()?;
    let key = pkcs1::RsaPublicKey::try_from(key.subject_public_key.raw_bytes()).ok()?;
    let number = |number: pkcs1::UintRef<'_>| BigUint::from_bytes_be(number.as_bytes());
    RsaPublicKey::new_with_max_size(number(key.modulus), number(key.public_exponent), MAX_RSA_BITS).ok()
}

/// `None` for a key or a signature that is none: not valid.
fn ecdsa(curve: Curve, key: &[u8], signature: &[u8], digest: &[u8]) -> Option<bool> {
    let point = point(curve, key)?;
    let verified = match curve {
        Curve::P256 => p256::ecdsa::VerifyingKey::from_sec1_bytes(point)
            .ok()?
            .verify_prehash(digest, &p256::ecdsa::Signature::from_der(signature).ok()?),
        Curve::P384 => p384::ecdsa::VerifyingKey::from_sec1_bytes(point)
            .ok()?
            .verify_prehash(digest, &p384::ecdsa::Signature::from_der(signature).ok()?),
        Curve::P521 => p521::ecdsa::VerifyingKey::from_sec1_bytes(point)
            .ok()?
            .verify_prehash(digest, &p521::ecdsa::Signature::from_der(signature).ok()?),
    };
    Some(verified.is_ok())
}

/// The point of a SubjectPublicKeyInfo as this project writes it: uncompressed, and last.
fn point(curve: Curve, key: &[u8]) -> Option<&[u8]> {
    key.get(key.len().checked_sub(1 + 2 * curve.length())?..)
}
