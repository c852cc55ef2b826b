//! Names of hosts: which stand for which, and by which a service is reached.

use sailcloth_core::config::Node;
use sailcloth_resources::host_name::is_wildcard_of;

use crate::common::{
    Attributes, Setup, Tally, cases, decide, document, folder, is_true, list, map, pseudo, route, text, word,
};

#[test]
fn istios_host_names() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    let equal = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    let matches = move |a: &str, b: &str| equal(a, b) || is_wildcard_of(a, b) || is_wildcard_of(b, a);
    let subset = move |a: &str, b: &str| equal(a, b) || is_wildcard_of(b, a);
    for (name, is_subset) in [("TestNameMatches", false), ("TestNameSubsetOf", true)] {
        for case in cases(&folder, &format!("istio/cases/hosts/{name}")) {
            let (a, b) = (text(&case, "a").unwrap_or_default(), text(&case, "b").unwrap_or_default());
            if a.is_empty() || b.is_empty() {
                tally.skip("an empty name, which no resource can have");
                continue;
            }
            let found = if is_subset { subset(a, b) } else { matches(a, b) };
            tally.check(&case, found == is_true(&case, "out"), || format!("`{a}` and `{b}`: {found}"));
        }
    }
    tally.finish("istio/cases/hosts");
}

fn service(host: &str) -> Node {
    map(vec![("hosts", Node::List(vec![word(host)])), ("http", Node::List(vec![route(vec![])]))])
}

fn reaches(documents: Vec<Node>, namespace: &str, domain: &str, authority: &str) -> bool {
    let setup = Setup::new().workload(vec![("namespace", word(namespace))]).with("domain", word(domain));
    let engine = setup.load(documents).unwrap();
    let request = pseudo("GET", "/", authority);
    decide(&engine, &request, &Attributes::default(), 0, |outcome| outcome.cluster().is_some())
}

#[test]
fn istios_names_of_a_service() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    for case in cases(&folder, "istio/cases/virtualservice/TestGenerateVirtualHostDomains") {
        let hostname = case.field("service").and_then(|service| text(service, "hostname")).unwrap();
        let dns = case.field("node").and_then(|node| text(node, "dNSDomain")).unwrap_or_default();
        let aliases = case.field("service").and_then(|service| service.field("attributes"));
        if aliases.is_some_and(|attributes| attributes.field("aliases").is_some()) {
            tally.skip("aliases of a service, which a VirtualService cannot say");
            continue;
        }
        let (namespace, domain) = match dns.split_once(".svc.") {
            Some((namespace, domain)) => (namespace, domain),
            None => ("elsewhere", "no.domain"),
        };
        let short = hostname.split('.').next().unwrap_or_default();
        if !dns.contains(".svc.") && list(&case, "want").contains(&word(short)) {
            tally.skip("short names in a DNS domain that is not Kubernetes'");
            continue;
        }
        let addresses: Vec<&Node> =
            list(&case, "want").iter().filter(|name| is_address_of_service(name, hostname)).collect();
        let mut differences = Vec::new();
        for name in list(&case, "want").iter().filter(|name| !addresses.contains(name)) {
            let name = name.text().unwrap();
            // Those of a headless service's instances come with its wildcard.
            let host = if name.starts_with('*') { format!("*.{hostname}") } else { hostname.to_owned() };
            let authority = name.replace('*', "instance");
            if !reaches(vec![document("default", "a", service(&host))], namespace, domain, &authority) {
                differences.push(format!("`{authority}` does not reach `{host}`"));
            }
        }
        tally.compare(&case, &differences);
    }
    for case in cases(&folder, "istio/e2e/hosts/hostCases") {
        let documents = ["headless", "*.headless.echo1.svc.cluster.local"]
            .into_iter()
            .zip(["service", "instances"])
            .map(|(host, name)| document("echo1", name, service(host)));
        let authority = text(&case, "host").unwrap();
        let found = reaches(documents.collect(), "echo1", "cluster.local", authority);
        tally.check(&case, found, || format!("`{authority}` reaches nothing"));
    }
    tally.finish("names of a service");
}

/// An address of the service that its name does not tell.
fn is_address_of_service(name: &Node, hostname: &str) -> bool {
    let name = name.text().unwrap_or_default();
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    sailcloth_resources::host_name::is_ip(bare) && bare != hostname
}
