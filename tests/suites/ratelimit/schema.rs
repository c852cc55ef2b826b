//! `schema.json`, `crd.yaml`, the README and what the filter reads say the same.

use std::collections::BTreeSet;

use sailcloth_core::config::{Node, Problems, Value};
use sailcloth_ratelimit::Engine;
use sailcloth_resources::rate_limit::RateLimit;
use sailcloth_resources::{Kind, Metadata, Resource as _};
use sailcloth_tests::corpus::root;
use sailcloth_tests::yaml;

fn file(name: &str) -> String {
    std::fs::read_to_string(root().join("filters/ratelimit").join(name)).unwrap()
}

fn schema() -> serde_json::Value {
    serde_json::from_str::<serde_json::Value>(&file("schema.json")).unwrap()["properties"]["spec"].clone()
}

/// Every field of a schema, `rules[].limit.burst`.
fn fields(schema: &serde_json::Value, at: &str, found: &mut BTreeSet<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        found.insert(path.clone());
        fields(field, &path, found);
    }
    for choice in schema["oneOf"].as_array().into_iter().flatten() {
        fields(choice, at, found);
    }
    if !schema["items"].is_null() {
        fields(&schema["items"], &format!("{at}[]"), found);
    }
}

/// Documents that together have every field.
const SAMPLES: &[&str] = &[
    "{selector: {matchLabels: {app: a}}, rules: [{limit: {requests: 1, per: 1s}}]}",
    "{targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: a}, rules: [{limit: {requests: 1, per: 1s}}]}",
    "{targetRefs: [{group: '', kind: Service, name: a}], rules: [{limit: {requests: 1, per: 1s}}]}",
    "{rules: [{name: n, mode: shadow, onMissingKey: skip, cost: 1, limit: {requests: 2, per: day, burst: 2, lease: 2},
       deny: {status: 503, body: b, headers: {x-a: b}},
       match: {to: [{operation: {methods: [a], notMethods: [b], paths: [c], notPaths: [d], hosts: [e], notHosts: [f], ports: ['1'], notPorts: ['2']}}]},
       key: [{header: a}, {cookie: a, as: b}, {queryParameter: a}, {claim: a}, {claim: [a, b]}, {sourceIp: {prefixLength: 8, prefixLengthV6: 9}},
             {method: {}}, {principal: {}}, {requestPrincipal: {}}, {constant: a}]}]}",
    "{rules: [{key: [{header: a}], limit: {requests: 1, per: 1s}, unlisted: shared, overrides: [{key: a, limit: {requests: 1, per: 1s, burst: 1, lease: 1}}, {key: [b], limit: {requests: 1, per: 1s}}]}]}",
    "{rules: [{cost: {header: a, default: 1, max: 1}, limit: {requests: 1, per: 1s}}]}",
    "{rules: [{cost: {response: {header: a, statuses: [401, 5xx], default: 0, max: 9}}, limit: {requests: 1, per: 1s}}]}",
    "{rules: [{key: [{header: a}], global: {cluster: a, domain: b, timeout: 1s, onFailure: local, circuitBreaker: {failures: 1, openFor: 1s},
       local: {requests: 1, per: 1s, burst: 1, lease: 1}}}]}",
];

/// What a reader asks for although no document may have it: to refuse it with a better word.
const REFUSED: &[&str] =
    &["dryRun", "targetRef.namespace", "targetRefs[].namespace", "match.from", "match.when", "pathTemplate"];

#[test]
fn the_schema_has_the_fields_that_the_filter_reads_and_no_other() {
    let mut schema_fields = BTreeSet::new();
    fields(&schema(), "", &mut schema_fields);
    let (mut read, mut sampled) = (BTreeSet::new(), BTreeSet::new());
    for sample in SAMPLES {
        let node = yaml::parse(sample).unwrap();
        let problems = Problems::with_vocabulary();
        let policy = RateLimit::read(Kind::RATE_LIMIT, &Metadata::default(), &Value::root(&node, &problems));
        assert!(policy.is_some() && !problems.refuse(), "{sample}\n{:?}", problems.errors());
        read.extend(problems.vocabulary());
        used(&node, "", &mut sampled);
    }
    let known = |path: &&String| !REFUSED.iter().any(|refused| path.ends_with(refused));
    let missing: Vec<&String> =
        read.iter().filter(known).filter(|path| !schema_fields.contains(*path)).collect();
    assert!(missing.is_empty(), "read and not in schema.json: {missing:?}");
    let unsampled: Vec<&String> = schema_fields.iter().filter(|path| !sampled.contains(*path)).collect();
    assert!(unsampled.is_empty(), "in schema.json and in no sample that the filter accepts: {unsampled:?}");
}

/// The fields that a document has.
fn used(node: &Node, at: &str, found: &mut BTreeSet<String>) {
    match node {
        Node::Map(entries) => {
            for (key, value) in entries {
                let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                used(value, &path, found);
                found.insert(path);
            }
        }
        Node::List(items) => items.iter().for_each(|item| used(item, &format!("{at}[]"), found)),
        _ => {}
    }
}

/// Whether a schema allows a document: as much of JSON Schema as schema.json uses.
fn allows(schema: &serde_json::Value, value: &serde_json::Value) -> bool {
    let object = value.as_object();
    let typed = match schema["type"].as_str() {
        Some("object") => object.is_some(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.as_i64().is_some(),
        Some(other) => panic!("type {other}"),
        None => true,
    };
    let list = |key: &str| schema[key].as_array().cloned().unwrap_or_default();
    let at_least = |key: &str, length: Option<usize>| {
        length.is_none_or(|length| length as u64 >= schema[key].as_u64().unwrap_or(0))
    };
    let number = value.as_i64().is_none_or(|number| {
        number >= schema["minimum"].as_i64().unwrap_or(i64::MIN)
            && number <= schema["maximum"].as_i64().unwrap_or(i64::MAX)
    });
    let each = object.into_iter().flatten().all(|(name, field)| match &schema["properties"][name] {
        serde_json::Value::Null => match &schema["additionalProperties"] {
            serde_json::Value::Bool(more) => *more,
            serde_json::Value::Null => true,
            more => allows(more, field),
        },
        known => allows(known, field),
    });
    typed
        && number
        && each
        && (list("enum").is_empty() || list("enum").contains(value))
        && list("required")
            .iter()
            .all(|name| object.is_none_or(|map| map.contains_key(name.as_str().unwrap())))
        && (list("oneOf").is_empty()
            || list("oneOf").iter().filter(|choice| allows(choice, value)).count() == 1)
        && value
            .as_array()
            .into_iter()
            .flatten()
            .all(|item| schema["items"].is_null() || allows(&schema["items"], item))
        && at_least("minItems", value.as_array().map(Vec::len))
        && at_least("minLength", value.as_str().map(str::len))
        && at_least("minProperties", object.map(serde_json::Map::len))
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(&yaml::json(&yaml::parse(text).unwrap())).unwrap()
}

/// Documents that the filter refuses for what a schema can say.
const BAD: &[&str] = &[
    "{}",
    "{rules: []}",
    "{rules: [{}]}",
    "{rules: [{limit: {requests: 0, per: 1s}}]}",
    "{rules: [{limit: {requests: 1000000001, per: 1s}}]}",
    "{rules: [{limit: {requests: 1}}]}",
    "{rules: [{limit: {requests: '1', per: 1s}}]}",
    "{rules: [{limit: {requests: 1, per: 1s, brust: 1}}]}",
    "{rules: [{limits: {requests: 1, per: 1s}}]}",
    "{rules: [{limit: {requests: 1, per: 1s}, key: []}]}",
    "{rules: [{limit: {requests: 1, per: 1s}, key: [{}]}]}",
    "{rules: [{limit: {requests: 1, per: 1s}, key: [{head: a}]}]}",
    "{rules: [{limit: {requests: 1, per: 1s}, key: [{sourceIp: {prefixLength: 33}}]}]}",
    "{rules: [{limit: {requests: 1, per: 1s}, key: [{method: {x: 1}}]}]}",
    "{rules: [{limit: {requests: 1, per: 1s}, cost: 0}]}",
    "{rules: [{limit: {requests: 1, per: 1s}, cost: {heder: a}}]}",
    "{rules: [{limit: {requests: 1, per: 1s}, cost: {response: {statuses: [6xx]}}}]}",
    "{rules: [{limit: {requests: 1, per: 1s}, mode: dry}]}",
    "{rules: [{limit: {requests: 1, per: 1s}, onMissingKey: deny}]}",
    "{rules: [{limit: {requests: 1, per: 1s}, deny: {status: 200}}]}",
    "{rules: [{limit: {requests: 1, per: 1s}, match: {}}]}",
    "{rules: [{limit: {requests: 1, per: 1s}, match: {to: [{operation: {}}]}}]}",
    "{rules: [{limit: {requests: 1, per: 1s}, global: {cluster: a, domain: b, onFailure: deny}, key: [{header: a}]}]}",
    "{rules: [{key: [{header: a}], global: {cluster: '', domain: b, onFailure: deny}}]}",
    "{rules: [{key: [{header: a}], global: {cluster: a, domain: b}}]}",
    "{rules: [{key: [{header: a}], global: {cluster: a, domain: b, onFailure: open}}]}",
];

#[test]
fn the_schema_and_the_filter_agree_on_documents() {
    let schema = schema();
    for (samples, good) in [(SAMPLES, true), (BAD, false)] {
        for sample in samples {
            assert_eq!(allows(&schema, &json(sample)), good, "schema.json on {sample}");
            let document = format!(
                "{{resources: [{{apiVersion: sailcloth.dev/v1alpha1, kind: RateLimit, metadata: {{name: a}}, spec: {sample}}}]}}"
            );
            let loaded = Engine::load_node(&yaml::parse(&document).unwrap());
            assert_eq!(loaded.is_ok(), good, "the filter on {sample}: {:?}", loaded.err());
        }
    }
}

/// A structural schema knows no alternatives of type, and closes objects by pruning.
fn structural(schema: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value as Json;
    let typed = |choice: &Json| choice.get("type").is_some();
    if schema["oneOf"].as_array().is_some_and(|choices| choices.iter().any(typed)) {
        return serde_json::json!({"x-kubernetes-preserve-unknown-fields": true});
    }
    match schema {
        Json::Object(fields) => {
            let kept =
                fields.iter().filter(|(name, value)| *name != "additionalProperties" || !value.is_boolean());
            Json::Object(kept.map(|(name, value)| (name.clone(), structural(value))).collect())
        }
        Json::Array(items) => Json::Array(items.iter().map(structural).collect()),
        other => other.clone(),
    }
}

#[test]
fn the_crd_is_the_schema() {
    let crd = json(&file("crd.yaml"));
    let version = &crd["spec"]["versions"][0];
    assert_eq!(version["name"], "v1alpha1");
    assert_eq!(version["schema"]["openAPIV3Schema"]["properties"]["spec"], structural(&schema()));
}

#[test]
fn the_readme_has_a_row_for_every_field_and_for_no_other() {
    let mut expected = BTreeSet::new();
    fields(&schema(), "", &mut expected);
    let readme = file("README.md");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let named = rows.flat_map(|(names, _)| {
        names.split(", ").filter_map(|name| name.strip_prefix('`')?.strip_suffix('`')).collect::<Vec<_>>()
    });
    let rows: BTreeSet<String> = named
        .filter(|name| ["rules", "selector", "targetRef"].iter().any(|first| name.starts_with(first)))
        .map(str::to_owned)
        .collect();
    let missing: Vec<&String> = expected.difference(&rows).collect();
    let unknown: Vec<&String> = rows.difference(&expected).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "no row: {missing:#?}\nno field: {unknown:#?}");
}

#[test]
fn the_quick_start_of_the_readme_is_a_configuration_of_twenty_lines() {
    let readme = file("README.md");
    let (_, rest) = readme.split_once("```yaml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    assert!(text.lines().count() <= 20, "{} lines", text.lines().count());
    Engine::load_node(&yaml::parse(text).unwrap()).map_err(|problems| format!("{problems:?}")).unwrap();
}
