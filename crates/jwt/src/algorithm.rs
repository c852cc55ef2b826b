//! The signature algorithms of RFC 7518 that the host verifies.

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
    pub(crate) const fn length(self) -> usize {
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
    /// RSASSA-PKCS1-v1_5.
    Rsa,
    /// ECDSA on a curve.
    Ec(Curve),
}

/// A signature algorithm (`alg`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Algorithm {
    /// Its name in `alg`.
    pub name: &'static str,
    /// The keys that it takes.
    pub family: Family,
    /// The hash.
    pub hash: Hash,
}

impl Algorithm {
    /// Those that this build verifies. PS*, EdDSA and HS* are not among them: the host cannot verify them
    /// (`envoy-wasm.md` 2.1).
    pub const ALL: [Self; 6] = [
        Self { name: "RS256", family: Family::Rsa, hash: Hash::Sha256 },
        Self { name: "RS384", family: Family::Rsa, hash: Hash::Sha384 },
        Self { name: "RS512", family: Family::Rsa, hash: Hash::Sha512 },
        Self { name: "ES256", family: Family::Ec(Curve::P256), hash: Hash::Sha256 },
        Self { name: "ES384", family: Family::Ec(Curve::P384), hash: Hash::Sha384 },
        Self { name: "ES512", family: Family::Ec(Curve::P521), hash: Hash::Sha512 },
    ];

    /// The algorithm with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name == name)
    }

    /// The algorithm of a token's header.
    pub(crate) fn of_header(name: &str) -> Result<Self, Refusal> {
        // RFC 7518 compares names exactly; `None` and `nOnE` are refused under the same name all the same, since they
        // are the same attack.
        if name.eq_ignore_ascii_case("none") {
            return Err(Refusal::AlgNone);
        }
        Self::named(name).ok_or(Refusal::AlgUnsupported)
    }
}
