//! The signature algorithms of RFC 7518 and RFC 8037.

use crate::Refusal;

/// The hash of a signature algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// Its name in Envoy's `verify_signature`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Bytes of its output.
    #[must_use]
    pub const fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// An elliptic curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
}

impl Curve {
    pub(crate) const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// Its name in a JWK (`crv`).
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    /// Bytes of a coordinate, and of each half of a signature.
    #[must_use]
    pub const fn length(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    /// Its encoded object identifier (RFC 5480 2.1.1.1).
    pub(crate) const fn identifier(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
            Self::P384 => &[0x06, 5, 0x2b, 0x81, 0x04, 0x00, 0x22],
            Self::P521 => &[0x06, 5, 0x2b, 0x81, 0x04, 0x00, 0x23],
        }
    }
}

/// A family of keys: what an algorithm needs, and what a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `kty: RSA`.
    Rsa,
    /// `kty: EC`, on a curve.
    Ec(Curve),
    /// `kty: OKP`, `crv: Ed25519`.
    Ed25519,
    /// `kty: oct`: whoever verifies can sign.
    Secret,
}

/// How a signature is made with a key of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5 (RFC 7518 3.3).
    Pkcs1,
    /// RSASSA-PSS, salt as long as the hash (RFC 7518 3.5).
    Pss,
    /// ECDSA (RFC 7518 3.4).
    Ecdsa,
    /// EdDSA with Ed25519 (RFC 8037 3.1).
    EdDsa,
    /// HMAC (RFC 7518 3.2).
    Hmac,
}

/// A signature algorithm (`alg`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Algorithm {
    /// Its name in `alg`.
    pub name: &'static str,
    /// The keys that it takes.
    pub family: Family,
    /// How it signs.
    pub scheme: Scheme,
    /// The hash; EdDSA hashes by itself, with SHA-512.
    pub hash: Hash,
}

const fn row(name: &'static str, family: Family, scheme: Scheme, hash: Hash) -> Algorithm {
    Algorithm { name, family, scheme, hash }
}

impl Algorithm {
    /// Every algorithm of RFC 7518 3.1 and RFC 8037 but `none`.
    pub const ALL: [Self; 13] = [
        row("RS256", Family::Rsa, Scheme::Pkcs1, Hash::Sha256),
        row("RS384", Family::Rsa, Scheme::Pkcs1, Hash::Sha384),
        row("RS512", Family::Rsa, Scheme::Pkcs1, Hash::Sha512),
        row("ES256", Family::Ec(Curve::P256), Scheme::Ecdsa, Hash::Sha256),
        row("ES384", Family::Ec(Curve::P384), Scheme::Ecdsa, Hash::Sha384),
        row("ES512", Family::Ec(Curve::P521), Scheme::Ecdsa, Hash::Sha512),
        row("PS256", Family::Rsa, Scheme::Pss, Hash::Sha256),
        row("PS384", Family::Rsa, Scheme::Pss, Hash::Sha384),
        row("PS512", Family::Rsa, Scheme::Pss, Hash::Sha512),
        row("EdDSA", Family::Ed25519, Scheme::EdDsa, Hash::Sha512),
        row("HS256", Family::Secret, Scheme::Hmac, Hash::Sha256),
        row("HS384", Family::Secret, Scheme::Hmac, Hash::Sha384),
        row("HS512", Family::Secret, Scheme::Hmac, Hash::Sha512),
    ];

    /// The algorithm with this name; RFC 7518 compares names exactly.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name == name)
    }

    /// The algorithm of a token's header.
    pub(crate) fn of_header(name: &[u8]) -> Result<Self, Refusal> {
        // `None` and `nOnE` are refused under the same name as `none`: they are the same attack.
        if name.eq_ignore_ascii_case(b"none") {
            return Err(Refusal::AlgNone);
        }
        let known = Self::ALL.into_iter().find(|algorithm| algorithm.name.as_bytes() == name);
        known.ok_or(Refusal::AlgUnknown)
    }
}

/// A set of algorithms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Algorithms(u16);

impl Algorithms {
    /// None.
    pub const NONE: Self = Self(0);

    /// All of them: the full build.
    pub const ALL: Self = Self((1 << Algorithm::ALL.len()) - 1);

    /// All but PS256, PS384 and PS512, which Envoy's `verify_signature` has not (`envoy-wasm.md` 2.1): the usual build.
    pub const USUAL: Self = Self(Self::ALL.0 & !0b1_1100_0000);

    /// The set and one more.
    #[must_use]
    pub fn with(self, algorithm: Algorithm) -> Self {
        Self(self.0 | Self::bit(algorithm))
    }

    /// Whether an algorithm is in it.
    #[must_use]
    pub fn contains(self, algorithm: Algorithm) -> bool {
        self.0 & Self::bit(algorithm) != 0
    }

    fn bit(algorithm: Algorithm) -> u16 {
        let place = Algorithm::ALL.iter().position(|known| known.name == algorithm.name);
        place.map_or(0, |place| 1 << place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_usual_build_lacks_pss_alone() {
        for algorithm in Algorithm::ALL {
            assert!(Algorithms::ALL.contains(algorithm) && !Algorithms::NONE.contains(algorithm));
            assert!(Algorithms::NONE.with(algorithm).contains(algorithm));
            assert_eq!(
                Algorithms::USUAL.contains(algorithm),
                algorithm.scheme != Scheme::Pss,
                "{algorithm:?}"
            );
            assert_eq!(Algorithm::named(algorithm.name), Some(algorithm));
        }
    }
}
