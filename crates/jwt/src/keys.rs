//! Key sets (RFC 7517), read once: what is left is what a signature check needs.

use std::fmt;

use sailcloth_core::config::{Node, Value};
use sailcloth_core::secret::Secret;

use crate::algorithm::{Algorithm, Algorithms, Curve, Family, Hash};
use crate::jws::{Jws, decode};
use crate::local::{Ed25519, verify_hmac};
use crate::{Environment, Refusal, Verifier, der};

/// RFC 7518 3.3: "A key of size 2048 bits or larger MUST be used".
const MIN_RSA_BITS: usize = 2048;
/// Longer moduli only cost time; no issuer has them.
const MAX_RSA_BITS: usize = 8192;
/// BoringSSL takes no exponents past 33 bits.
const MAX_EXPONENT_BYTES: usize = 4;
/// A token without `kid` is tried with every key that fits, so their number bounds the work of one request.
const MAX_KEYS: usize = 100;

/// Where a key set comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The configuration (`jwks`).
    Inline,
    /// The network (`jwksUri`, discovery): what anybody can fetch holds no secret.
    Fetched,
}

/// A key.
struct Key {
    /// `kid`.
    id: Option<String>,
    /// `alg`: the one algorithm it is for; absent: any of its family.
    algorithm: Option<Algorithm>,
    material: Material,
}

enum Material {
    /// SubjectPublicKeyInfo in DER.
    Rsa(Vec<u8>),
    /// SubjectPublicKeyInfo in DER.
    Ec(Curve, Vec<u8>),
    Ed25519(Box<Ed25519>),
    Secret(Secret<Vec<u8>>),
}

/// A key set.
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// Reads a key set. A key that cannot be used is left out with a warning, as RFC 7517 5 asks: sets of real issuers
    /// hold keys for other purposes. Fewer keys accept fewer tokens, never more. No message repeats key material.
    #[must_use]
    pub fn read(value: &Value<'_>, origin: Origin, environment: &Environment) -> Option<Self> {
        if value.node().has_duplicate_keys() {
            value.error("has a member twice; keep one");
            return None;
        }
        let Some(Node::List(items)) = value.node().field("keys") else {
            value.error("is not a key set: it needs `keys`, a list (RFC 7517)");
            return None;
        };
        if items.len() > MAX_KEYS {
            value.error(format!("holds {} keys; at most {MAX_KEYS} are allowed", items.len()));
            return None;
        }
        let path = value.path().key("keys");
        let keys = items.iter().enumerate().filter_map(|(index, item)| {
            let place = Value::at(item, path.index(index), value.problems());
            read_key(&place, origin, environment)
                .map_err(|why| place.warn(format!("is not used: {why}")))
                .ok()
        });
        let keys: Vec<Key> = keys.collect();
        if keys.is_empty() {
            value.error("holds no key that can be used; the warnings say why for each");
            return None;
        }
        let set = Self(keys);
        // A fetched set is what the issuer makes it; the configuration can be put right.
        (origin == Origin::Fetched || set.is_clear(value, items)).then_some(set)
    }

    /// Whether it is clear which key is meant, and that no secret is published with the public keys.
    fn is_clear(&self, value: &Value<'_>, items: &[Node]) -> bool {
        let secrets = self.0.iter().filter(|key| key.material.family() == Family::Secret).count();
        if secrets > 0 && secrets < self.0.len() {
            value.error("holds secrets (`kty` `oct`) and public keys; give the secrets a rule of their own");
            return false;
        }
        let same = |one: &Node, other: &Node| {
            let agree = |name| one.field(name) == other.field(name);
            one.field("kid").is_some() && agree("kid") && agree("kty") && agree("use")
        };
        let twice = |(index, one): (usize, &Node)| items.iter().skip(index + 1).any(|other| same(one, other));
        if items.iter().enumerate().any(twice) {
            value
                .error("holds two keys of one type with the same `kid`; keep one, or give one another `kid`");
            return false;
        }
        true
    }

    /// How many keys can be used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no key can be used; a set that was read has at least one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it has a key of just this `kid`.
    pub(crate) fn names(&self, id: &[u8]) -> bool {
        self.0.iter().any(|key| key.id.as_ref().is_some_and(|own| own.as_bytes() == id))
    }

    /// Verifies the signature of a token with the keys that fit: `kid` is compared where both have one, `alg` and type
    /// always.
    ///
    /// # Errors
    /// The nearest miss: a wrong signature before a key for another algorithm before no such `kid`.
    pub fn verify(&self, jws: &Jws<'_>, verifier: &impl Verifier) -> Result<(), Refusal> {
        let mut refusal = Refusal::UnknownKid;
        for key in self.0.iter().filter(|key| key.has_id(jws.key_id.as_deref())) {
            match key.verify(jws, verifier) {
                Err(miss) if miss < Refusal::CannotVerify => refusal = refusal.max(miss),
                decided => return decided,
            }
        }
        Err(refusal)
    }
}

impl Key {
    fn has_id(&self, wanted: Option<&[u8]>) -> bool {
        match (&self.id, wanted) {
            (Some(id), Some(wanted)) => id.as_bytes() == wanted,
            _ => true,
        }
    }

    fn verify(&self, jws: &Jws<'_>, verifier: &impl Verifier) -> Result<(), Refusal> {
        let wanted = self.algorithm.is_none_or(|algorithm| algorithm == jws.algorithm);
        if !wanted || self.material.family() != jws.algorithm.family {
            return Err(Refusal::KeyAlgMismatch);
        }
        let public =
            |key: &[u8], signature: &[u8]| verifier.verify(jws.algorithm, key, signature, jws.signed);
        let verified = match &self.material {
            Material::Rsa(key) => public(key, &jws.signature),
            Material::Ec(curve, key) => match der::ecdsa_signature(&jws.signature, curve.length()) {
                Some(signature) => public(key, &signature),
                None => Ok(false),
            },
            Material::Ed25519(key) => Ok(key.verify(&jws.signature, jws.signed)),
            // RFC 7518 3.2: a key as long as the hash, or longer.
            Material::Secret(secret) if secret.expose().len() < jws.algorithm.hash.length() => {
                return Err(Refusal::KeyAlgMismatch);
            }
            Material::Secret(secret) => {
                Ok(verify_hmac(jws.algorithm.hash, secret.expose(), &jws.signature, jws.signed))
            }
        };
        match verified {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::BadSignature),
            Err(_) => Err(Refusal::CannotVerify),
        }
    }
}

impl Material {
    fn family(&self) -> Family {
        match self {
            Self::Rsa(_) => Family::Rsa,
            Self::Ec(curve, _) => Family::Ec(*curve),
            Self::Ed25519(_) => Family::Ed25519,
            Self::Secret(_) => Family::Secret,
        }
    }
}

/// Reads a key, or says why it cannot be used.
fn read_key(place: &Value<'_>, origin: Origin, environment: &Environment) -> Result<Key, String> {
    let jwk = place.node();
    if !matches!(jwk, Node::Map(_)) {
        return Err(format!("expected an object, found {}", jwk.kind()));
    }
    if jwk.field("d").is_some() {
        place.warn("holds a private key (`d`); publish only the public part, and replace this key");
    }
    let family = match text(jwk, "kty")? {
        Some("RSA") => Family::Rsa,
        Some("EC") => Family::Ec(read_curve(jwk)?),
        Some("OKP") => read_edwards(jwk)?,
        Some("oct") => Family::Secret,
        Some(_) => return Err("only `kty` `RSA`, `EC`, `OKP` and `oct` are supported".to_owned()),
        None => return Err("`kty` is missing".to_owned()),
    };
    check_purpose(jwk)?;
    let algorithm = read_algorithm(jwk, family, environment.algorithms)?;
    let material = match family {
        Family::Rsa => Material::Rsa(rsa_key(jwk)?),
        Family::Ec(curve) => Material::Ec(curve, ec_key(jwk, curve)?),
        Family::Ed25519 => Material::Ed25519(Box::new(ed25519_key(jwk)?)),
        Family::Secret if origin == Origin::Fetched => {
            return Err(
                "it is a secret (`kty` `oct`), and whoever can fetch it can sign; give it inline as `jwks`"
                    .to_owned(),
            );
        }
        Family::Secret => Material::Secret(secret_key(place, algorithm, environment)?),
    };
    let id = text(jwk, "kid")?.filter(|id| !id.is_empty()).map(str::to_owned);
    Ok(Key { id, algorithm, material })
}

/// RFC 7517 4.2 and 4.3: a key for encryption verifies no signature.
fn check_purpose(jwk: &Node) -> Result<(), String> {
    if text(jwk, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err("`use` is not `sig`".to_owned());
    }
    match jwk.field("key_ops") {
        None => Ok(()),
        Some(Node::List(operations)) if operations.iter().any(|one| one.text() == Some("verify")) => Ok(()),
        Some(_) => Err("`key_ops` is not a list with `verify`".to_owned()),
    }
}

fn read_algorithm(jwk: &Node, family: Family, algorithms: Algorithms) -> Result<Option<Algorithm>, String> {
    let Some(name) = text(jwk, "alg")? else { return Ok(None) };
    let algorithm =
        Algorithm::named(name).ok_or("`alg` is no signature algorithm of RFC 7518 or RFC 8037")?;
    if algorithm.family != family {
        return Err("`alg` is for another type of key or another curve".to_owned());
    }
    if !algorithms.contains(algorithm) {
        return Err(format!("`alg` {name} needs the full build of this filter, jwt-full.wasm"));
    }
    Ok(Some(algorithm))
}

/// `crv`; where it is absent `alg` implies it, and P-256 is what Envoy takes.
fn read_curve(jwk: &Node) -> Result<Curve, String> {
    match text(jwk, "crv")? {
        Some(name) => Curve::ALL
            .into_iter()
            .find(|curve| curve.name() == name)
            .ok_or_else(|| "only `crv` `P-256`, `P-384` and `P-521` are supported".to_owned()),
        None => Ok(match text(jwk, "alg")?.and_then(Algorithm::named) {
            Some(Algorithm { family: Family::Ec(curve), .. }) => curve,
            _ => Curve::P256,
        }),
    }
}

/// `crv` of an Edwards key (RFC 8037 2); Envoy has Ed25519 only, too.
fn read_edwards(jwk: &Node) -> Result<Family, String> {
    match text(jwk, "crv")? {
        Some("Ed25519") => Ok(Family::Ed25519),
        _ => Err("only `crv` `Ed25519` is supported for `kty` `OKP`".to_owned()),
    }
}

fn rsa_key(jwk: &Node) -> Result<Vec<u8>, String> {
    let modulus = number(jwk, "n")?;
    let exponent = number(jwk, "e")?;
    let bits = bits(&modulus);
    if bits < MIN_RSA_BITS {
        return Err(format!("an RSA key of {bits} bits is too weak; RFC 7518 wants at least {MIN_RSA_BITS}"));
    }
    if bits > MAX_RSA_BITS {
        return Err(format!("an RSA key of {bits} bits is too long; at most {MAX_RSA_BITS} are supported"));
    }
    if has_roca_mark(&modulus) {
        return Err("this RSA key has the mark of CVE-2017-15361 (ROCA): it can be factored".to_owned());
    }
    let odd = exponent.last().is_some_and(|byte| byte % 2 == 1);
    if !odd || exponent == [1] || exponent.len() > MAX_EXPONENT_BYTES {
        return Err("`e` is not a usable exponent; nearly every key has `AQAB`".to_owned());
    }
    Ok(der::rsa_key(&modulus, &exponent))
}

/// Whether a modulus was made by the generator of CVE-2017-15361: modulo small primes such a modulus is always a power
/// of 65537, another one is by a chance of about 2^-27 (Nemec et al., CCS 2017, section 2.3).
fn has_roca_mark(modulus: &[u8]) -> bool {
    const PRIMES: [u32; 17] = [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];
    PRIMES.iter().all(|prime| {
        let rest = modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let powers = std::iter::successors(Some(1), |power| Some(power * 65537 % prime));
        powers.take(157).any(|power| power == rest)
    })
}

fn ec_key(jwk: &Node, curve: Curve) -> Result<Vec<u8>, String> {
    let coordinate = |name| {
        let number = number(jwk, name)?;
        // RFC 7518 6.2.1.2 wants the full length; leading zeros that were dropped are harmless.
        let missing = curve.length().checked_sub(number.len());
        let missing = missing.ok_or_else(|| format!("`{name}` is too long for {}", curve.name()))?;
        Ok::<_, String>([vec![0; missing], number].concat())
    };
    Ok(der::ec_key(curve.identifier(), &coordinate("x")?, &coordinate("y")?))
}

fn ed25519_key(jwk: &Node) -> Result<Ed25519, String> {
    Ed25519::read(&bytes(jwk, "x")?).ok_or_else(|| "`x` is no public key of Ed25519".to_owned())
}

/// `k`, or the variable of the VM's environment that `${env:NAME}` names and that holds what `k` would.
fn secret_key(
    place: &Value<'_>,
    algorithm: Option<Algorithm>,
    environment: &Environment,
) -> Result<Secret<Vec<u8>>, String> {
    let written = text(place.node(), "k")?.ok_or("`k` is missing")?;
    let secret = match written.strip_prefix("${env:").and_then(|rest| rest.strip_suffix('}')) {
        Some(name) => {
            let value = (environment.variable)(name);
            let value = value.ok_or_else(|| format!("the VM's environment has no variable `{name}`"))?;
            decode(value.trim().as_bytes())
        }
        None => {
            place.warn("holds a secret in the configuration; write `${env:NAME}` as its `k` instead");
            decode(written.as_bytes())
        }
    };
    let secret = secret.ok_or("`k` is not base64url without padding")?;
    let least = algorithm.map_or(Hash::Sha256, |algorithm| algorithm.hash).length();
    if secret.len() < least {
        return Err(format!(
            "a secret of {} bytes is too weak; RFC 7518 wants at least {least}",
            secret.len()
        ));
    }
    Ok(Secret::new(secret))
}

/// An unsigned big-endian number in base64url, without leading zeros.
fn number(jwk: &Node, name: &str) -> Result<Vec<u8>, String> {
    Ok(bytes(jwk, name)?.into_iter().skip_while(|byte| *byte == 0).collect())
}

/// Bytes in base64url.
fn bytes(jwk: &Node, name: &str) -> Result<Vec<u8>, String> {
    let text = text(jwk, name)?.ok_or_else(|| format!("`{name}` is missing"))?;
    decode(text.as_bytes()).ok_or_else(|| format!("`{name}` is not base64url without padding"))
}

fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

fn text<'n>(jwk: &'n Node, name: &str) -> Result<Option<&'n str>, String> {
    match jwk.field(name) {
        None => Ok(None),
        Some(Node::Text(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{name}` is not a string")),
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("family", &self.material.family()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use sailcloth_core::config::Problems;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// The base point of Ed25519 (RFC 8032 5.1), compressed.
    const BASE_POINT: [u8; 32] = {
        let mut point = [0x66; 32];
        point[0] = 0x58;
        point
    };
    const X: &str = "EB54wykhS7YJFD6RYJNnwbWEz3cI7CF5bCDTXlrwI5k";
    const Y: &str = "92bCBTvMFQ8lKbS2MbgjT3YfmYo6HnPEE2tsAqWUJw8";

    const ENVIRONMENT: Environment = Environment {
        algorithms: Algorithms::ALL,
        variable: |name| (name == "SECRET").then(|| URL_SAFE_NO_PAD.encode([7; 32])),
    };

    fn read(json: &str) -> (Option<KeySet>, Vec<String>, Vec<String>) {
        let node = Node::from_json(json.as_bytes()).unwrap();
        let problems = Problems::default();
        let set = KeySet::read(&Value::root(&node, &problems), Origin::Inline, &ENVIRONMENT);
        (set, problems.errors(), problems.warnings())
    }

    fn rsa(bits: usize, rest: &str) -> String {
        let mut modulus = vec![0xff; bits.div_ceil(8)];
        modulus[0] = 0xff >> (modulus.len() * 8 - bits);
        format!(r#"{{"kty":"RSA","e":"AQAB","n":"{}"{rest}}}"#, URL_SAFE_NO_PAD.encode(modulus))
    }

    fn ec(rest: &str) -> String {
        format!(r#"{{"kty":"EC","x":"{X}","y":"{Y}"{rest}}}"#)
    }

    fn edwards(x: &[u8]) -> String {
        format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#, URL_SAFE_NO_PAD.encode(x))
    }

    fn oct(k: &str, rest: &str) -> String {
        format!(r#"{{"kty":"oct","k":"{k}"{rest}}}"#)
    }

    fn usable(key: &str) -> Result<(), String> {
        let (set, _, warnings) = read(&format!(r#"{{"keys":[{key}]}}"#));
        set.map(|_| ()).ok_or_else(|| warnings.join("\n"))
    }

    #[test]
    fn keys_for_signatures_are_used() {
        for key in [
            rsa(2048, ""),
            rsa(8192, r#","alg":"RS512","use":"sig","kid":"k","x5c":["unread"]"#),
            ec(""),
            ec(r#","crv":"P-256","alg":"ES256","key_ops":["verify"]"#),
            rsa(2048, r#","alg":"PS384""#),
            edwards(&BASE_POINT),
            edwards(&BASE_POINT).replace('}', r#","alg":"EdDSA","use":"sig"}"#),
            oct(&URL_SAFE_NO_PAD.encode([1; 64]), r#","alg":"HS512""#),
            oct("${env:SECRET}", ""),
        ] {
            assert_eq!(usable(&key), Ok(()), "{key}");
        }
    }

    #[test]
    fn keys_that_cannot_be_used_say_why() {
        for (key, why) in [
            ("5".to_owned(), "expected an object, found a number"),
            ("{}".to_owned(), "`kty` is missing"),
            (r#"{"kty":5}"#.to_owned(), "`kty` is not a string"),
            (r#"{"kty":"DH"}"#.to_owned(), "only `kty` `RSA`, `EC`, `OKP` and `oct`"),
            (r#"{"kty":"oct"}"#.to_owned(), "`k` is missing"),
            (r#"{"kty":"oct","k":"AAAA"}"#.to_owned(), "a secret of 3 bytes is too weak"),
            (
                oct("${env:SECRET}", r#","alg":"HS512""#),
                "a secret of 32 bytes is too weak; RFC 7518 wants at least 64",
            ),
            (oct("${env:OTHER}", ""), "the VM's environment has no variable `OTHER`"),
            (r#"{"kty":"OKP","crv":"Ed25519"}"#.to_owned(), "`x` is missing"),
            (r#"{"kty":"OKP","crv":"X25519","x":"AA"}"#.to_owned(), "only `crv` `Ed25519`"),
            (r#"{"kty":"OKP","crv":"Ed448","x":"AA"}"#.to_owned(), "only `crv` `Ed25519`"),
            (r#"{"kty":"OKP","x":"AA"}"#.to_owned(), "only `crv` `Ed25519`"),
            (edwards(&[1; 31]), "`x` is no public key of Ed25519"),
            // The neutral element: of order 1, with which every signature of zeros would be valid.
            (
                edwards(&{
                    let mut one = [0; 32];
                    one[0] = 1;
                    one
                }),
                "`x` is no public key of Ed25519",
            ),
            (rsa(2047, ""), "an RSA key of 2047 bits is too weak"),
            (rsa(1024, ""), "an RSA key of 1024 bits is too weak"),
            (rsa(8193, ""), "an RSA key of 8193 bits is too long"),
            (rsa(2048, r#","alg":"RS1""#), "`alg` is no signature algorithm"),
            (rsa(2048, r#","alg":"none""#), "`alg` is no signature algorithm"),
            (rsa(2048, r#","alg":"HS256""#), "another type of key"),
            (edwards(&[9; 32]).replace('}', r#","alg":"ES256"}"#), "another type of key"),
            (rsa(2048, r#","alg":"ES256""#), "another type of key"),
            (rsa(2048, r#","use":"enc""#), "`use` is not `sig`"),
            (rsa(2048, r#","key_ops":["sign"]"#), "`key_ops`"),
            (rsa(2048, r#","kid":7"#), "`kid` is not a string"),
            (r#"{"kty":"RSA","e":"AQAB"}"#.to_owned(), "`n` is missing"),
            (r#"{"kty":"RSA","e":"AQAB","n":"+/=="}"#.to_owned(), "`n` is not base64url"),
            (rsa(2048, "").replace("AQAB", "AQ"), "`e` is not a usable exponent"),
            (rsa(2048, "").replace("AQAB", "Ag"), "`e` is not a usable exponent"),
            (rsa(2048, "").replace("AQAB", ""), "`e` is not a usable exponent"),
            (rsa(2048, "").replace("AQAB", "AQAAAAE"), "`e` is not a usable exponent"),
            (ec(r#","crv":"secp256k1""#), "only `crv`"),
            (ec(r#","crv":1234"#), "`crv` is not a string"),
            (ec(r#","crv":"P-384","alg":"ES256""#), "another curve"),
            (ec("").replace(X, &URL_SAFE_NO_PAD.encode([1; 33])), "`x` is too long for P-256"),
            (r#"{"kty":"EC","crv":"P-256","x":"AA"}"#.to_owned(), "`y` is missing"),
        ] {
            let found = usable(&key).unwrap_err();
            assert!(found.contains(why), "{key}: {found}");
        }
    }

    #[test]
    fn what_is_no_key_set_is_an_error() {
        for (json, why) in [
            ("{}", "it needs `keys`"),
            (r#"{"keys":123}"#, "it needs `keys`"),
            (r#"{"keys":[]}"#, "holds no key"),
            (r#"{"keys":[],"keys":[]}"#, "has a member twice"),
            (r#"{"kid1":"-----BEGIN CERTIFICATE-----"}"#, "it needs `keys`"),
        ] {
            let (set, errors, _) = read(json);
            assert!(set.is_none() && errors.join("\n").contains(why), "{json}: {errors:?}");
        }
        let many = vec!["{}"; MAX_KEYS + 1].join(",");
        assert!(read(&format!(r#"{{"keys":[{many}]}}"#)).1.join("").contains("at most 100"));
    }

    #[test]
    fn a_set_that_leaves_open_which_key_is_meant_is_an_error() {
        let secret = oct("${env:SECRET}", r#","kid":"a""#);
        for (keys, why) in [
            (format!("{secret},{}", ec("")), "holds secrets (`kty` `oct`) and public keys"),
            (format!("{secret},{secret}"), "two keys of one type with the same `kid`"),
        ] {
            let (set, errors, _) = read(&format!(r#"{{"keys":[{keys}]}}"#));
            assert!(set.is_none() && errors.join("").contains(why), "{errors:?}");
        }
        let both = format!("{},{}", ec(r#","kid":"a""#), rsa(2048, r#","kid":"a""#));
        assert!(read(&format!(r#"{{"keys":[{both}]}}"#)).0.is_some());
    }

    #[test]
    fn a_key_that_cannot_be_used_leaves_the_others() {
        let (set, errors, warnings) =
            read(&format!(r#"{{"keys":[{{"kty":"DH"}},{},{}]}}"#, ec(""), rsa(1024, "")));
        assert_eq!((set.unwrap().len(), errors.len()), (1, 0));
        assert!(warnings[0].starts_with("keys[0]: is not used") && warnings[1].starts_with("keys[2]"));
    }

    #[test]
    fn what_the_usual_build_lacks_is_named() {
        let usual = Environment { algorithms: Algorithms::USUAL, ..ENVIRONMENT };
        let node = Node::from_json(format!(r#"{{"keys":[{}]}}"#, rsa(2048, r#","alg":"PS256""#)).as_bytes())
            .unwrap();
        let problems = Problems::default();
        assert!(KeySet::read(&Value::root(&node, &problems), Origin::Inline, &usual).is_none());
        let warnings = problems.warnings().join("");
        assert!(
            warnings.contains("`alg` PS256 needs the full build of this filter, jwt-full.wasm"),
            "{warnings}"
        );
    }

    #[test]
    fn a_secret_is_used_from_the_configuration_only_and_never_printed() {
        let inline = URL_SAFE_NO_PAD.encode(b"hunter2 hunter2 hunter2 hunter2 hunter2");
        let (set, _, warnings) = read(&format!(r#"{{"keys":[{}]}}"#, oct(&inline, "")));
        assert!(warnings[0].contains("write `${env:NAME}`"), "{warnings:?}");
        let printed = format!("{set:?} {warnings:?}");
        assert!(!printed.contains("hunter2") && !printed.contains(&inline), "{printed}");
        assert!(read(&format!(r#"{{"keys":[{}]}}"#, oct("${env:SECRET}", ""))).2.is_empty());
        let node = Node::from_json(format!(r#"{{"keys":[{}]}}"#, oct(&inline, "")).as_bytes()).unwrap();
        let problems = Problems::default();
        assert!(KeySet::read(&Value::root(&node, &problems), Origin::Fetched, &ENVIRONMENT).is_none());
        assert!(problems.warnings().join("").contains("whoever can fetch it can sign"));
    }

    #[test]
    fn a_private_key_is_a_warning_and_never_printed() {
        let (set, _, warnings) = read(&format!(r#"{{"keys":[{}]}}"#, ec(r#","d":"hunter2""#)));
        assert!(warnings[0].contains("private key"), "{warnings:?}");
        let printed = format!("{set:?} {warnings:?}");
        assert!(!printed.contains("hunter2") && !printed.contains(X), "{printed}");
    }
}
