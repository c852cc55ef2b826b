//! The program itself: started, asked, stopped.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    net::TcpListener,
    process::{Command, Output},
    time::Duration,
};

use sailcloth_launch::{
    Process, RunDir,
    http::{Client, Request, Response},
    process::Spec,
    until,
};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sailcloth-services");
const SOON: Duration = Duration::from_secs(20);

/// A started service and a client for it.
struct Service {
    process: Process,
    client: Client,
    url: String,
    _run: RunDir,
}

impl Service {
    fn start(args: &[&str]) -> Self {
        let run = RunDir::temp().unwrap();
        let spec = Spec::new("service", PROGRAM).args(args).args(["--listen", "127.0.0.1:0"]);
        let mut process = spec.start(&run).unwrap();
        let url = until("the address of the service", SOON, || {
            process.check()?;
            Ok(process.stdout()?.trim_end().split_once(" listens on ").map(|(_, url)| url.to_owned()))
        });
        let url = url.unwrap();
        let client = Client::new(url.strip_prefix("http://").unwrap().parse().unwrap());
        Self { process, client, url, _run: run }
    }

    fn get(&self, target: &str) -> Response {
        self.client.send(&Request::get(target)).unwrap()
    }
}

fn run(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn load(args: &[&str]) -> (Option<i32>, Value) {
    let output = run(&[&["load", "--json"], args].concat());
    let tally = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code(), tally)
}

#[test]
fn the_api_echoes_what_it_received() {
    let api = Service::start(&["api-service", "--version", "v2"]);
    let request = Request::new("POST", "/api/v1/orders?a=%20")
        .header("X-Twice", "1")
        .header("x-twice", b"\xff")
        .body("12345");
    let answer = api.client.send(&request).unwrap();
    assert_eq!((answer.status, answer.header("x-version").as_deref()), (200, Some("v2")));
    let body = answer.json().unwrap();
    assert_eq!(
        (&body["service"], &body["version"], &body["method"], &body["path"], &body["bodySize"]),
        (&json!("api-service"), &json!("v2"), &json!("POST"), &json!("/api/v1/orders?a=%20"), &json!(5))
    );
    let twice: Vec<_> =
        body["headers"].as_array().unwrap().iter().filter(|pair| pair[0] == "x-twice").collect();
    assert_eq!(twice, [&json!(["x-twice", "1"]), &json!(["x-twice", "\\xff"])]);
    assert_eq!(api.get("/health").text(), "ok\n");
}

#[test]
fn the_api_fails_and_delays_as_told() {
    let api = Service::start(&["api-service", "--failure-rate", "0.25", "--delay", "20ms"]);
    let (code, tally) = load(&["--url", &api.url, "--requests", "40", "--connections", "4"]);
    assert_eq!((code, &tally["statuses"]), (Some(0), &json!({"200": 30, "503": 10})));
    assert!(tally["latencyMs"]["p50"].as_f64().unwrap() >= 20.0, "{tally}");
}

#[test]
fn the_caller_passes_on_trace_and_token_and_shows_the_answer() {
    let api = Service::start(&["api-service"]);
    let web = Service::start(&["web-service", "--api", &api.url, "--propagate", "x-tenant"]);
    let request = Request::get("/orders?n=1")
        .bearer("t")
        .header("traceparent", "00-1-2-01")
        .header("x-b3-traceid", "7")
        .header("x-tenant", "blue")
        .header("x-private", "stays here");
    let answer = web.client.send(&request).unwrap();
    let body = answer.json().unwrap();
    assert_eq!((answer.status, &body["asked"]), (200, &json!("/api/v1/orders?n=1")));
    let seen = body["api"]["body"]["headers"].as_array().unwrap();
    for passed in [
        ["authorization", "Bearer t"],
        ["traceparent", "00-1-2-01"],
        ["x-b3-traceid", "7"],
        ["x-tenant", "blue"],
    ] {
        assert!(seen.contains(&json!(passed)), "{passed:?} in {seen:?}");
    }
    assert!(!seen.iter().any(|pair| pair[0] == "x-private"), "{seen:?}");
}

#[test]
fn the_caller_tells_a_proxy_the_whole_url_and_shows_failures() {
    let api = Service::start(&["api-service", "--failure-rate", "1"]);
    let web = Service::start(&["web-service", "--api", "http://shop.example:81/base", "--proxy", &api.url]);
    let answer = web.get("/api/v1/x");
    let body = answer.json().unwrap();
    assert_eq!((answer.status, &body["asked"]), (503, &json!("http://shop.example:81/base/api/v1/x")));
    let seen = body["api"]["body"]["headers"].as_array().unwrap();
    assert!(seen.contains(&json!(["host", "shop.example:81"])), "{seen:?}");

    drop(api);
    let answer = web.get("/x");
    let error = answer.json().unwrap()["error"].as_str().unwrap().to_owned();
    assert_eq!(answer.status, 502);
    assert!(error.starts_with("could not connect to 127.0.0.1:") && error.contains("refused"), "{error}");
}

#[test]
fn the_issuer_mints_what_is_asked_for_and_rotates() {
    let issuer = Service::start(&["issuer", "--overlap", "200ms"]);
    let discovery = issuer.get("/.well-known/openid-configuration").json().unwrap();
    assert_eq!(discovery["issuer"], json!(issuer.url));
    assert_eq!(discovery["jwks_uri"], json!(format!("{}/.well-known/jwks.json", issuer.url)));
    let kids = || -> Vec<Value> {
        let jwks = issuer.get("/.well-known/jwks.json").json().unwrap();
        jwks["keys"].as_array().unwrap().iter().map(|jwk| jwk["kid"].clone()).collect()
    };
    let first = kids();
    assert_eq!(first.len(), 2);

    let minted =
        issuer.get("/token?sub=alice&aud=a&aud=b&alg=ES256&ttl=60&claims=%7B%22role%22%3A%22x%22%7D");
    let minted = minted.json().unwrap();
    let (header, claims) = parts(minted["access_token"].as_str().unwrap());
    assert_eq!(
        (&header["alg"], &header["kid"], &minted["expires_in"]),
        (&json!("ES256"), &first[1], &json!(60))
    );
    assert_eq!(
        (&claims["sub"], &claims["aud"], &claims["role"], &claims["iss"]),
        (&json!("alice"), &json!(["a", "b"]), &json!("x"), &json!(issuer.url))
    );
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 60);

    let form = Request::new("POST", "/token")
        .header("content-type", "application/x-www-form-urlencoded")
        .body("sub=bob&aud=a&ttl=-60");
    let minted = issuer.client.send(&form).unwrap().json().unwrap();
    let (header, claims) = parts(minted["access_token"].as_str().unwrap());
    assert_eq!((&header["alg"], &claims["aud"]), (&json!("RS256"), &json!("a")));
    assert!(claims["exp"].as_i64().unwrap() > claims["iat"].as_i64().unwrap(), "expired, but never absurd");

    assert_eq!(issuer.client.send(&Request::new("POST", "/rotate")).unwrap().status, 200);
    until("the old keys' end", SOON, || Ok((kids().len() == 2).then_some(()))).unwrap();
    assert!(!kids().iter().any(|kid| first.contains(kid)), "the old keys are gone after the overlap");
}

#[test]
fn the_issuer_refuses_what_it_does_not_understand() {
    let issuer = Service::start(&["issuer"]);
    for (query, words) in [
        ("alg=none", "`alg`: `none` is none of"),
        ("alg=HS256", "no shared secret"),
        ("ttl=soon", "`ttl`: `soon` is not a number of seconds"),
        ("ttl=99999999999", "more than ten years"),
        ("claims=[]", "`claims`: not a JSON object"),
        ("subject=x", "`subject` is none of"),
    ] {
        let answer = issuer.get(&format!("/token?{query}"));
        let description = answer.json().unwrap()["error_description"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 400, "{query}");
        assert!(description.contains(words), "{query}: {description}");
    }
    assert_eq!(issuer.get("/rotate").status, 405);
}

#[test]
fn keys_kept_in_a_directory_sign_offline_too() {
    let dir = RunDir::temp().unwrap();
    let state = dir.path().to_str().unwrap();
    let issuer = Service::start(&["issuer", "--state", state, "--issuer", "https://issuer.example"]);
    let output = run(&["token", "--state", state, "--sub", "carol", "--alg", "ES256", "--ttl", "-5"]);
    let (header, claims) = parts(text(&output.stdout).trim());
    let jwks = issuer.get("/.well-known/jwks.json").json().unwrap();
    assert_eq!((&header["kid"], &claims["sub"]), (&jwks["keys"][1]["kid"], &json!("carol")));
    let minted = issuer.get("/token").json().unwrap();
    assert_eq!(parts(minted["access_token"].as_str().unwrap()).1["iss"], "https://issuer.example");
}

fn parts(token: &str) -> (Value, Value) {
    use base64::Engine as _;
    let decode = |part: &str| {
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let mut parts = token.split('.');
    (decode(parts.next().unwrap()), decode(parts.next().unwrap()))
}

#[test]
fn load_counts_statuses_and_versions() {
    let api = Service::start(&["api-service", "--version", "v3"]);
    let (code, tally) = load(&["--url", &api.url, "--requests", "200", "--connections", "8"]);
    assert_eq!(code, Some(0));
    assert_eq!((&tally["statuses"], &tally["values"]), (&json!({"200": 200}), &json!({"v3": 200})));
    let output = run(&["load", "--url", &api.url, "--requests", "3", "--count", "content-type"]);
    let human = text(&output.stdout);
    assert!(human.starts_with("3 answers in ") && human.contains("from application/json: 3"), "{human}");
}

#[test]
fn load_keeps_to_its_rate_and_its_time() {
    let api = Service::start(&["api-service"]);
    let (_, tally) = load(&["--url", &api.url, "--requests", "11", "--rate", "20"]);
    assert!(tally["seconds"].as_f64().unwrap() >= 0.5, "ten intervals of 50 ms: {tally}");
    let (code, tally) =
        load(&["--url", &api.url, "--requests", "1000000", "--rate", "100", "--duration", "300ms"]);
    let answers = tally["answers"].as_u64().unwrap();
    assert!(code == Some(0) && (1..=30).contains(&answers), "{tally}");
}

#[test]
fn load_without_answers_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (code, tally) = load(&["--url", &url, "--requests", "2", "--timeout", "100ms"]);
    assert_eq!((code, &tally["errors"]), (Some(2), &json!({"no answer within 0.1 s": 2})));
    drop(listener);
    let output = run(&["load", "--url", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("error: could not connect to 127.0.0.1:"));
}

#[test]
fn an_interrupted_load_tells_what_it_has() {
    let api = Service::start(&["api-service"]);
    let run = RunDir::temp().unwrap();
    let args = ["load", "--json", "--requests", "1000", "--rate", "0.5", "--url", &api.url];
    let mut load = Spec::new("load", PROGRAM).args(args).start(&run).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    load.terminate().unwrap();
    assert_eq!(load.wait(SOON).unwrap().code(), Some(143));
    let tally: Value = serde_json::from_str(&load.stdout().unwrap()).unwrap();
    assert_eq!(tally["answers"], 1);
}

#[test]
fn servers_end_with_0_on_sigterm_even_with_open_connections() {
    for args in [&["api-service"][..], &["web-service", "--api", "http://127.0.0.1:9"], &["issuer"]] {
        let mut service = Service::start(args);
        let mut connection = service.client.connect().unwrap();
        assert_eq!(connection.send(&Request::get("/health")).unwrap().status, 200);
        service.process.terminate().unwrap();
        assert_eq!(service.process.wait(SOON).unwrap().code(), Some(0), "{args:?}");
    }
}

#[test]
fn wrong_usage_and_taken_ports_end_with_1_and_a_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = run(&["api-service", "--listen", &address.to_string()]);
    let expected = format!(
        "error: port {} on 127.0.0.1 is in use by another program; choose another with --listen or stop it\n",
        address.port()
    );
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), expected));
    for (args, words) in [
        (&["load"][..], "--url"),
        (&["load", "--url", "https://a/"], "`url`: `https://a/` is not an `http://` URL"),
        (&["api-service", "--delay", "5"], "is not a duration"),
        (&["web-service", "--api", "/x"], "is not an `http://` URL"),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(text(&output.stderr).contains(words), "{}", text(&output.stderr));
    }
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("Exit codes: 0"));
}
