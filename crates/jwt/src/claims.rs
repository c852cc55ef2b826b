//! The claims of a token (RFC 7519 4.1), read strictly, and the checks that need no key.

use std::time::Duration;

use sailcloth_core::config::Node;

use crate::Refusal;
use crate::jws::{decode, object};

/// How far two clocks may be apart, in seconds (Envoy's default, which Istio keeps).
pub const CLOCK_SKEW: u64 = 60;

/// The claims that this filter checks, and the rest as a tree.
pub struct Claims {
    /// `iss`.
    pub issuer: Option<String>,
    /// `aud`, one or several.
    pub audiences: Vec<String>,
    /// `iat` in seconds since the epoch.
    pub issued: Option<u64>,
    /// `nbf` in seconds since the epoch.
    pub not_before: Option<u64>,
    /// `exp` in seconds since the epoch.
    pub expires: Option<u64>,
    /// The whole payload.
    pub all: Node,
}

impl Claims {
    /// Reads the encoded payload of a token.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        let payload = decode(payload).ok_or(Refusal::PayloadNotBase64)?;
        let all = object(&payload).ok_or(Refusal::PayloadNotJson)?;
        if all.has_duplicate_keys() {
            return Err(Refusal::PayloadDuplicateKey);
        }
        let issuer = text(&all, "iss", Refusal::IssNotString)?;
        text(&all, "sub", Refusal::SubNotString)?;
        let issued = date(&all, "iat", Refusal::IatNotNumber, Refusal::IatOutOfRange)?;
        let not_before = date(&all, "nbf", Refusal::NbfNotNumber, Refusal::NbfOutOfRange)?;
        let expires = date(&all, "exp", Refusal::ExpNotNumber, Refusal::ExpOutOfRange)?;
        text(&all, "jti", Refusal::JtiNotString)?;
        let audiences = audiences(&all)?;
        Ok(Self { issuer, audiences, issued, not_before, expires, all })
    }

    /// When the token is valid, if clocks may be `leeway` seconds apart; a date that is absent does not limit.
    #[must_use]
    pub fn validity(&self, leeway: u64) -> Validity {
        Validity {
            from: self.not_before.map_or(0, |date| date.saturating_sub(leeway)),
            until: self.expires.map_or(u64::MAX, |date| date.saturating_add(leeway)),
        }
    }

    /// The claim at a path of dots; `null` is there.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(&self.all, |node, key| node.field(key))
    }
}

/// A time span, in seconds since the epoch, both ends included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Validity {
    from: u64,
    until: u64,
}

impl Validity {
    /// Whether a time since the epoch lies in it.
    ///
    /// # Errors
    /// [`Refusal::NotYetValid`], [`Refusal::Expired`].
    pub fn check(self, now: Duration) -> Result<(), Refusal> {
        match now.as_secs() {
            now if now < self.from => Err(Refusal::NotYetValid),
            now if now > self.until => Err(Refusal::Expired),
            _ => Ok(()),
        }
    }
}

/// The claim as text; absent is fine, `null` is not text.
fn text(claims: &Node, name: &str, otherwise: Refusal) -> Result<Option<String>, Refusal> {
    match claims.field(name) {
        None => Ok(None),
        Some(Node::Text(text)) => Ok(Some(text.clone())),
        Some(_) => Err(otherwise),
    }
}

/// A NumericDate. RFC 7519 2 allows fractions; like Envoy this drops them. Whatever is not a number is refused, since a
/// date that is not understood would be a limit that is not kept.
fn date(claims: &Node, name: &str, no_number: Refusal, range: Refusal) -> Result<Option<u64>, Refusal> {
    match claims.field(name) {
        None => Ok(None),
        Some(Node::Integer(seconds)) => u64::try_from(*seconds).map(Some).map_err(|_| range),
        Some(Node::Float(seconds)) => whole(*seconds).map(Some).ok_or(range),
        Some(_) => Err(no_number),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked before")]
fn whole(seconds: f64) -> Option<u64> {
    // 2^63, the first number past a signed 64-bit integer.
    (0.0..9_223_372_036_854_775_808.0).contains(&seconds).then_some(seconds as u64)
}

fn audiences(claims: &Node) -> Result<Vec<String>, Refusal> {
    match claims.field("aud") {
        None => Ok(Vec::new()),
        Some(Node::Text(audience)) => Ok(vec![audience.clone()]),
        Some(Node::List(items)) => {
            items.iter().map(|item| item.text().map(str::to_owned).ok_or(Refusal::AudNotStrings)).collect()
        }
        Some(_) => Err(Refusal::AudNotStrings),
    }
}

/// An audience as it is compared: without `http://` or `https://` and without one trailing slash (Istio does so on both
/// sides).
#[must_use]
pub fn bare_audience(audience: &str) -> &str {
    let bare = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://"));
    let bare = bare.unwrap_or(audience);
    bare.strip_suffix('/').unwrap_or(bare)
}

impl std::fmt::Debug for Claims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Claims(<redacted>)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn parse(json: &str) -> Result<Claims, Refusal> {
        Claims::parse(URL_SAFE_NO_PAD.encode(json).as_bytes())
    }

    #[test]
    fn every_defect_of_a_payload_has_its_reason() {
        for (json, expected) in [
            ("not json", Refusal::PayloadNotJson),
            ("[]", Refusal::PayloadNotJson),
            ("{} {}", Refusal::PayloadNotJson),
            (r#"{"iss":"a","iss":"b"}"#, Refusal::PayloadDuplicateKey),
            (r#"{"iss":true}"#, Refusal::IssNotString),
            (r#"{"iss":null}"#, Refusal::IssNotString),
            (r#"{"sub":1}"#, Refusal::SubNotString),
            (r#"{"jti":1}"#, Refusal::JtiNotString),
            (r#"{"aud":1}"#, Refusal::AudNotStrings),
            (r#"{"aud":["a",1]}"#, Refusal::AudNotStrings),
            (r#"{"aud":{}}"#, Refusal::AudNotStrings),
            (r#"{"iat":"1"}"#, Refusal::IatNotNumber),
            (r#"{"nbf":"1"}"#, Refusal::NbfNotNumber),
            (r#"{"exp":"1"}"#, Refusal::ExpNotNumber),
            (r#"{"exp":null}"#, Refusal::ExpNotNumber),
            (r#"{"exp":true}"#, Refusal::ExpNotNumber),
            (r#"{"iat":-1}"#, Refusal::IatOutOfRange),
            (r#"{"nbf":2.001e+206}"#, Refusal::NbfOutOfRange),
            (r#"{"exp":-0.5}"#, Refusal::ExpOutOfRange),
            (r#"{"exp":9223372036854775808}"#, Refusal::ExpOutOfRange),
        ] {
            assert_eq!(parse(json).err(), Some(expected), "{json}");
        }
        assert_eq!(Claims::parse(b"e30=").err(), Some(Refusal::PayloadNotBase64));
    }

    #[test]
    fn deep_nesting_is_refused_and_overflows_nothing() {
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(parse(&deep).err(), Some(Refusal::PayloadNotJson));
    }

    #[test]
    fn many_keys_are_checked_for_duplicates_in_reasonable_time() {
        let keys: Vec<String> = (0..50_000).map(|key| format!(r#""{key}":0"#)).collect();
        assert!(parse(&format!("{{{}}}", keys.join(","))).is_ok());
        assert!(parse(&format!(r#"{{{},"49999":1}}"#, keys.join(","))).is_err());
    }

    #[test]
    fn dates_limit_with_a_minute_of_leeway() {
        let claims = parse(r#"{"nbf":1000,"exp":2000.9}"#).unwrap();
        for (now, expected) in [
            (939, Err(Refusal::NotYetValid)),
            (940, Ok(())),
            (2060, Ok(())),
            (2061, Err(Refusal::Expired)),
            (u64::MAX, Err(Refusal::Expired)),
        ] {
            assert_eq!(claims.validity(CLOCK_SKEW).check(Duration::from_secs(now)), expected, "{now}");
        }
        assert_eq!(parse("{}").unwrap().validity(CLOCK_SKEW).check(Duration::MAX), Ok(()));
        let far = parse(r#"{"exp":9223372036854775807}"#).unwrap();
        assert_eq!(far.validity(CLOCK_SKEW).check(Duration::from_secs(9_223_372_036_854_775_807)), Ok(()));
    }

    #[test]
    fn audiences_are_compared_without_scheme_and_one_slash() {
        for (audience, bare) in [
            ("a", "a"),
            ("http://a/", "a"),
            ("https://a", "a"),
            ("a//", "a/"),
            ("http://https://a", "https://a"),
            ("", ""),
            ("/", ""),
        ] {
            assert_eq!(bare_audience(audience), bare, "{audience}");
        }
    }
}
