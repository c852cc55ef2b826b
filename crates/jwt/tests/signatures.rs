//! Real signatures over real keys: `ring` signs and verifies, the engine is between them.
#![cfg(not(target_family = "wasm"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic; helpers of tests are not covered by clippy.toml"
)]

mod support;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaKeyPair,
};
use sailcloth_jwt::{Engine, Refusal};
use support::{Both, ENVIRONMENT};

const NOW: Duration = Duration::from_secs(1_790_000_000);

/// The keys that tokens are signed with; `crates/jwt/tests/keys` says what they are.
const RSA1: &[u8] = include_bytes!("keys/rsa1.p8");
const RSA2: &[u8] = include_bytes!("keys/rsa2.p8");
const EC1: &[u8] = include_bytes!("keys/ec1.p8");
const EC384: &[u8] = include_bytes!("keys/ec384.p8");

fn engine() -> Engine {
    let jwks = include_str!("keys/jwks.json").replace('\n', "").replace('"', "\\\"");
    let text = format!(
        r#"{{"resources":[{{"apiVersion":"security.istio.io/v1","kind":"RequestAuthentication","metadata":{{"name":"a"}},
        "spec":{{"jwtRules":[{{"issuer":"i","jwks":"{jwks}"}}]}}}}]}}"#
    );
    match Engine::load(text.as_bytes(), &ENVIRONMENT) {
        Ok((engine, warnings)) => {
            assert!(warnings.is_empty(), "{warnings:?}");
            engine
        }
        Err(problems) => panic!("{problems:?}"),
    }
}

fn token(alg: &str, kid: &str, key: &[u8]) -> String {
    let header = format!(r#"{{"alg":"{alg}","kid":"{kid}"}}"#);
    let claims = r#"{"iss":"i","sub":"s","exp":1790000100}"#;
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let random = SystemRandom::new();
    let message = signed.as_bytes();
    let ecdsa = |algorithm| {
        EcdsaKeyPair::from_pkcs8(algorithm, key, &random)
            .unwrap()
            .sign(&random, message)
            .unwrap()
            .as_ref()
            .to_vec()
    };
    let rsa = |padding| {
        let pair = RsaKeyPair::from_pkcs8(key).unwrap();
        let mut signature = vec![0; pair.public().modulus_len()];
        pair.sign(padding, &random, message, &mut signature).unwrap();
        signature
    };
    let signature = match alg {
        "RS256" => rsa(&RSA_PKCS1_SHA256),
        "RS384" => rsa(&RSA_PKCS1_SHA384),
        "RS512" => rsa(&RSA_PKCS1_SHA512),
        "ES256" => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
        _ => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
    };
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn tokens_of_known_keys_are_accepted_and_others_are_not() {
    let engine = engine();
    for (alg, kid, key, expected) in [
        ("RS256", "rsa1", RSA1, None),
        ("RS256", "rsa-any", RSA1, None),
        ("RS384", "rsa-any", RSA1, None),
        ("RS512", "rsa-any", RSA1, None),
        ("ES256", "ec1", EC1, None),
        ("ES384", "ec384", EC384, None),
        ("RS256", "rsa1", RSA2, Some(Refusal::BadSignature)),
        ("RS384", "rsa1", RSA1, Some(Refusal::KeyAlgMismatch)),
        ("RS256", "ec1", RSA1, Some(Refusal::KeyAlgMismatch)),
        ("ES256", "ec384", EC1, Some(Refusal::KeyAlgMismatch)),
        ("RS256", "rsa2", RSA2, Some(Refusal::UnknownKid)),
    ] {
        let found = engine.verify_token(token(alg, kid, key).as_bytes(), NOW, &Both);
        assert_eq!(found.err(), expected, "{alg} {kid}");
    }
}

#[test]
fn no_other_letter_in_a_token_is_accepted() {
    let engine = engine();
    for (alg, kid, key) in [("RS256", "rsa1", RSA1), ("ES256", "ec1", EC1)] {
        let good = token(alg, kid, key).into_bytes();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            assert!(engine.verify_token(&bad, NOW, &Both).is_err(), "{alg}: byte {at}");
        }
    }
}

#[test]
fn the_halves_of_an_ecdsa_signature_are_not_interchangeable() {
    let engine = engine();
    let good = token("ES256", "ec1", EC1);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let (r, s) = (&raw[..32], &raw[32..]);
    let zero = [0; 32];
    for bad in [
        [s, r].concat(),
        [&zero, s].concat(),
        [r, &zero].concat(),
        [zero, zero].concat(),
        [r, s, &[0]].concat(),
    ] {
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bad));
        assert_eq!(engine.verify_token(token.as_bytes(), NOW, &Both), Err(Refusal::BadSignature));
    }
}
