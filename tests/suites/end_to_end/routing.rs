//! What a rule of a VirtualService does over time and beside the request: delays, copies, Envoy's own errors.

use std::thread;
use std::time::{Duration, Instant};

use sailcloth_launch::http::{Client, Request};
use sailcloth_tests::shipped::{SOON, Shipped};
use serde_json::{Value, json};

use crate::{shipped, wait};

const V1: &str = "outbound|80|v1|api-service.production.svc.cluster.local";
const V2: &str = "outbound|80|v2|api-service.production.svc.cluster.local";

fn configuration(routing: &mut Shipped) -> &mut Value {
    let filters = routing.http_filters().iter_mut();
    let filter = filters.into_iter().find(|filter| filter["name"] == "sailcloth.routing").unwrap();
    &mut filter["typed_config"]["config"]["configuration"]["value"]
}

/// `envoy/routing.yaml` with these rules.
fn with_rules(rules: Value) -> Option<Shipped> {
    let mut routing = shipped("routing")?;
    configuration(&mut routing)["resources"][0]["spec"]["http"] = rules;
    Some(routing)
}

fn to(subset: &str) -> Value {
    json!([{"destination": {"host": "api-service", "subset": subset}}])
}

fn get(path: &str) -> Request {
    Request::get(path).header("host", "api-service")
}

fn timed(port: u16, path: &str) -> (u16, Duration) {
    let start = Instant::now();
    (Client::local(port).send(&get(path)).unwrap().status, start.elapsed())
}

#[test]
fn a_delay_holds_its_requests_for_its_time_and_no_others() {
    let delay =
        |milliseconds: u32| json!({"fixedDelay": format!("{milliseconds}ms"), "percentage": {"value": 100}});
    let rules = json!([
        {"match": [{"uri": {"exact": "/long"}}], "fault": {"delay": delay(900)}, "route": to("v1")},
        {"match": [{"uri": {"exact": "/short"}}], "fault": {"delay": delay(300)}, "route": to("v2")},
        {"match": [{"uri": {"exact": "/both"}}], "route": to("v1"),
         "fault": {"delay": delay(300), "abort": {"httpStatus": 418, "percentage": {"value": 100}}}},
        {"route": to("v1")}
    ]);
    let Some(routing) = with_rules(rules) else { return };
    let running = routing.start(1);
    let (least, port) = (Duration::from_millis, running.shipped.port);
    thread::scope(|scope| {
        let asked = ["/long", "/short", "/both", "/short", "/none"];
        let times = asked.map(|path| scope.spawn(move || (path, timed(port, path))));
        for (path, (status, time)) in times.map(|asked| asked.join().unwrap()) {
            let (wanted, held) = match path {
                "/long" => (200, least(900)),
                "/short" => (200, least(300)),
                "/both" => (418, least(300)),
                _ => (200, least(0)),
            };
            assert_eq!(status, wanted, "{path}");
            assert!(time >= held && time < held + least(500), "{path} took {time:?}");
        }
    });
    // The request that Envoy chose the cluster of after the delay.
    let lines = running.envoy.access_log_lines(5, SOON).unwrap();
    let line = |path: &str| lines.iter().find(|line| line.contains(path)).unwrap().clone();
    assert!(line("/short").contains(V2), "{}", line("/short"));
    assert!(
        line("/both").contains("sailcloth_routing_fault_abort[production/api-service#2]"),
        "{}",
        line("/both")
    );
}

#[test]
fn a_client_that_leaves_a_delay_leaves_nothing() {
    let fault = json!({"delay": {"fixedDelay": "500ms", "percentage": {"value": 100}}});
    let Some(routing) = with_rules(json!([
        {"match": [{"uri": {"exact": "/held"}}], "fault": fault, "route": to("v1")}, {"route": to("v1")}
    ])) else {
        return;
    };
    let running = routing.start(1);
    let mut connection = Client::local(running.shipped.port).connect().unwrap();
    connection.send_raw(b"GET /held HTTP/1.1\r\nhost: api-service\r\n\r\n").unwrap();
    thread::sleep(Duration::from_millis(100));
    drop(connection);
    thread::sleep(Duration::from_millis(700));
    assert_eq!(timed(running.shipped.port, "/else").0, 200);
    assert_eq!(timed(running.shipped.port, "/held").0, 200);
    let upstream = running.envoy.stats(r"^cluster\..*upstream_rq_total").unwrap();
    assert_eq!(upstream.values().sum::<u64>(), 2, "{upstream:?}");
}

#[test]
fn copies_reach_the_mirror() {
    let rules = json!([
        {"match": [{"uri": {"exact": "/copied"}}], "route": to("v1"),
         "mirror": {"host": "api-service", "subset": "v2"}},
        {"route": to("v1")}
    ]);
    let Some(mut routing) = with_rules(rules) else { return };
    configuration(&mut routing)["settings"]["mirrors"] = json!(1);
    let route = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes/0/route";
    let route = routing.config.pointer_mut(route).unwrap();
    route["request_mirror_policies"] =
        json!([{"cluster_header": "x-sailcloth-mirror-1", "disable_shadow_host_suffix_append": true}]);
    let running = routing.start(1);
    for path in ["/copied", "/else", "/copied", "/else"] {
        assert_eq!(running.send(&get(path).header("x-sailcloth-mirror-1", V2)).status, 200);
    }
    let total = |cluster: &str| {
        let stats = running.envoy.stats(r"^cluster\..*upstream_rq_total").unwrap();
        stats.iter().find(|(name, _)| name.contains(cluster)).map_or(0, |(_, count)| *count)
    };
    wait(&running, "the copies", || total(V2) == 2);
    assert_eq!((total(V1), total(V2)), (4, 2), "a client asks for no copies");
}

#[test]
fn envoys_own_errors_get_the_rules_headers() {
    let mut routing = match with_rules(json!([{
        "headers": {"response": {"set": {"x-rule": "0"}}},
        "corsPolicy": {"allowOrigins": [{"exact": "http://a.example"}]},
        "route": to("v1")
    }])) {
        Some(routing) => routing,
        None => return,
    };
    let clusters = routing.config.pointer_mut("/static_resources/clusters").unwrap();
    clusters.as_array_mut().unwrap().retain(|cluster| cluster["name"] != V1);
    let running = routing.start(1);
    let answer = running.send(&get("/").header("origin", "http://a.example"));
    let header = |name: &str| answer.header(name);
    assert_eq!(answer.status, 503);
    assert_eq!(header("x-rule"), Some("0".into()));
    assert_eq!(header("access-control-allow-origin"), Some("http://a.example".into()));
}
