//! A host without `verify_signature`: the usual build says that it cannot verify, the full build verifies itself.

use sailcloth_emulator::{Hostcall, Injection, Status, Stream};
use sailcloth_tests::emulator::{Bench, header_map};
use sailcloth_tests::native::Clock;
use sailcloth_tests::{template, yaml};

/// The statuses of replies, 200 where the request goes on.
fn answers(module: &str, tokens: &[&str]) -> Vec<u64> {
    let now = Clock::now_seconds();
    let configuration =
        "{resources: [{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: a},
        spec: {jwtRules: [{issuer: 'https://issuer.example', jwks: '{{jwks rsa1 ec1 ec384 ed1}}'}]}}]}";
    let configuration = template::expand_node(&yaml::parse(configuration).unwrap(), now).unwrap();
    let bench = Bench::new(module, &configuration).map_err(|(error, _)| error).unwrap();
    bench.process.set_realtime_ns(now * 1_000_000_000);
    bench.process.inject(Hostcall::CallForeignFunction, Injection::always(Status::NotFound));
    let answer = |token: &&str| {
        let token = template::expand(&format!("{{{{token {token} iss=https://issuer.example sub=a}}}}"), now)
            .unwrap();
        let request = [
            (":method", "GET"),
            (":path", "/"),
            (":authority", "a"),
            ("authorization", &format!("Bearer {token}")),
        ]
        .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
        .to_vec();
        let mut stream = Stream::new(&bench.process, &[&bench.plugin], header_map(&request));
        stream.request_headers(true);
        stream.local_reply().map_or(200, |reply| u64::from(reply.status))
    };
    tokens.iter().map(answer).collect()
}

#[test]
fn a_host_without_verify_signature_needs_the_full_build() {
    let tokens = [
        "key=rsa1",
        "key=rsa1 tamper=signature",
        "key=ec1",
        "key=ec384",
        "key=ec384 tamper=payload",
        "key=ed1",
    ];
    assert_eq!(answers("jwt", &tokens), [500, 500, 500, 500, 500, 200]);
    assert_eq!(answers("jwt-full", &tokens), [200, 401, 200, 200, 401, 200]);
}
