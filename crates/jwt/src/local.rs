//! The signatures that are verified here, because the host cannot and their code is small: EdDSA and HS*.

use ed25519_dalek::{Signature, VerifyingKey};
use hmac::{Hmac, Mac};
use sha2::{Sha256, Sha384, Sha512};

use crate::Hash;

/// A key for EdDSA on Ed25519, decompressed.
pub(crate) struct Ed25519(VerifyingKey);

impl Ed25519 {
    /// Reads `x` of a JWK; `None` when it is no point of the curve, or one of small order, with which signatures say
    /// nothing.
    pub(crate) fn read(x: &[u8]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(x.try_into().ok()?).ok()?;
        (!key.is_weak()).then_some(Self(key))
    }

    /// RFC 8032 5.1.7, and without the malleability that it leaves open (`verify_strict`).
    pub(crate) fn verify(&self, signature: &[u8], signed: &[u8]) -> bool {
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.0.verify_strict(signed, &signature).is_ok())
    }
}

/// Whether `signature` is the HMAC of `signed` (RFC 2104), compared in constant time.
// Apart from the hot path of the other algorithms: three hashes make 11 kB.
#[inline(never)]
pub(crate) fn verify_hmac(hash: Hash, secret: &[u8], signature: &[u8], signed: &[u8]) -> bool {
    match hash {
        Hash::Sha256 => matches::<Hmac<Sha256>>(secret, signature, signed),
        Hash::Sha384 => matches::<Hmac<Sha384>>(secret, signature, signed),
        Hash::Sha512 => matches::<Hmac<Sha512>>(secret, signature, signed),
    }
}

fn matches<M: Mac + hmac::digest::KeyInit>(secret: &[u8], signature: &[u8], signed: &[u8]) -> bool {
    // HMAC takes keys of any length.
    <M as Mac>::new_from_slice(secret)
        .is_ok_and(|mac| mac.chain_update(signed).verify_slice(signature).is_ok())
}
