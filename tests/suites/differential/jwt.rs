//! Generated tokens in a real Envoy: its own `jwt_authn`, configured as Istio does, beside our filter.

use sailcloth_launch::envoy;
use sailcloth_launch::http::{Request, Response};
use sailcloth_tests::differential::client::{Runner, Way};
use sailcloth_tests::differential::deviations::STRICT;
use sailcloth_tests::differential::jwt::token::{KEYS, with};
use sailcloth_tests::differential::jwt::{World, bearer, rules, with_bench};
use sailcloth_tests::differential::random::Random;
use sailcloth_tests::differential::{Tally, scaled, seed};
use sailcloth_tests::echo;
use sailcloth_tests::keys::TestKey;
use serde_json::json;

#[test]
fn our_filter_judges_tokens_as_envoys_own() {
    let Some(binary) = envoy::find_or_skip() else { return };
    let mut tally = Tally::new("tokens: native jwt_authn and ours");
    for batch in 0..scaled(1, 8) {
        let world = |number| {
            let mut random = Random::new(seed()).nth(batch * 1_000 + number);
            let rules = rules(&mut random);
            let bearers = (0..scaled(100, 300)).map(|_| bearer(&mut random, &rules)).collect();
            World { rules, bearers }
        };
        let worlds: Vec<World> = (0..scaled(30, 50)).map(world).collect();
        tally.add(World::run(&binary, &worlds));
    }
    tally.finish(scaled(3_000, 100_000));
}

/// The deviations about tokens: when a row fails, its entry goes.
#[test]
fn named_deviations_about_tokens_are_still_there() {
    let Some(binary) = envoy::find_or_skip() else { return };
    let issuer = |issuer: &str| {
        let keys = KEYS.iter().filter(|(_, _, of)| *of == issuer).map(|(key, _, _)| *key);
        let keys: Vec<String> = keys.map(|key| TestKey::named(key).unwrap().jwk()).collect();
        let claims: Vec<_> = ["sub", "ratio", "realm"]
            .iter()
            .map(|claim| json!({"header": format!("x-claim-{claim}"), "claim": claim}))
            .collect();
        json!({"issuer": issuer, "jwks": format!(r#"{{"keys":[{}]}}"#, keys.join(",")), "outputClaimToHeaders": claims})
    };
    let rules = vec![issuer("https://issuer.example"), issuer("https://other.example")];
    let mut in_header = issuer("https://issuer.example");
    in_header["fromHeaders"] = json!([{"name": "x-token"}, {"name": "authorization", "prefix": "Bearer "}]);
    let mut silent = issuer("https://other.example");
    silent.as_object_mut().unwrap().remove("outputClaimToHeaders");
    let in_header = vec![in_header, silent];
    let worlds = [rules, in_header].map(|rules| World { rules, bearers: Vec::new() });
    with_bench(&binary, &worlds, |bench| {
        let mut runner = Runner::default();
        let mut both = |target: &str, token: &str| -> [Response; 2] {
            let request = Request::get(target).header("host", "a.test").bearer(token);
            [0, 1].map(|side| runner.send(Way::Direct { port: bench.ports[side] }, &request))
        };
        for (defect, reason) in STRICT {
            // Only a P-384 signature has room for a byte more.
            let key = if *defect == "signature long" { 2 } else { 1 };
            let token = match defect.strip_prefix("suffix `").and_then(|rest| rest.strip_suffix('`')) {
                // Blanks alone, since what follows them counts.
                Some(_) => {
                    let mut token = with(key, &[]);
                    token.insert(token.len() - 3, ' ');
                    token
                }
                None => with(key, &[*defect]),
            };
            let [native, ours] = both("/", &token);
            assert_eq!([native.status, ours.status], [200, 401], "{defect} ({reason})");
        }
        let [native, ours] = both("/", &with(1, &["sub empty"]));
        let claims = |response: &Response| {
            let all = echo::read(&response.body).into_iter();
            all.filter(|(name, _)| name.starts_with("x-claim-")).collect::<Vec<_>>()
        };
        let (native, ours) = (claims(&native), claims(&ours));
        assert!(native.contains(&("x-claim-ratio".to_owned(), b"0.500000".to_vec())), "{native:?}");
        assert!(ours.contains(&("x-claim-ratio".to_owned(), b"0.5".to_vec())), "{ours:?}");
        assert!(native.iter().all(|(name, _)| name != "x-claim-sub"), "{native:?}");
        assert!(ours.contains(&("x-claim-sub".to_owned(), Vec::new())), "{ours:?}");
        let [native, ours] = both("/?q", &with(1, &["expired", "kid a number"]));
        let realm = |response: &Response| response.header("www-authenticate").unwrap().into_owned();
        assert!(realm(&native).contains("?q") && !realm(&ours).contains('?'));
        let [native, ours] = both("/", &with(1, &["double padding", "iss unknown"]));
        assert_eq!([native.status, ours.status], [401, 401]);
        assert_ne!(native.text(), ours.text());
        let target = format!("/?z=1&access_token={}&b=2", with(1, &[]));
        let request = Request::get(&target).header("host", "a.test");
        let path = |response: &Response| {
            let all = echo::read(&response.body);
            String::from_utf8(all.iter().find(|(name, _)| name == ":path").unwrap().1.clone()).unwrap()
        };
        let paths = [0, 1].map(|side| path(&runner.send(Way::Direct { port: bench.ports[side] }, &request)));
        assert_eq!(paths, ["/?b=2&z=1", "/?z=1&b=2"]);
        // A bad token beside a good one in the same header, and tokens of two rules.
        let beside = Request::get("/")
            .header("host", "a.test")
            .header("x-token", "bad")
            .header("x-token", with(1, &[]));
        let two =
            Request::get("/").header("host", "a.test").header("x-token", with(1, &[])).bearer(&with(3, &[]));
        let mut send =
            |request| [2, 3].map(|side| runner.send(Way::Direct { port: bench.ports[side] }, request));
        assert_eq!(send(&beside).map(|response| response.status), [200, 401]);
        let subjects = send(&two)
            .map(|response| claims(&response).iter().filter(|(name, _)| name == "x-claim-sub").count());
        assert_eq!(subjects, [1, 0]);
    });
}
