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
    /// More claims of the token.
    pub claims: Vec<(String, Node)>,
    /// Other request headers.
    pub headers: Vec<(String, String)>,
    /// The address connected to.
    pub destination: Option<IpAddr>,
    /// The server name that TLS asked for; empty on plaintext.
    pub sni: String,
}

impl Call {
    /// All claims of the token; none where there is no token.
    #[must_use]
    pub fn payload(&self) -> Option<Node> {
        let (issuer, subject) = self.token.as_ref()?;
        let own = [("iss", issuer), ("sub", subject)]
            .map(|(name, text)| (name.to_owned(), Node::Text(text.clone())));
        Some(Node::Map(own.into_iter().chain(self.claims.iter().cloned()).collect()))
    }
}

/// What cannot be decided here, by name.
pub type Unknown = String;

/// Whether a chain of RBAC filters lets a call through. Shadow rules decide nothing, but those by which Istio chooses whom
/// an external provider is asked about: the provider of the tests denies them all.
///
/// # Errors
/// A form that this oracle does not know.
pub fn allows(filters: &[Node], call: &Call) -> Result<bool, Unknown> {
    for filter in filters {
        let Some(config) = either(filter, "typedConfig", "typed_config") else { continue };
        let prefix = either(config, "shadowRulesStatPrefix", "shadow_rules_stat_prefix");
        let asks = prefix.and_then(Node::text).is_some_and(|prefix| prefix.starts_with("istio_ext_authz"));
        let custom = if asks { either(config, "shadowRules", "shadow_rules") } else { None };
        let Some(rules) = custom.or_else(|| config.field("rules")) else { continue };
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
        "destinationip" => contains(value, call.destination),
        "requestedservername" => string(Some(value), Some(&call.sni)),
        "uritemplate" => template(value, &call.path),
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
        other => {
            let values: Vec<&str> = call
                .headers
                .iter()
                .filter(|(name, _)| name == other)
                .map(|(_, value)| value.as_str())
                .collect();
            if values.is_empty() {
                return Ok(false);
            }
            &values.join(",")
        }
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

/// Envoy's URI templates, as the regular expressions that it makes of them.
fn template(value: &Node, path: &str) -> Result<bool, Unknown> {
    let template = either(value, "typedConfig", "typed_config")
        .and_then(|config| either(config, "pathTemplate", "path_template"))
        .and_then(Node::text)
        .ok_or("a URI template without text")?;
    let segment = "[a-zA-Z0-9-._~%!$&'()+,;:@=*]";
    let pieces = template
        .split("**")
        .map(|part| part.split('*').map(regex::escape).collect::<Vec<_>>().join(&format!("{segment}+")));
    let rest = "[a-zA-Z0-9-._~%!$&'()+,;:@=*/]*";
    regex(&pieces.collect::<Vec<_>>().join(rest), path)
}

/// The token's claims, as Istio's jwt filter publishes them.
fn metadata(value: &Node, call: &Call) -> Result<bool, Unknown> {
    let mut path = items(value.field("path")).iter().filter_map(|part| part.field("key")?.text());
    if path.next() != Some("payload") {
        return Err("metadata other than a token's claims".to_owned());
    }
    let found =
        call.payload().and_then(|payload| path.try_fold(payload, |node, key| node.field(key).cloned()));
    claim(value.field("value"), found.as_ref())
}

/// A `ValueMatcher`.
fn claim(matcher: Option<&Node>, found: Option<&Node>) -> Result<bool, Unknown> {
    let Some(matcher) = matcher else { return Err("metadata compared with nothing".to_owned()) };
    if let Some(text) = either(matcher, "stringMatch", "string_match") {
        return string(Some(text), found.and_then(Node::text));
    }
    if let Some(list) = either(matcher, "listMatch", "list_match") {
        let Some(Node::List(items)) = found else { return Ok(false) };
        let one = either(list, "oneOf", "one_of");
        return items.iter().try_fold(false, |hit, item| Ok(hit | claim(one, Some(item))?));
    }
    if let Some(any) = either(matcher, "orMatch", "or_match") {
        let matchers = items(either(any, "valueMatchers", "value_matchers"));
        return matchers.iter().try_fold(false, |hit, matcher| Ok(hit | claim(Some(matcher), found)?));
    }
    Err("metadata compared with something else than strings".to_owned())
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
