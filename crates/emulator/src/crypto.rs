//! Envoy's foreign function `verify_signature`, for tests of modules that check tokens (cargo feature `crypto`).
//!
//! RSA PKCS#1 v1.5 from 1024 bits with SHA-1, SHA-256 and SHA-512, from 2048 bits with SHA-384; ECDSA on P-256 and
//! P-384 with SHA-256 and SHA-384, signature in DER. Keys are DER `SubjectPublicKeyInfo`. What Envoy can do and this
//! module cannot (SHA-224, P-521, PEM keys) answers [`Status::Unimplemented`], which Envoy never does.

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};

use crate::abi::Status;
use crate::foreign::{bytes_of, fields};
use crate::process::Process;

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];

/// Registers `verify_signature` in a process.
pub fn register(process: &Process) {
    process.set_foreign_function("verify_signature", verify_signature);
}

/// What Envoy answers to the arguments message (1 hash, 2 key, 3 signature, 4 text): status `Ok` with field 1 `true`,
/// or status `Ok` with the reason in field 2.
#[must_use]
pub fn verify_signature(arguments: &[u8]) -> (Status, Vec<u8>) {
    let Some(fields) = fields(arguments) else { return (Status::BadArgument, Vec::new()) };
    let field = |number| bytes_of(&fields, number).unwrap_or_default();
    let hash = String::from_utf8_lossy(field(1)).into_owned();
    match (field(2).is_empty(), field(5).is_empty()) {
        // Both keys or none: since 1.37 an argument error.
        (true, true) | (false, false) => return (Status::BadArgument, Vec::new()),
        (true, false) => return (Status::Unimplemented, Vec::new()),
        (false, true) => {}
    }
    match verify(&hash, field(2), field(3), field(4)) {
        Ok(()) => (Status::Ok, vec![8, 1]),
        Err(Refusal::Invalid(reason)) => (Status::Ok, error_message(&reason)),
        Err(Refusal::Unimplemented) => (Status::Unimplemented, Vec::new()),
    }
}

enum Refusal {
    Invalid(String),
    Unimplemented,
}

fn invalid(reason: &str) -> Refusal {
    Refusal::Invalid(reason.to_owned())
}

/// Field 2, a string shorter than 128 bytes.
fn error_message(reason: &str) -> Vec<u8> {
    let reason = reason.get(..reason.len().min(127)).unwrap_or_default();
    let size = u8::try_from(reason.len()).unwrap_or(0);
    [&[0x12, size], reason.as_bytes()].concat()
}

fn verify(hash: &str, key: &[u8], signature: &[u8], text: &[u8]) -> Result<(), Refusal> {
    let lower = hash.to_ascii_lowercase();
    if !["sha1", "sha224", "sha256", "sha384", "sha512"].contains(&lower.as_str()) {
        return Err(invalid(&format!("{hash} is not supported.")));
    }
    let (kind, curve, key) = public_key(key).ok_or_else(|| invalid("Failed to initialize digest verify."))?;
    let algorithm: &dyn VerificationAlgorithm = match (kind, curve, lower.as_str()) {
        (RSA, _, "sha1") => &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
        (RSA, _, "sha256") => &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        (RSA, _, "sha384") => &signature::RSA_PKCS1_2048_8192_SHA384,
        (RSA, _, "sha512") => &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
        (EC, P256, "sha256") => &signature::ECDSA_P256_SHA256_ASN1,
        (EC, P256, "sha384") => &signature::ECDSA_P256_SHA384_ASN1,
        (EC, P384, "sha256") => &signature::ECDSA_P384_SHA256_ASN1,
        (EC, P384, "sha384") => &signature::ECDSA_P384_SHA384_ASN1,
        (RSA, ..) | (EC, P256 | P384 | P521, _) => return Err(Refusal::Unimplemented),
        // Unknown curves, and Ed25519, which takes no digest.
        _ => return Err(invalid("Failed to initialize digest verify.")),
    };
    UnparsedPublicKey::new(algorithm, key)
        .verify(text, signature)
        .map_err(|_| invalid("Failed to verify digest. Error code: 0"))
}

/// Algorithm, curve (empty for RSA) and key bits of a `SubjectPublicKeyInfo`.
fn public_key(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (info, rest) = element(der, 0x30)?;
    if !rest.is_empty() {
        return None;
    }
    let (algorithm, bits) = element(info, 0x30)?;
    let (kind, parameters) = element(algorithm, 0x06)?;
    let curve = element(parameters, 0x06).map_or(&[][..], |(curve, _)| curve);
    let (bits, rest) = element(bits, 0x03)?;
    let (unused, key) = bits.split_first()?;
    (rest.is_empty() && *unused == 0).then_some((kind, curve, key))
}

/// The content of a DER element and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    let (size, rest) = rest.split_first()?;
    if *first != tag {
        return None;
    }
    if *size < 0x80 {
        return rest.split_at_checked(usize::from(*size));
    }
    let (bytes, rest) = rest.split_at_checked(usize::from(size & 0x7f))?;
    if bytes.len() > 4 {
        return None;
    }
    let size = bytes.iter().fold(0_usize, |size, byte| (size << 8) | usize::from(*byte));
    rest.split_at_checked(size)
}
