//! Every `example.yaml` and every file in `envoy/` is what it says.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "helpers of tests"
)]

use std::path::{Path, PathBuf};

use sailcloth_core::config::Node;
use sailcloth_launch::{RunDir, envoy};
use sailcloth_tests::corpus::{root, yaml_files};
use sailcloth_tests::native::errors;
use sailcloth_tests::subject::{ALL, Subject};
use sailcloth_tests::{build, yaml};

fn read(path: &Path) -> Node {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    yaml::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn accepted(subject: &Subject, configuration: &Node, of: &str) {
    match (subject.load)(configuration) {
        Ok((_, warnings)) => {
            let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            assert!(texts.is_empty(), "{of}: an example has no warnings: {texts:#?}");
        }
        Err(problems) => panic!("{of}: {:#?}", errors(&problems)),
    }
}

/// Module and configuration of each Wasm filter of an Envoy configuration.
fn wasm_filters(node: &Node, found: &mut Vec<(String, Node)>) {
    if let Some(config) = node.field("config")
        && let Some(file) = yaml::at(config, &["vm_config", "code", "local", "filename"]).and_then(Node::text)
    {
        let name = Path::new(file).file_stem().unwrap().to_string_lossy().into_owned();
        let value = yaml::at(config, &["configuration", "value"]).cloned().unwrap_or(Node::Null);
        found.push((name, value));
    }
    match node {
        Node::Map(entries) => entries.iter().for_each(|(_, value)| wasm_filters(value, found)),
        Node::List(items) => items.iter().for_each(|item| wasm_filters(item, found)),
        _ => {}
    }
}

fn envoy_files() -> Vec<PathBuf> {
    let files = yaml_files(&root().join("envoy"));
    assert!(files.len() >= ALL.len(), "{files:?}");
    files
}

#[test]
fn every_example_is_accepted_and_runs_in_its_envoy_file() {
    for subject in ALL {
        let example = read(&root().join("filters").join(subject.name).join("example.yaml"));
        accepted(subject, &example, &format!("filters/{}/example.yaml", subject.name));
        let mut filters = Vec::new();
        wasm_filters(&read(&root().join("envoy").join(format!("{}.yaml", subject.name))), &mut filters);
        let own = filters.iter().find(|(name, _)| name == subject.name);
        let (_, configured) = own.unwrap_or_else(|| panic!("envoy/{}.yaml has no such filter", subject.name));
        assert_eq!(
            yaml::json(configured),
            yaml::json(&example),
            "envoy/{}.yaml and its example.yaml",
            subject.name
        );
    }
}

#[test]
fn every_filter_of_every_envoy_file_is_accepted() {
    for path in envoy_files() {
        let mut filters = Vec::new();
        wasm_filters(&read(&path), &mut filters);
        assert!(!filters.is_empty(), "{} has no Wasm filter", path.display());
        for (name, configuration) in filters {
            accepted(Subject::named(&name), &configuration, &format!("{}: {name}", path.display()));
        }
    }
}

/// The connection managers of an Envoy configuration.
fn connection_managers<'n>(node: &'n Node, found: &mut Vec<&'n Node>) {
    if node.field("http_filters").is_some() {
        found.push(node);
    }
    match node {
        Node::Map(entries) => entries.iter().for_each(|(_, value)| connection_managers(value, found)),
        Node::List(items) => items.iter().for_each(|item| connection_managers(item, found)),
        _ => {}
    }
}

#[test]
fn where_a_header_names_the_cluster_a_clients_own_is_removed_before_any_filter() {
    let mut routed = 0;
    for path in envoy_files() {
        let document = read(&path);
        let mut managers = Vec::new();
        connection_managers(&document, &mut managers);
        for manager in managers {
            let text = yaml::json(manager);
            if text.contains(r#""cluster_header":"x-sailcloth-cluster""#) {
                routed += 1;
                let early = manager.field("early_header_mutation_extensions").map(yaml::json);
                let removed =
                    early.is_some_and(|early| early.contains(r#"{"remove":"x-sailcloth-cluster"}"#));
                assert!(
                    removed,
                    "{}: a client could name a cluster where the filter is skipped",
                    path.display()
                );
            }
        }
    }
    assert!(routed >= 2, "the chain and routing.yaml route by that header, found {routed}");
}

#[test]
fn envoy_validates_every_file() {
    let Some(binary) = envoy::find_or_skip() else { return };
    for subject in ALL {
        let _ = build::path(subject.name);
    }
    let run = RunDir::temp().unwrap();
    for path in envoy_files() {
        let text = with_certificates(&std::fs::read_to_string(&path).unwrap(), &run);
        let validated = envoy::Spec::new("file", text).binary(&binary).current_dir(root()).validate();
        validated.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// Certificates are made at the start of the demo (`sailcloth-demo certs`); here one of our own stands in for each.
fn with_certificates(text: &str, run: &RunDir) -> String {
    const MADE: &str = ".run/certs";
    if !text.contains(MADE) {
        return text.to_owned();
    }
    let key = rcgen::generate_simple_self_signed(vec!["test".to_owned()]).unwrap();
    for file in text.split([' ', '}', ',', '"', '\n']).filter_map(|word| word.strip_prefix(".run/certs/")) {
        let pem = if file.ends_with(".key") { key.signing_key.serialize_pem() } else { key.cert.pem() };
        std::fs::write(run.file(file), pem).unwrap();
    }
    text.replace(MADE, &run.path().to_string_lossy())
}
