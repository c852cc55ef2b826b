//! What only a real Envoy shows, beyond single requests: refusing to start, reloading, several workers, crashes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "helpers of tests"
)]

#[path = "end_to_end/jwt_authn.rs"]
mod jwt_authn;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sailcloth_launch::http::{Client, Request};
use sailcloth_launch::{envoy, until};
use sailcloth_tests::shipped::{Running, SOON, Shipped};
use sailcloth_tests::{build, subject};
use serde_json::{Value, json};

#[path = "end_to_end/routing.rs"]
mod routing;

fn shipped(name: &str) -> Option<Shipped> {
    envoy::find_or_skip().map(|binary: PathBuf| Shipped::new(&binary, name))
}

#[test]
fn three_mistakes_are_three_located_messages_and_envoy_refuses_to_start() {
    let Some(authz) = shipped("authz") else { return };
    let refusal = authz
        .replaced(r#""methods":["GET","POST"]"#, r#""method":["GET","POST"]"#)
        .replaced(r#""action":"DENY","rules""#, r#""action":"DENIED","rules""#)
        .replaced(r#""requestIdentity":"none""#, r#""requestIdentitty":"none""#)
        .refusal();
    for message in [
        "resources[0].spec.rules[0].to[0].operation.method: unknown field; did you mean `methods`?",
        "resources[1].spec.action: unknown value `DENIED`; expected `ALLOW`, `DENY`",
        "settings.requestIdentitty: unknown field; did you mean `requestIdentity`?",
        "configuration refused: 3 problem(s), listed above",
    ] {
        assert!(refusal.contains(message), "lacks `{message}`:\n{refusal}");
    }
}

#[test]
fn a_module_given_another_filters_resource_says_so() {
    let Some(authz) = shipped("authz") else { return };
    let refusal = authz.replaced("dist/authz.wasm", "dist/jwt.wasm").refusal();
    let message = "resources[0]: `AuthorizationPolicy` belongs to the authz filter; this is the jwt filter, which takes RequestAuthentication";
    assert!(refusal.contains(message), "{refusal}");
}

#[test]
fn the_guard_refuses_where_the_filter_is_absent() {
    let Some(mut authz) = shipped("authz") else { return };
    authz.http_filters().retain(|filter| filter["name"] != "sailcloth.authz");
    let running = authz.start(1);
    let answer = running.send(&Request::get("/health"));
    assert_eq!((answer.status, answer.text().as_ref()), (403, "RBAC: access denied"));
    let line = running.envoy.access_log_lines(1, SOON).unwrap().remove(0);
    assert!(line.contains("rbac_access_denied"), "{line}");
}

#[test]
fn a_client_names_no_cluster_where_the_routing_filter_is_absent() {
    let Some(mut routing) = shipped("routing") else { return };
    routing.http_filters().retain(|filter| filter["name"] != "sailcloth.routing");
    let running = routing.start(1);
    let cluster = "outbound|80|v1|api-service.production.svc.cluster.local";
    let request = Request::get("/").header("host", "api-service").header("x-sailcloth-cluster", cluster);
    assert_eq!(running.send(&request).status, 503);
}

#[test]
fn a_client_cannot_write_the_peers_address_or_identity() {
    let Some(authz) = shipped("authz") else { return };
    let principals = r#"{"source":{"principals":["cluster.local/ns/production/sa/web-service"]}}"#;
    let running = authz.replaced(principals, r#"{"source":{"ipBlocks":["10.0.0.0/8"]}}"#).start(1);
    for (name, value) in [
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/production/sa/web-service"),
        ("x-envoy-external-address", "10.0.0.1"),
        ("x-real-ip", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("sailcloth.source_ip", "10.0.0.1"),
    ] {
        let answer = running.send(&Request::get("/api/v1/orders").header(name, value));
        assert_eq!(answer.status, 403, "{name}: {value}");
    }
    assert_eq!(running.send(&Request::get("/health")).status, 200);
}

#[test]
fn counters_of_two_workers_add_up_exactly() {
    let Some(authz) = shipped("authz") else { return };
    let running = authz.start(2);
    let (threads, each) = (8, 50_u64);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let client = Client::local(running.shipped.port);
            scope.spawn(move || {
                let mut connection = client.connect().unwrap();
                for number in 0..each {
                    let path = if number % 5 == 0 { "/api/v1/admin/x" } else { "/health" };
                    let status = connection.send(&Request::get(path)).unwrap().status;
                    assert_eq!(status, if number % 5 == 0 { 403 } else { 200 }, "thread {thread}");
                }
            });
        }
    });
    let all = threads * each;
    let decisions = running.metrics("sailcloth_authz_decisions_total");
    let of = |part: &str| {
        decisions.iter().filter(|(name, _)| name.contains(part)).map(|(_, value)| value).sum::<u64>()
    };
    assert_eq!((of("outcome=.=deny"), of("outcome=.=allow")), (all / 5, all - all / 5), "{decisions:?}");
    let serving: u64 = running.metrics("sailcloth_config_info").iter().map(|(_, value)| value).sum();
    assert!((1..=2).contains(&serving), "{serving} workers serve");
}

/// Bytes that are no UTF-8, in each header that some filter reads, and in the path.
#[test]
fn odd_bytes_in_headers_break_no_filter() {
    let Some(binary) = envoy::find_or_skip() else { return };
    for subject in subject::ALL {
        let running = Shipped::new(&binary, subject.name).start(1);
        let plain = || running.send(&Request::get("/health").header("host", "api-service")).status;
        let before = plain();
        for name in [
            "authorization",
            "user-agent",
            "x-api-key",
            "cookie",
            "x-forwarded-for",
            "content-type",
            "x-request-id",
            "origin",
            "referer",
        ] {
            for value in [b"Bearer \xe9\xff".as_slice(), b"\x80", b"a\xc3("] {
                let request = Request::get("/api/v1/x").header("host", "api-service").header(name, value);
                let status = running.send(&request).status;
                assert!(status < 500, "{}: {name}: {status}", subject.name);
            }
        }
        for target in [b"/caf\xe9".as_slice(), b"/api/v1/\xff?x=\xfe"] {
            let status = running.send(&Request::new("GET", target).header("host", "api-service")).status;
            assert!(status < 500, "{}: {target:?}: {status}", subject.name);
        }
        assert_eq!(plain(), before, "{} serves as before", subject.name);
        let logs = running.envoy.logs().unwrap();
        assert!(!logs.contains("panicked") && !logs.contains("runtime error"), "{logs}");
    }
}

/// The name and value of `sailcloth_config_info` per configuration.
fn in_force(running: &Running) -> Vec<(String, u64)> {
    running.metrics("sailcloth_config_info")
}

#[test]
fn a_bad_edit_keeps_the_old_configuration_and_a_good_one_replaces_it() {
    let Some(mut authz) = shipped("authz") else { return };
    let file = authz.run.file("ecds.yaml");
    let index = authz.http_filters().iter().position(|filter| filter["name"] == "sailcloth.authz").unwrap();
    let filter = authz.http_filters()[index].clone();
    write(&file, &filter, 1);
    let source = json!({"path_config_source": {"path": file}, "resource_api_version": "V3"});
    authz.http_filters()[index] = json!({"name": "sailcloth.authz", "config_discovery": {
        "config_source": source,
        "type_urls": ["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"]}});
    let running = authz.start(1);
    let health = || running.send(&Request::get("/health")).status;
    assert_eq!(health(), 200);
    let first = in_force(&running);
    assert_eq!(first.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [1], "{first:?}");

    let bad = edited(&filter, r#""/health""#, r#"7"#);
    write(&file, &bad, 2);
    wait(&running, "the bad edit to be refused", || {
        let refused = running.envoy.stats("extension_config_discovery.http_filter.sailcloth.authz.(config_fail|config_conflict|update_rejected)").unwrap();
        refused.values().sum::<u64>() > 0
    });
    assert_eq!(health(), 200, "the old configuration serves");
    assert_eq!(in_force(&running), first, "and is the one shown");
    assert_eq!(
        running.metrics("sailcloth_config_refused_total").iter().map(|(_, value)| *value).max(),
        Some(1)
    );
    let logs = running.envoy.logs().unwrap();
    assert!(logs.contains("paths[0]: expected a string, found a number"), "{logs}");

    let good = edited(&filter, r#""/health""#, r#""/healthz""#);
    write(&file, &good, 3);
    wait(&running, "the good edit to take effect", || health() == 403);
    assert_eq!(running.send(&Request::get("/healthz")).status, 200);
    let name = &first[0].0;
    wait(&running, "the old configuration to be gone", || {
        let shown = in_force(&running);
        let old = shown.iter().find(|(other, _)| other == name).map_or(0, |(_, value)| *value);
        let new: u64 = shown.iter().filter(|(other, _)| other != name).map(|(_, value)| value).sum();
        (old, new) == (0, 1)
    });
}

fn edited(filter: &Value, from: &str, to: &str) -> Value {
    let text = filter.to_string();
    assert!(text.contains(from), "{text}");
    serde_json::from_str(&text.replace(from, to)).unwrap()
}

/// Renamed into place, which is what Envoy watches for.
fn write(file: &Path, filter: &Value, version: u32) {
    let resource = json!({
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": "sailcloth.authz",
        "typed_config": filter["typed_config"],
    });
    let staged = file.with_extension("new");
    std::fs::write(
        &staged,
        json!({"version_info": version.to_string(), "resources": [resource]}).to_string(),
    )
    .unwrap();
    std::fs::rename(&staged, file).unwrap();
}

fn wait(running: &Running, what: &str, mut done: impl FnMut() -> bool) {
    let waited = until(what, SOON, || Ok(done().then_some(())));
    waited.unwrap_or_else(|error| panic!("{error}\n{}", running.envoy.logs().unwrap()));
}

/// The authz configuration with the probe in front.
fn with_probe() -> Option<Shipped> {
    let mut authz = shipped("authz")?;
    let probe = build::path("probe").to_string_lossy().into_owned();
    let filters = authz.http_filters();
    let index = filters.iter().position(|filter| filter["name"] == "sailcloth.authz").unwrap();
    let mut filter = filters[index].clone();
    filter["name"] = json!("probe");
    filter["typed_config"]["config"]["name"] = json!("probe");
    filter["typed_config"]["config"]["vm_config"]["vm_id"] = json!("probe");
    filter["typed_config"]["config"]["vm_config"]["code"]["local"]["filename"] = json!(probe);
    filter["typed_config"]["config"]["configuration"]["value"] = json!({});
    filters.insert(index, filter);
    Some(authz)
}

#[test]
fn a_tick_continues_one_request_and_answers_another() {
    let Some(authz) = with_probe() else { return };
    let running = authz.start(1);
    let send = |operation| running.send(&Request::get("/health").header("x-probe", operation));
    for _ in 0..3 {
        assert_eq!(send("tick-continues").status, 200);
        assert_eq!(send("tick-replies").status, 500);
        assert_eq!(send("time").status, 200, "the reply of a tick stops no other request");
    }
    let lines = running.envoy.access_log_lines(9, SOON).unwrap();
    assert!(lines[1].contains("sailcloth_metrics_host_error[empty]"), "{}", lines[1]);
    let logs = running.envoy.logs().unwrap();
    assert!(logs.contains("probe tick: 1 paused") && !logs.contains("probe tick: 2 paused"), "{logs}");
}

#[test]
fn a_client_that_leaves_while_its_request_waits_leaves_nothing() {
    let Some(authz) = with_probe() else { return };
    let running = authz.start(1);
    let mut connection = Client::local(running.shipped.port).connect().unwrap();
    connection.send_raw(b"GET /health HTTP/1.1\r\nhost: a\r\nx-probe: tick-continues\r\n\r\n").unwrap();
    drop(connection);
    wait(&running, "the tick", || running.envoy.logs().unwrap().contains("probe tick: 0 paused"));
    assert_eq!(running.send(&Request::get("/health")).status, 200);
}

#[test]
fn a_crash_is_over_after_a_reload() {
    let Some(authz) = with_probe() else { return };
    let running = authz.start(1);
    let health = || running.send(&Request::get("/health"));
    assert_eq!(health().status, 200);
    let crashed = running.send(&Request::get("/health").header("x-probe", "panic"));
    assert_eq!(crashed.status, 503);
    let line = running.envoy.access_log_lines(2, SOON).unwrap().remove(1);
    assert!(line.contains("wasm_fail_stream"), "{line}");
    let recovered = until("the module to be loaded anew", Duration::from_secs(10), || {
        Ok((health().status == 200).then_some(()))
    });
    recovered.unwrap_or_else(|error| panic!("{error}\n{}", running.envoy.logs().unwrap()));
    let reloads = running.envoy.stats("vm_reload_success").unwrap();
    assert_eq!(reloads.values().sum::<u64>(), 1, "{reloads:?}");
}

/// Through a real Envoy: its log, its access log on standard output, its statistics and its answers.
#[test]
fn no_token_and_no_key_stands_in_what_envoy_writes() {
    let Some(binary) = envoy::find_or_skip() else { return };
    let now = sailcloth_tests::native::Clock::now_seconds();
    let expand = |text: &str| sailcloth_tests::template::expand(text, now).unwrap();
    let mut shipped = Shipped::new(&binary, "jwt");
    let jwks = expand("{{jwks rsa1 ec1 ed1}}");
    shipped.http_filters()[0]["typed_config"]["config"]["configuration"]["value"] = serde_json::json!({
        "resources": [{"apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication", "metadata": {"name": "a"},
            "spec": {"jwtRules": [{"issuer": "https://issuer.example", "jwks": jwks}]}}]});
    let running = shipped.start(1);
    let (mut accepted, mut written) = (0, Vec::new());
    let mut secrets: Vec<String> = Vec::new();
    for rest in [
        "key=rsa1",
        "key=ec1",
        "key=ed1",
        "key=rsa1 tamper=signature",
        "key=rsa1 exp=-1h",
        "key=rsa2",
        "key=hs1",
    ] {
        let token = expand(&format!("{{{{token {rest} iss=https://issuer.example sub=alice}}}}"));
        secrets.extend(token.split('.').skip(1).map(str::to_owned));
        for request in [
            Request::get("/a").header("authorization", format!("Bearer {token}")),
            Request::get(format!("/a?access_token={token}")),
        ] {
            let response = running.send(&request);
            accepted += u32::from(response.status == 200);
            written.push(format!("{:?} {}", response.headers, String::from_utf8_lossy(&response.body)));
        }
    }
    assert_eq!(accepted, 6);
    let key = sailcloth_core::config::Node::from_json(jwks.as_bytes()).unwrap();
    let Some(sailcloth_core::config::Node::List(keys)) = key.field("keys") else { panic!("no keys") };
    secrets
        .extend(keys.iter().filter_map(|key| key.field("n").or(key.field("x"))?.text().map(str::to_owned)));
    written.push(running.envoy.logs().unwrap());
    // Seven tokens, in a header and in the query.
    written.push(running.envoy.access_log_lines(14, SOON).unwrap().join("\n"));
    written.extend(running.envoy.stats("").unwrap().into_keys());
    assert!(
        written.iter().any(|text| text.contains("https://issuer.example/alice")),
        "the access log is among them"
    );
    for secret in secrets {
        let found = written.iter().find(|text| text.contains(&secret));
        assert!(found.is_none(), "{secret} in {found:?}");
    }
}
