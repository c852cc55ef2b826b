//! AuthorizationPolicy in, Envoy RBAC out (`files/authz-builder`): both asked about the same calls.

use std::path::Path;

use sailcloth_core::config::Node;
use sailcloth_tests::conformance::rbac::{self, Call, literals};
use sailcloth_tests::conformance::{Verdict, folder, judged, load};
use sailcloth_tests::provider;
use sailcloth_tests::report::Report;
use sailcloth_tests::subject::Subject;
use sailcloth_tests::yaml::{self, at, items, map, text};

#[test]
fn policies_mean_what_istio_generates_for_them() {
    let Some(folder) = folder() else { return };
    let folder = folder.join("istio/files/authz-builder");
    let index = read(&folder, "index.yaml").remove(0);
    let mut report = Report::new("istio/files/authz-builder");
    items(index.field("cases")).iter().for_each(|case| compare(&folder, case, &mut report));
    report.finish();
}

fn read(folder: &Path, file: &str) -> Vec<Node> {
    let text = std::fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    yaml::documents(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn compare(folder: &Path, case: &Node, report: &mut Report) {
    let word = |key| case.field(key).and_then(Node::text);
    if word("protocol") != Some("http") {
        return report.skip("the policy is for TCP");
    }
    let row = word("name").unwrap_or_default().to_owned();
    let policies = read(folder, word("input").unwrap_or_default());
    let outputs: Vec<Node> = items(case.field("output"))
        .iter()
        .filter_map(Node::text)
        .flat_map(|file| read(folder, file))
        .collect();
    let configuration = map(vec![
        ("resources", Node::List(policies.clone())),
        ("workload", workload(case)),
        ("settings", settings(case, &policies)),
    ]);
    let mut engine = match load(Subject::named("authz"), &configuration) {
        Verdict::Accepted(engine) => engine,
        Verdict::Unsupported(reason) | Verdict::NoFilter(reason) => return report.skip(reason),
        Verdict::Refused(problems) => return report.ran(&row, &problems),
    };
    let mut differences = Vec::new();
    for call in calls(&policies, &outputs) {
        match rbac::allows(&outputs, &call) {
            Err(unknown) => return report.skip(format!("the oracle does not know {unknown}")),
            Ok(expected) if judged::allows(engine.as_mut(), &call) != expected => {
                differences.push(format!("Istio {} {call:?}", if expected { "allows" } else { "denies" }));
            }
            Ok(_) => {}
        }
    }
    differences.truncate(5);
    report.ran(&row, &differences);
}

/// `index.yaml` says so in words.
fn workload(case: &Node) -> Node {
    let labels = map(vec![("app", text("httpbin")), ("version", text("v1"))]);
    let mut workload = vec![("namespace", text("foo")), ("labels", labels)];
    if let Some(domain) = trust_domain(case) {
        workload.push(("trustDomain", text(domain)));
    }
    map(workload)
}

fn trust_domain(case: &Node) -> Option<&str> {
    ["trustDomain", "tdBundle"].iter().find_map(|key| {
        let found = case.field(key)?;
        found.text().or_else(|| found.field("trustDomain")?.text())
    })
}

fn settings(case: &Node, policies: &[Node]) -> Node {
    let aliases = ["trustDomainAliases", "aliases"].iter().find_map(|key| case.field(key));
    let aliases = aliases.or_else(|| at(case, &["tdBundle", "aliases"])).cloned();
    let providers = provider::settings(&provider::named(policies));
    let mut settings = vec![("peerIdentity", text("certificate")), ("extensionProviders", providers)];
    settings.extend(aliases.map(|aliases| ("trustDomainAliases", aliases)));
    map(settings)
}

/// Calls mixed from the words of both sides, so that each rule has some that match and some that nearly do.
fn calls(policies: &[Node], outputs: &[Node]) -> Vec<Call> {
    let mut words = Vec::new();
    policies.iter().chain(outputs).for_each(|node| literals(node, &mut words));
    let mut texts: Vec<String> = Vec::new();
    for word in words {
        let bare = word.trim_matches('*').trim_start_matches("spiffe://").to_owned();
        for text in [bare.clone(), format!("{bare}x"), format!("x{bare}")] {
            if !texts.contains(&text) && text.len() < 80 {
                texts.push(text);
            }
        }
    }
    let pick = |seed: &mut u64, list: &[String]| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let index = usize::try_from(*seed >> 33).unwrap_or(0) % list.len();
        list[index].clone()
    };
    let kinds = |test: &dyn Fn(&str) -> bool, more: &[&str]| -> Vec<String> {
        let own = texts.iter().filter(|text| test(text)).cloned();
        own.chain(more.iter().map(|text| (*text).to_owned())).collect()
    };
    let methods = kinds(
        &|text| text.len() < 12 && text.chars().all(|c| c.is_ascii_alphabetic() || c == '-'),
        &["GET", "POST"],
    );
    let paths = kinds(&|text| text.starts_with('/'), &["/", "/other"]);
    let hosts = kinds(&|text| !text.starts_with('/') && !text.contains(' '), &["other.example"]);
    let ports = kinds(&|text| text.parse::<u16>().is_ok(), &["80", "9"]);
    let peers = kinds(&|text| !text.contains(' '), &["cluster.local/ns/ns1/sa/sleep"]);
    let addresses = kinds(
        &|text| text.split('/').next().is_some_and(|ip| ip.parse::<std::net::IpAddr>().is_ok()),
        &["192.0.2.9"],
    );
    let mut seed = 7;
    let mut all = Vec::new();
    for number in 0..4000 {
        let ip = |text: String| text.split('/').next().and_then(|ip| ip.parse().ok());
        let namespaced = |name: &str| format!("spiffe://cluster.local/ns/{name}/sa/any");
        let peer = pick(&mut seed, &peers);
        all.push(Call {
            method: pick(&mut seed, &methods),
            path: pick(&mut seed, &paths),
            host: pick(&mut seed, &hosts),
            port: pick(&mut seed, &ports).parse().unwrap_or(80),
            peer: match number % 4 {
                0 => None,
                1 => Some(namespaced(&peer)),
                _ => Some(format!("spiffe://{peer}")),
            },
            source: ip(pick(&mut seed, &addresses)),
            remote: ip(pick(&mut seed, &addresses)),
            token: (number % 3 > 0).then(|| {
                let principal = pick(&mut seed, &hosts);
                let (issuer, subject) = principal.rsplit_once('/').unwrap_or((&principal, "subject"));
                (issuer.to_owned(), subject.to_owned())
            }),
            ..Call::default()
        });
    }
    all
}
