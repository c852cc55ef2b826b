//! Many routes: the same table as a VirtualService, as Envoy's list of routes and as its matcher tree. The request
//! matches the last of them, except by the tree and by the host, which have no order.

use serde_json::{Map, Value, json};

use crate::policy::{V1, previous_hosts, routing_configuration};

/// How many routes there are.
pub(crate) const COUNTS: [usize; 4] = [10, 100, 1_000, 10_000];

/// What tells the routes apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The beginning of the path.
    Paths,
    /// The value of `x-api-key`, below one path; each client has another one.
    Header,
    /// The host, in a document or virtual host of its own each.
    Hosts,
}

impl Shape {
    /// In names of variants.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Paths => "",
            Self::Header => "-header",
            Self::Hosts => "-hosts",
        }
    }

    /// In tables.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Paths => "paths",
            Self::Header => "values of a header",
            Self::Hosts => "hosts",
        }
    }
}

/// The last is that of the requests (`request::get`).
fn prefix(index: usize, count: usize) -> String {
    if index + 1 == count { "/api/v1/".to_owned() } else { format!("/service-{index:05}/") }
}

/// The last are those of the clients.
fn key(index: usize, count: usize) -> String {
    format!("key-{}", count - 1 - index)
}

fn host(index: usize, count: usize) -> String {
    if index + 1 == count { "api-service".to_owned() } else { format!("service-{index:05}.example") }
}

/// The configuration of our filter.
pub(crate) fn ours(shape: Shape, count: usize) -> Value {
    let rule = |matched: Value| {
        json!({
            "match": [matched],
            "route": [{"destination": {"host": "api-service", "subset": "v1"}}],
            "timeout": "30s",
        })
    };
    let document = |name: String, hosts: Value, rules: Vec<Value>| {
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": name, "namespace": "production"},
            "spec": {"hosts": hosts, "http": rules},
        })
    };
    let indices = 0..count;
    let documents: Vec<Value> = match shape {
        Shape::Paths => {
            let rules = indices.map(|index| rule(json!({"uri": {"prefix": prefix(index, count)}})));
            vec![document("bench".to_owned(), json!(["api-service"]), rules.collect())]
        }
        Shape::Header => {
            let rules = indices.map(|index| {
                rule(json!({"uri": {"prefix": "/api/"}, "headers": {"x-api-key": {"exact": key(index, count)}}}))
            });
            vec![document("bench".to_owned(), json!(["api-service"]), rules.collect())]
        }
        Shape::Hosts => indices
            .map(|index| {
                let rules = vec![rule(json!({"uri": {"prefix": "/api/"}}))];
                document(format!("bench-{index}"), json!([host(index, count)]), rules)
            })
            .collect(),
    };
    routing_configuration(json!(documents))
}

/// Envoy's virtual hosts with lists of routes, in the form that Istio gives them.
pub(crate) fn native_list(shape: Shape, count: usize) -> Value {
    let indices = 0..count;
    match shape {
        Shape::Paths => {
            let routes = indices.map(|index| native_route(json!({"prefix": prefix(index, count)})));
            json!([{"name": "any", "domains": ["*"], "routes": routes.collect::<Vec<_>>()}])
        }
        Shape::Header => {
            let routes = indices.map(|index| {
                let header = json!({"name": "x-api-key", "string_match": {"exact": key(index, count)}});
                native_route(json!({"prefix": "/api/", "headers": [header]}))
            });
            json!([{"name": "any", "domains": ["*"], "routes": routes.collect::<Vec<_>>()}])
        }
        Shape::Hosts => indices
            .map(|index| {
                let host = host(index, count);
                json!({"name": host, "domains": [host], "routes": [native_route(json!({"prefix": "/api/"}))]})
            })
            .collect(),
    }
}

/// A virtual host with Envoy's matcher tree; hosts are looked up by hash anyway.
pub(crate) fn native_tree(shape: Shape, count: usize) -> Value {
    let input = |header: &str| {
        json!({
            "name": "input",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
                "header_name": header,
            },
        })
    };
    let action = |matched: Value| {
        let mut route = native_route(matched);
        if let Some(fields) = route.as_object_mut() {
            fields.insert("@type".to_owned(), json!("type.googleapis.com/envoy.config.route.v3.Route"));
        }
        json!({"action": {"name": "route", "typed_config": route}})
    };
    let entries = |text: fn(usize, usize) -> String, path: fn(&str) -> Value| -> Map<String, Value> {
        (0..count).map(|index| text(index, count)).map(|text| (text.clone(), action(path(&text)))).collect()
    };
    let tree = if shape == Shape::Header {
        let map = entries(key, |_| json!({"prefix": "/api/"}));
        json!({"input": input("x-api-key"), "exact_match_map": {"map": map}})
    } else {
        let map = entries(prefix, |prefix| json!({"prefix": prefix}));
        json!({"input": input(":path"), "prefix_match_map": {"map": map}})
    };
    json!([{"name": "any", "domains": ["*"], "matcher": {"matcher_tree": tree}}])
}

/// With Istio's default retries.
fn native_route(matched: Value) -> Value {
    let retry = json!({
        "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
        "num_retries": 2,
        "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": [previous_hosts()],
    });
    json!({"match": matched, "route": {"cluster": V1, "timeout": "30s", "retry_policy": retry}})
}
