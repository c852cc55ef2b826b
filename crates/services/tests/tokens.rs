//! Tokens are good where they should be, by the word of two verifiers that are not ours: ring, and Envoy's `jwt_authn`.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature;
use sailcloth_launch::{
    Ports, RunDir, envoy,
    http::{Client, Request},
};
use sailcloth_services::issuer::{Algorithm, Defect, Key, Keys};
use serde_json::{Value, json};

/// Made once: an RSA key takes some tenths of a second.
static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::generate().unwrap());

const ISSUER: &str = "https://issuer.example";

/// Good until 2100.
fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "aud": "shop", "exp": 4_102_444_800_i64})
}

fn decode(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// Verifies with ring and the JWK that the token's `kid` names; the claims.
fn verified(token: &str, jwks: &Value) -> Result<Value, String> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, signature] = parts[..] else { return Err("not three parts".to_owned()) };
    let (input, _) = token.rsplit_once('.').unwrap();
    let header: Value = serde_json::from_slice(&decode(header)).unwrap();
    let jwk = jwks["keys"].as_array().unwrap().iter().find(|jwk| jwk["kid"] == header["kid"]);
    let member = |name: &str| decode(jwk.unwrap()[name].as_str().unwrap());
    let (input, signature) = (input.as_bytes(), decode(signature));
    let result = match header["alg"].as_str().unwrap() {
        "ES256" => {
            let point = [vec![4], member("x"), member("y")].concat();
            signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
                .verify(input, &signature)
        }
        rsa => {
            let parameters = match rsa {
                "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                other => return Err(format!("alg {other}")),
            };
            let key = signature::RsaPublicKeyComponents { n: member("n"), e: member("e") };
            key.verify(parameters, input, &signature)
        }
    };
    result.map_err(|_| "bad signature".to_owned())?;
    Ok(serde_json::from_slice(&decode(claims)).unwrap())
}

#[test]
fn a_token_of_every_algorithm_verifies_with_ring() {
    for alg in ["RS256", "RS384", "RS512", "ES256"] {
        let token = KEYS.sign(&json!({"alg": alg}), &claims()).unwrap();
        assert_eq!(verified(&token, &KEYS.jwks()), Ok(claims()), "{alg}");
        let mut other = token.clone().into_bytes();
        let middle = token.find('.').unwrap() + 10;
        other[middle] ^= 1;
        assert!(verified(&String::from_utf8(other).unwrap(), &KEYS.jwks()).is_err(), "{alg}");
    }
}

#[test]
fn the_header_of_a_token_is_in_the_hands_of_the_caller() {
    let header =
        |token: &str| -> Value { serde_json::from_slice(&decode(token.split('.').next().unwrap())).unwrap() };
    let token = KEYS.sign(&json!({"typ": null, "kid": "other", "x": 1}), &claims()).unwrap();
    assert_eq!(header(&token), json!({"alg": "RS256", "kid": "other", "x": 1}));
    let token = KEYS.sign(&json!({}), &claims()).unwrap();
    let kid = KEYS.key(Algorithm::Rs256).unwrap().kid();
    assert_eq!(header(&token), json!({"alg": "RS256", "typ": "JWT", "kid": kid}));
    for bad in [json!({"alg": "none"}), json!({"alg": "HS256"}), json!({"alg": 5})] {
        assert!(KEYS.sign(&bad, &claims()).is_err(), "{bad}");
    }
}

#[test]
fn the_jwks_has_public_members_only() {
    let jwks = KEYS.jwks();
    let keys = jwks["keys"].as_array().unwrap();
    let names = |jwk: &Value| {
        let mut names: Vec<_> = jwk.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(keys.len(), 2);
    assert_eq!(names(&keys[0]), ["alg", "e", "kid", "kty", "n", "use"]);
    assert_eq!(names(&keys[1]), ["alg", "crv", "kid", "kty", "use", "x", "y"]);
    assert_eq!((&keys[0]["alg"], &keys[0]["e"]), (&json!("RS256"), &json!("AQAB")));
    assert_eq!(decode(keys[0]["n"].as_str().unwrap()).len(), 256);
    assert_eq!(["x", "y"].map(|name| decode(keys[1][name].as_str().unwrap()).len()), [32, 32]);
    assert!(!format!("{:?}", *KEYS).contains("PrivateKey"), "secrets are not shown");
}

#[test]
fn rotated_keys_stay_until_they_are_forgotten() {
    let mut keys = KEYS.clone();
    let old = keys.sign(&json!({"alg": "ES256"}), &claims()).unwrap();
    let retired = keys.rotate().unwrap();
    let new = keys.sign(&json!({"alg": "ES256"}), &claims()).unwrap();
    assert_eq!(keys.jwks()["keys"].as_array().unwrap().len(), 4);
    assert!(verified(&old, &keys.jwks()).is_ok() && verified(&new, &keys.jwks()).is_ok());
    assert!(new.split('.').next() != old.split('.').next(), "another kid");
    keys.forget(&retired);
    assert_eq!(keys.jwks()["keys"].as_array().unwrap().len(), 2);
}

#[test]
fn saved_keys_are_loaded_again_and_only_ours_to_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    KEYS.save(dir.path()).unwrap();
    let loaded = Keys::load_or_generate(dir.path()).unwrap();
    assert_eq!(loaded.jwks(), KEYS.jwks());
    let mode = std::fs::metadata(dir.path().join("rs256.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    std::fs::copy(dir.path().join("es256.pem"), dir.path().join("rs256.pem")).unwrap();
    let error = Keys::load_or_generate(dir.path()).unwrap_err().to_string();
    assert!(error.contains("rs256.pem`: not a key for RS256; remove it"), "{error}");
    std::fs::write(dir.path().join("rs256.pem"), "nonsense").unwrap();
    assert!(Keys::load_or_generate(dir.path()).is_err());
}

/// RFC 7638, section 3.1: the thumbprint that the RFC gives for its key cannot be made from a private key we have, so
/// it is recomputed from the public JWK with ring's SHA-256.
#[test]
fn a_kid_is_the_thumbprint_of_its_key() {
    let key = Key::ec();
    let jwk = key.jwk();
    let text = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]);
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    assert_eq!(key.kid(), URL_SAFE_NO_PAD.encode(digest));
}

#[test]
fn a_shared_secret_signs_as_rfc_7515_says() {
    // RFC 7515, appendix A.1.
    let secret =
        decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow");
    let input = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly\
        9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let signature = Key::hmac("k", secret).signature(Algorithm::Hs256, input.as_bytes()).unwrap();
    assert_eq!(URL_SAFE_NO_PAD.encode(signature), "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    assert!(Key::hmac("k", "x").signature(Algorithm::Es256, b"").is_err());
}

/// An Envoy whose `jwt_authn` demands a token by our keys.
fn guarded(port: u16, admin: u16) -> String {
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let typed = |name: &str, mut config: Value| {
        config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.{name}"));
        json!({"name": name, "typed_config": config})
    };
    let jwt = typed(
        "http.jwt_authn.v3.JwtAuthentication",
        json!({
            "providers": {"ours": {
                "issuer": ISSUER, "audiences": ["shop"], "local_jwks": {"inline_string": KEYS.jwks().to_string()},
            }},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "ours"}}],
        }),
    );
    let manager = typed(
        "network.http_connection_manager.v3.HttpConnectionManager",
        json!({
            "stat_prefix": "guarded",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                {"match": {"prefix": "/"}, "direct_response": {"status": 200}},
            ]}]},
            "http_filters": [jwt, typed("http.router.v3.Router", json!({}))],
        }),
    );
    json!({
        "admin": {"address": address(admin)},
        "static_resources": {"listeners": [{"address": address(port), "filter_chains": [{"filters": [manager]}]}]},
    })
    .to_string()
}

#[test]
fn envoy_accepts_good_tokens_and_refuses_every_defect_but_an_unknown_crit() {
    let Some(binary) = envoy::find_or_skip() else { return };
    let (mut ports, run) = (Ports::new(), RunDir::temp().unwrap());
    let (port, admin) = (ports.free().unwrap(), ports.free().unwrap());
    let _envoy = envoy::Spec::new("guarded", guarded(port, admin)).binary(binary).start(&run).unwrap();
    let ask = |token: &str| Client::local(port).send(&Request::get("/").bearer(token)).unwrap();
    for alg in ["RS256", "RS384", "RS512", "ES256"] {
        // Envoy holds a key to the `alg` of its JWK, so RS384 and RS512 are refused with ours.
        let expected = if ["RS256", "ES256"].contains(&alg) { 200 } else { 401 };
        let answer = ask(&KEYS.sign(&json!({"alg": alg}), &claims()).unwrap());
        assert_eq!(answer.status, expected, "{alg}: {}", answer.text());
    }
    let mut refused = Vec::new();
    for algorithm in [Algorithm::Rs256, Algorithm::Es256] {
        for defect in Defect::ALL {
            let answer = ask(&KEYS.defective(defect, algorithm, &claims()).unwrap());
            // Envoy does not look at `crit`, against RFC 7515, section 4.1.11.
            let expected = if defect == Defect::UnknownCrit { 200 } else { 401 };
            assert_eq!(answer.status, expected, "{algorithm:?} {defect:?}: {}", answer.text());
            refused.push(answer.text().into_owned());
        }
    }
    refused.sort();
    refused.dedup();
    assert!(refused.len() >= 5, "refused for different reasons: {refused:?}");
}
