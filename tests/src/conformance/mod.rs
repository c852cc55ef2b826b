//! Cases that nobody here wrote (`../shared/conformance` beside the repository, or `SAILCLOTH_CONFORMANCE`).
//!
//! The readers know the format, never a case: what cannot run is skipped by a property that it has, and the report counts
//! such rows by property.

pub mod e2e;
pub mod judged;
pub mod rbac;

use std::path::{Path, PathBuf};

use sailcloth_core::config::{Node, Problem, Severity};

use crate::corpus::{root, yaml_files};
use crate::native::errors;
use crate::provider;
use crate::report::note;
use crate::subject::{self, Engine, Subject};
use crate::yaml::{self, entries, items, map, text};

/// The folder, or `None` after saying that it is not there.
///
/// # Panics
/// Without the folder when `REQUIRE_CONFORMANCE=1`, or when `SAILCLOTH_CONFORMANCE` names something wrong.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    let named = std::env::var_os("SAILCLOTH_CONFORMANCE").filter(|name| !name.is_empty());
    let folder = named.as_ref().map_or_else(|| root().join("../shared/conformance"), PathBuf::from);
    if folder.join("istio").is_dir() {
        return Some(folder);
    }
    let required = std::env::var("REQUIRE_CONFORMANCE").is_ok_and(|value| value == "1");
    let text = format!(
        "the conformance cases are not at {}; SAILCLOTH_CONFORMANCE names another folder",
        folder.display()
    );
    assert!(!required && named.is_none(), "{text}");
    note(&format!("skipped: {text}"));
    None
}

/// One file with `cases:`.
#[derive(Debug)]
pub struct Table {
    /// File name without extension: the name of the Go test.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// The whole document.
    pub document: Node,
}

impl Table {
    /// The tables of a folder.
    ///
    /// # Panics
    /// On a file that is not YAML.
    #[must_use]
    pub fn all(folder: &Path) -> Vec<Self> {
        let read = |path: PathBuf| {
            let text =
                std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let document = yaml::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Self { name, path, document }
        };
        yaml_files(folder).into_iter().map(read).collect()
    }

    /// Its cases.
    #[must_use]
    pub fn cases(&self) -> &[Node] {
        items(self.document.field("cases"))
    }

    /// How a case is called in messages.
    #[must_use]
    pub fn row(&self, case: &Node) -> String {
        let word = |key| case.field(key).and_then(Node::text);
        let name = word("name").or_else(|| word("Name")).unwrap_or_default();
        format!("{}: {name}", word("id").unwrap_or(&self.name))
    }
}

/// What a filter says about a configuration.
pub enum Verdict {
    /// It takes effect.
    Accepted(Box<dyn Engine>),
    /// It is refused, for what is wrong with it.
    Refused(Vec<String>),
    /// It is refused only because this version cannot carry something out.
    Unsupported(String),
    /// No filter of this build takes the kind.
    NoFilter(String),
}

/// What marks a refusal that says nothing about the document: a version's limits, or those of any HTTP filter.
const NOT_YET: [&str; 3] = ["supported by this version", "is not supported:", "which a filter cannot do"];

fn is_not_yet(problem: &Problem) -> bool {
    NOT_YET.iter().any(|mark| problem.message.contains(mark))
}

/// Asks the filter that takes a kind whether a document is valid. What the filter wants to know beside it is given.
#[must_use]
pub fn ask(kind: &str, document: Node) -> Verdict {
    let owner = sailcloth_resources::Kind::ALL.iter().find(|known| known.name == kind);
    let subject =
        owner.and_then(|kind| subject::ALL.iter().find(|subject| subject.name == kind.filter.name()));
    let Some(subject) = subject else { return Verdict::NoFilter(kind.to_owned()) };
    if subject.name == "routing" {
        return load(subject, &routing_configuration(vec![document]));
    }
    let providers = provider::named(std::slice::from_ref(&document));
    let mut configuration = configuration(vec![document]);
    if subject.name == "authz" {
        yaml::set(&mut configuration, &["settings", "extensionProviders"], provider::settings(&providers));
    }
    load(subject, &configuration)
}

/// VirtualServices with all that the routing filter wants to know beside them, so that only the documents are judged:
/// every destination is one cluster, the native route has what they ask of it, and the delegates they name exist.
#[must_use]
pub fn routing_configuration(mut documents: Vec<Node>) -> Node {
    let rules: Vec<Node> =
        documents.iter().flat_map(|document| items(yaml::at(document, &["spec", "http"])).to_vec()).collect();
    for delegate in rules.iter().filter_map(|rule| rule.field("delegate")) {
        let name = |key| delegate.field(key).and_then(Node::text).filter(|name| !name.is_empty());
        let Some(named) = name("name") else { continue };
        let host = map(vec![("destination", map(vec![("host", text("delegated.example"))]))]);
        let spec = map(vec![("http", Node::List(vec![map(vec![("route", Node::List(vec![host]))])]))]);
        let namespace = name("namespace").unwrap_or("default");
        documents.push(self::document("networking.istio.io/v1", "VirtualService", named, namespace, spec));
    }
    let retries = rules.iter().filter_map(|rule| rule.field("retries"));
    let native: Vec<(String, Node)> = retries
        .flat_map(|retries| entries(Some(retries)).to_vec())
        .filter(|(key, _)| {
            ["backoff", "retryRemoteLocalities", "retryIgnorePreviousHosts"].contains(&key.as_str())
        })
        .collect();
    let settings = map(vec![
        ("cluster", text("any")),
        ("clusters", Node::List(vec![text("any")])),
        ("mirrors", Node::Integer(4)),
        ("nativeRetries", Node::Map(native)),
    ]);
    let mut configuration = configuration(documents);
    yaml::set(&mut configuration, &["settings"], settings);
    yaml::set(&mut configuration, &["workload", "namespace"], text("default"));
    configuration
}

/// Loads a configuration into a filter's engine.
#[must_use]
pub fn load(subject: &Subject, configuration: &Node) -> Verdict {
    match (subject.load)(configuration) {
        Ok((engine, _)) => Verdict::Accepted(engine),
        Err(problems) => refusal(&problems),
    }
}

fn refusal(problems: &[Problem]) -> Verdict {
    let mut refusing = problems.iter().filter(|problem| problem.severity == Severity::Error);
    match refusing.clone().next() {
        Some(first) if refusing.all(is_not_yet) => Verdict::Unsupported(generic(&first.message)),
        _ => Verdict::Refused(errors(problems)),
    }
}

/// A message without what stands in back quotes for this document alone: a property, to count by.
fn generic(message: &str) -> String {
    // "path template `/a/{*}` is …", but "`when` is …".
    match message.strip_prefix("path template `").and_then(|rest| rest.split_once("` ")) {
        Some((_, rest)) => format!("path template {rest}"),
        None => message.to_owned(),
    }
}

/// A document of a kind.
#[must_use]
pub fn document(api: &str, kind: &str, name: &str, namespace: &str, spec: Node) -> Node {
    let metadata = map(vec![("name", text(name)), ("namespace", text(namespace))]);
    map(vec![("apiVersion", text(api)), ("kind", text(kind)), ("metadata", metadata), ("spec", spec)])
}

/// A configuration of these documents and nothing else.
#[must_use]
pub fn configuration(documents: Vec<Node>) -> Node {
    map(vec![("resources", Node::List(documents))])
}

/// The API version under which a kind is served.
#[must_use]
pub fn api_of(kind: &str) -> Option<String> {
    let known = sailcloth_resources::Kind::ALL.iter().find(|known| known.name == kind)?;
    Some(format!("{}/{}", known.group, known.versions.first()?))
}
