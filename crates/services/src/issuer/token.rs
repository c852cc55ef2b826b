//! Tokens in compact serialization (RFC 7515, section 7.1), good and bad.

use base64::{
    Engine as _,
    engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use super::{Algorithm, Key, Keys};
use crate::{Error, Result};

/// `header.payload.signature` of any bytes; `sign` gets the signing input.
///
/// # Errors
/// What `sign` returns.
pub fn compact(header: &[u8], payload: &[u8], sign: impl FnOnce(&[u8]) -> Result<Vec<u8>>) -> Result<String> {
    let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = sign(input.as_bytes())?;
    Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// What can be wrong with a token although its claims are good: every verifier must refuse each of these.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Defect {
    /// One bit of the signature differs.
    SignatureChanged,
    /// The signature is empty.
    SignatureEmpty,
    /// The last part is missing altogether.
    SignatureMissing,
    /// The claims were exchanged after signing.
    ClaimsChanged,
    /// Signed by another key under the `kid` of the right one.
    WrongKey,
    /// `alg: none`, without a signature.
    AlgNone,
    /// `alg: HS256`, with the PEM of the public key as secret (algorithm confusion).
    HmacWithPublicKey,
    /// The `alg` of the header is not the one that was used.
    AlgMismatch,
    /// A `kid` that is not in the JWKS.
    UnknownKid,
    /// The parts are padded with `=`, which RFC 7515 forbids.
    Padded,
    /// A fourth part.
    ExtraPart,
    /// The header is not JSON.
    HeaderNotJson,
    /// The claims are a JSON array.
    ClaimsNotObject,
    /// An extension in `crit` that nobody understands (RFC 7515, section 4.1.11).
    UnknownCrit,
}

impl Defect {
    /// All of them.
    pub const ALL: [Defect; 14] = [
        Defect::SignatureChanged,
        Defect::SignatureEmpty,
        Defect::SignatureMissing,
        Defect::ClaimsChanged,
        Defect::WrongKey,
        Defect::AlgNone,
        Defect::HmacWithPublicKey,
        Defect::AlgMismatch,
        Defect::UnknownKid,
        Defect::Padded,
        Defect::ExtraPart,
        Defect::HeaderNotJson,
        Defect::ClaimsNotObject,
        Defect::UnknownCrit,
    ];
}

impl Keys {
    /// A token that is good but for one defect. `algorithm`: RS256 or ES256 (others of the RSA family count as RS256).
    ///
    /// # Errors
    /// When the algorithm has no key here.
    pub fn defective(&self, defect: Defect, algorithm: Algorithm, claims: &Value) -> Result<String> {
        let key = self.key(algorithm)?;
        let bad = Bad { key, algorithm: key.algorithm(), claims };
        match defect {
            Defect::SignatureChanged => bad.with_signature(|mut signature| {
                if let Some(byte) = signature.first_mut() {
                    *byte ^= 1;
                }
                signature
            }),
            Defect::SignatureEmpty => bad.with_signature(|_| Vec::new()),
            Defect::SignatureMissing => bad.edit(|[header, claims, _]| format!("{header}.{claims}")),
            Defect::ClaimsChanged => {
                let other = URL_SAFE_NO_PAD.encode(bad.other_claims().to_string());
                bad.edit(|[header, _, signature]| format!("{header}.{other}.{signature}"))
            }
            Defect::WrongKey => bad.signed_by(&bad.impostor()?),
            Defect::AlgNone => bad.build(&json!({"alg": "none", "typ": "JWT"}), claims, |_| Ok(Vec::new())),
            Defect::HmacWithPublicKey => {
                let secret = Key::hmac(key.kid(), key.public_pem()?);
                let header = json!({"alg": "HS256", "typ": "JWT", "kid": key.kid()});
                bad.build(&header, claims, |input| secret.signature(Algorithm::Hs256, input))
            }
            Defect::AlgMismatch => {
                let other = if bad.algorithm == Algorithm::Es256 { "RS256" } else { "ES256" };
                bad.with_header("alg", json!(other))
            }
            Defect::UnknownKid => bad.with_header("kid", json!("unknown")),
            Defect::Padded => bad.edit(|[header, claims, signature]| {
                let padded = |part: &str| URL_SAFE_NO_PAD.decode(part).map(|bytes| URL_SAFE.encode(bytes));
                // Signatures are 64 or 256 bytes long, so there is always something to pad.
                [header, claims, signature].map(|part| padded(part).unwrap_or_default()).join(".")
            }),
            Defect::ExtraPart => {
                bad.edit(|[header, claims, signature]| format!("{header}.{claims}.{signature}.e30"))
            }
            Defect::HeaderNotJson => {
                compact(b"{\"alg\":\"RS256\"", claims.to_string().as_bytes(), |input| bad.sign(input))
            }
            Defect::ClaimsNotObject => bad.build(&bad.header(), &json!([claims]), |input| bad.sign(input)),
            Defect::UnknownCrit => {
                let mut header = bad.header();
                set(&mut header, "crit", json!(["x-unknown"]));
                set(&mut header, "x-unknown", json!(true));
                bad.build(&header, claims, |input| bad.sign(input))
            }
        }
    }
}

/// What all defective tokens begin with.
struct Bad<'a> {
    key: &'a Key,
    algorithm: Algorithm,
    claims: &'a Value,
}

impl Bad<'_> {
    fn header(&self) -> Value {
        json!({"alg": self.algorithm.name(), "typ": "JWT", "kid": self.key.kid()})
    }

    fn sign(&self, input: &[u8]) -> Result<Vec<u8>> {
        self.key.signature(self.algorithm, input)
    }

    fn build(
        &self,
        header: &Value,
        claims: &Value,
        sign: impl FnOnce(&[u8]) -> Result<Vec<u8>>,
    ) -> Result<String> {
        compact(header.to_string().as_bytes(), claims.to_string().as_bytes(), sign)
    }

    fn with_signature(&self, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Result<String> {
        self.build(&self.header(), self.claims, |input| self.sign(input).map(change))
    }

    fn with_header(&self, name: &str, value: Value) -> Result<String> {
        let mut header = self.header();
        set(&mut header, name, value);
        self.build(&header, self.claims, |input| self.sign(input))
    }

    fn signed_by(&self, key: &Key) -> Result<String> {
        self.build(&self.header(), self.claims, |input| key.signature(self.algorithm, input))
    }

    /// Another key of the same kind.
    fn impostor(&self) -> Result<Key> {
        if self.algorithm == Algorithm::Es256 { Ok(Key::ec()) } else { Key::rsa() }
    }

    fn other_claims(&self) -> Value {
        let mut claims = self.claims.clone();
        set(&mut claims, "sub", json!("somebody-else"));
        claims
    }

    /// The good token's parts, put together otherwise.
    fn edit(&self, change: impl FnOnce([&str; 3]) -> String) -> Result<String> {
        let good = self.signed_by(self.key)?;
        let mut parts = good.split('.');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(header), Some(claims), Some(signature)) => Ok(change([header, claims, signature])),
            _ => Err(Error::Key("a compact token has three parts".to_owned())),
        }
    }
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}
