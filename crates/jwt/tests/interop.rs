//! Tokens and keys made by a library that is not ours (`interop/make.py`), by every algorithm; and that nothing near them
//! is accepted.
#![cfg(not(target_family = "wasm"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic; helpers of tests are not covered by clippy.toml"
)]

mod support;

use std::time::Duration;

use sailcloth_core::config::Node;
use sailcloth_core::identity::Claim;
use sailcloth_jwt::{Algorithm, Engine};
use support::{Both, ENVIRONMENT};

const NOW: Duration = Duration::from_secs(1_790_000_000);

struct Interop {
    engine: Engine,
    /// By algorithm.
    tokens: Vec<(String, Vec<u8>)>,
}

fn interop() -> Interop {
    let file = Node::from_json(include_bytes!("interop/tokens.json")).unwrap();
    let Some(Node::Map(rows)) = file.field("rows") else { panic!("no rows") };
    let keys = |secret: bool| {
        let keys = rows.iter().filter(|(name, _)| name.starts_with("HS") == secret);
        keys.map(|(_, row)| json(row.field("jwk").unwrap())).collect::<Vec<_>>().join(",")
    };
    let rule = |keys: String| {
        let jwks = format!(r#"{{"keys":[{keys}]}}"#).replace('"', "\\\"");
        format!(r#"{{"issuer":"https://issuer.example","audiences":["api"],"jwks":"{jwks}"}}"#)
    };
    let text = format!(
        r#"{{"resources":[{{"apiVersion":"security.istio.io/v1","kind":"RequestAuthentication","metadata":{{"name":"a"}},
        "spec":{{"jwtRules":[{},{}]}}}}]}}"#,
        rule(keys(false)),
        rule(keys(true))
    );
    let (engine, _) = Engine::load(text.as_bytes(), &ENVIRONMENT).unwrap_or_else(|why| panic!("{why:?}"));
    let token = |row: &Node| row.field("token").and_then(Node::text).unwrap().as_bytes().to_vec();
    Interop { engine, tokens: rows.iter().map(|(name, row)| (name.clone(), token(row))).collect() }
}

fn json(jwk: &Node) -> String {
    let Node::Map(members) = jwk else { panic!("no key") };
    let value = |node: &Node| match node {
        Node::Text(text) => format!("\"{text}\""),
        _ => r#"["verify"]"#.to_owned(),
    };
    let members: Vec<String> =
        members.iter().map(|(name, node)| format!("\"{name}\":{}", value(node))).collect();
    format!("{{{}}}", members.join(","))
}

#[test]
fn tokens_by_every_algorithm_of_another_library_are_accepted() {
    let interop = interop();
    let names: Vec<&str> = interop.tokens.iter().map(|(name, _)| name.as_str()).collect();
    assert!(Algorithm::ALL.iter().all(|algorithm| names.contains(&algorithm.name)), "{names:?}");
    for (name, token) in &interop.tokens {
        let token =
            interop.engine.verify_token(token, NOW, &Both).unwrap_or_else(|why| panic!("{name}: {why:?}"));
        assert_eq!(token.principal().unwrap(), "https://issuer.example/grüße-user".as_bytes(), "{name}");
        assert!(matches!(token.claim(&["scope"]), Some(Claim::List(_))), "{name}");
    }
}

#[test]
fn no_part_of_one_token_fits_another() {
    let interop = interop();
    for (one, first) in &interop.tokens {
        for (other, second) in interop.tokens.iter().filter(|(other, _)| other != one) {
            let (head, _) = split(first);
            let (_, signature) = split(second);
            let mixed = [head, b".", signature].concat();
            assert!(interop.engine.verify_token(&mixed, NOW, &Both).is_err(), "{one} signed as {other}");
        }
    }
}

/// Everything before the signature, and the signature.
fn split(token: &[u8]) -> (&[u8], &[u8]) {
    let dot = token.iter().rposition(|byte| *byte == b'.').unwrap();
    (&token[..dot], &token[dot + 1..])
}

/// A generator of its own, so that the same mutations come each time.
struct Seed(u64);

impl Seed {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn mutated(&mut self, token: &[u8]) -> Vec<u8> {
        const LETTERS: &[u8] = b"ABCxyz019-_.=+/ ,\"{}\x00\n\r\t\x7f\x80\xc3\xff";
        let mut out = token.to_vec();
        let at = self.below(out.len());
        let to = at + self.below(out.len() - at);
        let letter = LETTERS[self.below(LETTERS.len())];
        match self.below(6) {
            0 => out[at] = letter,
            1 => out.insert(at, letter),
            2 => drop(out.remove(at)),
            3 => drop(out.drain(at..=to)),
            4 => {
                let part = out[at..to].to_vec();
                out.splice(to..to, part);
            }
            _ => out[at..=to].reverse(),
        }
        out
    }
}

#[test]
fn no_mutation_of_a_valid_token_is_accepted_and_none_panics() {
    let interop = interop();
    let mut seed = Seed(20_261_123);
    for (name, token) in &interop.tokens {
        // P-521 takes a tenth of a second without optimization.
        let rounds = if name == "ES512" { 40 } else { 400 };
        for _ in 0..rounds {
            let mutated = seed.mutated(token);
            if mutated == *token {
                continue;
            }
            let found = interop.engine.verify_token(&mutated, NOW, &Both);
            let refusal = found.expect_err(&format!("{name}: {}", String::from_utf8_lossy(&mutated)));
            assert!(matches!(refusal.reason().status, 401 | 403), "{name}: {refusal:?}");
        }
    }
}
