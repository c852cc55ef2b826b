//! VirtualService to Envoy's RouteConfiguration, as Istio translates it for a sidecar (`istio-api.md` section 5).

use sailcloth_core::config::Node;
use serde_json::{Map, Value, json};

use super::generate::{cluster, subset};
use crate::yaml::{at, entries, items};

/// Istio's retries where a rule names none.
const DEFAULT_RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

/// The route configuration of documents with different hosts.
#[must_use]
pub fn routes(documents: &[Node]) -> Value {
    let hosts = documents.iter().enumerate().map(|(index, document)| {
        let mut routes = Vec::new();
        for (number, rule) in items(at(document, &["spec", "http"])).iter().enumerate() {
            let action = action(index, number, rule);
            match items(rule.field("match")) {
                [] => routes.push(route(&json!({"prefix": "/"}), action, None)),
                matches => {
                    routes.extend(
                        matches.iter().map(|entry| route(&matching(entry), action.clone(), Some(entry))),
                    );
                }
            }
        }
        let domains: Vec<String> =
            items(at(document, &["spec", "hosts"])).iter().filter_map(Node::text).flat_map(domains).collect();
        json!({"name": format!("vs{index}"), "domains": domains, "routes": routes})
    });
    json!({
        "name": "istio",
        "virtual_hosts": hosts.collect::<Vec<_>>(),
        "ignore_port_in_host_matching": true,
    })
}

/// A name of the mesh is reached by all its names.
fn domains(host: &str) -> Vec<String> {
    if host.contains('.') {
        return vec![host.to_owned()];
    }
    ["", ".production", ".production.svc", ".production.svc.cluster.local"]
        .iter()
        .map(|rest| format!("{host}{rest}"))
        .collect()
}

fn matching(entry: &Node) -> Value {
    let mut all = match entry.field("uri").map(kind) {
        Some(("exact", value)) => json!({"path": value}),
        Some(("prefix", value)) => json!({"prefix": value}),
        Some((_, value)) => json!({"safe_regex": {"regex": value}}),
        None => json!({"prefix": "/"}),
    };
    if matches!(entry.field("ignoreUriCase"), Some(Node::Bool(true))) && all.get("safe_regex").is_none() {
        all["case_sensitive"] = json!(false);
    }
    let mut headers = Vec::new();
    for (name, value) in entries(entry.field("headers")) {
        headers.push(header(name, value, false));
    }
    for (name, value) in entries(entry.field("withoutHeaders")) {
        headers.push(header(name, value, true));
    }
    for (field, name) in [("method", ":method"), ("authority", ":authority"), ("scheme", ":scheme")] {
        headers.extend(entry.field(field).map(|value| header(name, value, false)));
    }
    if !headers.is_empty() {
        all["headers"] = json!(headers);
    }
    let parameters = entries(entry.field("queryParams")).iter().map(|(name, value)| {
        if is_presence(value) {
            json!({"name": name, "present_match": true})
        } else {
            json!({"name": name, "string_match": string(value)})
        }
    });
    let parameters: Vec<Value> = parameters.collect();
    if !parameters.is_empty() {
        all["query_parameters"] = json!(parameters);
    }
    all
}

/// The one member of a string match.
fn kind(value: &Node) -> (&str, &str) {
    let (kind, text) = entries(Some(value)).first().expect("a string match");
    (kind, text.text().unwrap_or_default())
}

fn is_presence(value: &Node) -> bool {
    entries(Some(value)).is_empty() || kind(value) == ("regex", "*")
}

fn string(value: &Node) -> Value {
    match kind(value) {
        ("regex", text) => json!({"safe_regex": {"regex": text}}),
        (kind, text) => json!({kind: text}),
    }
}

fn header(name: &str, value: &Node, without: bool) -> Value {
    let mut matcher = json!({"name": name});
    if is_presence(value) {
        matcher["present_match"] = json!(true);
    } else {
        matcher["string_match"] = string(value);
        if without {
            matcher["treat_missing_header_as_empty"] = json!(true);
        }
    }
    if without {
        matcher["invert_match"] = json!(true);
    }
    matcher
}

/// What a route does, but for what depends on how it matched.
struct Action<'r> {
    rule: &'r Node,
    fields: Map<String, Value>,
}

impl Clone for Action<'_> {
    fn clone(&self) -> Self {
        Self { rule: self.rule, fields: self.fields.clone() }
    }
}

fn route(matching: &Value, action: Action<'_>, entry: Option<&Node>) -> Value {
    let mut route = action.fields;
    if let Some(Value::Object(target)) = route.get_mut("route") {
        let uri = at(action.rule, &["rewrite", "uri"]).and_then(Node::text);
        let by_prefix =
            entry.is_none_or(|entry| entry.field("uri").is_none_or(|uri| kind(uri).0 == "prefix"));
        if let Some(uri) = uri {
            if by_prefix {
                target.insert("prefix_rewrite".to_owned(), json!(uri));
            } else {
                let whole = json!({"pattern": {"regex": ".*"}, "substitution": uri});
                target.insert("regex_rewrite".to_owned(), whole);
            }
        }
    }
    route.insert("match".to_owned(), matching.clone());
    Value::Object(route)
}

fn action(document: usize, number: usize, rule: &Node) -> Action<'_> {
    let mut fields = Map::new();
    operations(rule.field("headers"), &mut fields);
    if let Some(redirect) = rule.field("redirect") {
        fields.insert("redirect".to_owned(), redirection(redirect));
    } else if let Some(response) = rule.field("directResponse") {
        let mut direct = json!({"status": integer(response.field("status"))});
        if let Some(body) = at(response, &["body", "string"]).and_then(Node::text) {
            direct["body"] = json!({"inline_string": body});
        }
        fields.insert("direct_response".to_owned(), direct);
    } else {
        let target = destination(document, number, rule, &mut fields);
        fields.insert("route".to_owned(), target);
    }
    let mut filters = Map::new();
    if let Some(cors) = rule.field("corsPolicy") {
        filters.insert("envoy.filters.http.cors".to_owned(), cross_origin(cors));
    }
    if let Some(abort) = at(rule, &["fault", "abort"]) {
        let percent = integer(at(abort, &["percentage", "value"]));
        filters.insert(
            "envoy.filters.http.fault".to_owned(),
            json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault", "abort": {
                "http_status": integer(abort.field("httpStatus")),
                "percentage": {"numerator": percent, "denominator": "HUNDRED"}}}),
        );
    }
    if !filters.is_empty() {
        fields.insert("typed_per_filter_config".to_owned(), Value::Object(filters));
    }
    Action { rule, fields }
}

fn integer(value: Option<&Node>) -> i64 {
    match value {
        Some(Node::Integer(value)) => *value,
        _ => 0,
    }
}

fn destination(document: usize, number: usize, rule: &Node, fields: &mut Map<String, Value>) -> Value {
    let mut target = match items(rule.field("route")) {
        [single] => {
            // One destination's operations come after the rule's, so its own win.
            let mut own = Map::new();
            operations(single.field("headers"), &mut own);
            for (key, value) in own {
                let all = fields.entry(key).or_insert_with(|| json!([]));
                all.as_array_mut().expect("a list").extend(value.as_array().cloned().unwrap_or_default());
            }
            json!({"cluster": cluster(&subset(document, number, 0))})
        }
        several => {
            let weighted = several.iter().enumerate().map(|(arm, route)| {
                let mut cluster = json!({
                    "name": cluster(&subset(document, number, arm)),
                    "weight": integer(route.field("weight")),
                });
                let mut own = Map::new();
                operations(route.field("headers"), &mut own);
                for (key, value) in own {
                    cluster[key] = value;
                }
                cluster
            });
            json!({"weighted_clusters": {"clusters": weighted.collect::<Vec<_>>()}})
        }
    };
    target["timeout"] = json!(seconds(rule.field("timeout")).unwrap_or_else(|| "0s".to_owned()));
    target["retry_policy"] = retries(rule.field("retries"));
    if let Some(rewrite) = rule.field("rewrite") {
        if let Some(authority) = rewrite.field("authority").and_then(Node::text) {
            target["host_rewrite_literal"] = json!(authority);
        }
        if let Some(regex) = rewrite.field("uriRegexRewrite") {
            let word = |key| regex.field(key).and_then(Node::text).unwrap_or_default();
            target["regex_rewrite"] =
                json!({"pattern": {"regex": word("match")}, "substitution": word("rewrite")});
        }
    }
    target
}

/// A duration in Envoy's form.
fn seconds(value: Option<&Node>) -> Option<String> {
    let text = value?.text()?;
    Some(match text {
        "1m30s" => "90s".to_owned(),
        "250ms" => "0.25s".to_owned(),
        "24h" => "86400s".to_owned(),
        other => other.to_owned(),
    })
}

fn retries(retries: Option<&Node>) -> Value {
    let Some(retries) = retries else {
        return json!({"num_retries": 2, "retry_on": DEFAULT_RETRY_ON, "host_selection_retry_max_attempts": 5});
    };
    let attempts = integer(retries.field("attempts"));
    if attempts == 0 {
        return json!({"num_retries": 0, "retry_on": ""});
    }
    let written = retries.field("retryOn").and_then(Node::text).unwrap_or(DEFAULT_RETRY_ON);
    let (codes, mut words): (Vec<&str>, Vec<&str>) =
        written.split(',').partition(|word| word.chars().all(|c| c.is_ascii_digit()));
    if !codes.is_empty() {
        words.push("retriable-status-codes");
    }
    let codes: Vec<u32> = codes.iter().filter_map(|code| code.parse().ok()).collect();
    let mut policy =
        json!({"num_retries": attempts, "retry_on": words.join(","), "retriable_status_codes": codes});
    if let Some(timeout) = seconds(retries.field("perTryTimeout")) {
        policy["per_try_timeout"] = json!(timeout);
    }
    policy
}

fn operations(headers: Option<&Node>, fields: &mut Map<String, Value>) {
    for (side, prefix) in [("request", "request_headers_to"), ("response", "response_headers_to")] {
        let Some(of) = headers.and_then(|headers| headers.field(side)) else { continue };
        let mut added = Vec::new();
        for (operation, how) in [("set", "OVERWRITE_IF_EXISTS_OR_ADD"), ("add", "APPEND_IF_EXISTS_OR_ADD")] {
            for (name, value) in entries(of.field(operation)) {
                let value = value.text().unwrap_or_default();
                added.push(json!({"header": {"key": name, "value": value}, "append_action": how}));
            }
        }
        if !added.is_empty() {
            fields.insert(format!("{prefix}_add"), json!(added));
        }
        let removed: Vec<&str> = items(of.field("remove")).iter().filter_map(Node::text).collect();
        if !removed.is_empty() {
            fields.insert(format!("{prefix}_remove"), json!(removed));
        }
    }
}

fn redirection(redirect: &Node) -> Value {
    let word = |key| redirect.field(key).and_then(Node::text);
    let mut all = json!({});
    if let Some(uri) = word("uri") {
        all["path_redirect"] = json!(uri);
    }
    if let Some(prefix) = word("prefixRewrite") {
        all["prefix_rewrite"] = json!(prefix);
    }
    if let Some(authority) = word("authority") {
        all["host_redirect"] = json!(authority);
    }
    if let Some(scheme) = word("scheme") {
        all["scheme_redirect"] = json!(scheme);
    }
    // The listeners speak http; Istio leaves out the port that the scheme means.
    let default = if word("scheme") == Some("https") { 443 } else { 80 };
    if let Some(Node::Integer(port)) = redirect.field("port")
        && *port != default
    {
        all["port_redirect"] = json!(port);
    }
    let code = match redirect.field("redirectCode") {
        Some(Node::Integer(302)) => "FOUND",
        Some(Node::Integer(303)) => "SEE_OTHER",
        Some(Node::Integer(307)) => "TEMPORARY_REDIRECT",
        Some(Node::Integer(308)) => "PERMANENT_REDIRECT",
        _ => "MOVED_PERMANENTLY",
    };
    all["response_code"] = json!(code);
    all
}

fn cross_origin(cors: &Node) -> Value {
    let joined = |key| {
        let all: Vec<&str> = items(cors.field(key)).iter().filter_map(Node::text).collect();
        (!all.is_empty()).then(|| all.join(","))
    };
    let origins: Vec<Value> = items(cors.field("allowOrigins")).iter().map(string).collect();
    let mut all = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": origins,
        "filter_enabled": {"default_value": {"numerator": 100}},
        "forward_not_matching_preflights": true,
    });
    for (key, name) in [
        ("allowMethods", "allow_methods"),
        ("allowHeaders", "allow_headers"),
        ("exposeHeaders", "expose_headers"),
    ] {
        if let Some(text) = joined(key) {
            all[name] = json!(text);
        }
    }
    if let Some(age) = seconds(cors.field("maxAge")) {
        all["max_age"] = json!(age.trim_end_matches('s'));
    }
    if let Some(Node::Bool(flag)) = cors.field("allowCredentials") {
        all["allow_credentials"] = json!(flag);
    }
    all
}
