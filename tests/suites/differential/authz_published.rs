//! Istio's own translations (`files/authz-builder`: policy in, Envoy RBAC out) in a real Envoy, as published, beside our filter
//! with the policy. Identities come by certificate.

use std::net::IpAddr;
use std::path::Path;

use sailcloth_core::config::Node;
use sailcloth_launch::envoy;
use sailcloth_tests::conformance::folder;
use sailcloth_tests::conformance::rbac::literals;
use sailcloth_tests::differential::authz::generate::{Generator, Language};
use sailcloth_tests::differential::authz::words::Words;
use sailcloth_tests::differential::authz::world::World;
use sailcloth_tests::differential::random::Random;
use sailcloth_tests::differential::side::Caller;
use sailcloth_tests::differential::{Tally, scaled, seed};
use sailcloth_tests::yaml::{self, items, map, text};
use serde_json::Value;

use super::authz_envoy::as_caller;

#[test]
fn published_translations_decide_as_ours() {
    let (Some(binary), Some(folder)) = (envoy::find_or_skip(), folder()) else { return };
    let folder = folder.join("istio/files/authz-builder");
    let index = read(&folder, "index.yaml").remove(0);
    let mut tally = Tally::new("authorization: Istio's published translations and ours");
    let (mut made, mut callers) = (Vec::new(), vec![caller(None)]);
    for case in items(index.field("cases")) {
        match published(&folder, case) {
            Ok((configuration, native)) => {
                callers.extend(peers(&configuration, &native).into_iter().map(|peer| caller(Some(peer))));
                made.push((configuration, native));
            }
            Err(reason) => tally.skip(reason),
        }
    }
    callers.sort();
    callers.dedup();
    let (words, language) = (Words::loopback(), Language::full());
    let mut generator = Generator { words: &words, language: &language, random: Random::new(seed()) };
    let count = scaled(150, 3_000);
    let mut worlds = Vec::new();
    for (configuration, native) in made {
        let mut ask = || {
            let mut ask = generator.ask(&configuration);
            as_caller(&mut ask, &callers, &mut generator.random);
            ask
        };
        let asks = (0..count).map(|_| ask()).collect();
        let mut world = World::new(configuration, native);
        (world.asks, world.tls) = (asks, true);
        worlds.push(world);
    }
    let least = worlds.len() * count;
    tally.add(World::run(&binary, &worlds, &callers));
    tally.finish(least);
}

fn read(folder: &Path, file: &str) -> Vec<Node> {
    let text = std::fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    yaml::documents(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Our configuration and Istio's filters, or the property for which a case cannot run.
fn published(folder: &Path, case: &Node) -> Result<(Node, Vec<Value>), String> {
    let word = |key| case.field(key).and_then(Node::text).unwrap_or_default();
    if word("protocol") != "http" {
        return Err("the translation is for a TCP listener".to_owned());
    }
    if word("only") == "CUSTOM filters" {
        return Err("the translation needs an external authorizer".to_owned());
    }
    let files = items(case.field("output")).iter().filter_map(Node::text);
    let json = |node: Node| serde_json::from_str(&yaml::json(&node)).unwrap();
    let native = files.flat_map(|file| read(folder, file)).map(json).collect();
    // `index.yaml` says so in words.
    let labels = map(vec![("app", text("httpbin")), ("version", text("v1"))]);
    let mut workload = vec![("namespace", text("foo")), ("labels", labels)];
    workload.extend(case.field("trustDomain").map(|domain| ("trustDomain", domain.clone())));
    let aliases = case.field("trustDomainAliases").map(|aliases| ("trustDomainAliases", aliases.clone()));
    let configuration = map(vec![
        ("resources", Node::List(read(folder, word("input")))),
        ("workload", map(workload)),
        ("settings", map(aliases.into_iter().collect())),
    ]);
    Ok((configuration, native))
}

/// The identities that either side names, and their neighbours.
fn peers(configuration: &Node, native: &[Value]) -> Vec<String> {
    let mut words = Vec::new();
    literals(configuration, &mut words);
    for filter in native {
        literals(&yaml::parse(&filter.to_string()).unwrap(), &mut words);
    }
    let identity = |word: String| {
        let bare = word.strip_prefix("spiffe://").unwrap_or(&word);
        let named = bare.contains("/sa/") || ["allow", "deny"].contains(&bare);
        (named && !bare.contains('*')).then(|| format!("spiffe://{bare}"))
    };
    let mut all: Vec<String> = words.into_iter().filter_map(identity).collect();
    all.extend(all.clone().iter().map(|peer| format!("{peer}x")));
    all
}

fn caller(peer: Option<String>) -> Caller {
    Caller { peer, sni: None, source: IpAddr::from([127, 0, 0, 1]) }
}
