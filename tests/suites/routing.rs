//! What only a real Envoy shows of routing: users that stay where they are over workers and restarts, and native routes that
//! carry out the filter's choice.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "helpers of tests"
)]

use std::collections::BTreeMap;

use sailcloth_launch::envoy;
use sailcloth_launch::http::{Client, Request, Response};
use sailcloth_tests::shipped::{Running, SOON, Shipped};

const USERS: usize = 120;
const CANARY: &str = "outbound|80|v2|api-service.production.svc.cluster.local";

fn paired() -> Option<Shipped> {
    envoy::find_or_skip().map(|binary| Shipped::new(&binary, "routing-paired"))
}

fn get(path: &str) -> Request {
    Request::get(path).header("host", "api-service")
}

/// The cluster of each path, as the access log has it.
fn clusters(running: &Running, requests: usize) -> BTreeMap<String, Vec<String>> {
    let mut clusters: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in running.envoy.access_log_lines(requests, SOON).unwrap() {
        let mut words = line.split(' ').skip(1);
        let (path, cluster) = (words.next().unwrap(), words.nth(3).unwrap());
        clusters.entry(path.to_owned()).or_default().push(cluster.to_owned());
    }
    clusters
}

/// Where each user is sent, asked twice on connections of their own, so that both workers are asked.
fn users(shipped: Shipped) -> BTreeMap<String, String> {
    let running = shipped.start(2);
    for _ in 0..2 {
        for user in 0..USERS {
            let request = get(&format!("/api/v1/{user}")).header("x-user-id", format!("user-{user}"));
            assert_eq!(Client::local(running.shipped.port).send(&request).unwrap().status, 200);
        }
    }
    let places = clusters(&running, USERS * 2);
    assert_eq!(places.len(), USERS);
    places
        .into_iter()
        .map(|(path, clusters)| {
            assert!(clusters.len() == 2 && clusters[0] == clusters[1], "{path}: {clusters:?}");
            (path, clusters[0].clone())
        })
        .collect()
}

#[test]
fn a_user_stays_over_workers_and_restarts_and_when_the_canary_grows() {
    let (Some(first), Some(second), Some(grown)) = (paired(), paired(), paired()) else { return };
    let before = users(first);
    let in_canary =
        |users: &BTreeMap<String, String>| users.values().filter(|cluster| *cluster == CANARY).count();
    assert!((3..=25).contains(&in_canary(&before)), "{before:?}");
    assert_eq!(before, users(second), "after a restart");
    let after = users(
        grown.replaced(r#""weight":90"#, r#""weight":60"#).replaced(r#""weight":10"#, r#""weight":40"#),
    );
    assert!(in_canary(&after) > in_canary(&before));
    for (path, cluster) in &before {
        assert!(cluster != CANARY || after[path] == CANARY, "{path} left the canary");
    }
}

fn set_cookie(response: &Response) -> Option<String> {
    Some(response.header("set-cookie")?.split(';').next()?.to_owned())
}

#[test]
fn an_issued_cookie_keeps_its_user_and_is_signed_by_the_environments_secret() {
    let signed = |secret: &str| {
        let environment = format!(
            r#""environment_variables":{{"key_values":{{"STICKY_KEY":"{secret}"}}}},"vm_id":"sailcloth-routing""#
        );
        Some(
            paired()?
                .replaced(r#"\"maxAge\": \"720h\""#, r#"\"key\": \"${env:STICKY_KEY}\""#)
                .replaced(r#""vm_id":"sailcloth-routing""#, &environment),
        )
    };
    let Some(shipped) = signed("a secret of the environment") else { return };
    let running = shipped.start(2);
    let mut cookies = Vec::new();
    for user in 0..20 {
        let response = running.send(&get(&format!("/api/v1/{user}")));
        let cookie = set_cookie(&response).unwrap_or_else(|| panic!("no cookie: {response:?}"));
        cookies.push(cookie);
    }
    cookies.sort();
    cookies.dedup();
    assert_eq!(cookies.len(), 20, "each is another user");
    let again =
        |running: &Running, cookie: &str, path: &str| running.send(&get(path).header("cookie", cookie));
    for _ in 0..3 {
        for (user, cookie) in cookies.iter().enumerate() {
            assert_eq!(set_cookie(&again(&running, cookie, &format!("/api/v1/known-{user}"))), None);
        }
    }
    let places = clusters(&running, 80);
    for (path, clusters) in places.iter().filter(|(path, _)| path.contains("known")) {
        assert!(
            clusters.len() == 3 && clusters.iter().all(|cluster| *cluster == clusters[0]),
            "{path}: {clusters:?}"
        );
    }
    drop(running);
    // The same secret knows them after a restart, another one does not.
    let running = signed("a secret of the environment").unwrap().start(1);
    for (user, cookie) in cookies.iter().enumerate() {
        assert_eq!(set_cookie(&again(&running, cookie, &format!("/api/v1/known-{user}"))), None);
    }
    for (path, clusters) in clusters(&running, 20) {
        assert_eq!(clusters[0], places[&path][0], "{path}");
    }
    drop(running);
    let running = signed("quite another secret").unwrap().start(1);
    assert!(set_cookie(&again(&running, &cookies[0], "/api/v1/x")).is_some());
}

#[test]
fn native_routes_carry_out_what_the_filter_chose() {
    let Some(shipped) = paired() else { return };
    let running = shipped.start(1);
    let moved = running.send(&get("/old/x?y=1"));
    assert_eq!(moved.status, 308);
    assert_eq!(moved.header("location").as_deref(), Some("http://api-service/api/v1?y=1"));
    let aborted = running.send(&get("/x").header("x-experiment", "on"));
    assert_eq!((aborted.status, aborted.text().as_ref()), (418, "fault filter abort"));
    // A client writes neither the cluster nor the router's timeout.
    let forged = get("/api/v1/x")
        .header("x-user-id", "user-1")
        .header("x-sailcloth-cluster", CANARY)
        .header("x-sailcloth-route", "production/api-service/experiment")
        .header("x-envoy-upstream-rq-timeout-ms", "1");
    let answer = running.send(&forged);
    assert_eq!(answer.status, 200);
    let upstream = sailcloth_tests::echo::read(&answer.body);
    assert!(!upstream.iter().any(|(name, _)| name.starts_with("x-sailcloth")), "{upstream:?}");
    let page = running.send(&get("/").header("origin", "https://shop.example"));
    assert_eq!(page.header("access-control-allow-origin").as_deref(), Some("https://shop.example"));
    assert_eq!(running.send(&Request::get("/").header("host", "other")).status, 404);
    let lines = running.envoy.access_log_lines(5, SOON).unwrap();
    for (line, route) in lines.iter().zip(["moved none", "experiment v2", "canary v1", "default v1"]) {
        assert!(line.contains(&format!("production/api-service/{route}")), "{line}");
    }
    assert!(lines[4].contains("sailcloth_routing_no_virtual_host[none]"), "{}", lines[4]);
    // The default's copy went to v2, which nobody else was sent to.
    let copies = running.envoy.stats("^cluster.outbound.*v2.*upstream_rq_total$").unwrap();
    assert_eq!(copies.values().sum::<u64>(), 1, "{copies:?}");
}
