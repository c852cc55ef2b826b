//! What becomes of the request: challenges, headers, identity.

use super::*;
#[cfg(target_family = "wasm")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn a_challenge_repeats_no_query_and_cannot_be_broken_out_of() {
    let engine = engine(&[&rule("a", "")]);
    let headers = [(":path", "/a\"b\\c\u{e9}?access_token=x.y.z"), (":authority", "h")];
    let reply = decide(&engine, &headers, &mut engine.cache([1, 2])).reply();
    let value = r#"Bearer realm="https://h/a%22b%5Cc%C3%A9", error="invalid_token""#;
    assert_eq!((reply.headers[0].0, reply.headers[0].1.as_ref()), ("www-authenticate", value));
    assert_eq!((reply.status, reply.grpc_status), (401, 16));
}

#[test]
fn a_challenge_repeats_no_more_than_a_bounded_part_of_any_name() {
    let engine = engine(&[&rule("a", "")]);
    let long = "\u{e9}".repeat(10_000);
    let path = format!("/{long}");
    let headers =
        [(":path", path.as_str()), (":authority", &long), (":scheme", &long), ("authorization", "Bearer x")];
    let reply = decide(&engine, &headers, &mut engine.cache([1, 2])).reply();
    // Each byte that is no ASCII takes three letters.
    assert!(reply.headers[0].1.len() < 3 * (16 + 256 + 256) + 100, "{}", reply.headers[0].1.len());
}

#[test]
fn the_token_is_removed_unless_forwarded() {
    let path = format!("/p?x=1&access_token={}&y", of("a"));
    for (rest, edits) in [
        ("", vec!["Remove(authorization)", "Set(:path, <redacted>)"]),
        (r#","forwardOriginalToken":true"#, vec![]),
    ] {
        let engine = engine(&[&rule("a", rest)]);
        let headers = [("authorization", bearer(&of("a"))), (":path", path.clone())];
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let outcome = decide(&engine, &headers, &mut engine.cache([1, 2]));
        let found: Vec<String> = outcome.edits.iter().map(|edit| format!("{edit:?}")).collect();
        assert_eq!(found, edits, "{rest}");
        if let Some(Edit::Set(_, path)) = outcome.edits.get(1) {
            assert_eq!(path, b"/p?x=1&y");
        }
    }
}

#[test]
fn output_headers_are_stripped_from_clients_on_every_path() {
    let outputs = r#","outputPayloadToHeader":"x-payload","outputClaimToHeaders":[{"header":"X-Sub","claim":"sub"},{"header":"x-none","claim":"none"}]"#;
    let engine = engine(&[&rule("a", outputs)]);
    let spoofed = [("x-sub", "root"), ("x-payload", "e30"), ("x-none", "1")];
    let strip = vec![Edit::Remove("x-none"), Edit::Remove("x-payload"), Edit::Remove("x-sub")];
    let preflight =
        [(":method", "OPTIONS"), ("origin", "https://a"), ("access-control-request-method", "GET")];
    for more in [vec![], vec![("authorization", "Bearer bad")], preflight.to_vec()] {
        let headers: Vec<(&str, &str)> = spoofed.into_iter().chain(more).collect();
        assert_eq!(decide(&engine, &headers, &mut engine.cache([1, 2])).edits, strip, "{headers:?}");
    }
    let good = of("a");
    let bearer = bearer(&good);
    let headers: Vec<(&str, &str)> =
        spoofed.into_iter().chain([("authorization", bearer.as_str())]).collect();
    let mut cache = engine.cache([1, 2]);
    for _ in 0..2 {
        let edits = decide(&engine, &headers, &mut cache).edits;
        assert_eq!(edits[..3], strip);
        let payload = good.split('.').nth(1).unwrap().as_bytes().to_vec();
        assert!(edits.contains(&Edit::Set(Cow::Borrowed("x-payload"), payload)), "{edits:?}");
        assert!(edits.contains(&Edit::Set(Cow::Borrowed("x-sub"), b"alice".to_vec())), "{edits:?}");
        assert_eq!(edits.len(), 6);
    }
}

#[test]
fn the_identity_is_handed_on_with_scopes_as_lists() {
    let engine = engine(&[&rule("a", r#","spaceDelimitedClaims":["roles"]"#)]);
    let claims = r#"{"iss":"a","sub":"s","scope":"read  write","roles":"x","other":"a b"}"#;
    let bearer = bearer(&token(1, claims));
    let outcome = decide(&engine, &[("authorization", &bearer)], &mut engine.cache([1, 2]));
    assert_eq!(outcome.principal(), Some(b"a/s".as_slice()));
    let token = outcome.token().unwrap();
    assert_eq!(outcome.state(), token.state());
    let Some(Claim::List(scopes)) = token.claim(&["scope"]) else { panic!("no list") };
    assert_eq!(scopes.collect::<Vec<_>>(), [Claim::Text(b"read"), Claim::Text(b"write")]);
    assert!(matches!(token.claim(&["roles"]), Some(Claim::List(_))));
    assert_eq!(token.text(&["other"]), Some(b"a b".as_slice()));
    let nobody = decide(&engine, &[], &mut engine.cache([1, 2]));
    assert_eq!((nobody.state(), nobody.principal()), (Token::anonymous_state(), None));
}
