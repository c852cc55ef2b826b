//! Is a document valid?

use std::path::Path;

use sailcloth_core::config::Node;
use sailcloth_resources::host_name::is_ip;

use crate::common::{
    Setup, Tally, cases, delegates, document, folder, is_true, map, route, spec_of, text, unsupported,
    without_kind, word,
};

const NAMESPACE: &str = "echo1";

fn load(namespace: &str, spec: Node) -> Result<(), Vec<String>> {
    let mut documents = delegates(namespace, &spec);
    documents.push(document(namespace, "default", spec));
    Setup::new().workload(vec![("namespace", word(namespace))]).load(documents).map(drop)
}

fn validate(tally: &mut Tally, case: &Node, spec: Node, valid: bool) {
    let http = spec.field("http").is_some();
    let is_delegate = !matches!(spec.field("hosts"), Some(Node::List(hosts)) if !hosts.is_empty());
    let other = ["tls", "tcp"].into_iter().find(|protocol| spec.field(protocol).is_some());
    if let Some(protocol) = other.filter(|_| !http && !is_delegate) {
        return tally.skip(format!("rules for {protocol}, which no HTTP filter sees"));
    }
    let outcome = load(NAMESPACE, spec);
    if let Err(problems) = &outcome
        && let Some(why) = unsupported(problems)
    {
        return tally.skip(why);
    }
    tally.check(case, outcome.is_ok() == valid, || format!("valid: {valid}, found {:?}", outcome.err()));
}

/// A rule in which a part of it is what the table says; nothing where the part is absent.
fn part(tally: &mut Tally, folder: &Path, table: &str, key: &str, rule: impl Fn(Node) -> Node) {
    for case in cases(folder, &format!("istio/cases/validation/{table}")) {
        let given = case.field(key).filter(|node| !matches!(node, Node::Null)).map(repeated);
        let Some(given) = given else {
            tally.skip("a part that is absent, which is always valid");
            continue;
        };
        validate(tally, &case, spec_of(rule(given)), is_true(&case, "valid"));
    }
}

/// `$repeat` is a long text; bytes are base64 in a document.
fn repeated(node: &Node) -> Node {
    match node {
        Node::Map(entries) => {
            let long = |value: &Node| {
                let repeat = value.field("$repeat")?;
                let count = usize::try_from(crate::common::integer(repeat, "count")?).ok()?;
                Some(text(repeat, "text")?.repeat(count))
            };
            let read = entries.iter().map(|(key, value)| {
                let bytes =
                    long(value).or_else(|| value.text().map(str::to_owned)).filter(|_| key == "bytes");
                let value = match (bytes, long(value)) {
                    (Some(bytes), _) => word(&base64(bytes.as_bytes())),
                    (None, Some(long)) => word(&long),
                    (None, None) => repeated(value),
                };
                (key.clone(), value)
            });
            Node::Map(read.collect())
        }
        Node::List(items) => Node::List(items.iter().map(repeated).collect()),
        other => other.clone(),
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            out.push(char::from(LETTERS[usize::try_from(group >> (18 - 6 * place) & 63).unwrap()]));
        }
    }
    out
}

#[test]
fn istios_validation_tables() {
    let Some(folder) = folder() else { return };
    let mut tally = Tally::default();
    let table = |name: &str| cases(&folder, &format!("istio/cases/validation/{name}"));
    for name in ["TestValidateVirtualService", "TestValidateChainingVirtualService"] {
        for case in table(name) {
            validate(&mut tally, &case, without_kind(case.field("in").unwrap()), is_true(&case, "valid"));
        }
    }
    for name in ["TestValidateHTTPRoute", "TestValidateRootHTTPRoute"] {
        for case in table(name) {
            validate(
                &mut tally,
                &case,
                spec_of(case.field("route").unwrap().clone()),
                is_true(&case, "valid"),
            );
        }
    }
    for case in table("TestValidateDelegateHTTPRoute") {
        let spec = map(vec![("http", Node::List(vec![case.field("route").unwrap().clone()]))]);
        validate(&mut tally, &case, spec, is_true(&case, "valid"));
    }
    let field = |name: &'static str| move |given: Node| route(vec![(name, given)]);
    let fault = |name: &'static str| move |given: Node| route(vec![("fault", map(vec![(name, given)]))]);
    part(&mut tally, &folder, "TestValidateHTTPRetry", "in", field("retries"));
    part(&mut tally, &folder, "TestValidateHTTPRewrite", "in", field("rewrite"));
    part(&mut tally, &folder, "TestValidateCORSPolicy", "in", field("corsPolicy"));
    part(&mut tally, &folder, "TestValidateHTTPFaultInjectionAbort", "in", fault("abort"));
    part(&mut tally, &folder, "TestValidateHTTPFaultInjectionDelay", "in", fault("delay"));
    part(&mut tally, &folder, "TestValidateUriRegexRewrite", "in", |given| {
        route(vec![("rewrite", map(vec![("uriRegexRewrite", given)]))])
    });
    part(&mut tally, &folder, "TestValidateHTTPDirectResponse", "directResponse", |given| {
        map(vec![("directResponse", given)])
    });
    part(&mut tally, &folder, "TestValidateHTTPRedirect", "redirect", |given| map(vec![("redirect", given)]));
    part(&mut tally, &folder, "TestValidateHTTPStatus", "in", |given| {
        let abort = map(vec![("httpStatus", given), ("percentage", map(vec![("value", Node::Integer(1))]))]);
        route(vec![("fault", map(vec![("abort", abort)]))])
    });
    part(&mut tally, &folder, "TestValidateDestination", "destination", |given| {
        map(vec![("route", Node::List(vec![map(vec![("destination", given)])]))])
    });
    part(&mut tally, &folder, "TestValidateRouteDestination", "routes", |given| map(vec![("route", given)]));
    for case in table("TestValidateHTTPHeaderName") {
        let headers = map(vec![(text(&case, "name").unwrap_or_default(), map(vec![("exact", word("a"))]))]);
        let matches = Node::List(vec![map(vec![("headers", headers)])]);
        validate(&mut tally, &case, spec_of(route(vec![("match", matches)])), is_true(&case, "valid"));
    }
    for case in table("TestValidateHTTPHeaderValue") {
        let set = map(vec![("x-name", word(text(&case, "input").unwrap_or_default()))]);
        let headers = map(vec![("request", map(vec![("set", set)]))]);
        let valid = text(&case, "expected").is_none();
        validate(&mut tally, &case, spec_of(route(vec![("headers", headers)])), valid);
    }
    for case in table("TestValidateDuration") {
        let timeout = case.field("duration").unwrap().clone();
        validate(&mut tally, &case, spec_of(route(vec![("timeout", timeout)])), is_true(&case, "isValid"));
    }
    validate_hosts(&mut tally, &table);
    tally.finish("istio/cases/validation, VirtualService");
}

fn validate_hosts(tally: &mut Tally, table: &impl Fn(&str) -> Vec<Node>) {
    let bound = |host: &str| {
        map(vec![
            ("hosts", Node::List(vec![word(host)])),
            ("gateways", Node::List(vec![word("gateway")])),
            ("http", Node::List(vec![route(vec![])])),
        ])
    };
    for case in table("TestValidateFQDN") {
        validate(tally, &case, bound(text(&case, "fqdn").unwrap_or_default()), is_true(&case, "valid"));
    }
    for name in ["TestValidateWildcardDomain", "TestValidateWildcardDomainForVirtualServiceBoundToGateway"] {
        for case in table(name) {
            if is_true(&case, "sni") {
                tally.skip("a host that stands for TLS server names, which `tls` rules have");
                continue;
            }
            if is_ip(text(&case, "in").unwrap_or_default()) {
                tally.skip("an IP address, which a VirtualService may have although it is no domain");
                continue;
            }
            let valid = text(&case, "out").is_none_or(str::is_empty);
            validate(tally, &case, bound(text(&case, "in").unwrap_or_default()), valid);
        }
    }
    for case in table("Test_validateExportTo") {
        if is_true(&case, "isServiceEntry") || is_true(&case, "isDestinationRuleWithSelector") {
            tally.skip("rules of `exportTo` for other kinds");
            continue;
        }
        let Node::Map(mut spec) = spec_of(route(vec![])) else { panic!("not a map") };
        spec.push(("exportTo".to_owned(), case.field("exportTo").unwrap().clone()));
        let outcome = load(text(&case, "namespace").unwrap_or_default(), Node::Map(spec));
        let valid = !is_true(&case, "wantErr");
        tally.check(&case, outcome.is_ok() == valid, || format!("found {:?}", outcome.err()));
    }
}
