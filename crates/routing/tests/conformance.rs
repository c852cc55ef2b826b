//! Cases that nobody here wrote (`shared/conformance`): Istio's validation tables, retries, host names and integration
//! tests of VirtualService, and Envoy's route tables. What cannot run is skipped by a property of the case, and counted.
//!
//! `SAILCLOTH_CONFORMANCE` names the folder; without it the tests say that they skipped, unless
//! `REQUIRE_CONFORMANCE=1`.
#![cfg(not(target_family = "wasm"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic; helpers of tests are not covered by clippy.toml"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sailcloth_core::config::Node;
use sailcloth_core::decision::Verdict;
use sailcloth_core::facts::{Facts, NoProperties};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::request::Request;
use sailcloth_resources::host_name::{is_ip, is_wildcard_of};
use sailcloth_routing::Engine;

/// What marks a refusal that says nothing about the document: this filter or this version cannot carry it out.
const UNSUPPORTED: [&str; 2] = ["is not supported", "cannot be set for a request"];

fn folder() -> Option<PathBuf> {
    let given = std::env::var_os("SAILCLOTH_CONFORMANCE").map(PathBuf::from);
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance");
    let folder = given.unwrap_or(default);
    if folder.is_dir() {
        return Some(folder);
    }
    let required = std::env::var_os("REQUIRE_CONFORMANCE").is_some_and(|value| value == "1");
    assert!(!required, "{} is missing, and REQUIRE_CONFORMANCE=1", folder.display());
    println!("skipped: {} is missing; SAILCLOTH_CONFORMANCE names another place", folder.display());
    None
}

fn yaml(path: &Path) -> Node {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn list<'n>(node: &'n Node, key: &str) -> &'n [Node] {
    match node.field(key) {
        Some(Node::List(items)) => items,
        _ => &[],
    }
}

fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    node.field(key).and_then(Node::text)
}

fn is_true(node: &Node, key: &str) -> bool {
    matches!(node.field(key), Some(Node::Bool(true)))
}

fn word(text: &str) -> Node {
    Node::Text(text.to_owned())
}

fn map(entries: Vec<(&str, Node)>) -> Node {
    Node::Map(entries.into_iter().map(|(key, node)| (key.to_owned(), node)).collect())
}

/// What ran and what did not, by reason.
#[derive(Default)]
struct Tally {
    run: usize,
    skipped: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Tally {
    fn skip(&mut self, why: impl Into<String>) {
        *self.skipped.entry(why.into()).or_default() += 1;
    }

    fn check(&mut self, case: &Node, holds: bool, found: impl FnOnce() -> String) {
        self.run += 1;
        if !holds {
            let name = text(case, "id").or_else(|| text(case, "test_name")).unwrap_or("?");
            self.failures.push(format!("{name}: {}", found()));
        }
    }

    fn finish(self, what: &str, at_least: usize) {
        println!("{what}: {} run, {} skipped", self.run, self.skipped.values().sum::<usize>());
        for (why, count) in &self.skipped {
            println!("  skipped {count}: {why}");
        }
        assert!(self.failures.is_empty(), "{what}:\n{}", self.failures.join("\n"));
        assert!(self.run >= at_least, "{what}: only {} cases ran", self.run);
    }
}

/// A VirtualService of namespace `echo1`, the one of Istio's scenery.
fn document(spec: Node) -> Node {
    map(vec![
        ("apiVersion", word("networking.istio.io/v1")),
        ("kind", word("VirtualService")),
        ("metadata", map(vec![("name", word("default")), ("namespace", word("echo1"))])),
        ("spec", spec),
    ])
}

fn in_namespace(namespace: &str, document: Node) -> Node {
    let Node::Map(mut entries) = document else { panic!("not a map") };
    entries.retain(|(key, _)| key != "metadata");
    let metadata = map(vec![("name", word("default")), ("namespace", word(namespace))]);
    entries.push(("metadata".to_owned(), metadata));
    Node::Map(entries)
}

/// Loads documents with a naming template that makes every destination the same cluster, so that the allow-list says
/// nothing about the case.
fn load(documents: Vec<Node>, cluster: &str, clusters: Vec<Node>) -> Result<Engine, Vec<String>> {
    let settings = map(vec![("cluster", word(cluster)), ("clusters", Node::List(clusters))]);
    let configuration = map(vec![("resources", Node::List(documents)), ("settings", settings)]);
    let loaded = Engine::load_node(&configuration);
    loaded.map(|(engine, _)| engine).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn load_spec(spec: Node) -> Result<Engine, Vec<String>> {
    load(vec![document(spec)], "any", vec![word("any")])
}

/// The reason for skipping a case, when every problem is that something is not supported.
fn unsupported(problems: &[String]) -> Option<String> {
    let marked = |problem: &String| UNSUPPORTED.iter().any(|mark| problem.contains(mark));
    let all = !problems.is_empty() && problems.iter().all(marked);
    let first = problems.iter().find(|problem| problem.contains("not supported")).or(problems.first());
    let message = first.and_then(|first| first.split_once(": ")).map(|(_, message)| message.to_owned());
    message.filter(|_| all)
}

fn validate(tally: &mut Tally, case: &Node, spec: Node, valid: bool) {
    if let Some(protocol) = ["tls", "tcp"].into_iter().find(|protocol| spec.field(protocol).is_some()) {
        return tally.skip(format!("rules for {protocol}, which no HTTP filter sees"));
    }
    if valid && list(&spec, "http").iter().any(|rule| list(rule, "match").contains(&Node::Null)) {
        return tally.skip("a null in a list of objects, which this build refuses");
    }
    let outcome = load_spec(spec);
    if let Err(problems) = &outcome
        && let Some(why) = unsupported(problems)
    {
        return tally.skip(why);
    }
    tally.check(case, outcome.is_ok() == valid, || format!("valid: {valid}, found {:?}", outcome.err()));
}

fn spec_of(route: Node) -> Node {
    map(vec![("hosts", Node::List(vec![word("foo.bar")])), ("http", Node::List(vec![route]))])
}

fn route(extra: Vec<(&str, Node)>) -> Node {
    let destination = map(vec![("destination", map(vec![("host", word("foo.baz"))]))]);
    let mut fields = vec![("route", Node::List(vec![destination]))];
    fields.extend(extra);
    map(fields)
}

fn without_kind(node: &Node) -> Node {
    match node {
        Node::Map(entries) => Node::Map(entries.iter().filter(|(key, _)| key != "$kind").cloned().collect()),
        other => other.clone(),
    }
}

#[test]
fn istios_validation_tables() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    let table = |name: &str| yaml(&folder.join("istio/cases/validation").join(format!("{name}.yaml")));
    for name in ["TestValidateVirtualService", "TestValidateChainingVirtualService"] {
        for case in list(&table(name), "cases") {
            validate(&mut tally, case, without_kind(case.field("in").unwrap()), is_true(case, "valid"));
        }
    }
    for name in ["TestValidateHTTPRoute", "TestValidateRootHTTPRoute", "TestValidateDelegateHTTPRoute"] {
        for case in list(&table(name), "cases") {
            validate(&mut tally, case, spec_of(case.field("route").unwrap().clone()), is_true(case, "valid"));
        }
    }
    for case in list(&table("TestValidateHTTPRetry"), "cases") {
        let retries = case.field("in").unwrap().clone();
        validate(&mut tally, case, spec_of(route(vec![("retries", retries)])), is_true(case, "valid"));
    }
    for case in list(&table("TestValidateDestination"), "cases") {
        let destination = map(vec![("destination", case.field("destination").unwrap().clone())]);
        let http = map(vec![("route", Node::List(vec![destination]))]);
        validate(&mut tally, case, spec_of(http), is_true(case, "valid"));
    }
    for case in list(&table("TestValidateRouteDestination"), "cases") {
        let http = map(vec![("route", case.field("routes").unwrap().clone())]);
        validate(&mut tally, case, spec_of(http), is_true(case, "valid"));
    }
    for case in list(&table("TestValidateHTTPHeaderName"), "cases") {
        let headers = map(vec![(text(case, "name").unwrap_or_default(), map(vec![("exact", word("a"))]))]);
        let matches = Node::List(vec![map(vec![("headers", headers)])]);
        validate(&mut tally, case, spec_of(route(vec![("match", matches)])), is_true(case, "valid"));
    }
    for case in list(&table("TestValidateDuration"), "cases") {
        let timeout = case.field("duration").unwrap().clone();
        validate(&mut tally, case, spec_of(route(vec![("timeout", timeout)])), is_true(case, "isValid"));
    }
    validate_hosts(&mut tally, &table);
    tally.finish("istio/cases/validation, VirtualService", 60);
}

fn validate_hosts(tally: &mut Tally, table: &impl Fn(&str) -> Node) {
    let bound = |host: &str| {
        map(vec![
            ("hosts", Node::List(vec![word(host)])),
            ("gateways", Node::List(vec![word("gateway")])),
            ("http", Node::List(vec![route(vec![])])),
        ])
    };
    for case in list(&table("TestValidateFQDN"), "cases") {
        validate(tally, case, bound(text(case, "fqdn").unwrap_or_default()), is_true(case, "valid"));
    }
    for name in ["TestValidateWildcardDomain", "TestValidateWildcardDomainForVirtualServiceBoundToGateway"] {
        for case in list(&table(name), "cases") {
            if is_true(case, "sni") {
                tally.skip("a host that stands for TLS server names, which `tls` rules have");
                continue;
            }
            if is_ip(text(case, "in").unwrap_or_default()) {
                tally.skip("an IP address, which a VirtualService may have although it is no domain");
                continue;
            }
            let valid = text(case, "out").is_none_or(str::is_empty);
            validate(tally, case, bound(text(case, "in").unwrap_or_default()), valid);
        }
    }
    for case in list(&table("Test_validateExportTo"), "cases") {
        if is_true(case, "isServiceEntry") || is_true(case, "isDestinationRuleWithSelector") {
            tally.skip("rules of `exportTo` for other kinds");
            continue;
        }
        let namespace = text(case, "namespace").unwrap_or_default();
        let Node::Map(mut spec) = spec_of(route(vec![])) else { panic!("not a map") };
        spec.push(("exportTo".to_owned(), case.field("exportTo").unwrap().clone()));
        let document = in_namespace(namespace, document(Node::Map(spec)));
        let outcome = load(vec![document], "any", vec![word("any")]);
        let valid = !is_true(case, "wantErr");
        tally.check(case, outcome.is_ok() == valid, || format!("found {:?}", outcome.err()));
    }
}

#[test]
fn istios_host_names() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    let equal = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    for (name, holds) in [
        (
            "TestNameMatches",
            Box::new(move |a: &str, b: &str| equal(a, b) || is_wildcard_of(a, b) || is_wildcard_of(b, a))
                as Box<dyn Fn(&str, &str) -> bool>,
        ),
        ("TestNameSubsetOf", Box::new(move |a: &str, b: &str| equal(a, b) || is_wildcard_of(b, a))),
    ] {
        let table = yaml(&folder.join("istio/cases/hosts").join(format!("{name}.yaml")));
        for case in list(&table, "cases") {
            let (a, b) = (text(case, "a").unwrap_or_default(), text(case, "b").unwrap_or_default());
            if a.is_empty() || b.is_empty() {
                tally.skip("an empty name, which no resource can have");
                continue;
            }
            let found = holds(a, b);
            tally.check(case, found == is_true(case, "out"), || format!("`{a}` and `{b}`: {found}"));
        }
    }
    tally.finish("istio/cases/hosts", 15);
}

fn effects_of(engine: &Engine, headers: &HeaderBlock) -> BTreeMap<String, String> {
    let request = Request { headers, facts: Facts::new(&NoProperties, engine.sources()) };
    let set = engine.decide(&request, 0).effects.set;
    set.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn istios_translation_of_retries() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    for case in list(&yaml(&folder.join("istio/cases/virtualservice/TestRetry.yaml")), "cases") {
        let retries = case.field("route").and_then(|route| route.field("retries")).unwrap().clone();
        let engine = match load_spec(spec_of(route(vec![("retries", retries)]))) {
            Ok(engine) => engine,
            Err(problems) if problems.iter().all(|problem| problem.contains("is not a condition")) => {
                tally.skip("a retry condition that Istio's own validation refuses");
                continue;
            }
            Err(problems) => {
                tally.skip(unsupported(&problems).unwrap_or_else(|| panic!("{problems:?}")));
                continue;
            }
        };
        let headers = HeaderBlock::from_pairs([(":authority", "foo.bar"), (":path", "/")]);
        let set = effects_of(&engine, &headers);
        let of = |name: &str| set.get(name).map(String::as_str).unwrap_or_default();
        let expected = case.field("assertFunc").unwrap();
        let conditions = match text(expected, "RetryOn") {
            Some(text) if text.starts_with('$') => {
                "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
            }
            Some(text) => text,
            None => "",
        };
        let mut wanted: Vec<&str> = conditions.split(',').filter(|part| !part.is_empty()).collect();
        let both = [of("x-envoy-retry-on"), of("x-envoy-retry-grpc-on")].join(",");
        let mut found: Vec<&str> = both.split(',').filter(|part| !part.is_empty()).collect();
        wanted.sort_unstable();
        found.sort_unstable();
        let names_conditions = text(expected, "RetryOn").is_some();
        let codes: Vec<String> = list(expected, "RetriableStatusCodes")
            .iter()
            .map(|code| if let Node::Integer(code) = code { code.to_string() } else { String::new() })
            .collect();
        let names_codes = matches!(expected.field("RetriableStatusCodes"), Some(Node::List(_)));
        let per_try = matches!(expected.field("PerTryTimeout"), Some(Node::Text(text)) if text == "nil");
        let holds = (!names_conditions || wanted == found)
            && (!names_codes || codes.join(",") == of("x-envoy-retriable-status-codes"))
            && (!per_try || !set.contains_key("x-envoy-upstream-rq-per-try-timeout-ms"));
        tally.check(case, holds, || format!("{set:?}"));
    }
    tally.finish("istio/cases/virtualservice/TestRetry", 4);
}

#[test]
fn istios_integration_tests() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    let cases = yaml(&folder.join("istio/e2e/virtualservice/virtualServiceCases.yaml"));
    for case in list(&cases, "cases") {
        let configuration = text(case, "config").unwrap();
        let documents =
            configuration.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect();
        run_integration(&mut tally, case, documents);
    }
    for case in list(&yaml(&folder.join("istio/e2e/virtualservice/jwtClaimRoute.yaml")), "cases") {
        if is_true(case, "requestAuthentication") {
            tally.skip("needs the jwt filter before this one");
            continue;
        }
        run_integration(&mut tally, case, vec![case.field("virtualService").unwrap().clone()]);
    }
    tally.finish("istio/e2e/virtualservice", 2);
}

fn run_integration(tally: &mut Tally, case: &Node, documents: Vec<Node>) {
    if let Some(other) = documents.iter().find(|document| text(document, "kind") != Some("VirtualService")) {
        return tally.skip(format!("needs a {}", text(other, "kind").unwrap_or_default()));
    }
    let engine = match load(documents, "any", vec![word("any")]) {
        Ok(engine) => engine,
        Err(problems) => match unsupported(&problems) {
            Some(why) => return tally.skip(why),
            None => return tally.check(case, false, || format!("refused: {problems:?}")),
        },
    };
    let request = case.field("request").unwrap();
    let mut headers = vec![
        (":method".to_owned(), text(request, "method").unwrap_or("GET").to_owned()),
        (":path".to_owned(), text(request, "path").unwrap_or("/").to_owned()),
        (":authority".to_owned(), text(request, "host").unwrap_or("b").to_owned()),
        (":scheme".to_owned(), "http".to_owned()),
    ];
    if let Some(Node::Map(entries)) = request.field("headers") {
        headers.extend(entries.iter().map(|(name, value)| (name.clone(), value.text().unwrap().to_owned())));
    }
    let headers = HeaderBlock::from_pairs(headers);
    let request = Request { headers: &headers, facts: Facts::new(&NoProperties, engine.sources()) };
    let outcome = engine.decide(&request, 0);
    let found = if outcome.decision.verdict == Verdict::Route { 200 } else { 404 };
    let expected = case.field("expect").and_then(|expect| expect.field("status"));
    let holds = matches!(expected, Some(Node::Integer(status)) if *status == found);
    tally.check(case, holds, || format!("expected {expected:?}, found {found}"));
}

/// An Envoy route as a rule of a VirtualService whose cluster is its destination; an action that answers by itself
/// becomes a cluster of its own, which no case names.
fn rule_of(route: &Node) -> Result<Node, String> {
    let wanted = route.field("match").unwrap();
    let Node::Map(conditions) = wanted else { panic!("{route:?}") };
    let mut headers = Vec::new();
    let mut fields = Vec::new();
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
            other => return Err(format!("a route that matches on {other}")),
        }
    }
    if !headers.is_empty() {
        fields.push(("headers", Node::Map(headers)));
    }
    let action = route.field("route");
    let cluster = action.and_then(|action| text(action, "cluster"));
    if action.is_some() && cluster.is_none() {
        return Err("a route whose cluster is no fixed name".to_owned());
    }
    let host = cluster.unwrap_or("answered-here").replace('_', "-");
    let destination = map(vec![("destination", map(vec![("host", word(&format!("{host}.x")))]))]);
    Ok(map(vec![("match", Node::List(vec![map(fields)])), ("route", Node::List(vec![destination]))]))
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
            Ok(engine) => list(&tests, "tests").iter().for_each(|test| run_route(&mut tally, &engine, test)),
            Err(why) => list(&tests, "tests").iter().for_each(|_| tally.skip(why.clone())),
        }
    }
    tally.finish("envoy/router_check", 20);
}

fn engine_of_table(table: &Node) -> Result<Engine, String> {
    let mut documents = Vec::new();
    let mut clusters = Vec::new();
    for host in list(table, "virtual_hosts") {
        let rules: Vec<Node> = list(host, "routes").iter().map(rule_of).collect::<Result<_, _>>()?;
        for rule in &rules {
            clusters
                .push(list(rule, "route")[0].field("destination").unwrap().field("host").unwrap().clone());
        }
        let spec = map(vec![
            ("hosts", host.field("domains").unwrap().clone()),
            ("gateways", Node::List(vec![word("gateway")])),
            ("http", Node::List(rules)),
        ]);
        let Node::Map(mut document) = document(spec) else { panic!("not a map") };
        let name = text(host, "name").unwrap().replace('_', "-");
        document.retain(|(key, _)| key != "metadata");
        document.push(("metadata".to_owned(), map(vec![("name", word(&name))])));
        documents.push(Node::Map(document));
    }
    load(documents, "{host}", clusters).map_err(|problems| panic!("{problems:?}"))
}

fn run_route(tally: &mut Tally, engine: &Engine, test: &Node) {
    let validate = test.field("validate").unwrap();
    let Some(cluster) = text(validate, "cluster_name").filter(|name| !name.is_empty()) else {
        return tally.skip("a case about something else than the chosen cluster");
    };
    let input = test.field("input").unwrap();
    let mut headers: Vec<(String, String)> =
        [(":method", "method"), (":path", "path"), (":authority", "authority")]
            .into_iter()
            .map(|(name, key)| (name.to_owned(), text(input, key).unwrap_or_default().to_owned()))
            .collect();
    for header in list(input, "additional_request_headers") {
        headers.push((text(header, "key").unwrap().to_owned(), text(header, "value").unwrap().to_owned()));
    }
    let headers = HeaderBlock::from_pairs(headers);
    let request = Request { headers: &headers, facts: Facts::new(&NoProperties, engine.sources()) };
    let outcome = engine.decide(&request, 0);
    let expected = format!("{}.x", cluster.replace('_', "-"));
    tally.check(test, outcome.cluster() == Some(expected.as_str()), || {
        format!("expected {expected}, found {:?}", outcome.cluster())
    });
}
