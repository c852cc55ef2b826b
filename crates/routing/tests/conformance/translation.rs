//! What Istio makes of a rule for Envoy.

use sailcloth_core::config::Node;
use sailcloth_resources::virtual_service::routing_claim;
use sailcloth_routing::{Engine, Outcome};

use crate::common::{
    Attributes, Setup, Tally, cases, decide, document, edited, entries, folder, integer, is_true, list, map,
    pseudo, route, spec_of, text, unsupported, word,
};

fn load_rule(rule: Node) -> Result<Engine, Vec<String>> {
    Setup::new().with("port", Node::Integer(8080)).load(vec![document("echo1", "default", spec_of(rule))])
}

/// Asks for `GET /` of the one host, with a random number.
fn ask<T>(engine: &Engine, random: u64, look: impl FnOnce(&Outcome<'_>) -> T) -> T {
    decide(engine, &pseudo("GET", "/", "foo.bar"), &Attributes::default(), random, look)
}

const DEFAULTS: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

#[test]
fn istios_translation_of_retries() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    for case in cases(&folder, "istio/cases/virtualservice/TestRetry") {
        if is_true(&case, "hashPolicy") {
            tally.skip("a hash policy, which a DestinationRule sets");
            continue;
        }
        let retries = case.field("route").and_then(|route| route.field("retries")).cloned();
        let engine = match load_rule(route(retries.map(|retries| ("retries", retries)).into_iter().collect()))
        {
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
        let set = ask(&engine, 0, |outcome| edited(&[], &outcome.request));
        let of = |name: &str| set.get(name).map(String::as_str).unwrap_or_default();
        let expected = case.field("assertFunc").unwrap();
        let conditions = match text(expected, "RetryOn") {
            Some(text) if text.starts_with('$') => DEFAULTS,
            Some(text) => text,
            None => "",
        };
        let mut wanted: Vec<&str> = conditions.split(',').filter(|part| !part.is_empty()).collect();
        let both = [of("x-envoy-retry-on"), of("x-envoy-retry-grpc-on")].join(",");
        let mut found: Vec<&str> = both.split(',').filter(|part| !part.is_empty()).collect();
        wanted.sort_unstable();
        found.sort_unstable();
        let mut differences = Vec::new();
        let mut compare = |what: &str, is_asked: bool, holds: bool| {
            if is_asked && !holds {
                differences.push(format!("{what}: {set:?}"));
            }
        };
        compare("RetryOn", text(expected, "RetryOn").is_some(), wanted == found);
        let codes = list(expected, "RetriableStatusCodes").iter().map(|code| match code {
            Node::Integer(code) => code.to_string(),
            _ => String::new(),
        });
        let codes: Vec<String> = codes.collect();
        let is_asked = matches!(expected.field("RetriableStatusCodes"), Some(Node::List(_)));
        compare("codes", is_asked, codes.join(",") == of("x-envoy-retriable-status-codes"));
        let is_asked = text(expected, "PerTryTimeout") == Some("nil");
        compare("PerTryTimeout", is_asked, !set.contains_key("x-envoy-upstream-rq-per-try-timeout-ms"));
        let tries = integer(expected, "NumRetries.Value");
        compare(
            "NumRetries",
            tries.is_some(),
            tries.map(|tries| tries.to_string()).as_deref() == Some(of("x-envoy-max-retries")),
        );
        let is_off = matches!(text(expected, "policy"), Some("nil"));
        compare("policy", is_off, of("x-envoy-max-retries") == "0");
        tally.compare(&case, &differences);
    }
    tally.finish("istio/cases/virtualservice/TestRetry");
}

/// How many of many requests something happens to, in ten thousandths.
fn share(engine: &Engine, happens: impl Fn(&Outcome<'_>) -> bool) -> i64 {
    const STEP: u64 = u64::MAX / 10_000;
    (0..10_000).map(|number| i64::from(ask(engine, number * STEP + 7, &happens))).sum()
}

/// `{numerator, denominator}` in ten thousandths; absent is nothing.
fn fraction(node: Option<&Node>) -> i64 {
    let Some(node) = node.filter(|node| !matches!(node, Node::Null)) else { return 0 };
    let numerator = integer(node, "numerator").unwrap_or(0);
    if text(node, "denominator") == Some("MILLION") { numerator / 100 } else { numerator * 100 }
}

#[test]
fn istios_translation_of_faults_and_mirrors() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    for case in cases(&folder, "istio/cases/virtualservice/TestTranslateFault") {
        let engine = load_rule(route(vec![("fault", case.field("fault").unwrap().clone())])).unwrap();
        let want = case.field("want").unwrap();
        let mut differences = Vec::new();
        let part = |name| want.field(name).and_then(|part: &Node| part.field("percentage"));
        for (name, found) in [
            ("abort", share(&engine, |outcome| outcome.answer.is_some())),
            ("delay", share(&engine, |outcome| outcome.delay.is_some())),
        ] {
            let expected = fraction(part(name));
            if expected.abs_diff(found) > 150 {
                differences.push(format!("{name}: expected {expected} of 10000, found {found}"));
            }
        }
        let status = want.field("abort").and_then(|abort| integer(abort, "grpcStatus"));
        let found = (0..100).find_map(|random| {
            ask(&engine, random << 57, |outcome| outcome.answer.as_ref().map(|answer| answer.grpc_status))
        });
        if status.is_some() && status != found.map(i64::from) {
            differences.push(format!("status: expected {status:?}, found {found:?}"));
        }
        tally.compare(&case, &differences);
    }
    let host = || map(vec![("host", word("mirror.example"))]);
    let single = cases(&folder, "istio/cases/virtualservice/TestMirrorPercent").into_iter().map(|case| {
        let Some(Node::Map(fields)) = case.field("route").cloned() else { panic!("not a map") };
        let fields = fields
            .iter()
            .map(|(key, value)| (key.as_str(), if key == "mirror" { host() } else { value.clone() }));
        let rule = route(fields.collect());
        (case, rule)
    });
    let many =
        cases(&folder, "istio/cases/virtualservice/TestMirrorPercentByPolicy").into_iter().map(|case| {
            let Some(Node::Map(fields)) = case.field("policy").cloned() else { panic!("not a map") };
            let fields = fields.iter().map(|(key, value)| {
                (key.as_str(), if key == "destination" { host() } else { value.clone() })
            });
            let rule = route(vec![("mirrors", Node::List(vec![map(fields.collect())]))]);
            (case, rule)
        });
    for (case, rule) in single.chain(many) {
        let engine = load_rule(rule).unwrap_or_else(|problems| panic!("{problems:?}"));
        let found =
            share(&engine, |outcome| edited(&[], &outcome.request).contains_key("x-sailcloth-mirror-1"));
        let expected = fraction(case.field("want").and_then(|want| want.field("defaultValue")));
        tally.check(&case, expected.abs_diff(found) <= 150, || {
            format!("expected {expected} of 10000, found {found}")
        });
    }
    tally.finish("istio/cases/virtualservice, faults and mirrors");
}

#[test]
fn istios_claims_as_headers() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    for table in ["TestToRoutingClaim", "TestTranslateMetadataMatch"] {
        for case in cases(&folder, &format!("istio/cases/virtualservice/{table}")) {
            let name = text(&case, "name").unwrap();
            let found = routing_claim(name).map(|path| path.into_iter().map(word).collect::<Vec<_>>());
            let expected = case.field("want").filter(|want| want.field("claims").is_some());
            let expected = expected.map(|want| list(want, "claims").to_vec());
            tally.check(&case, found == expected, || format!("`{name}`: {found:?}"));
        }
    }
    tally.finish("istio/cases/virtualservice, claims");
}

#[test]
fn istios_proxies_that_a_match_is_for() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    for case in cases(&folder, "istio/cases/virtualservice/TestSourceMatchHTTP") {
        let args = case.field("args").unwrap();
        let matches = Node::List(vec![args.field("match").unwrap().clone()]);
        let mut workload = vec![("namespace", word(text(args, "proxyNamespace").unwrap_or("default")))];
        workload.extend(args.field("proxyLabels").map(|labels| ("labels", labels.clone())));
        let gateways = list(args, "gatewayNames");
        let names = match args.field("gatewayNames") {
            Some(Node::Map(names)) => names.iter().map(|(name, _)| name.clone()).collect(),
            _ => gateways.iter().filter_map(Node::text).map(str::to_owned).collect::<Vec<_>>(),
        };
        let mut spec = vec![("hosts", Node::List(vec![word("foo.bar")]))];
        if let Some(gateway) = names.first().filter(|name| *name != "mesh") {
            workload.push(("gateway", word(gateway)));
            spec.push(("gateways", Node::List(vec![word(gateway)])));
        }
        let namespace = text(args, "proxyNamespace").unwrap_or("default");
        spec.push(("http", Node::List(vec![route(vec![("match", matches)])])));
        let setup = Setup::new().workload(workload);
        let engine = setup.load(vec![document(namespace, "default", map(spec))]);
        let engine = engine.unwrap_or_else(|problems| panic!("{problems:?}"));
        let found = ask(&engine, 0, |outcome| outcome.cluster().is_some());
        tally.check(&case, found == is_true(&case, "want"), || format!("found {found}"));
    }
    tally.finish("istio/cases/virtualservice, sources");
}

/// On a gateway a catch-all of one document is tried after the rules of all others.
#[test]
fn istios_catch_all_routes() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    for case in cases(&folder, "istio/cases/virtualservice/TestIsCatchAllRoute") {
        let wanted = case.field("route").and_then(|route| route.field("match")).unwrap();
        let mut fields = Vec::new();
        let mut request = pseudo("GET", "/probe", "foo.bar");
        match (text(wanted, "prefix"), text(wanted, "path"), wanted.field("safeRegex")) {
            (Some(prefix), ..) => fields.push(("uri", map(vec![("prefix", word(prefix))]))),
            (_, Some(path), _) => fields.push(("uri", map(vec![("exact", word(path))]))),
            (.., Some(regex)) => {
                fields.push(("uri", map(vec![("regex", word(text(regex, "regex").unwrap()))])))
            }
            _ => {}
        }
        for header in list(wanted, "headers") {
            let name = text(header, "name").unwrap();
            fields.push(("headers", Node::Map(vec![(name.to_owned(), map(vec![]))])));
            request.push((name.to_owned(), "test".to_owned()));
        }
        for parameter in list(wanted, "queryParameters") {
            let name = text(parameter, "name").unwrap();
            fields.push(("queryParams", Node::Map(vec![(name.to_owned(), map(vec![]))])));
            request.retain(|(other, _)| other != ":path");
            request.push((":path".to_owned(), format!("/probe?{name}=1")));
        }
        let bound = |condition: Node| {
            let rule = route(vec![("match", Node::List(vec![condition]))]);
            map(vec![
                ("hosts", Node::List(vec![word("foo.bar")])),
                ("gateways", Node::List(vec![word("g")])),
                ("http", Node::List(vec![rule])),
            ])
        };
        let probe = map(vec![("uri", map(vec![("exact", word("/probe"))]))]);
        let setup = Setup::new().workload(vec![("namespace", word("n")), ("gateway", word("g"))]);
        let documents =
            vec![document("n", "asked", bound(map(fields))), document("n", "probe", bound(probe))];
        let engine = setup.load(documents).unwrap_or_else(|problems| panic!("{problems:?}"));
        let policy = decide(&engine, &request, &Attributes::default(), 0, |outcome| {
            outcome.decision.by.map(|by| by.policy.to_owned())
        });
        // A route by another path than the probe's is not asked at all.
        let found = policy.as_deref() == Some("n/probe");
        let elsewhere = text(wanted, "path").is_some()
            || text(wanted, "prefix").is_some_and(|prefix| !"/probe".starts_with(prefix));
        tally.check(&case, found == is_true(&case, "want") || elsewhere && found, || format!("{policy:?}"));
    }
    tally.finish("istio/cases/virtualservice/TestIsCatchAllRoute");
}

/// A VirtualService and the Envoy routes that Istio makes of it: what these say must come of a request.
#[test]
fn istios_translation_of_documents() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    for case in cases(&folder, "istio/cases/virtualservice/TestBuildHTTPRoutes") {
        let service = case.field("virtualService").unwrap();
        let annotations = service.field("meta").and_then(|meta| meta.field("annotations"));
        if annotations.is_some_and(|all| all.field("internal.istio.io/route-semantics").is_some()) {
            tally.skip("semantics of Kubernetes' HTTPRoute, which an annotation of Istio's own turns on");
            continue;
        }
        let Some(Node::Map(spec)) = service.field("spec").cloned() else { panic!("not a map") };
        let spec = spec.into_iter().map(|(key, value)| match key.as_str() {
            "hosts" => (key, Node::List(vec![word("*")])),
            _ => (key, shown(&value)),
        });
        let listener = integer(&case, "listenerPort").unwrap();
        let setup =
            Setup::new().with("port", Node::Integer(listener)).with("cluster", word("{host}|{subset}"));
        let clusters: Vec<Node> = clusters(service).iter().map(|name| word(name)).collect();
        let setup = setup.with("clusters", Node::List(clusters));
        let setup = setup.workload(vec![("namespace", word("default")), ("gateway", word("some-gateway"))]);
        match setup.load(vec![document("default", "acme", Node::Map(spec.collect()))]) {
            Ok(engine) => {
                let differences = translation_differences(&engine, &case);
                tally.compare(&case, &differences);
            }
            Err(problems)
                if problems.iter().all(|problem| problem.contains("the host is set more than once")) =>
            {
                tally.skip("a host that is set twice, which Istio's own validation refuses");
            }
            Err(problems) => match unsupported(&problems) {
                Some(why) => tally.skip(why),
                None => tally.check(&case, false, || format!("refused: {problems:?}")),
            },
        }
    }
    tally.finish("istio/cases/virtualservice/TestBuildHTTPRoutes");
}

/// In Go a header condition may be nil, which is presence; in a document that is `{}`.
fn shown(node: &Node) -> Node {
    match node {
        Node::Map(entries) => Node::Map(
            entries
                .iter()
                .map(|(key, value)| {
                    (key.clone(), if matches!(value, Node::Null) { map(vec![]) } else { shown(value) })
                })
                .collect(),
        ),
        Node::List(items) => Node::List(items.iter().map(shown).collect()),
        other => other.clone(),
    }
}

fn clusters(service: &Node) -> Vec<String> {
    let rules = service.field("spec").map(|spec| list(spec, "http")).unwrap_or_default();
    let destinations =
        rules.iter().flat_map(|rule| list(rule, "route")).filter_map(|one| one.field("destination"));
    destinations
        .map(|one| format!("{}|{}", text(one, "host").unwrap(), text(one, "subset").unwrap_or_default()))
        .collect()
}

/// What the expected Envoy routes say that can be seen in an outcome.
fn translation_differences(engine: &Engine, case: &Node) -> Vec<String> {
    let expected = list(case, "expect");
    let of = |path: &str| {
        expected.iter().find(|one| text(one, "path") == Some(path)).and_then(|one| one.field("equals"))
    };
    let mut differences = Vec::new();
    let request = pseudo("GET", "/", "foo.bar");
    let status = |outcome: &Outcome<'_>| outcome.answer.as_ref().map(|answer| i64::from(answer.status));
    let response =
        decide(engine, &request, &Attributes::default(), 0, |outcome| edited(&[], &outcome.response));
    let upstream =
        decide(engine, &request, &Attributes::default(), 0, |outcome| edited(&[], &outcome.request));
    if let Some(Node::Integer(wanted)) = of("directResponseAction.directResponse.status") {
        let found = decide(engine, &request, &Attributes::default(), 0, status);
        if found != Some(*wanted) {
            differences.push(format!("status: expected {wanted}, found {found:?}"));
        }
    }
    if let Some(Node::Text(wanted)) = of("routeAction.route.hostRewriteLiteral")
        && upstream.get(":authority") != Some(wanted)
    {
        differences.push(format!("host: expected {wanted}, found {upstream:?}"));
    }
    for (path, found) in [("r.requestHeadersToAdd", &upstream), ("r.responseHeadersToAdd", &response)] {
        let Some(Node::List(added)) = of(path) else { continue };
        for header in added.iter().filter_map(|one| one.field("header")) {
            let (key, value) = (text(header, "key").unwrap(), text(header, "value").unwrap());
            if found.get(key).map(String::as_str) != Some(value) {
                differences.push(format!("{key}: expected {value}, found {found:?}"));
            }
        }
    }
    let key = of("routes[0].responseHeadersToAdd[0].header.key").and_then(Node::text);
    let value = of("routes[0].responseHeadersToAdd[0].header.value").and_then(Node::text);
    if let (Some(key), Some(value)) = (key, value)
        && response.get(&key.to_ascii_lowercase()).map(String::as_str) != Some(value)
    {
        differences.push(format!("{key}: expected {value}, found {response:?}"));
    }
    if matches!(of("routes[0].route.timeout.seconds"), Some(Node::Integer(0)))
        && upstream.get("x-envoy-upstream-rq-timeout-ms").map(String::as_str) != Some("0")
    {
        differences.push(format!("timeout: {upstream:?}"));
    }
    let conditions = entries(case, "virtualService");
    assert!(!conditions.is_empty());
    differences.extend(condition_differences(engine, case));
    differences
}

/// Requests for what the first route's match says, and for its opposite.
fn condition_differences(engine: &Engine, case: &Node) -> Vec<String> {
    let rules =
        case.field("virtualService").and_then(|service| service.field("spec")).map(|spec| list(spec, "http"));
    let Some(first) = rules.and_then(|rules| rules.first()).and_then(|rule| list(rule, "match").first())
    else {
        return Vec::new();
    };
    let own = |name: &str, condition: &Node, good: bool| {
        let regex = text(condition, "regex").map(|_| "BAR a.b.c");
        let value = text(condition, "exact").or(regex).unwrap_or("anything");
        (name.to_owned(), if good { value.to_owned() } else { "other".to_owned() })
    };
    let mut tries: Vec<(Vec<(String, String)>, bool)> = Vec::new();
    for (name, condition) in entries(first, "headers") {
        let mut with = pseudo("GET", "/", "foo.bar");
        with.push(own(name, condition, true));
        tries.extend([(with, true), (pseudo("GET", "/", "foo.bar"), false)]);
    }
    for (name, condition) in entries(first, "withoutHeaders") {
        let mut with = pseudo("GET", "/", "foo.bar");
        with.push(own(name, condition, true));
        let mut other = pseudo("GET", "/", "foo.bar");
        other.push(own(name, condition, false));
        tries.extend([(with, false), (other, true), (pseudo("GET", "/", "foo.bar"), true)]);
    }
    for (name, condition) in entries(first, "queryParams") {
        for good in [true, false] {
            let (name, value) = own(name, condition, good);
            tries.push((pseudo("GET", &format!("/?{name}={value}"), "foo.bar"), good));
        }
    }
    let is_plain = first.field("sourceLabels").is_none() && first.field("port").is_none();
    let tries = tries.into_iter().filter(|_| is_plain);
    let wrong = tries.filter(|(request, good)| {
        let first = decide(engine, request, &Attributes::default(), 0, |outcome| {
            outcome.decision.by.is_some_and(|by| by.rule == 0)
        });
        first != *good
    });
    wrong.map(|(request, good)| format!("{request:?}: expected {good}")).collect()
}
