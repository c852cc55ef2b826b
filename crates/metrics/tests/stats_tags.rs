//! The snippet that makes Prometheus labels of our tags, and its copies.
#![cfg(not(target_family = "wasm"))]

use sailcloth_metrics::LABELS;

const SNIPPET: &str = include_str!("../../../observability/stats-tags.yaml");
const METRICS: &str = include_str!("../../../envoy/metrics.yaml");

fn tags(yaml: &str) -> Vec<&str> {
    yaml.lines().map(str::trim).filter(|line| line.starts_with("- {tag_name: ")).collect()
}

fn line(label: &str) -> String {
    format!(r#"- {{tag_name: {label}, regex: "(;\\.;{label}=\\.=([^;]*))"}}"#)
}

#[test]
fn every_label_has_a_tag() {
    let tags = tags(SNIPPET);
    for label in LABELS {
        assert!(tags.contains(&line(label).as_str()), "{label} is missing in observability/stats-tags.yaml");
    }
    for label in [
        "filter", "version", "hash", "kind", "policy", "rule", "outcome", "reason", "arm", "issuer",
        "metric", "budget", "le",
    ] {
        assert!(tags.contains(&line(label).as_str()), "{label} is missing in observability/stats-tags.yaml");
    }
}

#[test]
fn the_shipped_configuration_has_the_same_tags() {
    assert_eq!(tags(METRICS), tags(SNIPPET));
}

#[test]
fn the_snippets_for_istio_and_envoy_gateway_have_the_same_tags() {
    let all = tags(SNIPPET);
    assert_eq!(tags(include_str!("../../../observability/stats-tags-gateway.yaml")), all);
    let own: Vec<&str> =
        all.iter().copied().filter(|tag| !LABELS.iter().any(|label| *tag == line(label))).collect();
    assert_eq!(tags(include_str!("../../../observability/stats-tags-istio.yaml")), own);
}
