//! The life of fetched key sets: in the emulator, and in a real Envoy with an issuer that answers well or badly.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "helpers of tests"
)]

#[path = "keys/faults.rs"]
mod faults;
#[path = "keys/provider.rs"]
mod provider;
#[path = "keys/rotation.rs"]
mod rotation;
#[path = "keys/workers.rs"]
mod workers;

use std::time::{Duration, Instant};

use sailcloth_launch::http::{Request, Response};
use sailcloth_launch::{envoy, until};
use sailcloth_tests::issuer::{Issuer, token};
use sailcloth_tests::shipped::{Running, SOON, Shipped};

const ISSUER: &str = "http://127.0.0.1:8090";

/// `envoy/jwt-jwks.yaml` with this issuer behind its cluster; `None` where there is no Envoy.
fn shipped(issuer: &Issuer) -> Option<Shipped> {
    let binary = envoy::find_or_skip()?;
    let mut shipped = Shipped::new(&binary, "jwt-jwks");
    let cluster = shipped.config.pointer_mut("/static_resources/clusters/0").unwrap();
    let port = cluster.pointer_mut(
        "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/port_value",
    );
    *port.unwrap() = issuer.port().into();
    Some(shipped)
}

fn claims() -> String {
    format!(r#"{{"iss":"{ISSUER}","sub":"alice"}}"#)
}

fn send(running: &Running, key: &str) -> Response {
    running.send(&Request::get("/").bearer(&token(key, &claims())))
}

/// The first token is answered as this, within a time.
fn timed(running: &Running, key: &str, within: Duration) -> (u16, String) {
    let began = Instant::now();
    let answer = send(running, key);
    let took = began.elapsed();
    assert!(took < within, "{took:?}:\n{}", running.envoy.logs().unwrap());
    (answer.status, answer.text().into_owned())
}

fn wait(running: &Running, what: &str, mut done: impl FnMut() -> bool) {
    let waited = until(what, SOON, || Ok(done().then_some(())));
    waited.unwrap_or_else(|error| panic!("{error}\n{}", running.envoy.logs().unwrap()));
}

fn metric(running: &Running, part: &str) -> u64 {
    let all = running.metrics("sailcloth_jwt");
    all.iter().filter(|(name, _)| name.contains(part)).map(|(_, value)| value).sum()
}

#[test]
fn keys_are_fetched_once_for_all_workers_and_tokens_verify() {
    let issuer = Issuer::start(&["ec1", "rsa1"]);
    let Some(shipped) = shipped(&issuer) else { return };
    let running = shipped.start(2);
    for key in ["ec1", "rsa1", "ec1"] {
        assert_eq!(send(&running, key).status, 200, "{key}\n{}", running.envoy.logs().unwrap());
    }
    assert_eq!(running.send(&Request::get("/")).status, 200, "no token");
    assert_eq!(send(&running, "ec2").status, 401);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(issuer.requests().len(), 2, "the first, and one for the unknown key");
    assert_eq!(metric(&running, "key_fetches_total;.;issuer=.=http://127.0.0.1:8090;.;outcome=.=success"), 2);
    assert_eq!(metric(&running, "sailcloth_jwt_keys;"), 2);
    assert!(metric(&running, "sailcloth_jwt_key_age_seconds") <= 2);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(metric(&running, "sailcloth_jwt_key_fetch_success_time_seconds").abs_diff(now) < 10);
    assert_eq!(metric(&running, "key_waits_total;.;issuer=.=http://127.0.0.1:8090;.;outcome=.=refused"), 1);
}

#[test]
fn a_new_key_is_found_when_its_first_token_comes() {
    let issuer = Issuer::start(&["ec1"]);
    let Some(shipped) = shipped(&issuer) else { return };
    let running = shipped.start(2);
    assert_eq!(send(&running, "ec1").status, 200);
    issuer.publish(&["ec1", "ec2"]);
    assert_eq!(timed(&running, "ec2", Duration::from_secs(4)).0, 200);
    assert_eq!(send(&running, "ec1").status, 200, "the old one stays");
    // Withdrawn, and found out by the first token of the next key.
    issuer.publish(&["rsa1"]);
    assert_eq!(timed(&running, "rsa1", Duration::from_secs(4)).0, 200);
    wait(&running, "the withdrawn keys to be refused", || send(&running, "ec1").status == 401);
    assert_eq!(timed(&running, "ec2", Duration::from_secs(4)).0, 401);
}

/// Through the settings' cluster, since the issuer's host has no cluster of Istio's name here.
fn discovering(issuer: &Issuer, document: &str) -> Option<Running> {
    issuer.set_discovery(document);
    let uri = r#""jwksUri":"http://issuer.auth.svc.cluster.local:8090/.well-known/jwks.json","#;
    let clusters = r#""jwks":{"clusters":{"127.0.0.1:8090":"outbound|8090||issuer.auth.svc.cluster.local"},"#;
    let shipped = shipped(issuer)?.replaced(uri, "").replaced(r#""jwks":{"#, clusters);
    Some(shipped.start(2))
}

#[test]
fn keys_are_discovered_at_the_issuer() {
    let issuer = Issuer::start(&["ec1"]);
    let document = r#"{"issuer":"http://127.0.0.1:8090","jwks_uri":"http://127.0.0.1:8090/keys?v=1"}"#;
    let Some(running) = discovering(&issuer, document) else { return };
    assert_eq!(send(&running, "ec1").status, 200, "{}", running.envoy.logs().unwrap());
    assert_eq!(issuer.requests(), ["/.well-known/openid-configuration", "/keys?v=1"]);
}

#[test]
fn a_discovery_document_of_somebody_else_is_refused() {
    let issuer = Issuer::start(&["ec1"]);
    let document = r#"{"issuer":"http://127.0.0.1:8090/","jwks_uri":"http://127.0.0.1:8090/keys"}"#;
    let Some(running) = discovering(&issuer, document) else { return };
    let (status, body) = timed(&running, "ec1", Duration::from_secs(4));
    assert_eq!((status, body.as_str()), (401, "Jwks remote fetch is failed"));
    assert!(issuer.requests().iter().all(|path| path == "/.well-known/openid-configuration"));
    let logs = running.envoy.logs().unwrap();
    assert!(logs.contains("is not of this issuer: its `issuer` must be the rule's"), "{logs}");
}
