//! Label values that should not be label values: secrets, and the names of single things.

/// What is written in their place.
pub(crate) const REDACTED: &str = "redacted";

/// What looks like a credential. Never shown, whatever the settings: metrics are read by more people than secrets.
pub(crate) fn is_secret(value: &str) -> bool {
    const MARKS: [&str; 9] =
        ["eyJ", "AKIA", "ASIA", "ghp_", "gho_", "github_pat_", "sk_live_", "xoxb-", "xoxp-"];
    const SCHEMES: [&str; 3] = ["bearer ", "basic ", "digest "];
    let scheme =
        |scheme: &&str| value.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    MARKS.iter().any(|mark| value.starts_with(mark) && value.len() >= 16)
        || SCHEMES.iter().any(scheme)
        || value.contains("-----BEGIN")
        || is_random_text(value)
}

/// 32 or more letters and digits of a token's alphabet, of all three sorts, without a word's separators.
fn is_random_text(value: &str) -> bool {
    let alphabet =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'_' | b'-');
    value.len() >= 32
        && value.bytes().all(alphabet)
        && [u8::is_ascii_digit, u8::is_ascii_uppercase, u8::is_ascii_lowercase]
            .iter()
            .all(|sort| value.bytes().filter(sort).count() >= 3)
        && !value.starts_with('/')
}

/// What looks like the name of one thing of very many: a number of six digits or more, a UUID, 16 or more hexadecimal
/// digits, an e-mail address.
pub(crate) fn is_id(value: &str) -> bool {
    let bytes = value.as_bytes();
    let all = |test: fn(&u8) -> bool| bytes.iter().all(test);
    let uuid = bytes.len() == 36
        && bytes.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    let email = value.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.'));
    uuid || email
        || (bytes.len() >= 6 && all(u8::is_ascii_digit))
        || (bytes.len() >= 16 && all(u8::is_ascii_hexdigit) && bytes.iter().any(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn secrets_and_ids_are_told_from_names() {
        for (value, secret, id) in [
            ("eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJzdWIiOiJhIn0.c2ln", true, false),
            ("Bearer x", true, false),
            ("basic YTpi", true, false),
            ("AKIAIOSFODNN7EXAMPLE", true, false),
            ("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY12", true, false),
            ("-----BEGIN PRIVATE KEY-----", true, false),
            ("123e4567-e89b-12d3-a456-426614174000", false, true),
            ("4711471", false, true),
            ("9f86d081884c7d65", false, true),
            ("alice@example.com", false, true),
            ("gold", false, false),
            ("12345", false, false),
            ("productpage-v1-84975bc778-pxz2w", false, false),
            ("api-service.production.svc.cluster.local", false, false),
            ("spiffe://cluster.local/ns/production/sa/Web1Service", false, false),
            ("", false, false),
            ("@", false, false),
            ("bearé", false, false),
        ] {
            assert_eq!((is_secret(value), is_id(value)), (secret, id), "{value}");
        }
    }
}
