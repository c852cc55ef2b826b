//! Ten thousand routes in the built module: what they take of a VM's memory, and that each is found.

use std::fmt::Write as _;

use sailcloth_core::config::Node;
use sailcloth_emulator::Stream;
use sailcloth_tests::emulator::Bench;

const ROUTES: usize = 10_000;

/// What a VM may take with that many; without any it takes 1.3 MiB.
const MAX_BYTES: usize = 56 << 20;

fn document(name: &str, host: &str, rules: &str) -> String {
    format!(
        r#"{{"apiVersion":"networking.istio.io/v1","kind":"VirtualService",
        "metadata":{{"name":"{name}","namespace":"production"}},"spec":{{"hosts":["{host}"],"http":[{rules}]}}}}"#
    )
}

fn rule(matched: &str) -> String {
    format!(
        r#"{{"match":[{matched}],"route":[{{"destination":{{"host":"api-service","subset":"v1"}}}}],"timeout":"30s"}}"#
    )
}

fn one_document(matched: impl Fn(usize) -> String) -> String {
    let rules: Vec<String> = (0..ROUTES).map(|number| rule(&matched(number))).collect();
    document("many", "api-service", &rules.join(","))
}

#[test]
fn ten_thousand_routes_fit_and_each_is_found() {
    let by_path = one_document(|number| format!(r#"{{"uri":{{"prefix":"/service-{number}/"}}}}"#));
    let by_header = one_document(|number| {
        format!(r#"{{"uri":{{"prefix":"/"}},"headers":{{"x-tenant":{{"exact":"tenant-{number}"}}}}}}"#)
    });
    let documents: Vec<String> = (0..ROUTES)
        .map(|number| document(&format!("d{number}"), &format!("host-{number}.example"), &rule("{}")))
        .collect();
    // Path, host and tenant of the request that a rule matches.
    type Asked = fn(usize) -> [String; 3];
    let cases: [(&str, String, Asked); 3] = [
        ("paths", by_path, |number| [format!("/service-{number}/x"), "api-service".into(), String::new()]),
        ("a header", by_header, |number| ["/x".into(), "api-service".into(), format!("tenant-{number}")]),
        ("hosts", documents.join(","), |number| {
            ["/x".into(), format!("host-{number}.example"), String::new()]
        }),
    ];
    for (what, documents, request) in cases {
        let mut text = format!(r#"{{"resources":[{documents}],"settings":{{"clusters":["#);
        let _ = write!(text, r#""outbound|80|v1|api-service.production.svc.cluster.local"]}}}}"#);
        let configuration = Node::from_json(text.as_bytes()).unwrap();
        let begin = std::time::Instant::now();
        let bench = Bench::new("routing", &configuration).map_err(|(error, _)| error.to_string()).unwrap();
        let bytes = bench.vm.memory_bytes();
        sailcloth_tests::report::note(&format!(
            "{ROUTES} routes by {what}: {} KiB of configuration, {} KiB of memory, {:?}",
            text.len() / 1024,
            bytes / 1024,
            begin.elapsed()
        ));
        assert!(bytes <= MAX_BYTES, "{what}: {bytes} bytes");
        for number in [0, 1, ROUTES / 2, ROUTES - 1] {
            let [path, host, tenant] = request(number);
            let headers =
                [(":method", "GET"), (":path", &path), (":authority", &host), ("x-tenant", &tenant)];
            let mut stream = Stream::new(&bench.process, &[&bench.plugin], headers);
            stream.request_headers(true);
            assert!(stream.reached_upstream(), "{what} {number}");
            let state = stream.filter_state("wasm.sailcloth.routing").unwrap();
            let state = String::from_utf8(state).unwrap();
            let expected = if what == "hosts" { format!("d{number}#0") } else { format!("many#{number}") };
            assert!(state.contains(&expected), "{what} {number}: {state}");
        }
    }
}
