//! What becomes of a rule and the rules that it delegates to.

use sailcloth_core::config::{Node, Problems, Value};
use sailcloth_resources::virtual_service::HttpMatch;
use sailcloth_resources::virtual_service::delegate::{conflict, merge_matches};

use crate::common::{
    Attributes, Setup, Tally, cases, decide, document, folder, is_true, list, map, pseudo, route, text, word,
};

fn read(node: &Node) -> HttpMatch {
    let problems = Problems::default();
    let read = HttpMatch::read(&Value::root(node, &problems));
    assert!(!problems.refuse(), "{:?}", problems.errors());
    read.unwrap()
}

fn matches(case: &Node, key: &str) -> Vec<HttpMatch> {
    list(case, key).iter().map(read).collect()
}

#[test]
fn istios_merging_of_matches() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    for case in cases(&folder, "istio/cases/virtualservice/TestHasConflict") {
        let empty = map(vec![]);
        let of = |key| read(case.field(key).unwrap_or(&empty));
        let found = conflict(&of("root"), &of("leaf"));
        tally.check(&case, found == is_true(&case, "expected"), || format!("found {found}"));
    }
    for case in cases(&folder, "istio/cases/virtualservice/TestMergeHTTPMatchRequests") {
        let found = merge_matches(&matches(&case, "root"), &matches(&case, "delegate"));
        let expected = matches(&case, "expected");
        let holds = found.as_ref().map_or(expected.is_empty(), |found| *found == expected);
        tally.check(&case, holds, || format!("found {found:?}"));
    }
    tally.finish("istio/cases/virtualservice, delegates");
}

/// The expected rules written out must decide as the delegating ones do, for requests that their matches suggest.
#[test]
fn istios_merging_of_rules() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    for case in cases(&folder, "istio/cases/virtualservice/TestMergeHttpRoutes") {
        let hosts = || Node::List(vec![word("foo.bar")]);
        let with_route = |rules: &[Node]| -> Node { Node::List(rules.iter().map(completed).collect()) };
        let root =
            map(vec![("hosts", hosts()), ("http", Node::List(vec![case.field("root").unwrap().clone()]))]);
        let delegate = case.field("root").and_then(|root| root.field("delegate")).unwrap();
        let (name, namespace) = (text(delegate, "name").unwrap(), text(delegate, "namespace").unwrap());
        let rules = map(vec![("http", with_route(list(&case, "delegate")))]);
        let setup = || {
            let clusters = ["productpage.org|v1", "productpage.org|v2", "productpage.org|v3", "foo.baz|"];
            let clusters = Node::List(clusters.map(word).to_vec());
            Setup::new().with("cluster", word("{host}|{subset}")).with("clusters", clusters)
        };
        let merged = setup().load(vec![document("default", "root", root), document(namespace, name, rules)]);
        let expected = map(vec![("hosts", hosts()), ("http", with_route(list(&case, "expected")))]);
        let expected = setup().load(vec![document("default", "root", expected)]);
        let (merged, expected) = match (merged, expected) {
            (Ok(merged), Ok(expected)) => (merged, expected),
            (merged, expected) => {
                tally.check(&case, false, || format!("{:?} {:?}", merged.err(), expected.err()));
                continue;
            }
        };
        let mut differences = Vec::new();
        for request in requests(&case) {
            for port in [8080, 9090] {
                let ask = |engine| {
                    let attributes = Attributes { port, ..Attributes::default() };
                    decide(engine, &request, &attributes, 0, |outcome| outcome.cluster().map(str::to_owned))
                };
                if ask(&merged) != ask(&expected) {
                    differences.push(format!(
                        "{request:?} on {port}: {:?}, {:?}",
                        ask(&merged),
                        ask(&expected)
                    ));
                }
            }
        }
        tally.compare(&case, &differences);
    }
    tally.finish("istio/cases/virtualservice/TestMergeHttpRoutes");
}

/// Tables leave out a route that does not matter.
fn completed(rule: &Node) -> Node {
    if ["route", "redirect", "directResponse"].iter().any(|key| rule.field(key).is_some()) {
        return rule.clone();
    }
    let Node::Map(entries) = rule else { panic!("not a map") };
    let Node::Map(own) = route(vec![]) else { panic!("not a map") };
    Node::Map(entries.iter().cloned().chain(own).collect())
}

/// Every combination of the paths, headers and parameters that the case names.
fn requests(case: &Node) -> Vec<Vec<(String, String)>> {
    let rules = list(case, "delegate").iter().chain(list(case, "expected")).chain(case.field("root"));
    let all: Vec<&Node> = rules.flat_map(|rule| list(rule, "match")).collect();
    let mut paths = vec!["/".to_owned()];
    let mut headers = vec![None];
    for one in all {
        for (_, path) in crate::common::entries(one, "uri") {
            paths.extend([path.text().unwrap().to_owned(), format!("{}/x", path.text().unwrap())]);
        }
        for (name, value) in crate::common::entries(one, "headers") {
            for (_, value) in [value].into_iter().flat_map(|value| match value {
                Node::Map(entries) => entries.as_slice(),
                _ => &[],
            }) {
                headers.push(Some((name.clone(), value.text().unwrap().to_owned())));
            }
        }
        for (name, value) in crate::common::entries(one, "queryParams") {
            let value = text(value, "exact").unwrap_or_default();
            let queried: Vec<String> = paths.iter().map(|path| format!("{path}?{name}={value}")).collect();
            paths.extend(queried);
        }
    }
    let mut requests = Vec::new();
    for path in &paths {
        for header in &headers {
            let mut request = pseudo("GET", path, "foo.bar");
            request.extend(header.clone());
            requests.push(request);
        }
    }
    requests
}
