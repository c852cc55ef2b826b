//! Istio's integration tests that carry tokens: the jwt engine, then the authz engine with what it handed on.

use sailcloth_core::config::Node;
use sailcloth_core::headers::HeaderBlock;
use sailcloth_tests::case::{Case, Headers};
use sailcloth_tests::conformance::e2e::{World, documents, of_kind};
use sailcloth_tests::conformance::{Table, Verdict, folder, load};
use sailcloth_tests::facts::{self, CaseProperties};
use sailcloth_tests::judge::{Observed, differences};
use sailcloth_tests::native::{Clock, headers};
use sailcloth_tests::report::Report;
use sailcloth_tests::subject::{Engine, Exchange, Subject};
use sailcloth_tests::yaml::{at, entries, map, text};

#[test]
fn tokens_and_policies_together_decide_as_in_istio() {
    let Some(folder) = folder() else { return };
    let folder = folder.join("istio/e2e");
    let world = World::read(&folder);
    let mut report = Report::new("istio/e2e/authentication, and tokens of istio/e2e/authorization");
    for table in Table::all(&folder.join("authentication")) {
        table.cases().iter().for_each(|case| run(&world, &table, case, &mut report));
    }
    for table in Table::all(&folder.join("authorization")) {
        let with_token = |case: &&Node| at(case, &["request", "headers", "authorization"]).is_some();
        table.cases().iter().filter(with_token).for_each(|case| run(&world, &table, case, &mut report));
    }
    report.finish();
}

fn run(world: &World, table: &Table, case: &Node, report: &mut Report) {
    let row = format!("{}: {}", table.name, table.row(case));
    let (workload, mut converted) = match world.convert(table, case) {
        Ok(converted) => converted,
        Err(reason) => return report.skip(reason),
    };
    for (name, value) in entries(at(case, &["expect", "upstream_headers"])) {
        let value = value.text().filter(|value| !value.is_empty()).map(|value| world.expected_value(value));
        converted.expect.upstream.push((name.to_ascii_lowercase(), value));
    }
    // Query parameters carry tokens too.
    converted.request.path = world.token(&converted.request.path);
    match decide(world, table, &workload, &converted) {
        Ok(observed) => report.ran(&row, &differences(&converted.expect, &observed)),
        Err(reason) => report.skip(reason),
    }
}

/// What comes of a case, or the property for which it cannot run.
fn decide(world: &World, table: &Table, workload: &Node, case: &Case) -> Result<Observed, String> {
    let documents = documents(table);
    let authentications: Vec<Node> = of_kind(&documents, "RequestAuthentication")
        .iter()
        .map(|document| with_keys(world, document))
        .collect();
    let mut request = headers(case, Clock::now_seconds(), 0)?;
    let attributes = |settings: &Node| facts::attributes(case, settings);
    let mut seen = Observed::default();
    let mut identity = "none";
    let mut handed_on = Vec::new();
    if !authentications.is_empty() {
        let mut jwt = engine("jwt", authentications, workload, map(vec![]))?;
        seen = ask(jwt.as_mut(), &request, CaseProperties(attributes(&map(vec![]))));
        if seen.status != Some(200) {
            return Ok(seen);
        }
        request = seen.upstream.clone().unwrap_or(request);
        handed_on = jwt.handed_on().to_vec();
        identity = "sailcloth";
    }
    let policies = of_kind(&documents, "AuthorizationPolicy");
    let settings = map(vec![("peerIdentity", text("certificate")), ("requestIdentity", text(identity))]);
    let mut authz = engine("authz", policies, workload, settings.clone())?;
    let mut facts = attributes(&map(vec![("settings", settings)]));
    facts.insert(0, (vec!["sailcloth.jwt"], handed_on));
    let decided = ask(authz.as_mut(), &request, CaseProperties(facts));
    let upstream = seen.upstream.filter(|_| decided.status == Some(200));
    Ok(Observed { upstream: upstream.or(decided.upstream.clone()), ..decided })
}

fn ask(engine: &mut dyn Engine, request: &Headers, properties: CaseProperties) -> Observed {
    let block = HeaderBlock::from_pairs(request.iter().map(|(name, value)| (name, value)));
    let now_ns = Clock::now_seconds() * 1_000_000_000;
    engine.decide(&Exchange { headers: &block, properties: &properties, now_ns })
}

fn engine(
    filter: &str,
    resources: Vec<Node>,
    workload: &Node,
    settings: Node,
) -> Result<Box<dyn Engine>, String> {
    let configuration = map(vec![
        ("resources", Node::List(resources)),
        ("workload", workload.clone()),
        ("settings", settings),
    ]);
    match load(Subject::named(filter), &configuration) {
        Verdict::Accepted(engine) => Ok(engine),
        Verdict::Unsupported(reason) | Verdict::NoFilter(reason) => Err(reason),
        Verdict::Refused(problems) => panic!("the {filter} filter refuses what Istio accepts: {problems:#?}"),
    }
}

/// The keys that the world's server would answer, inline: fetching them is Istio's control plane's work there.
fn with_keys(world: &World, document: &Node) -> Node {
    match document {
        Node::Map(fields) => Node::Map(
            fields
                .iter()
                .map(|(name, value)| match (name.as_str(), value.text()) {
                    ("jwksUri", Some(uri)) if uri == world.jwks_uri() => {
                        ("jwks".to_owned(), text(world.jwks()))
                    }
                    _ => (name.clone(), with_keys(world, value)),
                })
                .collect(),
        ),
        Node::List(items) => Node::List(items.iter().map(|item| with_keys(world, item)).collect()),
        other => other.clone(),
    }
}
