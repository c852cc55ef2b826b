//! Tests of the engine as a whole, and what they share.

mod bad_input;
mod cache;
mod decisions;
mod effects;
mod keystore;
mod settings;

use std::borrow::Cow;
use std::cell::Cell;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sailcloth_core::decision::Verdict;
use sailcloth_core::facts::{Facts, NoProperties};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::identity::{Claim, Token};
use sailcloth_core::request::Request;

use crate::{
    Algorithm, Algorithms, CannotVerify, Edit, Engine, Environment, Hash, KeyStore, Outcome, Refusal,
    TokenCache, Verifier, der,
};

const ENVIRONMENT: Environment = Environment { algorithms: Algorithms::ALL, variable: |_| None };

const NOW: Duration = Duration::from_secs(1_000_000);

/// A verifier whose signatures anybody can make: the tests are about everything around it, and run where no
/// cryptography is. It counts its calls.
#[derive(Default)]
struct Toy {
    calls: Cell<usize>,
    broken: bool,
}

impl Verifier for Toy {
    fn verify(
        &self,
        algorithm: Algorithm,
        key: &[u8],
        signature: &[u8],
        signed: &[u8],
    ) -> Result<bool, CannotVerify> {
        self.calls.set(self.calls.get() + 1);
        if self.broken {
            Err(CannotVerify)
        } else {
            Ok(signature == toy_signature(algorithm.hash, key, signed))
        }
    }
}

fn toy_signature(hash: Hash, key: &[u8], signed: &[u8]) -> Vec<u8> {
    let all = [hash.name().as_bytes(), key, signed].concat();
    let sum = all.iter().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    sum.to_le_bytes().to_vec()
}

fn modulus(key: u8) -> Vec<u8> {
    vec![key | 0x80; 256]
}

fn jwks(keys: &[u8]) -> String {
    let keys: Vec<String> = keys
        .iter()
        .map(|key| {
            let n = URL_SAFE_NO_PAD.encode(modulus(*key));
            format!(r#"{{"kty":"RSA","alg":"RS256","kid":"k{key}","e":"AQAB","n":"{n}"}}"#)
        })
        .collect();
    format!(r#"{{"keys":[{}]}}"#, keys.join(",")).replace('"', "\\\"")
}

fn token(key: u8, claims: &str) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", encode(&format!(r#"{{"alg":"RS256","kid":"k{key}"}}"#)), encode(claims));
    let public = der::rsa_key(&modulus(key), &[1, 0, 1]);
    let signature = toy_signature(Hash::Sha256, &public, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn of(issuer: &str) -> String {
    token(1, &format!(r#"{{"iss":"{issuer}","sub":"alice","exp":1000600}}"#))
}

/// One resource per list of rules.
fn configuration(resources: &[&str], rest: &str) -> String {
    let documents: Vec<String> = resources
        .iter()
        .enumerate()
        .map(|(index, rules)| {
            format!(
                r#"{{"apiVersion":"security.istio.io/v1","kind":"RequestAuthentication",
                "metadata":{{"name":"r{index}","namespace":"n"}},"spec":{{"jwtRules":[{rules}]}}}}"#
            )
        })
        .collect();
    format!(r#"{{"resources":[{}]{rest}}}"#, documents.join(","))
}

fn engine(resources: &[&str]) -> Engine {
    match Engine::load(configuration(resources, "").as_bytes(), &ENVIRONMENT) {
        Ok((engine, _)) => engine,
        Err(problems) => panic!("{problems:?}"),
    }
}

fn rule(issuer: &str, rest: &str) -> String {
    format!(r#"{{"issuer":"{issuer}","jwks":"{}"{rest}}}"#, jwks(&[1, 2]))
}

fn decide<'e>(engine: &'e Engine, headers: &[(&str, &str)], cache: &mut TokenCache) -> Outcome<'e> {
    decide_at(engine, headers, cache, NOW, &Toy::default())
}

fn decide_at<'e>(
    engine: &'e Engine,
    headers: &[(&str, &str)],
    cache: &mut TokenCache,
    now: Duration,
    verifier: &Toy,
) -> Outcome<'e> {
    decide_by(engine, headers, cache, now, &engine.key_store(), verifier)
}

fn decide_by<'e>(
    engine: &'e Engine,
    headers: &[(&str, &str)],
    cache: &mut TokenCache,
    now: Duration,
    keys: &KeyStore<u32>,
    verifier: &Toy,
) -> Outcome<'e> {
    let standard = [(":method", "GET"), (":scheme", "https"), (":authority", "api"), (":path", "/p?q=1")];
    let given = |name: &str| headers.iter().any(|(other, _)| *other == name);
    let block = HeaderBlock::from_pairs(
        standard.into_iter().filter(|(name, _)| !given(name)).chain(headers.iter().copied()),
    );
    let request = Request { headers: &block, facts: Facts::new(&NoProperties, engine.sources()) };
    engine.decide(&request, now, keys, verifier, cache)
}

/// `verdict code status by`.
fn summary(engine: &Engine, headers: &[(&str, &str)]) -> String {
    let mut cache = engine.cache([1, 2]);
    let fresh = text(&decide(engine, headers, &mut cache));
    let again = text(&decide(engine, headers, &mut cache));
    assert_eq!(fresh, again, "a cached answer differs");
    fresh
}

fn text(outcome: &Outcome<'_>) -> String {
    let decision = &outcome.decision;
    let by = decision.by.map_or("none".to_owned(), |by| format!("{}#{}", by.policy, by.rule));
    format!("{} {} {} {by}", decision.verdict.name(), decision.reason.code, decision.reason.status)
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}
