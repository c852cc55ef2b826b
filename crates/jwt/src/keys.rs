//! Key sets (RFC 7517), read once at configuration: what is left is what a signature check needs.

use std::fmt;

use sailcloth_core::config::{Node, Value};

use crate::algorithm::{Algorithm, Curve, Family};
use crate::jws::{Jws, decode};
use crate::{Refusal, Verifier, der};

/// RFC 7518 3.3: "A key of size 2048 bits or larger MUST be used".
const MIN_RSA_BITS: usize = 2048;
/// Longer moduli only cost time; no issuer has them.
const MAX_RSA_BITS: usize = 8192;
/// BoringSSL takes no exponents past 33 bits.
const MAX_EXPONENT_BYTES: usize = 4;
/// A token without `kid` is tried with every key that fits, so their number bounds the work of one request.
const MAX_KEYS: usize = 100;

/// A public key.
struct Key {
    /// `kid`.
    id: Option<String>,
    /// `alg`: the one algorithm it is for; absent: any of its family.
    algorithm: Option<Algorithm>,
    family: Family,
    /// SubjectPublicKeyInfo in DER.
    public_key: Vec<u8>,
}

/// A key set.
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// Reads a key set. A key that cannot be used is left out with a warning, as RFC 7517 5 asks: sets of real issuers
    /// hold keys for other purposes. Fewer keys accept fewer tokens, never more. No message repeats key material.
    #[must_use]
    pub fn read(value: &Value<'_>) -> Option<Self> {
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
            if item.field("d").is_some() {
                place.warn("holds a private key (`d`); publish only the public part, and replace this key");
            }
            read_key(item).map_err(|why| place.warn(format!("is not used: {why}"))).ok()
        });
        let keys: Vec<Key> = keys.collect();
        if keys.is_empty() {
            value.error(
                "holds no key that can be used: RSA (RS256, RS384, RS512) or EC (ES256, ES384, ES512)",
            );
            return None;
        }
        Some(Self(keys))
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
    fn has_id(&self, wanted: Option<&str>) -> bool {
        match (&self.id, wanted) {
            (Some(id), Some(wanted)) => id == wanted,
            _ => true,
        }
    }

    fn verify(&self, jws: &Jws<'_>, verifier: &impl Verifier) -> Result<(), Refusal> {
        let wanted = self.algorithm.is_none_or(|algorithm| algorithm == jws.algorithm);
        if !wanted || self.family != jws.algorithm.family {
            return Err(Refusal::KeyAlgMismatch);
        }
        let converted;
        let signature = match self.family {
            Family::Rsa => &jws.signature,
            Family::Ec(curve) => {
                converted =
                    der::ecdsa_signature(&jws.signature, curve.length()).ok_or(Refusal::BadSignature)?;
                &converted
            }
        };
        match verifier.verify(jws.algorithm.hash, &self.public_key, signature, jws.signed) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::BadSignature),
            Err(_) => Err(Refusal::CannotVerify),
        }
    }
}

/// Reads a key, or says why it cannot be used.
fn read_key(jwk: &Node) -> Result<Key, String> {
    if !matches!(jwk, Node::Map(_)) {
        return Err(format!("expected an object, found {}", jwk.kind()));
    }
    let family = match text(jwk, "kty")? {
        Some("RSA") => Family::Rsa,
        Some("EC") => Family::Ec(read_curve(jwk)?),
        Some(_) => return Err("only `kty` `RSA` and `EC` are supported".to_owned()),
        None => return Err("`kty` is missing".to_owned()),
    };
    check_purpose(jwk)?;
    let algorithm = read_algorithm(jwk, family)?;
    let public_key = match family {
        Family::Rsa => rsa_key(jwk)?,
        Family::Ec(curve) => ec_key(jwk, curve)?,
    };
    Ok(Key { id: text(jwk, "kid")?.map(str::to_owned), algorithm, family, public_key })
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

fn read_algorithm(jwk: &Node, family: Family) -> Result<Option<Algorithm>, String> {
    let Some(name) = text(jwk, "alg")? else { return Ok(None) };
    let algorithm =
        Algorithm::named(name).ok_or("`alg` is none of RS256, RS384, RS512, ES256, ES384, ES512")?;
    if algorithm.family != family {
        return Err("`alg` is for another type of key or another curve".to_owned());
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

/// An unsigned big-endian number in base64url, without leading zeros.
fn number(jwk: &Node, name: &str) -> Result<Vec<u8>, String> {
    let text = text(jwk, name)?.ok_or_else(|| format!("`{name}` is missing"))?;
    let bytes =
        decode(text.as_bytes()).ok_or_else(|| format!("`{name}` is not base64url without padding"))?;
    Ok(bytes.into_iter().skip_while(|byte| *byte == 0).collect())
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
        f.debug_struct("Key").field("family", &self.family).finish_non_exhaustive()
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

    const X: &str = "EB54wykhS7YJFD6RYJNnwbWEz3cI7CF5bCDTXlrwI5k";
    const Y: &str = "92bCBTvMFQ8lKbS2MbgjT3YfmYo6HnPEE2tsAqWUJw8";

    fn read(json: &str) -> (Option<KeySet>, Vec<String>, Vec<String>) {
        let node = Node::from_json(json.as_bytes()).unwrap();
        let problems = Problems::default();
        let set = KeySet::read(&Value::root(&node, &problems));
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
            (r#"{"kty":"oct","k":"AAAA"}"#.to_owned(), "only `kty` `RSA` and `EC`"),
            (r#"{"kty":"OKP","crv":"Ed25519"}"#.to_owned(), "only `kty` `RSA` and `EC`"),
            (rsa(2047, ""), "an RSA key of 2047 bits is too weak"),
            (rsa(1024, ""), "an RSA key of 1024 bits is too weak"),
            (rsa(8193, ""), "an RSA key of 8193 bits is too long"),
            (rsa(2048, r#","alg":"PS256""#), "`alg` is none of"),
            (rsa(2048, r#","alg":"HS256""#), "`alg` is none of"),
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
    fn a_key_that_cannot_be_used_leaves_the_others() {
        let (set, errors, warnings) =
            read(&format!(r#"{{"keys":[{{"kty":"OKP"}},{},{}]}}"#, ec(""), rsa(1024, "")));
        assert_eq!((set.unwrap().len(), errors.len()), (1, 0));
        assert!(warnings[0].starts_with("keys[0]: is not used") && warnings[1].starts_with("keys[2]"));
    }

    #[test]
    fn a_private_key_is_a_warning_and_never_printed() {
        let (set, _, warnings) = read(&format!(r#"{{"keys":[{}]}}"#, ec(r#","d":"hunter2""#)));
        assert!(warnings[0].contains("private key"), "{warnings:?}");
        let printed = format!("{set:?} {warnings:?}");
        assert!(!printed.contains("hunter2") && !printed.contains(X), "{printed}");
    }
}
