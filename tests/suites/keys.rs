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
