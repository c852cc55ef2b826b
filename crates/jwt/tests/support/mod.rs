//! What the native tests share: signatures by `ring`, which stands for Envoy, and by the Rust code of the full build.
#![cfg(not(target_family = "wasm"))]
#![allow(clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use sailcloth_jwt::{Algorithm, Algorithms, CannotVerify, Environment, Hash, Scheme, Verifier};

/// The full build's.
pub(crate) const ENVIRONMENT: Environment = Environment { algorithms: Algorithms::ALL, variable: |_| None };

/// Verifies twice where `ring` has an answer, and then both must give the same one.
pub(crate) struct Both;

impl Verifier for Both {
    fn verify(
        &self,
        algorithm: Algorithm,
        public_key: &[u8],
        signature: &[u8],
        signed: &[u8],
    ) -> Result<bool, CannotVerify> {
        let rust = sailcloth_signatures::Rust.verify(algorithm, public_key, signature, signed);
        if let Ok(ring) = Ring.verify(algorithm, public_key, signature, signed) {
            assert_eq!(rust, Ok(ring), "ring and the full build differ on a signature by {}", algorithm.name);
        }
        rust
    }
}

/// Verifies as Envoy does, but has no P-521.
struct Ring;

impl Verifier for Ring {
    fn verify(
        &self,
        algorithm: Algorithm,
        public_key: &[u8],
        signature: &[u8],
        signed: &[u8],
    ) -> Result<bool, CannotVerify> {
        let (identifier, key) = split(public_key);
        let rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
        let p256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        let p384 = [0x2b, 0x81, 0x04, 0x00, 0x22];
        let has = |wanted: &[u8]| identifier.windows(wanted.len()).any(|window| window == wanted);
        let algorithm: &dyn VerificationAlgorithm = match algorithm.hash {
            Hash::Sha256 if algorithm.scheme == Scheme::Pss => &signature::RSA_PSS_2048_8192_SHA256,
            Hash::Sha384 if algorithm.scheme == Scheme::Pss => &signature::RSA_PSS_2048_8192_SHA384,
            Hash::Sha512 if algorithm.scheme == Scheme::Pss => &signature::RSA_PSS_2048_8192_SHA512,
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
