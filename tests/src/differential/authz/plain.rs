//! AuthorizationPolicy, slow and obvious: what a configuration decides about a request, read off `istio-api.md` section 2.
//!
//! Nothing of the engine is used here, and nothing is prepared: every question walks the documents again, as a person
//! with the page in hand would. It understands valid documents only.

use std::net::IpAddr;

use sailcloth_core::config::Node;

use super::ask::Ask;
use crate::yaml::{at, entries, items};

/// What must come of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is let through.
    pub allowed: bool,
    /// The rules that say so (`ns/name#rule`): any of them may be named as the reason. None: no rule matched.
    pub by: Vec<String>,
}

/// Section 2.1: DENY first, then ALLOW, where the presence of an ALLOW policy turns the default round.
#[must_use]
pub fn decide(configuration: &Node, ask: &Ask) -> Answer {
    let ours = trust_domains(configuration);
    let (mut denies, mut allows, mut has_allow_policy) = (Vec::new(), Vec::new(), false);
    for policy in in_force(configuration) {
        let metadata = |key| at(policy, &["metadata", key]).and_then(Node::text);
        let (name, namespace) =
            (metadata("name").unwrap_or_default(), metadata("namespace").unwrap_or("default"));
        let action = at(policy, &["spec", "action"]).and_then(Node::text).unwrap_or("ALLOW");
        has_allow_policy |= action == "ALLOW";
        for (index, rule) in items(at(policy, &["spec", "rules"])).iter().enumerate() {
            if rule_matches(rule, namespace, &ours, ask) {
                let by = format!("{namespace}/{name}#{index}");
                match action {
                    "ALLOW" => allows.push(by),
                    "DENY" => denies.push(by),
                    "AUDIT" => {}
                    other => panic!("the plain evaluator does not know action {other}"),
                }
            }
        }
    }
    if !denies.is_empty() {
        return Answer { allowed: false, by: denies };
    }
    Answer { allowed: !has_allow_policy || !allows.is_empty(), by: allows }
}

/// The trust domains that are ours: the workload's, then its aliases.
#[must_use]
pub fn trust_domains(configuration: &Node) -> Vec<&str> {
    let own = at(configuration, &["workload", "trustDomain"]).and_then(Node::text).unwrap_or("cluster.local");
    let aliases = items(at(configuration, &["settings", "trustDomainAliases"]));
    std::iter::once(own).chain(aliases.iter().filter_map(Node::text)).collect()
}

/// The policies that decide.
#[must_use]
pub fn in_force(configuration: &Node) -> Vec<&Node> {
    let all = items(configuration.field("resources")).iter();
    all.filter(|policy| applies(policy, configuration) && !is_shadow(policy)).collect()
}

/// Section 1.3. Without a workload everything applies.
fn applies(policy: &Node, configuration: &Node) -> bool {
    let Some(workload) = configuration.field("workload") else { return true };
    let root =
        at(configuration, &["settings", "rootNamespace"]).and_then(Node::text).unwrap_or("istio-system");
    let namespace = at(policy, &["metadata", "namespace"]).and_then(Node::text).unwrap_or("default");
    if namespace != root && Some(namespace) != workload.field("namespace").and_then(Node::text) {
        return false;
    }
    entries(at(policy, &["spec", "selector", "matchLabels"]))
        .iter()
        .all(|(key, value)| at(workload, &["labels", key]) == Some(value))
}

/// Section 2.1: a dry run is never enforced, and does not turn the default round.
fn is_shadow(policy: &Node) -> bool {
    let annotation = |key| at(policy, &["metadata", "annotations", key]).and_then(Node::text);
    annotation("istio.io/dry-run") == Some("true") || annotation("sailcloth.dev/mode") == Some("shadow")
}

/// Section 2.3.
fn rule_matches(rule: &Node, namespace: &str, ours: &[&str], ask: &Ask) -> bool {
    let alternatives = |list: &str, inner: &str, key_of: &dyn Fn(&str) -> Option<String>| -> bool {
        let Some(list) = rule.field(list) else { return true };
        items(Some(list)).iter().any(|entry| {
            entries(entry.field(inner)).iter().all(|(field, values)| {
                let (negated, plain) = match field.strip_prefix("not") {
                    Some(rest) => (true, rest[..1].to_ascii_lowercase() + &rest[1..]),
                    None => (false, field.clone()),
                };
                let key = key_of(&plain).unwrap_or_else(|| panic!("no field {field}"));
                let values = items(Some(values));
                let found = values.iter().any(|value| holds(&key, word(value), namespace, ours, ask));
                values.is_empty() || found != negated
            })
        })
    };
    let source_key = |field: &str| {
        let key = match field {
            "principals" => "source.principal",
            "requestPrincipals" => "request.auth.principal",
            "namespaces" => "source.namespace",
            "serviceAccounts" => "source.serviceAccount",
            "trustDomains" => "source.trustDomain",
            "ipBlocks" => "source.ip",
            "remoteIpBlocks" => "remote.ip",
            _ => return None,
        };
        Some(key.to_owned())
    };
    let operation_key = |field: &str| {
        let key = match field {
            "hosts" => "host",
            "ports" => "destination.port",
            "methods" => "method",
            "paths" => "path",
            _ => return None,
        };
        Some(key.to_owned())
    };
    let conditions = || {
        items(rule.field("when")).iter().all(|condition| {
            let key = condition.field("key").map(word).unwrap_or_default();
            let any = |list: &str| {
                let values = items(condition.field(list));
                (values.len(), values.iter().any(|value| holds(key, word(value), namespace, ours, ask)))
            };
            let ((values, matches), (_, excluded)) = (any("values"), any("notValues"));
            (values == 0 || matches) && !excluded
        })
    };
    alternatives("from", "source", &source_key)
        && alternatives("to", "operation", &operation_key)
        && conditions()
}

fn word(value: &Node) -> &str {
    value.text().expect("a policy's values are strings")
}

/// Sections 2.5, 2.7 and 2.9: whether one value of an attribute matches. `host`, `method` and `path` are this file's own
/// names for what has no `when` key.
fn holds(key: &str, value: &str, namespace: &str, ours: &[&str], ask: &Ask) -> bool {
    let identity = ask.peer.as_deref();
    match key {
        "host" => header_like(&value.to_ascii_lowercase(), ask.host.to_ascii_lowercase().as_bytes()),
        "method" => header_like(value, ask.method.as_bytes()),
        "path" => {
            let path = ask.target.split(['?', '#']).next().unwrap_or_default();
            if value.contains("{*}") || value.contains("{**}") {
                template(value, path)
            } else {
                other(value, Some(path))
            }
        }
        "destination.port" => value.parse() == Ok(ask.port),
        "destination.ip" => in_block(value, ask.destination),
        "source.ip" => in_block(value, ask.source),
        "remote.ip" => in_block(value, ask.remote()),
        "connection.sni" => other(value, ask.sni.as_deref()),
        "source.principal" => {
            aliases_of(value, ours).iter().any(|value| principal(value, identity.unwrap_or_default()))
        }
        "source.namespace" => {
            segments(identity).windows(3).any(|parts| parts[0] == "ns" && glob(value, parts[1]))
        }
        "source.trustDomain" => {
            let parts = segments(identity);
            // One of ours stands for all of ours.
            let values = if ours.contains(&value) { ours } else { &[value] };
            // "spiffe:", "", trust domain, rest
            parts.len() > 3 && parts[0] == "spiffe:" && values.iter().any(|value| glob(value, parts[2]))
        }
        "source.serviceAccount" => service_account(value, namespace, &segments(identity)),
        "request.auth.principal" => request_principal(value, ask.token.as_ref()),
        "request.auth.audiences" => claim(value, &["aud"], ask.token.as_ref()),
        "request.auth.presenter" => claim(value, &["azp"], ask.token.as_ref()),
        _ => {
            if let Some(name) = key.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']')) {
                // Each value of a repeated header alone: since the fix of its `rbac` Envoy no longer joins them.
                return ask.header(name).iter().any(|found| header_like(value, found));
            }
            let Some(path) = key.strip_prefix("request.auth.claims[").and_then(|rest| rest.strip_suffix(']'))
            else {
                panic!("the plain evaluator does not know `{key}`")
            };
            claim(value, &path.split("][").collect::<Vec<_>>(), ask.token.as_ref())
        }
    }
}

/// Section 2.4, the first column: `*` is "the header exists", an empty one included.
fn header_like(pattern: &str, value: &[u8]) -> bool {
    pattern == "*" || forms(pattern, value)
}

/// Section 2.4, the second column: `*` is "not empty".
fn other(pattern: &str, value: Option<&str>) -> bool {
    let Some(value) = value else { return false };
    if pattern == "*" { !value.is_empty() } else { forms(pattern, value.as_bytes()) }
}

fn forms(pattern: &str, value: &[u8]) -> bool {
    if let Some(suffix) = pattern.strip_prefix('*') {
        value.ends_with(suffix.as_bytes())
    } else if let Some(prefix) = pattern.strip_suffix('*') {
        value.starts_with(prefix.as_bytes())
    } else {
        value == pattern.as_bytes()
    }
}

/// Section 2.5: the value is the identity without its scheme; `*` is anybody.
fn principal(pattern: &str, identity: &str) -> bool {
    if pattern == "*" {
        return !identity.is_empty();
    }
    identity.strip_prefix("spiffe://").is_some_and(|identity| forms(pattern, identity.as_bytes()))
}

/// Section 2.11: a principal of a trust domain of ours means that of all our trust domains.
fn aliases_of(pattern: &str, ours: &[&str]) -> Vec<String> {
    let kept = vec![pattern.to_owned()];
    let Some((domain, rest)) = pattern.split_once('/') else { return kept };
    if pattern.split('/').count() != 5 || domain == "*" {
        return kept;
    }
    if domain != "cluster.local" && !ours.iter().any(|own| forms(domain, own.as_bytes())) {
        return kept;
    }
    let other_domain = |own: &&str| {
        if domain.starts_with('*') && forms(domain, own.as_bytes()) {
            pattern.to_owned()
        } else {
            format!("{own}/{rest}")
        }
    };
    ours.iter().map(other_domain).collect()
}

fn segments(identity: Option<&str>) -> Vec<&str> {
    identity.map(|identity| identity.split('/').collect()).unwrap_or_default()
}

/// `*` anywhere in the pattern is any text within one segment.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|cut| rest.is_char_boundary(cut) && glob(tail, &rest[cut..]))
        }),
    }
}

/// Section 2.5: namespace and name as whole segments, in this order, with whatever between and after.
fn service_account(value: &str, namespace: &str, parts: &[&str]) -> bool {
    let (namespace, name) = value.split_once('/').unwrap_or((namespace, value));
    let is = |at: usize, wanted: [&str; 2]| parts.get(at..at + 2) == Some(&wanted[..]);
    parts.first() == Some(&"spiffe:")
        && (3..parts.len())
            .any(|at| is(at, ["ns", namespace]) && (at + 2..parts.len()).any(|at| is(at, ["sa", name])))
}

/// A bare address is a block of itself; host bits do not count; the families are apart.
fn in_block(block: &str, address: IpAddr) -> bool {
    let (base, length) = match block.split_once('/') {
        Some((base, length)) => (base, Some(length.parse::<u32>().expect("a prefix length"))),
        None => (block, None),
    };
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let ((base, width), (address, other)) = (bits(base.parse().expect("an address")), bits(address));
    let free = width - length.unwrap_or(width);
    width == other && (free == 128 || base >> free == address >> free)
}

/// Section 2.6, row by row.
fn request_principal(value: &str, token: Option<&Node>) -> bool {
    let text = |name: &str| token.and_then(|token| token.field(name)).and_then(Node::text);
    let (Some(issuer), Some(subject)) = (text("iss"), text("sub")) else { return false };
    let part = |pattern: &str, value: &str| other(pattern, Some(value));
    if value == "*" {
        return part("*", issuer) && part("*", subject);
    }
    match value.rsplit_once('/') {
        Some((first, second)) => part(first, issuer) && part(second, subject),
        None if value.starts_with('*') => part("*", issuer) && part(value, subject),
        None if value.ends_with('*') => part(value, issuer) && part("*", subject),
        None => issuer == value && subject.is_empty(),
    }
}

/// Section 2.9: a string that matches, or a list with such a string in it.
fn claim(pattern: &str, path: &[&str], token: Option<&Node>) -> bool {
    let Some(found) = token.and_then(|token| at(token, path)) else { return false };
    match found {
        Node::Text(text) if matches!(path, ["scope" | "permission"]) => {
            text.split(' ').filter(|word| !word.is_empty()).any(|word| other(pattern, Some(word)))
        }
        Node::Text(text) => other(pattern, Some(text)),
        Node::List(list) => list.iter().any(|item| other(pattern, item.text())),
        _ => false,
    }
}

/// Section 2.8, by trying every way.
fn template(pattern: &str, path: &str) -> bool {
    let may_vary = |c: char| c.is_ascii_alphanumeric() || "-._~%!$&'()+,;:@=*".contains(c);
    if let Some(rest) = pattern.strip_prefix("{**}") {
        let reach = path.find(|c| c != '/' && !may_vary(c)).unwrap_or(path.len());
        return (0..=reach).any(|cut| template(rest, &path[cut..]));
    }
    if let Some(rest) = pattern.strip_prefix("{*}") {
        let reach = path.find(|c| !may_vary(c)).unwrap_or(path.len());
        return (1..=reach).any(|cut| template(rest, &path[cut..]));
    }
    match (pattern.chars().next(), path.chars().next()) {
        (None, None) => true,
        (Some(want), Some(have)) if want == have => {
            template(&pattern[want.len_utf8()..], &path[have.len_utf8()..])
        }
        _ => false,
    }
}
