//! The field tables of the READMEs: complete by Istio's schema, and true by what the filter answers.

use sailcloth_core::config::Node;
use sailcloth_tests::conformance::{Verdict, api_of, ask, document, folder};
use sailcloth_tests::corpus::root;
use sailcloth_tests::field_table::{Claim, claims, fields};
use sailcloth_tests::report::Report;
use sailcloth_tests::yaml;

/// A key set, so that a rule is complete.
const JWKS: &str = r#"jwks: '{"keys":[{"kty":"EC","crv":"P-256","x":"EB54wykhS7YJFD6RYJNnwbWEz3cI7CF5bCDTXlrwI5k","y":"92bCBTvMFQ8lKbS2MbgjT3YfmYo6HnPEE2tsAqWUJw8"}]}'"#;

#[test]
fn the_table_of_request_authentication_is_complete_and_true() {
    check("RequestAuthentication", "jwt", |field| {
        let rule = |more: &str| format!("{{jwtRules: [{{issuer: a, {JWKS}, {more}}}]}}");
        Some(match field {
            "selector" => "{selector: {}}".to_owned(),
            "selector.matchLabels" => "{selector: {matchLabels: {app: a}}}".to_owned(),
            "targetRef" | "targetRef.group" | "targetRef.kind" | "targetRef.name" => {
                "{targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: a}}".to_owned()
            }
            "targetRef.namespace" => {
                "{targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: a, namespace: b}}"
                    .to_owned()
            }
            "targetRefs" | "targetRefs[].group" | "targetRefs[].kind" | "targetRefs[].name" => {
                "{targetRefs: [{group: '', kind: Service, name: a}]}".to_owned()
            }
            "targetRefs[].namespace" => {
                "{targetRefs: [{group: '', kind: Service, name: a, namespace: b}]}".to_owned()
            }
            "jwtRules" => "{jwtRules: []}".to_owned(),
            "jwtRules[].issuer" | "jwtRules[].jwks" => rule("audiences: [a]"),
            "jwtRules[].jwksUri" => "{jwtRules: [{issuer: a, jwksUri: 'https://a.example/keys'}]}".to_owned(),
            "jwtRules[].timeout" => rule("timeout: 5s"),
            "jwtRules[].audiences" => rule("audiences: [a, b]"),
            "jwtRules[].fromHeaders"
            | "jwtRules[].fromHeaders[].name"
            | "jwtRules[].fromHeaders[].prefix" => rule("fromHeaders: [{name: x-a, prefix: 'JWT '}]"),
            "jwtRules[].fromParams" => rule("fromParams: [t]"),
            "jwtRules[].fromCookies" => rule("fromCookies: [t]"),
            "jwtRules[].forwardOriginalToken" => rule("forwardOriginalToken: true"),
            "jwtRules[].outputPayloadToHeader" => rule("outputPayloadToHeader: x-a"),
            "jwtRules[].outputClaimToHeaders"
            | "jwtRules[].outputClaimToHeaders[].header"
            | "jwtRules[].outputClaimToHeaders[].claim" => {
                rule("outputClaimToHeaders: [{header: x-a, claim: a.b}]")
            }
            "jwtRules[].spaceDelimitedClaims" => rule("spaceDelimitedClaims: [roles]"),
            "jwtRules[].presence" => rule("presence: REQUIRED"),
            _ => return None,
        })
    });
}

/// Every field of a kind's schema has one row in its filter's README, and the filter does with a sample what the row says.
fn check(kind: &str, filter: &str, sample: impl Fn(&str) -> Option<String>) {
    let Some(folder) = folder() else { return };
    let schema = std::fs::read_to_string(folder.join(format!("istio/schema/{kind}.yaml"))).unwrap();
    let schema = yaml::parse(&schema).unwrap();
    let readme = std::fs::read_to_string(root().join(format!("filters/{filter}/README.md"))).unwrap();
    let mut report = Report::new(&format!("fields of {kind} in filters/{filter}/README.md"));
    for field in fields(schema.field("spec").unwrap()) {
        report.ran(&field, &differences(kind, &field, &claims(&readme, &field), sample(&field)));
    }
    report.finish();
}

fn differences(kind: &str, field: &str, said: &[Claim], sample: Option<String>) -> Vec<String> {
    let Some(sample) = sample else { return vec!["the test has no sample of it".to_owned()] };
    let [said] = said else { return vec![format!("the README needs one row for it, and has {said:?}")] };
    let spec = yaml::parse(&sample).unwrap();
    let (mut differences, name) = (Vec::new(), field.rsplit('.').next().unwrap_or(field));
    if !mentions(&spec, name) {
        differences.push(format!("the sample does not have it: {sample}"));
    }
    let found = match ask(kind, document(&api_of(kind).unwrap(), kind, "a", "default", spec)) {
        Verdict::Accepted(_) => Claim::Works,
        Verdict::Refused(_) | Verdict::Unsupported(_) | Verdict::NoFilter(_) => Claim::Refused,
    };
    if found != *said {
        differences.push(format!("the README says {said:?}, the filter {found:?}"));
    }
    differences
}

fn mentions(node: &Node, name: &str) -> bool {
    match node {
        Node::Map(entries) => entries.iter().any(|(key, value)| key == name || mentions(value, name)),
        Node::List(items) => items.iter().any(|item| mentions(item, name)),
        _ => false,
    }
}
