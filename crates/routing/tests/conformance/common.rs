//! Reading tables, loading documents, asking the engine, counting.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sailcloth_core::config::Node;
use sailcloth_core::facts::{Fact, Facts, Properties};
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::identity::Token;
use sailcloth_core::request::Request;
use sailcloth_routing::{Edit, Engine, Outcome};

/// What marks a refusal that says nothing about the document: a filter cannot carry it out.
const UNSUPPORTED: [&str; 2] = ["is not supported", "cannot be set for a request"];

pub(crate) fn folder() -> Option<PathBuf> {
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

pub(crate) fn yaml(path: &Path) -> Node {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cases of a table; none where this half of the collection has not got it.
pub(crate) fn cases(folder: &Path, table: &str) -> Vec<Node> {
    let path = folder.join(format!("{table}.yaml"));
    if path.is_file() { list(&yaml(&path), "cases").to_vec() } else { Vec::new() }
}

pub(crate) fn list<'n>(node: &'n Node, key: &str) -> &'n [Node] {
    match node.field(key) {
        Some(Node::List(items)) => items,
        _ => &[],
    }
}

pub(crate) fn entries<'n>(node: &'n Node, key: &str) -> &'n [(String, Node)] {
    match node.field(key) {
        Some(Node::Map(entries)) => entries,
        _ => &[],
    }
}

pub(crate) fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    node.field(key).and_then(Node::text)
}

pub(crate) fn integer(node: &Node, key: &str) -> Option<i64> {
    match node.field(key) {
        Some(Node::Integer(number)) => Some(*number),
        _ => None,
    }
}

pub(crate) fn is_true(node: &Node, key: &str) -> bool {
    matches!(node.field(key), Some(Node::Bool(true)))
}

pub(crate) fn word(text: &str) -> Node {
    Node::Text(text.to_owned())
}

pub(crate) fn map(entries: Vec<(&str, Node)>) -> Node {
    Node::Map(entries.into_iter().map(|(key, node)| (key.to_owned(), node)).collect())
}

/// What ran and what did not, by reason.
#[derive(Default)]
pub(crate) struct Tally {
    run: usize,
    skipped: BTreeMap<String, usize>,
    failures: Vec<String>,
}

impl Tally {
    pub(crate) fn skip(&mut self, why: impl Into<String>) {
        *self.skipped.entry(why.into()).or_default() += 1;
    }

    pub(crate) fn check(&mut self, case: &Node, holds: bool, found: impl FnOnce() -> String) {
        self.run += 1;
        if !holds {
            let name = text(case, "id").or_else(|| text(case, "test_name")).unwrap_or("?");
            self.failures.push(format!("{name}: {}", found()));
        }
    }

    /// Every way in which a case differs from what is expected.
    pub(crate) fn compare(&mut self, case: &Node, differences: &[String]) {
        self.check(case, differences.is_empty(), || differences.join("; "));
    }

    pub(crate) fn finish(self, what: &str) {
        println!("{what}: {} run, {} skipped", self.run, self.skipped.values().sum::<usize>());
        for (why, count) in &self.skipped {
            println!("  skipped {count}: {why}");
        }
        assert!(self.failures.is_empty(), "{what}:\n{}", self.failures.join("\n"));
        assert!(self.run > 0, "{what}: no case ran");
    }
}

/// A VirtualService.
pub(crate) fn document(namespace: &str, name: &str, spec: Node) -> Node {
    map(vec![
        ("apiVersion", word("networking.istio.io/v1")),
        ("kind", word("VirtualService")),
        ("metadata", map(vec![("name", word(name)), ("namespace", word(namespace))])),
        ("spec", spec),
    ])
}

/// The documents that rules of a document delegate to, each with one route.
pub(crate) fn delegates(namespace: &str, spec: &Node) -> Vec<Node> {
    let named = list(spec, "http").iter().filter_map(|rule| rule.field("delegate"));
    let delegate = |named: &Node| {
        let name = text(named, "name").filter(|name| !name.is_empty())?;
        let rules = map(vec![("http", Node::List(vec![route(vec![])]))]);
        Some(document(text(named, "namespace").unwrap_or(namespace), name, rules))
    };
    named.filter_map(delegate).collect()
}

/// A configuration in which every destination is a cluster `any`, so that the allow-list says nothing about the case, and
/// the native route has what the documents want of it.
pub(crate) struct Setup {
    pub(crate) workload: Option<Node>,
    pub(crate) settings: Vec<(&'static str, Node)>,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self {
            workload: None,
            settings: vec![("cluster", word("any")), ("clusters", Node::List(vec![word("any")]))],
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: Node) -> Self {
        self.settings.retain(|(other, _)| *other != name);
        self.settings.push((name, value));
        self
    }

    pub(crate) fn workload(mut self, workload: Vec<(&str, Node)>) -> Self {
        self.workload = Some(map(workload));
        self
    }

    pub(crate) fn load(self, documents: Vec<Node>) -> Result<Engine, Vec<String>> {
        let mut settings = self.settings;
        settings.push(("mirrors", Node::Integer(8)));
        settings.push(("nativeRetries", native_retries(&documents)));
        let mut configuration = vec![("resources", Node::List(documents)), ("settings", map(settings))];
        configuration.extend(self.workload.map(|workload| ("workload", workload)));
        let loaded = Engine::load_node(&map(configuration));
        loaded.map(|(engine, _)| engine).map_err(|problems| {
            let refusing =
                problems.iter().filter(|problem| problem.severity == sailcloth_core::config::Severity::Error);
            refusing.map(ToString::to_string).collect()
        })
    }
}

/// What the documents say about retries and no request can set.
fn native_retries(documents: &[Node]) -> Node {
    let rules =
        documents.iter().filter_map(|document| document.field("spec")).flat_map(|spec| list(spec, "http"));
    let fields = ["backoff", "retryRemoteLocalities", "retryIgnorePreviousHosts"];
    let mut native: Vec<(String, Node)> = Vec::new();
    for (key, value) in rules.flat_map(|rule| entries(rule, "retries")) {
        if fields.contains(&key.as_str()) && !native.iter().any(|(known, _)| known == key) {
            native.push((key.clone(), value.clone()));
        }
    }
    Node::Map(native)
}

/// The reason for skipping a case, when every problem is that something is not supported.
pub(crate) fn unsupported(problems: &[String]) -> Option<String> {
    let marked = |problem: &String| UNSUPPORTED.iter().any(|mark| problem.contains(mark));
    let all = !problems.is_empty() && problems.iter().all(marked);
    let first = problems.iter().find(|problem| problem.contains("not supported")).or(problems.first());
    let message = first.and_then(|first| first.split_once(": ")).map(|(_, message)| message.to_owned());
    message.filter(|_| all)
}

pub(crate) fn spec_of(route: Node) -> Node {
    map(vec![("hosts", Node::List(vec![word("foo.bar")])), ("http", Node::List(vec![route]))])
}

pub(crate) fn route(extra: Vec<(&str, Node)>) -> Node {
    let destination = map(vec![("destination", map(vec![("host", word("foo.baz"))]))]);
    let mut fields = vec![("route", Node::List(vec![destination]))];
    fields.extend(extra);
    map(fields)
}

pub(crate) fn without_kind(node: &Node) -> Node {
    match node {
        Node::Map(entries) => Node::Map(entries.iter().filter(|(key, _)| key != "$kind").cloned().collect()),
        other => other.clone(),
    }
}

/// What Envoy would say about the connection of a request.
#[derive(Default)]
pub(crate) struct Attributes {
    pub(crate) port: u16,
    /// The claims of a verified token.
    pub(crate) token: Option<Node>,
}

impl Properties for Attributes {
    fn property(&self, path: &[&str]) -> Fact<Vec<u8>> {
        match path {
            ["destination", "port"] => Fact::Known(i64::from(self.port).to_le_bytes().to_vec()),
            ["source", "address"] => Fact::Known(b"127.0.0.1:50000".to_vec()),
            ["sailcloth.jwt"] => Fact::Known(match &self.token {
                Some(claims) => Token::of_claims(claims).state().to_vec(),
                None => Token::anonymous_state().to_vec(),
            }),
            _ => Fact::Absent,
        }
    }
}

/// Asks an engine, and hands the outcome on.
pub(crate) fn decide<T>(
    engine: &Engine,
    headers: &[(String, String)],
    attributes: &Attributes,
    random: u64,
    look: impl FnOnce(&Outcome<'_>) -> T,
) -> T {
    let headers = HeaderBlock::from_pairs(headers.iter().map(|(name, value)| (name, value)));
    let request = Request { headers: &headers, facts: Facts::new(attributes, engine.sources()) };
    look(&engine.decide(&request, random))
}

/// A header map after some edits; repeats joined.
pub(crate) fn edited(headers: &[(String, String)], edits: &[Edit<'_>]) -> BTreeMap<String, String> {
    let mut all: Vec<(String, String)> =
        headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    for edit in edits {
        let own = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        match edit {
            Edit::Remove(name) => all.retain(|(other, _)| other != name),
            Edit::Set(name, value) => {
                all.retain(|(other, _)| other != name);
                all.push((name.to_string(), own(value)));
            }
            Edit::Add(name, value) => all.push((name.to_string(), own(value))),
        }
    }
    let mut joined: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in all {
        joined.entry(name).and_modify(|earlier| *earlier = format!("{earlier},{value}")).or_insert(value);
    }
    joined
}

/// `:method` and its like.
pub(crate) fn pseudo(method: &str, path: &str, authority: &str) -> Vec<(String, String)> {
    [(":method", method), (":path", path), (":authority", authority), (":scheme", "http")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}
