//! The test keys of `tests/fixtures`: signing with them and publishing them.

use std::fmt::Write as _;

use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};

/// A test key, by the name that cases use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestKey {
    name: &'static str,
    kind: Kind,
    bytes: &'static [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
    Secret,
}

macro_rules! keys {
    ($($name:literal $kind:ident $file:literal,)*) => {
        const ALL: &[TestKey] = &[$(TestKey {
            name: $name,
            kind: Kind::$kind,
            bytes: include_bytes!(concat!("../fixtures/test-key-", $file)),
        },)*];
    };
}
keys! {
    "rsa1" Rsa "rsa1.p8",
    "rsa2" Rsa "rsa2.p8",
    "ec1" P256 "ec1.p8",
    "ec2" P256 "ec2.p8",
    "ec384" P384 "ec384.p8",
    "ed1" Ed25519 "ed1.p8",
    "hs1" Secret "hs1.bin",
}

impl TestKey {
    /// The key of this name.
    ///
    /// # Errors
    /// When there is none; the message lists those there are.
    pub fn named(name: &str) -> Result<Self, String> {
        let names = || ALL.iter().map(|key| key.name).collect::<Vec<_>>().join(", ");
        ALL.iter()
            .find(|key| key.name == name)
            .copied()
            .ok_or_else(|| format!("there is no test key `{name}`; there are {}", names()))
    }

    /// The JWS algorithm it signs with unless another is named.
    #[must_use]
    pub fn default_algorithm(self) -> &'static str {
        match self.kind {
            Kind::Rsa => "RS256",
            Kind::P256 => "ES256",
            Kind::P384 => "ES384",
            Kind::Ed25519 => "EdDSA",
            Kind::Secret => "HS256",
        }
    }

    /// A JWS signature (RFC 7518 section 3) of `text`.
    ///
    /// # Errors
    /// When the key cannot sign by this algorithm.
    pub fn sign(self, algorithm: &str, text: &[u8]) -> Result<Vec<u8>, String> {
        let unable = || format!("test key `{}` does not sign `{algorithm}`", self.name);
        let random = SystemRandom::new();
        match (self.kind, algorithm) {
            (Kind::Rsa, _) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => return Err(unable()),
                };
                let pair = self.rsa();
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, text, &mut signed).map_err(|_| unable())?;
                Ok(signed)
            }
            (Kind::P256, "ES256") | (Kind::P384, "ES384") => {
                let signed = self.ecdsa().sign(&random, text).map_err(|_| unable())?;
                Ok(signed.as_ref().to_vec())
            }
            (Kind::Ed25519, "EdDSA") => Ok(self.ed25519().sign(text).as_ref().to_vec()),
            (Kind::Secret, _) => {
                let hash = match algorithm {
                    "HS256" => ring::hmac::HMAC_SHA256,
                    "HS384" => ring::hmac::HMAC_SHA384,
                    "HS512" => ring::hmac::HMAC_SHA512,
                    _ => return Err(unable()),
                };
                Ok(ring::hmac::sign(&ring::hmac::Key::new(hash, self.bytes), text).as_ref().to_vec())
            }
            _ => Err(unable()),
        }
    }

    /// The public half as a JWK (RFC 7517) whose `kid` is the key's name.
    #[must_use]
    pub fn jwk(self) -> String {
        let name = self.name;
        match self.kind {
            Kind::Rsa => {
                let public: ring::rsa::PublicKeyComponents<Vec<u8>> = self.rsa().public().into();
                let (n, e) = (base64url(&public.n), base64url(&public.e));
                format!(r#"{{"kid":"{name}","kty":"RSA","use":"sig","alg":"RS256","n":"{n}","e":"{e}"}}"#)
            }
            Kind::P256 | Kind::P384 => {
                let pair = self.ecdsa();
                let (curve, algorithm) =
                    if self.kind == Kind::P256 { ("P-256", "ES256") } else { ("P-384", "ES384") };
                // An uncompressed point (SEC 1): 4, x, y.
                let point = &pair.public_key().as_ref()[1..];
                let half = point.len() / 2;
                let (x, y) = (base64url(&point[..half]), base64url(&point[half..]));
                format!(
                    r#"{{"kid":"{name}","kty":"EC","use":"sig","alg":"{algorithm}","crv":"{curve}","x":"{x}","y":"{y}"}}"#
                )
            }
            Kind::Ed25519 => {
                let x = base64url(self.ed25519().public_key().as_ref());
                format!(
                    r#"{{"kid":"{name}","kty":"OKP","use":"sig","alg":"EdDSA","crv":"Ed25519","x":"{x}"}}"#
                )
            }
            Kind::Secret => {
                let k = base64url(self.bytes);
                format!(r#"{{"kid":"{name}","kty":"oct","use":"sig","alg":"HS256","k":"{k}"}}"#)
            }
        }
    }

    fn rsa(self) -> RsaKeyPair {
        RsaKeyPair::from_pkcs8(self.bytes).expect("the fixture is an RSA key")
    }

    fn ecdsa(self) -> EcdsaKeyPair {
        let algorithm = if self.kind == Kind::P256 {
            &signature::ECDSA_P256_SHA256_FIXED_SIGNING
        } else {
            &signature::ECDSA_P384_SHA384_FIXED_SIGNING
        };
        EcdsaKeyPair::from_pkcs8(algorithm, self.bytes, &SystemRandom::new())
            .expect("the fixture is an EC key")
    }

    fn ed25519(self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(self.bytes).expect("the fixture is an Ed25519 key")
    }
}

/// Base64url without padding (RFC 7515 section 2).
#[must_use]
pub fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::with_capacity(bytes.len() * 4 / 3 + 2);
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .enumerate()
            .fold(0_u32, |word, (index, byte)| word | u32::from(*byte) << (16 - 8 * index));
        for index in 0..=chunk.len() {
            out.push(char::from(LETTERS[(word >> (18 - 6 * index) & 63) as usize]));
        }
    }
    out
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The bytes of hexadecimal digits.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_is_rfc_4648() {
        for (bytes, text) in
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("fooba", "Zm9vYmE")]
        {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xff, 0xef, 0xbe]), "_---");
        assert_eq!(unhex(&hex(&[0, 0xe9, 0xff])), Some(vec![0, 0xe9, 0xff]));
    }

    #[test]
    fn every_key_signs_and_is_published() {
        for key in ALL {
            assert!(key.sign(key.default_algorithm(), b"text").unwrap().len() >= 32, "{}", key.name);
            let jwk: serde_json::Value = serde_json::from_str(&key.jwk()).unwrap();
            assert_eq!(jwk["kid"], key.name);
            assert!(key.sign("XX256", b"").is_err());
        }
        assert!(TestKey::named("rsa9").unwrap_err().contains("rsa1"));
    }
}
