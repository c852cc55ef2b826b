//! Signing keys and their JWKS.

use std::{fmt, fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use p256::ecdsa::{Signature, SigningKey, signature::Signer};
use rsa::{
    Pkcs1v15Sign, RsaPrivateKey,
    pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, EncodePublicKey as _, LineEnding},
    rand_core::OsRng,
    traits::PublicKeyParts as _,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::token;
use crate::{Error, Result};

/// The size of RSA keys.
const RSA_BITS: usize = 2048;

/// How many keys that are no longer used stay in the JWKS at most.
const MAX_RETIRED: usize = 8;

/// A signature algorithm of RFC 7518, section 3.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// ECDSA on P-256 with SHA-256, as 64 bytes (r, s).
    Es256,
    /// HMAC with SHA-256.
    Hs256,
}

impl Algorithm {
    /// Its name in headers and JWKs.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Hs256 => "HS256",
        }
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        use Algorithm::{Es256, Hs256, Rs256, Rs384, Rs512};
        let known = [Rs256, Rs384, Rs512, Es256, Hs256];
        known.into_iter().find(|known| known.name() == text).ok_or_else(|| {
            Error::invalid("alg", format!("`{text}` is none of RS256, RS384, RS512, ES256, HS256"))
        })
    }
}

/// A key that signs.
#[derive(Clone)]
pub struct Key {
    kid: String,
    secret: Secret,
}

#[derive(Clone)]
enum Secret {
    Rsa(Box<RsaPrivateKey>),
    Ec(SigningKey),
    Hmac(Vec<u8>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl Key {
    /// A new RSA key of 2048 bits. Its `kid` is its thumbprint (RFC 7638).
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn rsa() -> Result<Self> {
        let key = RsaPrivateKey::new(&mut OsRng, RSA_BITS)
            .map_err(|error| Error::Key(format!("could not make an RSA key: {error}")))?;
        Ok(Self::named_by_thumbprint(Secret::Rsa(Box::new(key))))
    }

    /// A new P-256 key. Its `kid` is its thumbprint (RFC 7638).
    pub fn ec() -> Self {
        Self::named_by_thumbprint(Secret::Ec(SigningKey::random(&mut OsRng)))
    }

    /// A shared secret, for HS256.
    pub fn hmac(kid: impl Into<String>, secret: impl Into<Vec<u8>>) -> Self {
        Self { kid: kid.into(), secret: Secret::Hmac(secret.into()) }
    }

    /// A private key in PKCS#8 PEM, RSA or P-256.
    ///
    /// # Errors
    /// When it is neither.
    pub fn from_pem(pem: &str) -> Result<Self> {
        let secret = match (RsaPrivateKey::from_pkcs8_pem(pem), SigningKey::from_pkcs8_pem(pem)) {
            (Ok(key), _) => Secret::Rsa(Box::new(key)),
            (Err(_), Ok(key)) => Secret::Ec(key),
            (Err(rsa), Err(ec)) => {
                return Err(Error::Key(format!(
                    "neither an RSA key ({rsa}) nor a P-256 key ({ec}) in PKCS#8 PEM"
                )));
            }
        };
        Ok(Self::named_by_thumbprint(secret))
    }

    /// The same key under another `kid`.
    #[must_use]
    pub fn with_kid(mut self, kid: impl Into<String>) -> Self {
        self.kid = kid.into();
        self
    }

    /// Its `kid`.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The algorithm of its JWK.
    pub fn algorithm(&self) -> Algorithm {
        match self.secret {
            Secret::Rsa(_) => Algorithm::Rs256,
            Secret::Ec(_) => Algorithm::Es256,
            Secret::Hmac(_) => Algorithm::Hs256,
        }
    }

    /// Its JWK: of RSA and EC keys the public part; of a shared secret the secret itself.
    pub fn jwk(&self) -> Value {
        let mut jwk = members(&self.secret);
        for (name, value) in [("kid", self.kid.as_str()), ("use", "sig"), ("alg", self.algorithm().name())] {
            if let Some(fields) = jwk.as_object_mut() {
                fields.insert(name.to_owned(), Value::from(value));
            }
        }
        jwk
    }

    /// The raw JWS signature over `input`.
    ///
    /// # Errors
    /// When the algorithm does not fit the key.
    pub fn signature(&self, algorithm: Algorithm, input: &[u8]) -> Result<Vec<u8>> {
        let failed = |error: String| Error::Key(format!("could not sign: {error}"));
        match (&self.secret, algorithm) {
            (Secret::Rsa(key), Algorithm::Rs256) => key
                .sign(Pkcs1v15Sign::new::<Sha256>(), &Sha256::digest(input))
                .map_err(|e| failed(e.to_string())),
            (Secret::Rsa(key), Algorithm::Rs384) => key
                .sign(Pkcs1v15Sign::new::<Sha384>(), &Sha384::digest(input))
                .map_err(|e| failed(e.to_string())),
            (Secret::Rsa(key), Algorithm::Rs512) => key
                .sign(Pkcs1v15Sign::new::<Sha512>(), &Sha512::digest(input))
                .map_err(|e| failed(e.to_string())),
            (Secret::Ec(key), Algorithm::Es256) => Ok(Signer::<Signature>::sign(key, input).to_vec()),
            (Secret::Hmac(secret), Algorithm::Hs256) => {
                let mut mac =
                    Hmac::<Sha256>::new_from_slice(secret).map_err(|error| failed(error.to_string()))?;
                mac.update(input);
                Ok(mac.finalize().into_bytes().to_vec())
            }
            (_, algorithm) => {
                Err(Error::Key(format!("the key `{}` cannot make {}", self.kid, algorithm.name())))
            }
        }
    }

    /// The public key as SubjectPublicKeyInfo PEM; of a shared secret there is none.
    ///
    /// # Errors
    /// When there is none, or it cannot be encoded.
    pub fn public_pem(&self) -> Result<String> {
        let pem = match &self.secret {
            Secret::Rsa(key) => key.to_public_key().to_public_key_pem(LineEnding::LF),
            Secret::Ec(key) => key.verifying_key().to_public_key_pem(LineEnding::LF),
            Secret::Hmac(_) => return Err(Error::Key(format!("the key `{}` has no public part", self.kid))),
        };
        pem.map_err(|error| Error::Key(format!("could not encode the key `{}`: {error}", self.kid)))
    }

    fn private_pem(&self) -> Result<String> {
        let pem = match &self.secret {
            Secret::Rsa(key) => key.to_pkcs8_pem(LineEnding::LF),
            Secret::Ec(key) => key.to_pkcs8_pem(LineEnding::LF),
            Secret::Hmac(_) => return Err(Error::Key("a shared secret has no PEM form".to_owned())),
        };
        pem.map(|pem| pem.to_string())
            .map_err(|error| Error::Key(format!("could not encode the key `{}`: {error}", self.kid)))
    }

    fn named_by_thumbprint(secret: Secret) -> Self {
        // RFC 7638: the required members in alphabetical order, without spaces.
        let jwk = members(&secret);
        let sorted: std::collections::BTreeMap<_, _> = jwk.as_object().into_iter().flatten().collect();
        let text = json!(sorted).to_string();
        Self { kid: URL_SAFE_NO_PAD.encode(Sha256::digest(text)), secret }
    }
}

/// The members of a JWK that make the key (RFC 7518, section 6).
fn members(secret: &Secret) -> Value {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    match secret {
        Secret::Rsa(key) => {
            json!({"e": encode(&key.e().to_bytes_be()), "kty": "RSA", "n": encode(&key.n().to_bytes_be())})
        }
        Secret::Ec(key) => {
            let point = key.verifying_key().to_encoded_point(false);
            let coordinate = |bytes: Option<&p256::FieldBytes>| bytes.map(|b| encode(b)).unwrap_or_default();
            json!({"crv": "P-256", "kty": "EC", "x": coordinate(point.x()), "y": coordinate(point.y())})
        }
        Secret::Hmac(secret) => json!({"k": encode(secret), "kty": "oct"}),
    }
}

/// The keys of an issuer: one RSA and one EC key that sign, and those that signed before.
#[derive(Clone, Debug)]
pub struct Keys {
    rsa: Key,
    ec: Key,
    retired: Vec<Key>,
}

impl Keys {
    /// New keys (an RSA key takes some tenths of a second, also in a debug build).
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn generate() -> Result<Self> {
        Ok(Self { rsa: Key::rsa()?, ec: Key::ec(), retired: Vec::new() })
    }

    /// The keys in `dir` (`rs256.pem`, `es256.pem`), made and written there (mode 600) when there are none.
    ///
    /// # Errors
    /// When the files cannot be read, understood or written.
    pub fn load_or_generate(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(Error::io(format!("could not make `{}`", dir.display())))?;
        Ok(Self {
            rsa: load_or(&dir.join("rs256.pem"), Algorithm::Rs256, Key::rsa)?,
            ec: load_or(&dir.join("es256.pem"), Algorithm::Es256, || Ok(Key::ec()))?,
            retired: Vec::new(),
        })
    }

    /// Writes the keys where [`Keys::load_or_generate`] finds them.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        write_private(&dir.join("rs256.pem"), &self.rsa.private_pem()?)?;
        write_private(&dir.join("es256.pem"), &self.ec.private_pem()?)
    }

    /// The key that signs with `algorithm`.
    ///
    /// # Errors
    /// For algorithms that need a shared secret: there is none.
    pub fn key(&self, algorithm: Algorithm) -> Result<&Key> {
        match algorithm {
            Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512 => Ok(&self.rsa),
            Algorithm::Es256 => Ok(&self.ec),
            Algorithm::Hs256 => Err(Error::invalid("alg", "this issuer has no shared secret, so no HS256")),
        }
    }

    /// The JWK set (RFC 7517): the signing keys first.
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = [&self.rsa, &self.ec].into_iter().chain(&self.retired).map(Key::jwk).collect();
        json!({"keys": keys})
    }

    /// New keys sign from now on; the old ones stay in the JWKS until [`Keys::forget`] (the newest 8 of them).
    /// Returns the old ones' `kid`s.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn rotate(&mut self) -> Result<[String; 2]> {
        let fresh = Self::generate()?;
        Ok(self.replace(fresh))
    }

    pub(super) fn replace(&mut self, fresh: Self) -> [String; 2] {
        let old = [std::mem::replace(&mut self.rsa, fresh.rsa), std::mem::replace(&mut self.ec, fresh.ec)];
        let kids = old.clone().map(|key| key.kid);
        self.retired.splice(0..0, old);
        self.retired.truncate(MAX_RETIRED);
        kids
    }

    /// Removes retired keys from the JWKS.
    pub fn forget(&mut self, kids: &[String]) {
        self.retired.retain(|key| !kids.contains(&key.kid));
    }

    /// A signed token. `header` may set anything; missing are added: `alg` (RS256), `typ` (JWT) and the `kid` of the key
    /// for that `alg`. A member that is `null` is left out. `claims` are taken as they are.
    ///
    /// # Errors
    /// When `alg` is unknown.
    pub fn sign(&self, header: &Value, claims: &Value) -> Result<String> {
        let algorithm = match header.get("alg") {
            Some(Value::String(name)) => name.parse()?,
            None => Algorithm::Rs256,
            Some(other) => return Err(Error::invalid("alg", format!("`{other}` is not a string"))),
        };
        let key = self.key(algorithm)?;
        let mut full = json!({"alg": algorithm.name(), "typ": "JWT", "kid": key.kid});
        if let (Some(full), Some(given)) = (full.as_object_mut(), header.as_object()) {
            full.extend(given.clone());
            full.retain(|_, value| !value.is_null());
        }
        token::compact(full.to_string().as_bytes(), claims.to_string().as_bytes(), |input| {
            key.signature(algorithm, input)
        })
    }
}

fn load_or(path: &Path, algorithm: Algorithm, make: impl FnOnce() -> Result<Key>) -> Result<Key> {
    let unusable =
        |why: String| Error::Key(format!("`{}`: {why}; remove it to get a new one", path.display()));
    match fs::read_to_string(path) {
        Ok(pem) => {
            let key = Key::from_pem(&pem).map_err(|error| unusable(error.to_string()))?;
            let fits = key.algorithm() == algorithm;
            if fits { Ok(key) } else { Err(unusable(format!("not a key for {}", algorithm.name()))) }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = make()?;
            write_private(path, &key.private_pem()?)?;
            Ok(key)
        }
        Err(error) => Err(Error::io(format!("could not read `{}`", path.display()))(error)),
    }
}

/// Renamed into place, so that a killed issuer leaves no half key.
fn write_private(path: &Path, pem: &str) -> Result<()> {
    let doing = || Error::io(format!("could not write `{}`", path.display()));
    let partial = path.with_extension("pem.partial");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .map_err(doing())?;
    file.write_all(pem.as_bytes()).map_err(doing())?;
    fs::rename(&partial, path).map_err(doing())
}
