//! Tokens of the comparison, and Envoy's `jwt_authn` as Istio configures it.

use std::time::{SystemTime, UNIX_EPOCH};

use sailcloth_core::config::Node;
use serde_json::{Value, json};

use crate::keys::{TestKey, base64url};
use crate::yaml;

/// The issuer of all tokens.
pub const ISSUER: &str = "https://issuer.example";

/// Name of the key that signs them.
pub const KEY: &str = "ec1";

/// Seconds since the Unix epoch.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A valid token with these claims, and a time of expiry.
///
/// # Panics
/// Never: the key is a fixture.
#[must_use]
pub fn signed(claims: &Node) -> String {
    let key = TestKey::named(KEY).expect("a fixture");
    let header = format!(r#"{{"alg":"{}","kid":"{KEY}","typ":"JWT"}}"#, key.default_algorithm());
    let mut claims = claims.clone();
    yaml::set(&mut claims, &["exp"], Node::Integer(i64::try_from(now()).unwrap_or(0) + 3600));
    let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(yaml::json(&claims).as_bytes()));
    let signature = key.sign(key.default_algorithm(), signed.as_bytes()).expect("a fixture signs");
    format!("{signed}.{}", base64url(&signature))
}

/// The key set of the issuer.
#[must_use]
pub fn jwks() -> String {
    format!(r#"{{"keys":[{}]}}"#, TestKey::named(KEY).expect("a fixture").jwk())
}

/// Istio's RequestAuthentication for the issuer, as our filter's configuration.
#[must_use]
pub fn ours() -> Value {
    json!({"resources": [{
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "authn", "namespace": "production"},
        "spec": {"jwtRules": [{"issuer": ISSUER, "jwks": jwks(), "forwardOriginalToken": true}]},
    }]})
}

/// The same as Envoy's filter.
#[must_use]
pub fn native() -> Value {
    json!({"name": "envoy.filters.http.jwt_authn", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"origins-0": {
            "issuer": ISSUER,
            "local_jwks": {"inline_string": jwks()},
            "forward": true,
            "payload_in_metadata": "payload",
            "normalize_payload_in_metadata": {"space_delimited_claims": ["scope", "permission"]},
        }},
        "rules": [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": [
            {"provider_name": "origins-0"}, {"allow_missing": {}}]}}}],
        "bypass_cors_preflight": true,
    }})
}
