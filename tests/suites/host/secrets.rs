//! Tokens and keys appear in nothing that the `jwt` filter writes: logs at every level, names of metrics, replies.

use sailcloth_core::config::Node;
use sailcloth_emulator::{Level, Stream};
use sailcloth_tests::emulator::{Bench, header_map};
use sailcloth_tests::keys::TestKey;
use sailcloth_tests::native::Clock;
use sailcloth_tests::{template, yaml};

/// What must not be found, by what it is.
struct Secrets(Vec<(String, String)>);

impl Secrets {
    /// The material of the keys, and every part of the tokens but their headers, which are `{"alg":…}`.
    fn of(keys: &[&str], tokens: &[String]) -> Self {
        let mut secrets = Vec::new();
        for name in keys {
            let jwk = Node::from_json(TestKey::named(name).unwrap().jwk().as_bytes()).unwrap();
            for member in ["n", "x", "y", "k"] {
                let material = jwk.field(member).and_then(Node::text);
                secrets.extend(material.map(|text| (format!("`{member}` of {name}"), text.to_owned())));
            }
        }
        for token in tokens {
            let parts = token.split('.').skip(1).filter(|part| part.len() > 8);
            secrets.extend(parts.map(|part| ("a part of a token".to_owned(), part.to_owned())));
        }
        assert!(secrets.len() > keys.len() + tokens.len());
        Self(secrets)
    }

    /// Panics with the place of a secret in a text.
    fn must_be_missing(&self, place: &str, text: &str) {
        for (what, secret) in &self.0 {
            assert!(!text.contains(secret.as_str()), "{what} stands in {place}: {text}");
        }
        assert!(!text.contains("hunter2"), "a claim stands in {place}: {text}");
    }
}

fn tokens(now: u64) -> Vec<String> {
    let token = |rest: &str| {
        template::expand(&format!("{{{{token {rest} iss=https://issuer.example sub=hunter2}}}}"), now)
            .unwrap()
    };
    let mut all: Vec<String> = ["rsa1", "ec1", "ed1", "hs1"].map(|key| token(&format!("key={key}"))).to_vec();
    for defect in [
        "tamper=signature",
        "tamper=payload",
        "tamper=extra-segment",
        "exp=-2h",
        "nbf=+2h",
        "kid=none",
        "aud=1",
    ] {
        all.push(token(&format!("key=rsa1 {defect}")));
    }
    all.push(token(r#"key=rsa1 claims={"iss":7}"#));
    all.push(token(r#"key=rsa1 header={"crit":["x"]}"#));
    all.push(token("key=rsa1 alg=PS256"));
    all
}

#[test]
fn no_token_and_no_key_stands_in_what_the_filter_writes() {
    let now = Clock::now_seconds();
    let tokens = tokens(now);
    let keys = ["rsa1", "ec1", "ed1", "hs1"];
    let secrets = Secrets::of(&keys, &tokens);
    let configuration = "{resources: [{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: a}, spec: {jwtRules: [
        {issuer: 'https://issuer.example', jwks: '{{jwks rsa1 ec1 ed1}}', fromHeaders: [{name: authorization, prefix: 'Bearer '}],
         fromParams: [t], fromCookies: [t], outputClaimToHeaders: [{header: x-sub, claim: sub}]},
        {issuer: 'https://issuer.example', jwks: '{{jwks hs1}}'}]}}]}";
    let configuration = template::expand_node(&yaml::parse(configuration).unwrap(), now).unwrap();
    let bench = Bench::new("jwt", &configuration).map_err(|(error, _)| error).unwrap();
    bench.process.set_log_level(Level::Trace);
    bench.process.set_realtime_ns(now * 1_000_000_000);
    let (mut accepted, mut refused) = (0, 0);
    for token in &tokens {
        for (name, value) in [
            ("authorization", format!("Bearer {token}")),
            (":path", format!("/x?t={token}")),
            ("cookie", format!("t={token}")),
            ("authorization", format!("Bearer {token} {token}")),
        ] {
            let mut request = vec![(":method", "GET".to_owned()), (":authority", "api".to_owned())];
            if name != ":path" {
                request.push((":path", "/".to_owned()));
            }
            request.push((name, value));
            let request =
                request.into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())).collect();
            let mut stream = Stream::new(&bench.process, &[&bench.plugin], header_map(&request));
            stream.request_headers(true);
            match stream.local_reply() {
                Some(reply) => {
                    refused += 1;
                    secrets.must_be_missing(
                        "a reply",
                        &format!("{reply:?} {}", String::from_utf8_lossy(&reply.body)),
                    );
                }
                None => accepted += 1,
            }
        }
    }
    assert!(accepted >= 8 && refused >= 30, "{accepted} accepted, {refused} refused");
    for line in bench.process.logs() {
        secrets.must_be_missing("the log", &line.message);
    }
    for (_, name, _) in bench.process.metrics() {
        secrets.must_be_missing("the name of a metric", &name);
    }
}

#[test]
fn a_refused_configuration_repeats_no_key() {
    let now = Clock::now_seconds();
    let secrets = Secrets::of(&["rsa1", "hs1", "ec1"], &[]);
    let mixed = template::expand("{{jwks rsa1 hs1 ec1}}", now).unwrap();
    let weak = mixed.replace("\"kty\":\"RSA\"", "\"kty\":\"RSA\",\"alg\":\"PS256\",\"d\":\"hunter2\"");
    for jwks in [
        mixed.clone(),
        weak,
        mixed.replace("sig", "enc"),
        format!("{mixed} x"),
        mixed.replace("\"n\"", "\"n \""),
    ] {
        let mut configuration = yaml::parse(
            "{resources: [{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: a}, spec: {jwtRules: [{issuer: a}]}}]}",
        )
        .unwrap();
        let rule = yaml::map(vec![("issuer", yaml::text("a")), ("jwks", yaml::text(&jwks))]);
        let spec = yaml::map(vec![("jwtRules", Node::List(vec![rule]))]);
        let Node::Map(parts) = &mut configuration else { panic!("no map") };
        let Node::List(documents) = &mut parts[0].1 else { panic!("no list") };
        yaml::set(&mut documents[0], &["spec"], spec);
        let process = match Bench::new("jwt", &configuration) {
            Ok(bench) => bench.process,
            Err((_, process)) => process,
        };
        assert!(!process.logs().is_empty(), "nothing was said about {}", jwks.len());
        for line in process.logs() {
            secrets.must_be_missing("the log", &line.message);
        }
    }
}
