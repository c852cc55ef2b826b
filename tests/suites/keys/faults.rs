//! An issuer that fails, in each way of its own: the exact answer, and how soon.

use std::time::Duration;

use sailcloth_tests::issuer::{Issuer, Mode};

use super::{metric, send, shipped, timed, wait};

/// `Jwks remote fetch is failed` is what Istio's data plane answers.
const FAILED: (u16, &str) = (401, "Jwks remote fetch is failed");

/// From the start without keys: what the first token is answered, what is counted, what the log says; and that all is
/// well when the issuer is.
fn fault(mode: Mode, outcome: &str, says: &str) {
    let issuer = Issuer::start(&["ec1"]);
    issuer.set(mode.clone());
    let Some(shipped) = shipped(&issuer) else { return };
    let running = shipped.replaced(r#""timeout":"5s""#, r#""timeout":"1s""#).start(2);
    let (status, body) = timed(&running, "ec1", Duration::from_millis(1800));
    assert_eq!((status, body.as_str()), FAILED, "{mode:?}");
    let line = running.envoy.access_log_lines(1, super::SOON).unwrap().remove(0);
    assert!(line.contains("sailcloth_jwt_keys_unavailable[production/api-service-authn#0]"), "{line}");
    wait(&running, "the failure to be counted", || metric(&running, &format!("outcome=.={outcome}")) > 0);
    let logs = running.envoy.logs().unwrap();
    assert!(logs.contains("resources[0].spec.jwtRules[0].jwksUri: keys could not be fetched"), "{logs}");
    assert!(logs.contains(says), "lacks `{says}`:\n{logs}");
    assert!(issuer.count() <= 4, "asked {} times", issuer.count());
    assert_eq!(running.send(&sailcloth_launch::http::Request::get("/")).status, 200, "no token passes");
    issuer.set(Mode::Serve);
    wait(&running, "keys to be fetched", || send(&running, "ec1").status == 200);
}

#[test]
fn a_silent_issuer() {
    fault(Mode::Silent, "timeout", "did not answer within its `timeout`");
}

#[test]
fn an_issuer_slower_than_the_timeout() {
    fault(Mode::Slow(Duration::from_secs(3)), "timeout", "did not answer within its `timeout`");
}

#[test]
fn an_issuer_that_closes_the_connection() {
    fault(Mode::Close, "unavailable", "nobody answers for");
}

#[test]
fn an_answer_that_is_cut_off() {
    fault(Mode::Truncated, "reset", "broke off, or was not HTTP");
}

#[test]
fn an_answer_that_is_not_http() {
    fault(Mode::NotHttp, "status", "answered 502, not 200");
}

#[test]
fn an_empty_answer() {
    fault(Mode::Body(String::new()), "not_json", "is not a JSON object");
}

#[test]
fn an_answer_that_is_not_json() {
    fault(Mode::Body("<html>sign in</html>".to_owned()), "not_json", "is not a JSON object");
}

#[test]
fn a_set_without_keys() {
    fault(Mode::Body(r#"{"keys":[]}"#.to_owned()), "no_keys", "holds no key that can be used");
}

#[test]
fn json_that_is_no_key_set() {
    fault(Mode::Body(r#"{"error":"try later"}"#.to_owned()), "no_keys", "is not a key set");
}

#[test]
fn an_answer_larger_than_the_bound() {
    let huge = format!(r#"{{"keys":[],"x":"{}"}}"#, "y".repeat(300 * 1024));
    fault(Mode::Body(huge), "too_large", "is longer than `settings.jwks.maxBytes`");
}

#[test]
fn an_answer_larger_than_is_read_at_all() {
    let huge = format!(r#"{{"keys":[],"x":"{}"}}"#, "y".repeat(6 << 20));
    fault(Mode::Body(huge), "too_large", "is longer than `settings.jwks.maxBytes`");
}

#[test]
fn a_500() {
    fault(Mode::Status(500), "status", "answered 500, not 200");
}

#[test]
fn a_redirect_is_not_followed() {
    fault(Mode::Status(302), "redirect", "answered 302, and redirects are not followed");
}

/// What the body is decides, not what it says to be: sets lie on plain file servers too.
#[test]
fn another_content_type_does_no_harm() {
    let issuer = Issuer::start(&["ec1"]);
    issuer.set(Mode::ContentType("text/html"));
    let Some(shipped) = shipped(&issuer) else { return };
    assert_eq!(send(&shipped.start(1), "ec1").status, 200);
}

#[test]
fn a_slow_issuer_within_the_timeout_is_waited_for() {
    let issuer = Issuer::start(&["ec1"]);
    issuer.set(Mode::Slow(Duration::from_millis(700)));
    let Some(shipped) = shipped(&issuer) else { return };
    assert_eq!(send(&shipped.start(2), "ec1").status, 200);
    assert_eq!(issuer.count(), 1);
}

/// An address where nobody listens, no address at all, and no such cluster.
#[test]
fn an_issuer_that_is_not_there() {
    for (from, to, outcome, says) in [
        (
            r#""address":"127.0.0.1","port_value":PORT"#,
            r#""address":"127.0.0.1","port_value":1"#,
            "unavailable",
            "nobody answers for",
        ),
        (
            r#""lb_endpoints":[{"endpoint":{"address":{"socket_address":{"address":"127.0.0.1","port_value":PORT}}}}]"#,
            r#""lb_endpoints":[]"#,
            "no_endpoints",
            "has no endpoint",
        ),
        (
            r#""jwks":{"refreshInterval":"5m"}"#,
            r#""jwks":{"clusters":{"issuer.auth.svc.cluster.local":"nowhere"}}"#,
            "no_cluster",
            "Envoy has no cluster `nowhere`",
        ),
    ] {
        let issuer = Issuer::start(&["ec1"]);
        let Some(shipped) = shipped(&issuer) else { return };
        let running = shipped.replaced(&from.replace("PORT", &issuer.port().to_string()), to).start(2);
        let (status, body) = timed(&running, "ec1", Duration::from_millis(3000));
        assert_eq!((status, body.as_str()), FAILED, "{outcome}");
        wait(&running, "the failure to be counted", || metric(&running, &format!("outcome=.={outcome}")) > 0);
        let logs = running.envoy.logs().unwrap();
        assert!(logs.contains(says), "lacks `{says}`:\n{logs}");
        assert_eq!(issuer.count(), 0);
    }
}

#[test]
fn old_keys_serve_while_the_issuer_fails() {
    let issuer = Issuer::start(&["ec1"]);
    let Some(shipped) = shipped(&issuer) else { return };
    let running = shipped.replaced(r#""refreshInterval":"5m""#, r#""refreshInterval":"10s""#).start(2);
    assert_eq!(send(&running, "ec1").status, 200);
    issuer.set(Mode::Status(500));
    wait(&running, "a refresh to fail", || metric(&running, "outcome=.=status") > 0);
    for _ in 0..10 {
        assert_eq!(send(&running, "ec1").status, 200);
    }
    assert!(running.envoy.logs().unwrap().contains("the keys fetched before stay in use"));
}
