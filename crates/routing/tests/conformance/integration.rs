//! Istio's integration tests.

use std::collections::BTreeMap;

use sailcloth_core::config::Node;
use sailcloth_routing::{Engine, Outcome};

use crate::common::{
    Attributes, Setup, Tally, cases, decide, edited, entries, folder, integer, is_true, list, pseudo, text,
    unsupported, word, yaml,
};

#[test]
fn istios_integration_tests() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    for case in cases(&folder, "istio/e2e/virtualservice/virtualServiceCases") {
        let configuration = text(&case, "config").unwrap();
        let documents =
            configuration.split("\n---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect();
        let port = if text(case.field("request").unwrap(), "port") == Some("http2") { 85 } else { 80 };
        let setup = Setup::new().with("port", Node::Integer(port));
        let setup = setup.with("cluster", word("{host}")).with("domain", word("x"));
        let setup = setup.with(
            "clusters",
            Node::List(["b", "c", "d"].map(|host| word(&format!("{host}.default.svc.x"))).to_vec()),
        );
        run(&mut tally, &case, documents, setup, &Attributes::default());
    }
    tally.finish("istio/e2e/virtualservice/virtualServiceCases");
}

fn run(tally: &mut Tally, case: &Node, documents: Vec<Node>, setup: Setup, attributes: &Attributes) {
    if let Some(other) = documents.iter().find(|document| text(document, "kind") != Some("VirtualService")) {
        return tally.skip(format!("needs a {}", text(other, "kind").unwrap_or_default()));
    }
    match setup.load(documents) {
        Ok(engine) => tally.compare(case, &differences(&engine, case, attributes)),
        Err(problems) => match unsupported(&problems) {
            Some(why) => tally.skip(why),
            None => tally.check(case, false, || format!("refused: {problems:?}")),
        },
    }
}

/// What the client and the backend would see.
struct Seen {
    status: i64,
    response: BTreeMap<String, String>,
    upstream: BTreeMap<String, String>,
}

fn look(outcome: &Outcome<'_>, request: &[(String, String)]) -> Seen {
    let refusal = i64::from(outcome.decision.reason.status);
    let mut headers = Vec::new();
    let mut status = if outcome.decision.refuses() { refusal } else { 200 };
    if let Some(answer) = &outcome.answer {
        status = i64::from(answer.status);
        let own = |(name, value): &(&str, std::borrow::Cow<'_, [u8]>)| {
            ((*name).to_owned(), String::from_utf8_lossy(value).into_owned())
        };
        headers = answer.headers.iter().map(own).collect();
    }
    Seen {
        status,
        response: edited(&headers, &outcome.response),
        upstream: edited(request, &outcome.request),
    }
}

fn differences(engine: &Engine, case: &Node, attributes: &Attributes) -> Vec<String> {
    let asked = case.field("request").unwrap();
    let expected = case.field("expect").unwrap();
    let mut request = pseudo(
        text(asked, "method").unwrap_or("GET"),
        text(asked, "path").unwrap_or("/"),
        text(asked, "host").unwrap_or("b"),
    );
    request.extend(
        entries(asked, "headers")
            .iter()
            .map(|(name, value)| (name.clone(), value.text().unwrap().to_owned())),
    );
    if expected.field("share_percent").is_some() {
        return shares(engine, &request, expected);
    }
    let mut seen = decide(engine, &request, attributes, 0, |outcome| look(outcome, &request));
    if is_true(asked, "followRedirects") && (300..400).contains(&seen.status) {
        let location = seen.response.get("location").cloned().unwrap_or_default();
        let (authority, path) =
            location.split_once("://").and_then(|(_, rest)| rest.split_once('/')).unwrap();
        let request = pseudo("GET", &format!("/{path}"), authority);
        seen = decide(engine, &request, attributes, 0, |outcome| look(outcome, &request));
    }
    let mut found = Vec::new();
    let mut compare = |what: &str, expected: Option<String>, seen: Option<&String>| {
        let seen = seen.cloned().unwrap_or_default();
        if let Some(expected) = expected.filter(|expected| *expected != seen) {
            found.push(format!("{what}: expected `{expected}`, found `{seen}`"));
        }
    };
    let own = |key: &str| text(expected, key).map(str::to_owned);
    compare(
        "status",
        integer(expected, "status").map(|status| status.to_string()),
        Some(&seen.status.to_string()),
    );
    compare("location", own("location"), seen.response.get("location"));
    compare("path upstream", own("upstream_path"), seen.upstream.get(":path"));
    compare("host upstream", own("upstream_host"), seen.upstream.get(":authority"));
    for (part, headers) in [("response_headers", &seen.response), ("upstream_headers", &seen.upstream)] {
        for (name, value) in entries(expected, part) {
            let name = name.to_ascii_lowercase();
            compare(&name, value.text().map(str::to_owned), headers.get(&name));
        }
    }
    found
}

/// How many of many requests reach each destination.
fn shares(engine: &Engine, request: &[(String, String)], expected: &Node) -> Vec<String> {
    const REQUESTS: u64 = 10_000;
    let mut reached: BTreeMap<String, u64> = BTreeMap::new();
    for number in 0..REQUESTS {
        let random = u64::MAX / REQUESTS * number;
        let cluster = decide(engine, request, &Attributes::default(), random, |outcome| {
            outcome.cluster().map(str::to_owned)
        });
        let name = cluster.unwrap_or_default().split('.').next().unwrap_or_default().to_owned();
        *reached.entry(name).or_default() += 1;
    }
    let wrong = entries(expected, "share_percent").iter().filter(|(name, percent)| {
        let found = reached.get(name).copied().unwrap_or_default() * 100 / REQUESTS;
        !matches!(percent, Node::Integer(percent) if percent.abs_diff(i64::try_from(found).unwrap()) <= 1)
    });
    wrong.map(|(name, percent)| format!("{name}: expected {percent:?} %, found {reached:?}")).collect()
}

/// Routing on claims, with what the jwt filter in front hands on: claims of the token, and the headers of the case's
/// RequestAuthentication. Whether a token verifies is the jwt engine's affair.
#[test]
fn istios_routing_on_claims() {
    let Some(folder) = folder() else { return };
    let tokens = yaml(&folder.join("istio/e2e/tokens.yaml"));
    let mut tally = Tally::default();
    for case in cases(&folder, "istio/e2e/virtualservice/jwtClaimRoute") {
        if integer(case.field("expect").unwrap(), "status") == Some(401) {
            tally.skip("a token that the jwt filter refuses before this one");
            continue;
        }
        if text(&case, "name").is_some_and(|name| name.contains("unmatched multiple claims"))
            && claims_named(&case) < 2
        {
            tally.skip("a case about several claims whose document names one: a key written twice was lost on the way here");
            continue;
        }
        let asked = case.field("request").unwrap();
        let authorization = asked.field("headers").and_then(|headers| text(headers, "authorization"));
        let name = authorization.and_then(|value| value.strip_prefix("Bearer $"));
        let verified = is_true(&case, "requestAuthentication");
        let token =
            name.and_then(|name| tokens.field("tokens")?.field(name)?.field("claims")).filter(|_| verified);
        let documents = vec![case.field("virtualService").unwrap().clone()];
        let setup = Setup::new().with("requestIdentity", word(if verified { "sailcloth" } else { "none" }));
        let attributes = Attributes { port: 80, token: token.cloned() };
        let case = if verified { with_claim_headers(&case, token) } else { case.clone() };
        run(&mut tally, &case, documents, setup, &attributes);
    }
    tally.finish("istio/e2e/virtualservice/jwtClaimRoute");
}

fn claims_named(case: &Node) -> usize {
    let spec = case.field("virtualService").and_then(|service| service.field("spec"));
    let matches =
        spec.map(|spec| list(spec, "http")).unwrap_or_default().iter().flat_map(|rule| list(rule, "match"));
    matches.flat_map(|one| entries(one, "headers").iter().chain(entries(one, "withoutHeaders"))).count()
}

/// The case's `outputClaimToHeaders`: the client's own headers of these names are gone.
fn with_claim_headers(case: &Node, token: Option<&Node>) -> Node {
    let outputs = [
        ("x-jwt-nested-key", vec!["nested", "nested-2", "key2"]),
        ("x-jwt-iss", vec!["iss"]),
        ("x-jwt-wrong-header", vec!["wrong_claim"]),
    ];
    let asked = case.field("request").unwrap();
    let mut headers = entries(asked, "headers").to_vec();
    headers.retain(|(name, _)| !outputs.iter().any(|(output, _)| name == output));
    for (name, path) in outputs {
        let claim = path.iter().try_fold(token, |node, key| Some(node?.field(key))).flatten();
        headers.extend(claim.map(|claim| (name.to_owned(), claim.clone())));
    }
    let replace = |node: &Node, key: &str, value: Node| {
        let Node::Map(entries) = node else { panic!("not a map") };
        let kept = entries.iter().filter(|(other, _)| other != key).cloned();
        Node::Map(kept.chain([(key.to_owned(), value)]).collect())
    };
    replace(case, "request", replace(asked, "headers", Node::Map(headers)))
}
