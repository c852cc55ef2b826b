//! `verify_signature` against keys and signatures that openssl made over the text `header.payload`.
#![cfg(feature = "crypto")]

use sailcloth_emulator::Status;
use sailcloth_emulator::crypto::verify_signature;

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("signatures/", $name)).as_slice()
    };
}

const TEXT: &[u8] = b"header.payload";
const VALID: &[u8] = &[8, 1];

fn arguments(fields: &[(u8, &[u8])]) -> Vec<u8> {
    let mut message = Vec::new();
    for (number, value) in fields {
        // A varint of two bytes is valid for small sizes too.
        let size = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        message.extend([number << 3 | 2, size(value.len() % 128) | 0x80, size(value.len() / 128)]);
        message.extend_from_slice(value);
    }
    message
}

fn verify(hash: &str, key: &[u8], signature: &[u8], text: &[u8]) -> (Status, Vec<u8>) {
    verify_signature(&arguments(&[(1, hash.as_bytes()), (2, key), (3, signature), (4, text)]))
}

fn refused(reason: &str) -> (Status, Vec<u8>) {
    (Status::Ok, [&[0x12, u8::try_from(reason.len()).unwrap_or(u8::MAX)], reason.as_bytes()].concat())
}

#[test]
fn good_signatures_are_valid_and_changed_texts_are_not() {
    for (name, hash, key, signature) in [
        ("RS256", "sha256", file!("rsa.der"), file!("rsa256.sig")),
        ("RS384", "SHA384", file!("rsa.der"), file!("rsa384.sig")),
        ("RS512", "sha512", file!("rsa.der"), file!("rsa512.sig")),
        ("ES256", "sha256", file!("p256.der"), file!("p256.sig")),
        ("ES384", "sha384", file!("p384.der"), file!("p384.sig")),
    ] {
        assert_eq!(verify(hash, key, signature, TEXT), (Status::Ok, VALID.to_vec()), "{name}");
        let wrong = refused("Failed to verify digest. Error code: 0");
        assert_eq!(verify(hash, key, signature, b"header.payloae"), wrong, "{name}");
        assert_eq!(verify(hash, key, &signature[1..], TEXT), wrong, "{name}");
    }
}

#[test]
fn bad_keys_and_hashes_are_refused_with_envoys_words() {
    let (key, signature) = (file!("rsa.der"), file!("rsa256.sig"));
    let no_start = refused("Failed to initialize digest verify.");
    assert_eq!(verify("sha256", &key[..100], signature, TEXT), no_start);
    assert_eq!(verify("sha256", &[key, &[0]].concat(), signature, TEXT), no_start);
    assert_eq!(verify("md5", key, signature, TEXT), refused("md5 is not supported."));
    assert_eq!(verify("sha-256", key, signature, TEXT), refused("sha-256 is not supported."));
}

#[test]
fn malformed_arguments_are_bad_arguments() {
    let (key, signature) = (file!("rsa.der"), file!("rsa256.sig"));
    assert_eq!(verify_signature(&[0x0a, 5, 1]).0, Status::BadArgument);
    assert_eq!(verify("sha256", b"", signature, TEXT).0, Status::BadArgument, "no key");
    let both = arguments(&[(1, b"sha256"), (2, key), (3, signature), (4, TEXT), (5, b"pem")]);
    assert_eq!(verify_signature(&both).0, Status::BadArgument, "two keys");
}

#[test]
fn what_ring_lacks_is_said_to_be_unimplemented() {
    let (key, signature) = (file!("rsa.der"), file!("rsa256.sig"));
    assert_eq!(verify("sha224", key, signature, TEXT).0, Status::Unimplemented);
    let pem = arguments(&[(1, b"sha256"), (3, signature), (4, TEXT), (5, b"pem")]);
    assert_eq!(verify_signature(&pem).0, Status::Unimplemented);
}
