//! The claims of a token (RFC 7519 4.1), read strictly, and the checks that need no key.

use std::time::Duration;

use sailcloth_core::identity::{Claim, PayloadError, Token};

use crate::Refusal;
use crate::jws::decode;

/// How far two clocks may be apart, in seconds (Envoy's default, which Istio keeps).
pub const CLOCK_SKEW: u64 = 60;

/// The claims of a token, and the dates among them.
pub struct Claims {
    /// All of them.
    pub token: Token,
    /// `iat` in seconds since the epoch.
    pub issued: Option<u64>,
    /// `nbf` in seconds since the epoch.
    pub not_before: Option<u64>,
    /// `exp` in seconds since the epoch.
    pub expires: Option<u64>,
}

impl Claims {
    /// Reads the encoded payload of a token.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        let payload = decode(payload).ok_or(Refusal::PayloadNotBase64)?;
        let token = Token::of_json(&payload).map_err(|error| match error {
            PayloadError::NotObject => Refusal::PayloadNotJson,
            PayloadError::DuplicateKey => Refusal::PayloadDuplicateKey,
        })?;
        let [iss, sub, iat, nbf, exp, jti, aud] =
            found(&token, [b"iss", b"sub", b"iat", b"nbf", b"exp", b"jti", b"aud"]);
        // In Envoy's order: of two defects the same one is named.
        text(iss, Refusal::IssNotString)?;
        text(sub, Refusal::SubNotString)?;
        let issued = date(iat, Refusal::IatNotNumber, Refusal::IatOutOfRange)?;
        let not_before = date(nbf, Refusal::NbfNotNumber, Refusal::NbfOutOfRange)?;
        let expires = date(exp, Refusal::ExpNotNumber, Refusal::ExpOutOfRange)?;
        text(jti, Refusal::JtiNotString)?;
        check_audiences(aud)?;
        Ok(Self { token, issued, not_before, expires })
    }

    /// `iss`.
    #[must_use]
    pub fn issuer(&self) -> Option<&[u8]> {
        self.token.text(&["iss"])
    }

    /// Whether one of `aud` is among these, in bare form.
    pub(crate) fn has_audience(&self, among: &[String]) -> bool {
        let is_among = |claim: Claim<'_>| match claim {
            Claim::Text(audience) => among.iter().any(|one| one.as_bytes() == bare_audience(audience)),
            _ => false,
        };
        match self.token.claim(&["aud"]) {
            Some(Claim::List(mut audiences)) => audiences.any(is_among),
            Some(audience) => is_among(audience),
            None => false,
        }
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
    pub fn at(&self, path: &str) -> Option<Claim<'_>> {
        path.split('.').try_fold(Claim::Object(self.token.claims()), |claim, key| match claim {
            Claim::Object(members) => members.get(key),
            _ => None,
        })
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

/// The claims with these names, found in one pass.
fn found<'t, const N: usize>(token: &'t Token, names: [&[u8; 3]; N]) -> [Option<Claim<'t>>; N] {
    let mut found = [None; N];
    for (key, claim) in token.claims() {
        let place = names.iter().position(|name| name.as_slice() == key);
        if let Some(place) = place.and_then(|place| found.get_mut(place)) {
            *place = Some(claim);
        }
    }
    found
}

/// The claim must be text; absent is fine, `null` is not text.
fn text(claim: Option<Claim<'_>>, otherwise: Refusal) -> Result<(), Refusal> {
    match claim {
        None | Some(Claim::Text(_)) => Ok(()),
        Some(_) => Err(otherwise),
    }
}

/// A NumericDate. RFC 7519 2 allows fractions; like Envoy this drops them. Whatever is not a number is refused, since a
/// date that is not understood would be a limit that is not kept.
fn date(claim: Option<Claim<'_>>, no_number: Refusal, range: Refusal) -> Result<Option<u64>, Refusal> {
    match claim {
        None => Ok(None),
        Some(Claim::Integer(seconds)) => u64::try_from(seconds).map(Some).map_err(|_| range),
        Some(Claim::Double(seconds)) => whole(seconds).map(Some).ok_or(range),
        Some(_) => Err(no_number),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked before")]
fn whole(seconds: f64) -> Option<u64> {
    // 2^63, the first number past a signed 64-bit integer.
    (0.0..9_223_372_036_854_775_808.0).contains(&seconds).then_some(seconds as u64)
}

fn check_audiences(claim: Option<Claim<'_>>) -> Result<(), Refusal> {
    let is_text = |claim| matches!(claim, Claim::Text(_));
    match claim {
        None | Some(Claim::Text(_)) => Ok(()),
        Some(Claim::List(audiences)) if { audiences }.all(is_text) => Ok(()),
        Some(_) => Err(Refusal::AudNotStrings),
    }
}

/// An audience as it is compared: without `http://` or `https://` and without one trailing slash (Istio does so on both
/// sides).
#[must_use]
pub fn bare_audience(audience: &[u8]) -> &[u8] {
    let bare = audience.strip_prefix(b"https://").or_else(|| audience.strip_prefix(b"http://"));
    let bare = bare.unwrap_or(audience);
    bare.strip_suffix(b"/").unwrap_or(bare)
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
            assert_eq!(bare_audience(audience.as_bytes()), bare.as_bytes(), "{audience}");
        }
    }
}
