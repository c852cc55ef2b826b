//! Envoy's RBAC, slow and obvious: the oracle for cases whose expectation is the RBAC filter that Istio generates.
//!
//! It reads the forms that Istio writes, in either spelling of field names, and refuses to guess at any other.

use std::net::IpAddr;

use ipnet::IpNet;
use sailcloth_core::config::Node;

use crate::yaml::{entries, items};

/// A request as RBAC sees it.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// `:method`
    pub method: String,
    /// Path without query.
    pub path: String,
    /// `:authority`
    pub host: String,
    /// The port connected to.
    pub port: u16,
    /// SPIFFE URI of the peer.
    pub peer: Option<String>,
    /// The TCP peer.
    pub source: Option<IpAddr>,
    /// The original client.
    pub remote: Option<IpAddr>,
    /// Issuer and subject of the verified token.
    pub token: Option<(String, String)>,
}

/// What cannot be decided here, by name.
pub type Unknown = String;

/// Whether a chain of RBAC filters lets a call through; shadow rules decide nothing.
///
/// # Errors
/// A form that this oracle does not know.
pub fn allows(filters: &[Node], call: &Call) -> Result<bool, Unknown> {
    for filter in filters {
        let Some(rules) =
            either(filter, "typedConfig", "typed_config").and_then(|config| config.field("rules"))
        else {
            continue;
        };
        let mut matched = false;
        for (_, policy) in entries(rules.field("policies")) {
            matched |= any(items(policy.field("permissions")), call)?
                && any(items(policy.field("principals")), call)?;
        }
        let passes = match rules.field("action").and_then(Node::text).unwrap_or("ALLOW") {
            "ALLOW" => matched,
            "DENY" => !matched,
            "LOG" => true,
            other => return Err(format!("action {other}")),
        };
        if !passes {
            return Ok(false);
        }
    }
    Ok(true)
}

fn any(rules: &[Node], call: &Call) -> Result<bool, Unknown> {
    rules.iter().try_fold(false, |found, rule| Ok(found | holds(rule, call)?))
}

fn all(rules: &[Node], call: &Call) -> Result<bool, Unknown> {
    rules.iter().try_fold(true, |found, rule| Ok(found & holds(rule, call)?))
}

/// Whether a permission or principal holds.
///
/// # Errors
/// A form that this oracle does not know.
pub fn holds(rule: &Node, call: &Call) -> Result<bool, Unknown> {
    let [(kind, value)] = entries(Some(rule)) else { return Err("a rule with several members".to_owned()) };
    match kind.replace('_', "").to_ascii_lowercase().as_str() {
        "any" => Ok(true),
        "andrules" | "andids" => all(members(value), call),
        "orrules" | "orids" => any(members(value), call),
        "notrule" | "notid" => Ok(!holds(value, call)?),
        "header" => header(value, call),
        "urlpath" => string(value.field("path"), Some(&call.path)),
        "destinationport" => Ok(matches!(value, Node::Integer(port) if *port == i64::from(call.port))),
        "directremoteip" | "sourceip" => contains(value, call.source),
        "remoteip" => contains(value, call.remote),
        "authenticated" => match either(value, "principalName", "principal_name") {
            Some(matcher) => string(Some(matcher), call.peer.as_deref()),
            None => Ok(call.peer.is_some()),
        },
        "filterstate" => {
            let key = value.field("key").and_then(Node::text).unwrap_or_default();
            if key != "io.istio.peer_principal" {
                return Err(format!("filter state {key}"));
            }
            string(either(value, "stringMatch", "string_match"), call.peer.as_deref())
        }
        "metadata" => metadata(value, call),
        other => Err(format!("RBAC rule {other}")),
    }
}

/// The inner list of `andRules: {rules: []}` or `andIds: {ids: []}`.
fn members(value: &Node) -> &[Node] {
    items(either(value, "rules", "ids"))
}

fn either<'n>(node: &'n Node, one: &str, other: &str) -> Option<&'n Node> {
    node.field(one).or_else(|| node.field(other))
}

fn header(value: &Node, call: &Call) -> Result<bool, Unknown> {
    let found = match value.field("name").and_then(Node::text).unwrap_or_default() {
        ":method" => &call.method,
        ":authority" => &call.host,
        ":path" => &call.path,
        other => return Err(format!("header {other}")),
    };
    if matches!(either(value, "presentMatch", "present_match"), Some(Node::Bool(true))) {
        return Ok(true);
    }
    string(either(value, "stringMatch", "string_match"), Some(found))
}

/// A `StringMatcher`; a value that is not there matches nothing.
///
/// # Errors
/// A form that this oracle does not know.
pub fn string(matcher: Option<&Node>, value: Option<&str>) -> Result<bool, Unknown> {
    let (Some(matcher), Some(value)) = (matcher, value) else { return Ok(false) };
    let ignore = matches!(either(matcher, "ignoreCase", "ignore_case"), Some(Node::Bool(true)));
    let fold = |text: &str| if ignore { text.to_ascii_lowercase() } else { text.to_owned() };
    let value = fold(value);
    for (kind, pattern) in entries(Some(matcher)) {
        let word = || pattern.text().map(fold).ok_or("a pattern that is no text");
        return match kind.as_str() {
            "exact" => Ok(value == word()?),
            "prefix" => Ok(value.starts_with(&word()?)),
            "suffix" => Ok(value.ends_with(&word()?)),
            "contains" => Ok(value.contains(&word()?)),
            "regex" => regex(&word()?, &value),
            "safeRegex" | "safe_regex" => {
                regex(pattern.field("regex").and_then(Node::text).ok_or("a regex without text")?, &value)
            }
            "ignoreCase" | "ignore_case" => continue,
            other => Err(format!("string matcher {other}")),
        };
    }
    Err("an empty string matcher".to_owned())
}

/// Envoy matches the whole value.
fn regex(pattern: &str, value: &str) -> Result<bool, Unknown> {
    let regex = regex::Regex::new(&format!("^(?s:{pattern})$")).map_err(|error| error.to_string())?;
    Ok(regex.is_match(value))
}

fn contains(range: &Node, address: Option<IpAddr>) -> Result<bool, Unknown> {
    let prefix = either(range, "addressPrefix", "address_prefix").and_then(Node::text);
    let length = match either(range, "prefixLen", "prefix_len") {
        Some(Node::Integer(length)) => u8::try_from(*length).ok(),
        None => Some(0),
        _ => None,
    };
    let net = prefix.zip(length).and_then(|(prefix, length)| IpNet::new(prefix.parse().ok()?, length).ok());
    let net = net.ok_or("an unreadable address range")?;
    Ok(address.is_some_and(|address| net.contains(&address)))
}

/// `iss` and `sub` of the token, as Istio's jwt filter publishes them.
fn metadata(value: &Node, call: &Call) -> Result<bool, Unknown> {
    let path: Vec<&str> =
        items(value.field("path")).iter().filter_map(|part| part.field("key")?.text()).collect();
    let token = call.token.as_ref();
    let found = match path.as_slice() {
        ["payload", "iss"] => token.map(|(issuer, _)| issuer.as_str()),
        ["payload", "sub"] => token.map(|(_, subject)| subject.as_str()),
        _ => return Err("metadata other than issuer and subject".to_owned()),
    };
    let matcher = value.field("value").and_then(|value| either(value, "stringMatch", "string_match"));
    if matcher.is_none() {
        return Err("metadata compared with something else than a string".to_owned());
    }
    string(matcher, found)
}

/// Every literal text of a tree: what a generator of calls mixes.
pub fn literals(node: &Node, out: &mut Vec<String>) {
    match node {
        Node::Text(text) => out.push(text.clone()),
        Node::List(list) => list.iter().for_each(|item| literals(item, out)),
        Node::Map(entries) => entries.iter().for_each(|(_, value)| literals(value, out)),
        _ => {}
    }
}
