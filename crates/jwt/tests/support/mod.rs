//! What the native tests share: signatures by `ring`.
#![cfg(not(target_family = "wasm"))]
#![allow(clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use sailcloth_jwt::{CannotVerify, Hash, Verifier};

/// Verifies as Envoy does. It has no P-521: the real Envoy's tests cover ES512.
pub(crate) struct Ring;

impl Verifier for Ring {
    fn verify(
        &self,
        hash: Hash,
        public_key: &[u8],
        signature: &[u8],
        signed: &[u8],
    ) -> Result<bool, CannotVerify> {
        let (algorithm, key) = split(public_key);
        let rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
        let p256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        let p384 = [0x2b, 0x81, 0x04, 0x00, 0x22];
        let has = |identifier: &[u8]| algorithm.windows(identifier.len()).any(|window| window == identifier);
        let algorithm: &dyn VerificationAlgorithm = match hash {
            Hash::Sha256 if has(&rsa) => &signature::RSA_PKCS1_2048_8192_SHA256,
            Hash::Sha384 if has(&rsa) => &signature::RSA_PKCS1_2048_8192_SHA384,
            Hash::Sha512 if has(&rsa) => &signature::RSA_PKCS1_2048_8192_SHA512,
            Hash::Sha256 if has(&p256) => &signature::ECDSA_P256_SHA256_ASN1,
            Hash::Sha384 if has(&p384) => &signature::ECDSA_P384_SHA384_ASN1,
            _ => return Err(CannotVerify),
        };
        Ok(UnparsedPublicKey::new(algorithm, key).verify(signed, signature).is_ok())
    }
}

/// A SubjectPublicKeyInfo as its algorithm and its key.
fn split(spki: &[u8]) -> (&[u8], &[u8]) {
    let (_, content, _) = element(spki);
    let (_, algorithm, rest) = element(content);
    let (tag, bits, _) = element(rest);
    assert_eq!((tag, bits[0]), (3, 0), "a BIT STRING without unused bits");
    (algorithm, &bits[1..])
}

fn element(der: &[u8]) -> (u8, &[u8], &[u8]) {
    let (length, start) = match der[1] {
        short @ ..0x80 => (usize::from(short), 2),
        long => {
            let bytes = usize::from(long & 0x7f);
            (der[2..2 + bytes].iter().fold(0, |sum, byte| sum * 256 + usize::from(*byte)), 2 + bytes)
        }
    };
    (der[0], &der[start..start + length], &der[start + length..])
}
