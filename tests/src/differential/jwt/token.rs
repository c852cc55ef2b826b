//! Tokens with known defects, alone and in pairs.

use crate::differential::random::Random;
use crate::differential::token::now;
use crate::keys::{TestKey, base64url};

/// A token in the making: parts as text, so that a defect may be anything.
#[derive(Debug, Clone)]
struct Draft {
    key: &'static str,
    /// What the signature is made by; the header may say otherwise.
    signs_by: &'static str,
    header: Vec<(&'static str, String)>,
    claims: Vec<(&'static str, String)>,
    /// Changes of the JSON texts and of the compact form, in this order.
    header_text: Vec<fn(String) -> String>,
    payload_text: Vec<fn(String) -> String>,
    compact: Vec<fn(String) -> String>,
    signature: Vec<fn(Vec<u8>) -> Vec<u8>>,
}

/// A key, the algorithm of its signatures, and the issuer whose it is.
pub const KEYS: &[(&str, &str, &str)] = &[
    ("rsa1", "RS256", "https://issuer.example"),
    ("ec1", "ES256", "https://issuer.example"),
    ("ec384", "ES384", "https://other.example"),
    ("ed1", "EdDSA", "https://other.example"),
];

type Defect = (&'static str, fn(&mut Draft));

fn set(list: &mut Vec<(&'static str, String)>, name: &'static str, value: impl Into<String>) {
    remove(list, name);
    list.push((name, value.into()));
}

fn remove(list: &mut Vec<(&'static str, String)>, name: &str) {
    list.retain(|(other, _)| *other != name);
}

fn at(seconds: i64) -> String {
    (i64::try_from(now()).unwrap_or(0) + seconds).to_string()
}

/// Every single defect, and some changes that are none.
const DEFECTS: &[Defect] = &[
    ("alg none", |d| set(&mut d.header, "alg", r#""none""#)),
    ("alg None", |d| set(&mut d.header, "alg", r#""None""#)),
    ("alg of another hash", |d| set(&mut d.header, "alg", r#""RS384""#)),
    ("alg of another kind", |d| set(&mut d.header, "alg", r#""HS256""#)),
    ("alg in small letters", |d| set(&mut d.header, "alg", r#""rs256""#)),
    ("alg unknown", |d| set(&mut d.header, "alg", r#""XS256""#)),
    ("alg a number", |d| set(&mut d.header, "alg", "256")),
    ("no alg", |d| remove(&mut d.header, "alg")),
    ("kid unknown", |d| set(&mut d.header, "kid", r#""nobody""#)),
    ("kid of another key", |d| set(&mut d.header, "kid", r#""ec384""#)),
    ("kid empty", |d| set(&mut d.header, "kid", r#""""#)),
    ("kid a number", |d| set(&mut d.header, "kid", "7")),
    ("kid null", |d| set(&mut d.header, "kid", "null")),
    ("no kid", |d| remove(&mut d.header, "kid")),
    ("typ a number", |d| set(&mut d.header, "typ", "1")),
    ("typ another", |d| set(&mut d.header, "typ", r#""at+jwt""#)),
    ("crit", |d| set(&mut d.header, "crit", r#"["x"]"#)),
    ("jku", |d| set(&mut d.header, "jku", r#""https://evil.test/jwks""#)),
    ("signed by another key", |d| (d.key, d.signs_by) = ("rsa2", "RS256")),
    ("signature changed", |d| {
        d.signature.push(|mut bytes| {
            if let Some(byte) = bytes.get_mut(9) {
                *byte ^= 1;
            }
            bytes
        })
    }),
    ("signature short", |d| d.signature.push(|bytes| bytes[..bytes.len() - 1].to_vec())),
    ("signature empty", |d| d.signature.push(|_| Vec::new())),
    ("signature long", |d| d.signature.push(|bytes| [bytes, vec![0]].concat())),
    ("expired", |d| set(&mut d.claims, "exp", at(-120))),
    ("expired within the leeway", |d| set(&mut d.claims, "exp", at(-20))),
    ("exp with a fraction", |d| set(&mut d.claims, "exp", format!("{}.5", at(300)))),
    ("exp a string", |d| set(&mut d.claims, "exp", format!(r#""{}""#, at(300)))),
    ("exp null", |d| set(&mut d.claims, "exp", "null")),
    ("exp negative", |d| set(&mut d.claims, "exp", "-5")),
    ("exp zero", |d| set(&mut d.claims, "exp", "0")),
    ("exp huge", |d| set(&mut d.claims, "exp", "99999999999999999999")),
    ("exp with an exponent", |d| set(&mut d.claims, "exp", "9e9")),
    ("no exp", |d| remove(&mut d.claims, "exp")),
    ("not yet", |d| set(&mut d.claims, "nbf", at(120))),
    ("nearly", |d| set(&mut d.claims, "nbf", at(20))),
    ("nbf a string", |d| set(&mut d.claims, "nbf", r#""1""#)),
    ("nbf negative", |d| set(&mut d.claims, "nbf", "-1")),
    ("issued later", |d| set(&mut d.claims, "iat", at(3600))),
    ("iat a string", |d| set(&mut d.claims, "iat", r#""1""#)),
    ("iss unknown", |d| set(&mut d.claims, "iss", r#""https://nobody.example""#)),
    ("iss with a slash more", |d| set(&mut d.claims, "iss", r#""https://issuer.example/""#)),
    ("iss a number", |d| set(&mut d.claims, "iss", "5")),
    ("no iss", |d| remove(&mut d.claims, "iss")),
    ("aud another", |d| set(&mut d.claims, "aud", r#""web""#)),
    ("aud in another form", |d| set(&mut d.claims, "aud", r#""https://api/""#)),
    ("aud a list", |d| set(&mut d.claims, "aud", r#"["web","api"]"#)),
    ("aud a list without", |d| set(&mut d.claims, "aud", r#"["web","apis"]"#)),
    ("aud an empty list", |d| set(&mut d.claims, "aud", "[]")),
    ("aud a number", |d| set(&mut d.claims, "aud", "5")),
    ("aud a list with a number", |d| set(&mut d.claims, "aud", r#"["api",5]"#)),
    ("aud an object", |d| set(&mut d.claims, "aud", r#"{"api":1}"#)),
    ("no aud", |d| remove(&mut d.claims, "aud")),
    ("no sub", |d| remove(&mut d.claims, "sub")),
    ("sub a number", |d| set(&mut d.claims, "sub", "5")),
    ("sub empty", |d| set(&mut d.claims, "sub", r#""""#)),
    ("jti a number", |d| set(&mut d.claims, "jti", "5")),
    ("padding", |d| d.compact.push(|text| text.replacen('.', "=.", 1))),
    ("double padding", |d| d.compact.push(|text| format!("{text}=="))),
    ("a character that is none", |d| d.compact.push(|text| text.replacen("ey", "e*", 1))),
    ("the other alphabet", |d| d.compact.push(|text| text.replace('-', "+").replace('_', "/"))),
    ("two parts", |d| {
        d.compact.push(|text| text.rsplit_once('.').map(|(head, _)| head.to_owned()).unwrap_or(text))
    }),
    ("four parts", |d| d.compact.push(|text| format!("{text}.x"))),
    ("a dot at the end", |d| d.compact.push(|text| format!("{text}."))),
    ("a dot at the start", |d| d.compact.push(|text| format!(".{text}"))),
    ("two dots", |d| d.compact.push(|text| text.replacen('.', "..", 1))),
    ("no token", |d| d.compact.push(|_| "nonsense".to_owned())),
    ("header cut", |d| d.header_text.push(|text| text[..text.len() - 1].to_owned())),
    ("header a list", |d| d.header_text.push(|_| "[]".to_owned())),
    ("header an empty object", |d| d.header_text.push(|_| "{}".to_owned())),
    ("header with more behind", |d| d.header_text.push(|text| format!("{text}x"))),
    ("header with blanks", |d| d.header_text.push(|text| format!(" {text} \n"))),
    ("payload cut", |d| d.payload_text.push(|text| text[..text.len() - 1].to_owned())),
    ("payload a list", |d| d.payload_text.push(|_| "[]".to_owned())),
    ("payload a string", |d| d.payload_text.push(|_| r#""x""#.to_owned())),
    ("payload with more behind", |d| d.payload_text.push(|text| format!("{text}{{}}"))),
    ("payload with blanks", |d| d.payload_text.push(|text| format!("\t{text} "))),
    ("duplicate sub", |d| d.claims.push(("sub", r#""mallory""#.to_owned()))),
    ("duplicate alg", |d| d.header.push(("alg", r#""none""#.to_owned()))),
    ("duplicate in an object", |d| d.claims.push(("org", r#"{"a":1,"a":2}"#.to_owned()))),
    ("a control character", |d| d.claims.push(("name", "\"\u{0}\"".to_owned()))),
    ("comment in the payload", |d| d.payload_text.push(|text| text.replacen('{', "{/**/", 1))),
    ("a comma too many", |d| d.payload_text.push(|text| text.replacen('}', ",}", 1))),
    ("escaped letters", |d| set(&mut d.claims, "sub", r#""\u0061lice""#)),
    ("deep", |d| d.claims.push(("deep", format!("{}{}", "[".repeat(40), "]".repeat(40))))),
];

/// A token with up to two defects, and their names.
pub fn token(random: &mut Random) -> (String, Vec<&'static str>) {
    let key = random.below(KEYS.len());
    let count = [0, 0, 0, 1, 1, 1, 1, 1, 2, 2][random.below(10)];
    let names: Vec<&str> = (0..count).map(|_| random.pick(DEFECTS).0).collect();
    (with(key, &names), names)
}

/// A token of one of [`KEYS`] with these defects.
///
/// # Panics
/// On a defect that there is not.
#[must_use]
pub fn with(key: usize, defects: &[&str]) -> String {
    let (key, algorithm, issuer) = KEYS[key];
    let mut draft = Draft {
        key,
        signs_by: algorithm,
        header: vec![
            ("alg", format!(r#""{algorithm}""#)),
            ("kid", format!(r#""{key}""#)),
            ("typ", r#""JWT""#.to_owned()),
        ],
        claims: vec![
            ("iss", format!(r#""{issuer}""#)),
            ("sub", r#""alice""#.to_owned()),
            ("aud", r#""api""#.to_owned()),
            ("iat", at(-10)),
            ("exp", at(3600)),
            ("scope", r#""read write""#.to_owned()),
            ("groups", r#"["admin","dev"]"#.to_owned()),
            ("realm", r#"{"name":"main","roles":["ops"],"level":3}"#.to_owned()),
            ("level", "7".to_owned()),
            ("active", "true".to_owned()),
            ("ratio", "0.5".to_owned()),
            ("nothing", "null".to_owned()),
        ],
        header_text: Vec::new(),
        payload_text: Vec::new(),
        compact: Vec::new(),
        signature: Vec::new(),
    };
    for name in defects {
        let (_, defect) = DEFECTS.iter().find(|(known, _)| known == name).expect("a defect");
        defect(&mut draft);
    }
    draft.compact()
}

impl Draft {
    fn compact(&self) -> String {
        let object = |members: &[(&str, String)]| {
            let members: Vec<String> =
                members.iter().map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
            format!("{{{}}}", members.join(","))
        };
        let changed = |text: String, changes: &[fn(String) -> String]| {
            changes.iter().fold(text, |text, change| change(text))
        };
        let header = changed(object(&self.header), &self.header_text);
        let payload = changed(object(&self.claims), &self.payload_text);
        let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(payload.as_bytes()));
        let key = TestKey::named(self.key).expect("a fixture");
        let signature = key.sign(self.signs_by, signed.as_bytes()).expect("the key signs by this");
        let signature = self.signature.iter().fold(signature, |signature, change| change(signature));
        changed(format!("{signed}.{}", base64url(&signature)), &self.compact)
    }
}
