//! A real Envoy with two workers under load.

use std::time::{Duration, Instant};

use sailcloth_launch::envoy;
use sailcloth_launch::http::{Client, Request};
use sailcloth_tests::shipped::{Running, Shipped};
use serde_json::{Value, json};

/// `envoy/ratelimit.yaml` with these rules and settings, on two workers.
fn start(rules: Value, settings: Value) -> Option<Running> {
    let binary = envoy::find_or_skip()?;
    let mut shipped = Shipped::new(&binary, "ratelimit");
    let filters = shipped.http_filters();
    let filter = filters.iter_mut().find(|filter| filter["name"] == "sailcloth.ratelimit").unwrap();
    let value = &mut filter["typed_config"]["config"]["configuration"]["value"];
    value["resources"][0]["spec"]["rules"] = rules;
    value["settings"] = settings;
    Some(shipped.start(2))
}

/// Sends from several connections at once, each its own key of `keys`, for a while. How many of each key were admitted, from
/// before the first to after the last.
fn load(running: &Running, keys: &[&str], time: Duration) -> (Vec<u64>, Duration) {
    let port = running.shipped.port;
    let begin = Instant::now();
    let counts = std::thread::scope(|scope| {
        let senders: Vec<_> = keys
            .iter()
            .map(|key| {
                scope.spawn(move || {
                    let mut connection = Client::local(port).connect().unwrap();
                    let mut admitted = 0;
                    while begin.elapsed() < time {
                        let response =
                            connection.send(&Request::get("/api/x").header("x-api-key", *key)).unwrap();
                        assert!([200, 429].contains(&response.status), "{}", response.status);
                        admitted += u64::from(response.status == 200);
                    }
                    admitted
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().unwrap()).collect()
    });
    (counts, begin.elapsed())
}

#[test]
fn two_workers_under_load_admit_what_the_limit_says() {
    let rule =
        json!([{"key": [{"header": "x-api-key"}], "limit": {"requests": 50, "per": "second", "burst": 30}}]);
    let Some(running) = start(rule, json!({})) else { return };
    // Two connections a key, so that both workers count for the same one.
    let (counts, time) = load(&running, &["a", "a", "b", "b"], Duration::from_secs(3));
    let milliseconds = u64::try_from(time.as_millis()).unwrap();
    let most = 30 + 50 * milliseconds / 1000 + 1;
    for (key, admitted) in [("a", counts[0] + counts[1]), ("b", counts[2] + counts[3])] {
        assert!(admitted <= most, "{key}: {admitted} admitted, {most} are the bound");
        // The last request is answered some time before the clock is read.
        assert!(admitted * 10 >= (30 + 50 * 3) * 9, "{key}: {admitted} admitted, too few");
    }
}

#[test]
fn with_leases_two_workers_stay_within_their_bound() {
    let limit = json!({"requests": 50, "per": "second", "burst": 30, "lease": 10});
    let rule = json!([{"key": [{"header": "x-api-key"}], "limit": limit}]);
    let Some(running) = start(rule, json!({})) else { return };
    let (counts, time) = load(&running, &["a", "a", "a", "a"], Duration::from_secs(2));
    let admitted: u64 = counts.iter().sum();
    let most = 30 + 50 * u64::try_from(time.as_millis()).unwrap() / 1000 + 1 + 2 * 10;
    assert!(
        admitted <= most && admitted * 10 >= (30 + 50 * 2) * 8,
        "{admitted} admitted, {most} are the bound"
    );
}

#[test]
fn responses_say_where_the_client_stands_and_settle_what_they_cost() {
    let rules = json!([
        {"name": "keys", "key": [{"header": "x-api-key"}], "limit": {"requests": 5, "per": "hour"}},
        {"key": [{"header": "x-login"}], "onMissingKey": "skip", "cost": {"response": {"statuses": ["4xx"]}}, "limit": {"requests": 2, "per": "hour"}}
    ]);
    let settings = json!({"headers": "always", "headerFormat": "both"});
    let Some(running) = start(rules, settings) else { return };
    let send = |key: &str| running.send(&Request::get("/api/x").header("x-api-key", key));
    let first = send("a");
    let header = |name: &str| first.header(name).map(|value| value.into_owned());
    assert_eq!(first.status, 200);
    assert_eq!(header("x-ratelimit-remaining").as_deref(), Some("4"));
    assert_eq!(header("ratelimit-policy").as_deref(), Some(r#""keys";q=5;w=3600"#));
    assert_eq!(header("ratelimit").as_deref(), Some(r#""keys";r=4;t=720"#));
    // 200 costs nothing: it is given back every time.
    for key in 0..10 {
        let request = Request::get("/api/x").header("x-api-key", key.to_string()).header("x-login", "joe");
        assert_eq!(running.send(&request).status, 200, "{key}");
    }
    let answers: Vec<_> = (0..6).map(|_| send("a")).collect();
    let limited = answers.last().unwrap();
    assert_eq!(limited.status, 429);
    assert_eq!(limited.header("retry-after").as_deref(), Some("720"));
    assert_eq!(limited.header("ratelimit").as_deref(), Some(r#""keys";r=0;t=3600"#));
    let grpc =
        Request::new("POST", "/api/x").header("x-api-key", "a").header("content-type", "application/grpc");
    let grpc = running.send(&grpc);
    assert_eq!((grpc.status, grpc.header("grpc-status").as_deref()), (200, Some("8")));
}
