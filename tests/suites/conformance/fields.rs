//! The field tables of the READMEs: complete by Istio's schema, and true by what the filter answers.

use sailcloth_core::config::Node;
use sailcloth_tests::conformance::{Verdict, api_of, ask, document, folder};
use sailcloth_tests::corpus::root;
use sailcloth_tests::field_table::{Claim, claims, fields};
use sailcloth_tests::report::Report;
use sailcloth_tests::yaml;

#[test]
fn the_table_of_telemetry_is_complete_and_true() {
    check("Telemetry", "metrics", |field| {
        let mode = "match: {mode: SERVER}";
        let provider = "providers: [{name: prometheus}]";
        Some(match field {
            "selector" | "selector.matchLabels" => "{selector: {matchLabels: {app: a}}}".to_owned(),
            "targetRef.namespace" => {
                "{targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: a, namespace: b}}"
                    .to_owned()
            }
            "targetRefs[].namespace" => {
                "{targetRefs: [{group: '', kind: Service, name: a, namespace: b}]}".to_owned()
            }
            field if field.starts_with("targetRefs") => {
                "{targetRefs: [{group: '', kind: Service, name: a}]}".to_owned()
            }
            field if field.starts_with("targetRef") => {
                "{targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: a}}".to_owned()
            }
            "metrics[].overrides[].match.customMetric" => {
                "{metrics: [{overrides: [{match: {customMetric: a}}]}]}".to_owned()
            }
            field if field.starts_with("metrics") => format!(
                "{{metrics: [{{{provider}, reportingInterval: 5s, overrides: [{{match: {{metric: REQUEST_COUNT, mode: SERVER}}, \
                 disabled: false, tagOverrides: {{a: {{value: request.method}}}}}}]}}]}}"
            ),
            field if field.starts_with("tracing") => format!(
                "{{tracing: [{{{mode}, {provider}, randomSamplingPercentage: 5.5, customTags: {{a: {{literal: {{value: b}}}}}}, \
                 disableSpanReporting: false, enableIstioTags: true, useRequestIdForTraceSampling: true, disableContextPropagation: false}}]}}"
            ),
            field if field.starts_with("accessLogging") => format!(
                "{{accessLogging: [{{{mode}, {provider}, disabled: false, filter: {{expression: response.code >= 400}}}}]}}"
            ),
            _ => return None,
        })
    });
}

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

#[test]
fn the_table_of_virtual_service_is_complete_and_true() {
    check("VirtualService", "routing", |field| {
        let rule = |more: String| format!("{{hosts: [a.example], http: [{{route: [{TO}], {more}}}]}}");
        let Some(rest) = field.strip_prefix("http[].") else {
            return Some(match field {
                "hosts" | "http" => rule("name: a".to_owned()),
                "gateways" => format!("{{hosts: [a.example], gateways: [g], http: [{{route: [{TO}]}}]}}"),
                "exportTo" => format!("{{hosts: [a.example], exportTo: ['.'], http: [{{route: [{TO}]}}]}}"),
                _ => other_protocol(field)?,
            });
        };
        let own = |action: &str| format!("{{hosts: [a.example], http: [{{{action}}}]}}");
        let (part, inner) = rest.split_once('.').unwrap_or((rest, ""));
        Some(match part.trim_end_matches("[]") {
            "name" => rule("name: a".to_owned()),
            "timeout" => rule("timeout: 5s".to_owned()),
            "match" => rule(format!("match: [{{{}}}]", match_sample(inner)?)),
            "route" => match inner.strip_prefix("headers") {
                Some(_) => own(&format!("route: [{{destination: {{host: b.example}}, {HEADERS}}}]")),
                None => own("route: [{destination: {host: b.example, subset: v1, port: {number: 80}}, weight: 1}]"),
            },
            "headers" => rule(HEADERS.to_owned()),
            "rewrite" if inner.starts_with("uriRegexRewrite") => {
                rule("rewrite: {uriRegexRewrite: {match: '/(a)', rewrite: '/\\1'}}".to_owned())
            }
            "rewrite" => rule("rewrite: {uri: /b, authority: b.example}".to_owned()),
            "redirect" => own(match inner {
                "derivePort" => "redirect: {derivePort: FROM_REQUEST_PORT}",
                "prefixRewrite" => "redirect: {prefixRewrite: /b}",
                _ => "redirect: {uri: /b, authority: b.example, scheme: https, port: 8443, redirectCode: 308}",
            }),
            "directResponse" if inner.ends_with("bytes") => own("directResponse: {status: 200, body: {bytes: aGk=}}"),
            "directResponse" => own("directResponse: {status: 200, body: {string: hi}}"),
            "delegate" => own("delegate: {name: b, namespace: default}"),
            "retries" => rule(match inner {
                "backoff" => "retries: {attempts: 1, backoff: 10ms}".to_owned(),
                "retryRemoteLocalities" => "retries: {attempts: 1, retryRemoteLocalities: true}".to_owned(),
                "retryIgnorePreviousHosts" => "retries: {attempts: 1, retryIgnorePreviousHosts: false}".to_owned(),
                _ => "retries: {attempts: 1, perTryTimeout: 1s, retryOn: 5xx}".to_owned(),
            }),
            "fault" => rule(format!("fault: {{{}}}", fault_sample(inner))),
            "mirror" => rule("mirror: {host: b.example, subset: v1, port: {number: 80}}".to_owned()),
            "mirrorPercentage" => rule("mirror: {host: b.example}, mirrorPercentage: {value: 5}".to_owned()),
            "mirrorPercent" => rule("mirror: {host: b.example}, mirrorPercent: 5".to_owned()),
            "mirrors" => rule(
                "mirrors: [{destination: {host: b.example, subset: v1, port: {number: 80}}, percentage: {value: 5}}]"
                    .to_owned(),
            ),
            "corsPolicy" => rule(format!(
                "corsPolicy: {{allowOrigin: [a], allowOrigins: [{{exact: a}}, {{prefix: a}}, {{regex: a}}], allowMethods: [GET], \
                 allowHeaders: [x-a], exposeHeaders: [x-a], maxAge: 5s, allowCredentials: true, unmatchedPreflights: {}}}",
                "IGNORE"
            )),
            _ => return None,
        })
    });
}

const TO: &str = "{destination: {host: b.example}}";
const HEADERS: &str = "headers: {request: {set: {x-a: a}, add: {x-b: b}, remove: [x-c]}, \
                       response: {set: {x-a: a}, add: {x-b: b}, remove: [x-c]}}";

fn match_sample(field: &str) -> Option<String> {
    let (name, kind) = field.split_once('.').unwrap_or((field, "exact"));
    Some(match name {
        "" | "name" => "name: a".to_owned(),
        "uri" | "scheme" | "method" | "authority" => format!("{name}: {{{kind}: /a}}"),
        "headers" | "withoutHeaders" | "queryParams" => format!("{name}: {{x-a: {{exact: a}}}}"),
        "ignoreUriCase" => "uri: {exact: /a}, ignoreUriCase: true".to_owned(),
        "port" => "port: 80".to_owned(),
        "gateways" => "gateways: [mesh]".to_owned(),
        "sourceLabels" => "sourceLabels: {app: a}".to_owned(),
        "sourceNamespace" | "statPrefix" => format!("{name}: a"),
        _ => return None,
    })
}

fn fault_sample(field: &str) -> &'static str {
    match field {
        "delay.exponentialDelay" => "delay: {exponentialDelay: 1s, percentage: {value: 5}}",
        "delay.percent" => "delay: {fixedDelay: 1s, percent: 5}",
        "abort.grpcStatus" => "abort: {grpcStatus: UNAVAILABLE, percentage: {value: 5}}",
        "abort.http2Error" => "abort: {http2Error: a, percentage: {value: 5}}",
        field if field.starts_with("abort") => "abort: {httpStatus: 503, percentage: {value: 5}}",
        _ => "delay: {fixedDelay: 1s, percentage: {value: 5}}",
    }
}

/// `tls` and `tcp`, with everything that they may say.
fn other_protocol(field: &str) -> Option<String> {
    let asked = "destinationSubnets: [10.0.0.0/8], gateways: [mesh], port: 80, sourceLabels: {app: a}, sourceNamespace: a";
    let sent = "route: [{destination: {host: b.example, subset: v1, port: {number: 80}}, weight: 1}]";
    let (protocol, more) = match field.split_once('[').map_or(field, |(name, _)| name) {
        "tls" => ("tls", "sniHosts: [a.example]"),
        "tcp" => ("tcp", "sourceSubnet: 10.0.0.0/8"),
        _ => return None,
    };
    Some(format!("{{hosts: [a.example], {protocol}: [{{match: [{{{asked}, {more}}}], {sent}}}]}}"))
}

#[test]
fn the_table_of_authorization_policy_is_complete_and_true() {
    check("AuthorizationPolicy", "authz", |field| {
        let gateway = |more: &str| {
            format!("{{targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: a{more}}}}}")
        };
        let service = |more: &str| format!("{{targetRefs: [{{group: '', kind: Service, name: a{more}}}]}}");
        if let Some(name) = field.strip_prefix("rules[].from[].source.") {
            let value = match name {
                name if name.to_ascii_lowercase().contains("ipblocks") => "10.0.0.0/8",
                _ => "a",
            };
            return Some(format!("{{rules: [{{from: [{{source: {{{name}: [{value}]}}}}]}}]}}"));
        }
        if let Some(name) = field.strip_prefix("rules[].to[].operation.") {
            let value = if name.to_ascii_lowercase().contains("ports") { "'80'" } else { "/a" };
            return Some(format!("{{rules: [{{to: [{{operation: {{{name}: [{value}]}}}}]}}]}}"));
        }
        Some(match field {
            "selector" => "{selector: {}}".to_owned(),
            "selector.matchLabels" => "{selector: {matchLabels: {app: a}}}".to_owned(),
            "targetRef.namespace" => gateway(", namespace: b"),
            field if field.starts_with("targetRef.") || field == "targetRef" => gateway(""),
            "targetRefs[].namespace" => service(", namespace: b"),
            field if field.starts_with("targetRefs") => service(""),
            "action" => "{action: AUDIT, rules: [{}]}".to_owned(),
            "provider" | "provider.name" => "{action: CUSTOM, provider: {name: p}, rules: [{}]}".to_owned(),
            "rules" => "{rules: [{}]}".to_owned(),
            "rules[].from" | "rules[].from[].source" => {
                "{rules: [{from: [{source: {principals: [a]}}]}]}".to_owned()
            }
            "rules[].to" | "rules[].to[].operation" => {
                "{rules: [{to: [{operation: {paths: [a]}}]}]}".to_owned()
            }
            "rules[].when" | "rules[].when[].key" | "rules[].when[].values" | "rules[].when[].notValues" => {
                "{rules: [{when: [{key: connection.sni, values: [a], notValues: [b]}]}]}".to_owned()
            }
            _ => return None,
        })
    });
}

#[test]
fn the_table_of_when_keys_is_true() {
    let readme = std::fs::read_to_string(root().join("filters/authz/README.md")).unwrap();
    let mut report = Report::new("keys of `when` in filters/authz/README.md");
    for (key, value) in [
        ("request.headers[name]", "a"),
        ("source.ip", "10.0.0.1"),
        ("remote.ip", "10.0.0.1"),
        ("source.principal", "a"),
        ("source.namespace", "a"),
        ("source.serviceAccount", "a"),
        ("source.trustDomain", "a"),
        ("request.auth.principal", "a"),
        ("request.auth.audiences", "a"),
        ("request.auth.presenter", "a"),
        ("request.auth.claims[a][b]", "a"),
        ("destination.ip", "10.0.0.1"),
        ("destination.port", "80"),
        ("connection.sni", "a"),
        ("experimental.envoy.filters.a[key]", "a"),
    ] {
        let sample = format!("{{rules: [{{when: [{{key: '{key}', values: ['{value}']}}]}}]}}");
        // The key is a value of the sample, not a name in it.
        let said = claims(&readme, key);
        let found = differences("AuthorizationPolicy", "rules[].when[].key", &said, Some(sample));
        report.ran(key, &found);
    }
    report.finish();
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
