//! What strangers send: never accepted, never a panic, never repeated.

use super::*;
#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn no_type_prints_a_token_or_a_key() {
    let engine = engine(&[&rule("a", r#","outputClaimToHeaders":[{"header":"x-s","claim":"sub"}]"#)]);
    let mut cache = engine.cache([1, 2]);
    let token = token(1, r#"{"iss":"a","sub":"hunter2"}"#);
    let bearer = bearer(&token);
    let path = format!("/?access_token={token}");
    let outcome = decide(&engine, &[("authorization", &bearer)], &mut cache);
    let refused = decide(&engine, &[("authorization", "Bearer hunter2"), (":path", &path)], &mut cache);
    let jws = crate::Jws::parse(token.as_bytes()).unwrap();
    let claims = crate::Claims::parse(jws.raw_payload).unwrap();
    let printed = format!(
        "{engine:?} {cache:?} {outcome:?} {refused:?} {:?} {jws:?} {claims:?} {:#?} {}",
        refused.reply(),
        outcome.verified,
        refused.decision.details()
    );
    let modulus = URL_SAFE_NO_PAD.encode(modulus(1));
    let signature = token.rsplit('.').next().unwrap();
    let payload = token.split('.').nth(1).unwrap();
    for secret in ["hunter2", payload, signature, &modulus, "129, 129, 129"] {
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }
}

#[test]
fn no_change_of_a_token_is_accepted_and_none_panics() {
    let engine = engine(&[&rule("a", r#","audiences":["api"]"#)]);
    let good = token(1, r#"{"iss":"a","sub":"alice","aud":"api","exp":1000600}"#).into_bytes();
    let toy = Toy::default();
    assert!(engine.verify_token(&good, NOW, &toy).is_ok());
    for at in 0..good.len() {
        for change in [0x01u8, 0x20, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= change;
            assert!(engine.verify_token(&bad, NOW, &toy).is_err(), "byte {at} ^ {change}");
        }
        for insert in [b'.', b'=', b'A', b' ', 0, 0xff] {
            let mut bad = good.clone();
            bad.insert(at, insert);
            assert!(engine.verify_token(&bad, NOW, &toy).is_err(), "{insert} before {at}");
        }
        assert!(engine.verify_token(&good[..at], NOW, &toy).is_err(), "cut at {at}");
        assert!(engine.verify_token(&good[at + 1..], NOW, &toy).is_err(), "begun after {at}");
    }
}

#[test]
fn random_bytes_in_every_place_never_panic_and_never_pass() {
    let rules =
        rule("a", r#","fromHeaders":[{"name":"h","prefix":"P"}],"fromParams":["t"],"fromCookies":["c"]"#);
    let engine = engine(&[&rules]);
    let alphabet = b"eyJ0.-_=AP%2;\"& \x00\xff\xc3{}:,";
    let mut state = 1u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(state >> 33).unwrap() % below
    };
    for round in 0..5_000 {
        let length = next(60);
        let bytes: Vec<u8> = (0..length).map(|_| alphabet[next(alphabet.len())]).collect();
        let header = [b"P", bytes.as_slice()].concat();
        let path = [b"/?t=", bytes.as_slice()].concat();
        let cookie = [b"c=", bytes.as_slice()].concat();
        for (name, value) in [("h", header), (":path", path), ("cookie", cookie)] {
            let block = HeaderBlock::from_pairs([(name, value)]);
            let request = Request { headers: &block, facts: Facts::new(&NoProperties, engine.sources()) };
            let outcome = engine.decide(
                &request,
                NOW,
                &engine.key_store::<u32>(),
                &Toy::default(),
                &mut engine.cache([1, 2]),
            );
            assert!(outcome.decision.refuses(), "round {round}: {bytes:?}");
        }
    }
}
