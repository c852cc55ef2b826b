//! The requests: twelve headers as a browser behind a gateway sends them, one of them a bearer token.

use std::time::{SystemTime, UNIX_EPOCH};

use sailcloth_launch::{Error, Result};
use sailcloth_services::issuer::{Algorithm, Keys, compact};
use serde_json::json;

use crate::policy::{AUDIENCE, ISSUER};

/// The length that tokens are filled up to, so that both algorithms cost Envoy's parser the same.
const TOKEN_BYTES: usize = 690;

/// Connections to each Envoy; each is a client with an API key of its own.
pub(crate) const CONNECTIONS: usize = 4;

/// The keys of the issuer and a token of each kind.
#[derive(Debug)]
pub(crate) struct Tokens {
    /// The issuer's JWKS.
    pub(crate) jwks: String,
    rs256: String,
    es256: String,
}

/// Which token a variant's requests carry.
#[derive(Clone, Debug)]
pub(crate) enum TokenOf {
    /// The issuer's, by RS256.
    Rs256,
    /// The issuer's, by ES256.
    Es256,
    /// One by another algorithm.
    Foreign(Foreign),
}

/// A key and a token by an algorithm that the example issuer has not, made by another library.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    /// Its key set.
    pub(crate) jwks: String,
    /// The token.
    pub(crate) token: String,
}

/// Who issued the tokens of [`Foreign`].
pub(crate) const FOREIGN_ISSUER: &str = "https://issuer.example";
/// Whom they are for.
pub(crate) const FOREIGN_AUDIENCE: &str = "api";

impl Foreign {
    /// The one by `algorithm`; nothing that any filter accepts when the file has none.
    pub(crate) fn named(algorithm: &str) -> Self {
        let rows: serde_json::Value =
            serde_json::from_str(include_str!("../../jwt/tests/interop/tokens.json")).unwrap_or_default();
        let row = rows.pointer(&format!("/rows/{algorithm}")).cloned().unwrap_or_default();
        let token = row.pointer("/token").and_then(serde_json::Value::as_str).unwrap_or_default();
        Self { jwks: json!({"keys": [row.pointer("/jwk")]}).to_string(), token: token.to_owned() }
    }
}

impl Tokens {
    /// New keys, and tokens that are valid for a day.
    pub(crate) fn generate() -> Result<Self> {
        let failed =
            |error: sailcloth_services::Error| Error::Http(format!("could not make tokens: {error}"));
        let keys = Keys::generate().map_err(failed)?;
        let token = |algorithm| sign(&keys, algorithm).map_err(failed);
        Ok(Self {
            rs256: token(Algorithm::Rs256)?,
            es256: token(Algorithm::Es256)?,
            jwks: keys.jwks().to_string(),
        })
    }

    /// The token of a variant.
    pub(crate) fn token<'t>(&'t self, of: &'t TokenOf) -> &'t str {
        match of {
            TokenOf::Rs256 => &self.rs256,
            TokenOf::Es256 => &self.es256,
            TokenOf::Foreign(foreign) => &foreign.token,
        }
    }
}

fn sign(keys: &Keys, algorithm: Algorithm) -> sailcloth_services::Result<String> {
    let key = keys.key(algorithm)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let header = json!({"alg": algorithm.name(), "typ": "JWT", "kid": key.kid()}).to_string();
    let token = |fill: usize| {
        let claims = json!({
            "iss": ISSUER, "aud": [AUDIENCE], "sub": "alice", "iat": now, "nbf": now - 60, "exp": now + 86400,
            "scope": "read write", "groups": ["staff", "team-a"], "fill": "x".repeat(fill),
        });
        compact(header.as_bytes(), claims.to_string().as_bytes(), |input| key.signature(algorithm, input))
    };
    // Base64 makes four letters of three bytes.
    let missing = TOKEN_BYTES.saturating_sub(token(0)?.len());
    token(missing * 3 / 4)
}

/// A GET of `path` with `token`, by client number `client`.
pub(crate) fn get(path: &str, token: &str, client: usize) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\n\
         Host: api-service\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
         Accept: application/json, text/plain, */*\r\n\
         Accept-Language: en-US,en;q=0.5\r\n\
         Accept-Encoding: gzip, deflate, br\r\n\
         Authorization: Bearer {token}\r\n\
         Cookie: session=0123456789abcdef; theme=dark\r\n\
         Referer: https://shop.example/checkout\r\n\
         Cache-Control: no-cache\r\n\
         X-Api-Key: key-{client}\r\n\
         X-Correlation-Id: 6f1c2a3e-0b7d-4a58-9b1e-3d5f7a9c1e2b\r\n\
         Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n"
    )
    .into_bytes()
}

/// The requests of the load: one per connection.
pub(crate) fn load(token: &str) -> Vec<Vec<u8>> {
    (0..CONNECTIONS).map(|client| get("/api/v1/users", token, client)).collect()
}

/// `token` with one letter of its signature changed.
pub(crate) fn forged(token: &str) -> String {
    let Some((rest, signature)) = token.rsplit_once('.') else { return String::new() };
    let letter = if signature.starts_with('A') { 'B' } else { 'A' };
    let tail: String = signature.chars().skip(1).collect();
    format!("{rest}.{letter}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tokens_have_the_same_length() {
        let tokens = Tokens::generate().unwrap();
        for of in [TokenOf::Rs256, TokenOf::Es256] {
            let length = tokens.token(&of).len();
            assert!(length.abs_diff(TOKEN_BYTES) <= 3, "{length}");
        }
    }

    #[test]
    fn there_are_tokens_by_the_other_algorithms() {
        for algorithm in ["HS256", "EdDSA", "PS256"] {
            let foreign = Foreign::named(algorithm);
            assert!(foreign.token.split('.').count() == 3 && foreign.jwks.contains(algorithm), "{foreign:?}");
        }
    }

    #[test]
    fn a_request_has_twelve_headers() {
        let text = String::from_utf8(get("/", "t", 3)).unwrap();
        assert_eq!(text.lines().filter(|line| line.contains(": ")).count(), 12);
        assert!(text.ends_with("\r\n\r\n"));
    }

    #[test]
    fn a_forged_token_differs_in_its_signature_only() {
        assert_eq!(forged("a.b.cd"), "a.b.Ad");
        assert_eq!(forged("a.b.Ad"), "a.b.Bd");
    }
}
