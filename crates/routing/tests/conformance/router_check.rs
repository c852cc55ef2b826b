//! Envoy's own route tables, as VirtualServices.

use sailcloth_core::config::Node;
use sailcloth_routing::{Engine, Outcome};

use crate::common::{
    Attributes, Setup, Tally, decide, document, edited, folder, integer, is_true, list, map, pseudo, text,
    word, yaml,
};

/// Dynamic metadata is not known to a filter of Istio's but as claims of a token: that is how these are asked.
const CLAIM: &str = "@request.auth.claims";

/// An Envoy route as a rule.
fn rule_of(route: &Node) -> Result<Node, String> {
    let wanted = route.field("match").unwrap();
    let Node::Map(conditions) = wanted else { panic!("{route:?}") };
    let (mut headers, mut without, mut fields) = (Vec::new(), Vec::new(), Vec::new());
    for (key, value) in conditions {
        match key.as_str() {
            "prefix" => fields.push(("uri", map(vec![("prefix", value.clone())]))),
            "path" => fields.push(("uri", map(vec![("exact", value.clone())]))),
            "case_sensitive" => {
                fields.push(("ignoreUriCase", Node::Bool(matches!(value, Node::Bool(false)))));
            }
            // "only gRPC requests": content-type application/grpc, perhaps with a suffix.
            "grpc" => headers.push(("content-type".to_owned(), regex("application/grpc([+;].*)?"))),
            "headers" => {
                for header in list(wanted, "headers") {
                    headers.push((text(header, "name").unwrap().to_owned(), string_match(header)));
                }
            }
            "dynamic_metadata" => {
                for claim in list(wanted, "dynamic_metadata") {
                    let path: String = list(claim, "path")
                        .iter()
                        .map(|key| format!("[{}]", text(key, "key").unwrap()))
                        .collect();
                    let name = format!("{CLAIM}[{}]{path}", text(claim, "filter").unwrap());
                    let value = string_match(claim.field("value").unwrap());
                    if is_true(claim, "invert") {
                        without.push((name, value))
                    } else {
                        headers.push((name, value))
                    };
                }
            }
            other => return Err(format!("a route that matches on {other}")),
        }
    }
    if !headers.is_empty() {
        fields.push(("headers", Node::Map(headers)));
    }
    if !without.is_empty() {
        fields.push(("withoutHeaders", Node::Map(without)));
    }
    let mut rule = action_of(route)?;
    rule.push(("match", Node::List(vec![map(fields)])));
    rule.extend(headers_of(route));
    Ok(map(rule))
}

fn action_of(route: &Node) -> Result<Vec<(&'static str, Node)>, String> {
    if let Some(direct) = route.field("direct_response") {
        let body = direct.field("body").and_then(|body| text(body, "inline_string")).unwrap_or_default();
        let body = map(vec![("string", word(body))]);
        return Ok(vec![(
            "directResponse",
            map(vec![("status", direct.field("status").unwrap().clone()), ("body", body)]),
        )]);
    }
    if let Some(redirect) = route.field("redirect") {
        let names = [
            ("host_redirect", "authority"),
            ("path_redirect", "uri"),
            ("prefix_rewrite", "prefixRewrite"),
            ("scheme_redirect", "scheme"),
            ("port_redirect", "port"),
        ];
        let fields =
            names.into_iter().filter_map(|(theirs, ours)| Some((ours, redirect.field(theirs)?.clone())));
        return Ok(vec![("redirect", map(fields.collect()))]);
    }
    let action = route.field("route").unwrap();
    let Some(cluster) = text(action, "cluster") else {
        return Err("a route whose cluster is no fixed name".to_owned());
    };
    let destination = map(vec![("destination", map(vec![("host", word(&host_of(cluster)))]))]);
    let mut rule = vec![("route", Node::List(vec![destination]))];
    let names = [("prefix_rewrite", "uri"), ("host_rewrite_literal", "authority")];
    let rewrite: Vec<(&str, Node)> =
        names.into_iter().filter_map(|(theirs, ours)| Some((ours, action.field(theirs)?.clone()))).collect();
    if !rewrite.is_empty() {
        rule.push(("rewrite", map(rewrite)));
    }
    Ok(rule)
}

fn headers_of(route: &Node) -> Vec<(&'static str, Node)> {
    let edits = |key: &str| {
        let (mut set, mut add) = (Vec::new(), Vec::new());
        for option in list(route, key) {
            let header = option.field("header").unwrap();
            let entry = (text(header, "key").unwrap().to_owned(), header.field("value").unwrap().clone());
            let overwrites = text(option, "append_action") == Some("OVERWRITE_IF_EXISTS_OR_ADD");
            if overwrites {
                set.push(entry)
            } else {
                add.push(entry)
            };
        }
        map(vec![("set", Node::Map(set)), ("add", Node::Map(add))])
    };
    let request = edits("request_headers_to_add");
    vec![("headers", map(vec![("request", request), ("response", edits("response_headers_to_add"))]))]
}

fn host_of(cluster: &str) -> String {
    format!("{}.x", cluster.replace('_', "-"))
}

fn regex(pattern: &str) -> Node {
    map(vec![("regex", word(pattern))])
}

fn string_match(header: &Node) -> Node {
    let Some(condition) = header.field("string_match") else { return map(vec![]) };
    match condition.field("safe_regex").and_then(|regex| text(regex, "regex")) {
        Some(pattern) => regex(pattern),
        None => condition.clone(),
    }
}

#[test]
fn envoys_route_tables() {
    let Some(folder) = folder() else { return };
    let folder = folder.join("envoy/router_check");
    let mut tally = Tally::default();
    for file in list(&yaml(&folder.join("index.yaml")), "files") {
        let table = yaml(&folder.join(text(file, "config").unwrap()));
        let tests = std::fs::read(folder.join(text(file, "tests").unwrap())).unwrap();
        let tests = Node::from_json(&tests).unwrap();
        match engine_of_table(&table) {
            Ok(engine) => list(&tests, "tests").iter().for_each(|test| run(&mut tally, &engine, test)),
            Err(why) => list(&tests, "tests").iter().for_each(|_| tally.skip(why.clone())),
        }
    }
    tally.finish("envoy/router_check");
}

fn engine_of_table(table: &Node) -> Result<Engine, String> {
    let mut documents = Vec::new();
    let mut clusters = Vec::new();
    for host in list(table, "virtual_hosts") {
        let rules: Vec<Node> = list(host, "routes").iter().map(rule_of).collect::<Result<_, _>>()?;
        for destination in rules.iter().flat_map(|rule| list(rule, "route")) {
            clusters.push(destination.field("destination").unwrap().field("host").unwrap().clone());
        }
        let spec = map(vec![
            ("hosts", host.field("domains").unwrap().clone()),
            ("gateways", Node::List(vec![word("gateway")])),
            ("http", Node::List(rules)),
        ]);
        documents.push(document("default", &text(host, "name").unwrap().replace('_', "-"), spec));
    }
    let setup = Setup::new().with("cluster", word("{host}")).with("clusters", Node::List(clusters));
    setup.load(documents).map_err(|problems| panic!("{problems:?}"))
}

fn run(tally: &mut Tally, engine: &Engine, test: &Node) {
    let (input, validate) = (test.field("input").unwrap(), test.field("validate").unwrap());
    let known = [
        "cluster_name",
        "path_rewrite",
        "host_rewrite",
        "path_redirect",
        "code_redirect",
        "request_header_matches",
        "response_header_matches",
    ];
    let Node::Map(asked) = validate else { panic!("not a map") };
    let asked: Vec<&(String, Node)> = asked.iter().filter(|(key, _)| known.contains(&key.as_str())).collect();
    if asked.is_empty() {
        return tally.skip("a case about Envoy's virtual clusters alone");
    }
    let mut request = pseudo(
        text(input, "method").unwrap_or_default(),
        text(input, "path").unwrap_or_default(),
        text(input, "authority").unwrap_or_default(),
    );
    if is_true(input, "ssl") {
        request.retain(|(name, _)| name != ":scheme");
        request.push((":scheme".to_owned(), "https".to_owned()));
    }
    for header in list(input, "additional_request_headers") {
        request.push((text(header, "key").unwrap().to_owned(), text(header, "value").unwrap().to_owned()));
    }
    let attributes = Attributes { port: 80, token: metadata(input) };
    let differences = decide(engine, &request, &attributes, 0, |outcome| {
        let seen = Seen::of(outcome, &request);
        asked.iter().flat_map(|(key, wanted)| seen.differences(key, wanted)).collect::<Vec<_>>()
    });
    tally.compare(test, &differences);
}

/// Dynamic metadata as claims: of two writers of a namespace the second counts only if it may overwrite.
fn metadata(input: &Node) -> Option<Node> {
    let mut claims: Vec<(String, Node)> = Vec::new();
    for entry in list(input, "dynamic_metadata") {
        let (space, value) = (text(entry, "metadata_namespace").unwrap(), entry.field("value").unwrap());
        let known = claims.iter().any(|(name, _)| name == space);
        if known && !is_true(entry, "allow_overwrite") {
            continue;
        }
        claims.retain(|(name, _)| name != space);
        claims.push((space.to_owned(), value.clone()));
    }
    (!claims.is_empty()).then_some(Node::Map(claims))
}

/// What the tool reads from a route.
struct Seen {
    cluster: String,
    path: String,
    host: String,
    location: String,
    code: i64,
    upstream: std::collections::BTreeMap<String, String>,
    response: std::collections::BTreeMap<String, String>,
}

impl Seen {
    fn of(outcome: &Outcome<'_>, request: &[(String, String)]) -> Self {
        let routed = outcome.cluster().is_some();
        let upstream = edited(request, &outcome.request);
        let of = |name: &str| upstream.get(name).filter(|_| routed).cloned().unwrap_or_default();
        let mut headers: Vec<(String, String)> = Vec::new();
        let mut location = String::new();
        let (mut code, mut body) = (0, 0);
        if let Some(answer) = &outcome.answer {
            (code, body) = (i64::from(answer.status), answer.body.len());
            headers.extend(
                answer
                    .headers
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), String::from_utf8_lossy(value).into_owned())),
            );
            location = headers
                .iter()
                .find(|(name, _)| name == "location")
                .map(|(_, value)| value.clone())
                .unwrap_or_default();
        }
        if body > 0 {
            // What Envoy adds to a local reply with a body.
            headers.push(("content-length".to_owned(), body.to_string()));
            headers.push(("content-type".to_owned(), "text/plain".to_owned()));
        }
        Self {
            cluster: outcome.cluster().unwrap_or_default().to_owned(),
            path: of(":path"),
            host: of(":authority"),
            location,
            code,
            response: edited(&headers, &outcome.response),
            upstream,
        }
    }

    fn differences(&self, key: &str, wanted: &Node) -> Vec<String> {
        let compare = |found: &str| {
            let wanted = wanted.text().unwrap_or_default();
            if wanted == found {
                Vec::new()
            } else {
                vec![format!("{key}: expected `{wanted}`, found `{found}`")]
            }
        };
        match key {
            "cluster_name" => {
                let wanted = wanted.text().filter(|name| !name.is_empty()).map(host_of).unwrap_or_default();
                if wanted == self.cluster {
                    Vec::new()
                } else {
                    vec![format!("expected {wanted}, found {}", self.cluster)]
                }
            }
            "path_rewrite" => compare(&self.path),
            "host_rewrite" => compare(&self.host),
            // The tool names the address of a direct response too, which a client never sees.
            "path_redirect" if self.location.is_empty() && self.code == 200 => Vec::new(),
            "path_redirect" => compare(&self.location),
            "code_redirect" => {
                let holds = matches!(wanted, Node::Integer(code) if *code == self.code);
                if holds { Vec::new() } else { vec![format!("expected {wanted:?}, found {}", self.code)] }
            }
            "request_header_matches" => headers_match(wanted, &self.upstream),
            _ => headers_match(wanted, &self.response),
        }
    }
}

fn headers_match(wanted: &Node, headers: &std::collections::BTreeMap<String, String>) -> Vec<String> {
    let Node::List(all) = wanted else { panic!("not a list") };
    let wrong = all.iter().filter(|one| {
        let value = headers.get(&text(one, "name").unwrap().to_ascii_lowercase());
        let holds = if let Some(exact) = one.field("string_match").and_then(|one| text(one, "exact")) {
            value.is_some_and(|value| value == exact)
        } else if let Some(range) = one.field("range_match") {
            let number: Option<i64> = value.and_then(|value| value.parse().ok());
            number.is_some_and(|number| {
                (integer(range, "start").unwrap()..integer(range, "end").unwrap()).contains(&number)
            })
        } else {
            value.is_some()
        };
        holds == is_true(one, "invert_match")
    });
    wrong.map(|one| format!("{one:?} in {headers:?}")).collect()
}
