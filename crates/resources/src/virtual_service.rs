//! `VirtualService`: Istio's routing rules for HTTP (`istio-api.md` 5).
//!
//! Read here: what stands under `http` of a rule that routes. What exists in Istio's schema and this version cannot
//! carry out is refused by name, with the reason.

use std::rc::Rc;
use std::time::Duration;

use sailcloth_core::config::{Fields, Node, Path, Value};
use sailcloth_core::regex::Regex;

use crate::host_name::{is_ip, is_wildcard_of, problem_of_host};
use crate::{Kind, Metadata, Resource, Scope};

/// The reserved gateway name that means all sidecars.
pub const MESH: &str = "mesh";

const LATER: &str = "is not supported by this version of the routing filter";
const PORT: &str =
    "is not supported: the filter does not know the ports of services; write one filter per listener";
const CALLER: &str = "is not supported: give the rule to the proxies it is meant for, by `workload`";

/// Routing rules for some hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    /// The hosts as written: short names, full names, `*.suffix`, `*`.
    pub hosts: Vec<String>,
    /// The gateways it is bound to; empty means the mesh.
    pub gateways: Vec<String>,
    /// The namespaces that see it; empty means all.
    pub export_to: Vec<String>,
    /// The rules, of which the first that matches is taken.
    pub http: Vec<HttpRoute>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRoute {
    /// Any of these; empty matches everything.
    pub matches: Vec<HttpMatch>,
    /// Where the request goes; never empty.
    pub destinations: Vec<Destination>,
    /// For the whole request with its retries; `None` is no timeout.
    pub timeout: Option<Duration>,
    /// `None` means Istio's default.
    pub retries: Option<Retries>,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// On the path without query.
    pub uri: Option<StringMatch>,
    /// Whether `uri.exact` and `uri.prefix` ignore case.
    pub ignore_uri_case: bool,
    /// On `:scheme`.
    pub scheme: Option<StringMatch>,
    /// On `:method`.
    pub method: Option<StringMatch>,
    /// On `:authority`, port included.
    pub authority: Option<StringMatch>,
    /// On headers, names in lower case.
    pub headers: Vec<(String, StringMatch)>,
    /// On headers that must not match; a header that is missing counts as empty.
    pub without_headers: Vec<(String, StringMatch)>,
    /// On parameters of the query, as they stand there.
    pub query_params: Vec<(String, StringMatch)>,
}

/// A condition on a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StringMatch {
    /// `{}` or `regex: "*"`: it is there.
    Present,
    /// It is this.
    Exact(String),
    /// It begins so.
    Prefix(String),
    /// All of it matches.
    Regex(Rc<Regex>),
}

/// A destination and its share.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The host as written.
    pub host: String,
    /// The subset that a DestinationRule defines.
    pub subset: Option<String>,
    /// The service's port.
    pub port: Option<u16>,
    /// Its share of the sum of all weights; means nothing for a single destination.
    pub weight: u32,
    /// Where it is written.
    pub path: Path,
}

/// What is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// How many tries beyond the first; 0 switches retries off.
    pub attempts: u32,
    /// For each try.
    pub per_try_timeout: Option<Duration>,
    /// Envoy's conditions and status codes; `None` means Istio's default list.
    pub retry_on: Option<Vec<String>>,
}

impl PartialEq for Destination {
    fn eq(&self, other: &Self) -> bool {
        let key = |destination: &Self| {
            (destination.host.clone(), destination.subset.clone(), destination.port, destination.weight)
        };
        key(self) == key(other)
    }
}

impl Eq for Destination {}

impl Resource for VirtualService {
    const KINDS: &'static [Kind] = &[Kind::VIRTUAL_SERVICE];
    const ANNOTATIONS: &'static [&'static str] = &[];

    fn read(_: Kind, metadata: &Metadata, spec: &Value<'_>) -> Option<Self> {
        let fields = spec.fields()?;
        let gateways = fields.get("gateways").and_then(|value| read_gateways(&value)).unwrap_or_default();
        let in_mesh = gateways.is_empty() || gateways.iter().any(|gateway| gateway == MESH);
        let hosts = read_hosts(&fields, in_mesh);
        let export_to = fields
            .get("exportTo")
            .and_then(|value| read_export_to(&value, &metadata.namespace))
            .unwrap_or_default();
        let others = ["tls", "tcp"];
        for protocol in others {
            fields.refuse(protocol, "is not supported: an HTTP filter sees HTTP requests only");
        }
        let http = if others.iter().any(|protocol| fields.get(protocol).is_some()) {
            fields.get("http")
        } else {
            fields.required("http")
        };
        let http = http.and_then(|value| read_http(&value)).unwrap_or_default();
        Some(Self { hosts, gateways, export_to, http })
    }

    fn scope(&self) -> Option<&Scope> {
        None
    }
}

fn read_hosts(fields: &Fields<'_>, in_mesh: bool) -> Vec<String> {
    let listed = fields.get("hosts");
    let hosts = listed.as_ref().and_then(|value| value.list(|host| read_host(&host, in_mesh)));
    let hosts = hosts.unwrap_or_default();
    let is_empty =
        listed.as_ref().is_none_or(|value| matches!(value.node(), Node::List(items) if items.is_empty()));
    if is_empty {
        fields.value().error(format!("`hosts` is empty, which makes this a delegate; `delegate` {LATER}"));
    }
    for (index, host) in hosts.iter().enumerate() {
        let covered =
            hosts.iter().enumerate().find(|(other, by)| *other != index && covers(by, host, index > *other));
        if let (Some((_, by)), Some(listed)) = (covered, &listed) {
            listed.error(format!("host `{host}` is covered by `{by}`; keep one"));
        }
    }
    hosts
}

/// Whether one host of a list makes another superfluous; of two equal ones the later.
fn covers(by: &str, host: &str, earlier: bool) -> bool {
    (earlier && by.eq_ignore_ascii_case(host)) || (by != host && is_wildcard_of(by, host))
}

fn read_host(value: &Value<'_>, in_mesh: bool) -> Option<String> {
    let host = value.non_empty_text()?;
    if host == "*" && in_mesh {
        value.error("`*` needs a gateway: in the mesh every host belongs to a service");
        return None;
    }
    if let Some(problem) = (!is_ip(host)).then(|| problem_of_host(host)).flatten() {
        value.error(format!("`{host}` is not a host: {problem}"));
        return None;
    }
    Some(host.to_owned())
}

fn read_gateways(value: &Value<'_>) -> Option<Vec<String>> {
    value.list(|item| {
        let gateway = item.non_empty_text()?;
        let (namespace, name) =
            gateway.split_once('/').map_or((None, gateway), |(space, name)| (Some(space), name));
        for part in namespace.into_iter().chain([name]) {
            if part != "*" && problem_of_host(part).is_some() || part.contains('*') {
                item.error(format!("`{gateway}` is not a gateway; expected `name` or `namespace/name`"));
                return None;
            }
        }
        Some(gateway.to_owned())
    })
}

fn read_export_to(value: &Value<'_>, own: &str) -> Option<Vec<String>> {
    let count = value.items()?.len();
    let mut seen: Vec<String> = Vec::new();
    value.list(|item| {
        let namespace = item.non_empty_text()?;
        let plain = namespace.split('.').count() == 1 && problem_of_host(namespace).is_none();
        if !matches!(namespace, "." | "*") && (!plain || namespace.contains('*')) {
            item.error(format!("`{namespace}` is not a namespace; expected a name, `.` or `*`"));
        }
        if namespace == "*" && count > 1 {
            item.error("`*` is every namespace already; keep it alone");
        }
        let meant = if namespace == "." { own } else { namespace };
        if seen.iter().any(|other| other == meant) {
            item.error(format!("`{meant}` is named twice; keep one"));
        }
        seen.push(meant.to_owned());
        Some(namespace.to_owned())
    })
}

fn read_http(value: &Value<'_>) -> Option<Vec<HttpRoute>> {
    let items = value.items()?;
    if items.is_empty() {
        value.error("may not be empty");
    }
    let routes: Vec<(HttpRoute, &Value<'_>)> =
        items.iter().filter_map(|item| Some((read_route(item)?, item))).collect();
    let ends = routes.iter().position(|(route, _)| route.matches.is_empty());
    for (_, unreachable) in ends.map(|end| routes.get(end + 1..).unwrap_or_default()).unwrap_or_default() {
        unreachable.warn("is never reached: an earlier rule has no `match` and takes every request");
    }
    Some(routes.into_iter().map(|(route, _)| route).collect())
}

fn read_route(value: &Value<'_>) -> Option<HttpRoute> {
    let fields = value.fields()?;
    let _ = fields.get("name").and_then(|name| name.text());
    for (name, why) in [
        ("redirect", LATER),
        ("directResponse", LATER),
        ("delegate", LATER),
        ("rewrite", LATER),
        ("headers", LATER),
        ("fault", LATER),
        ("mirror", LATER),
        ("mirrors", LATER),
        ("mirrorPercentage", LATER),
        ("mirrorPercent", LATER),
        ("corsPolicy", LATER),
    ] {
        fields.refuse(name, why);
    }
    let matches = fields.get("match").and_then(|value| value.list(|item| read_match(&item)));
    let elsewhere = ["redirect", "directResponse", "delegate"].iter().any(|name| fields.get(name).is_some());
    let route = if elsewhere { fields.get("route") } else { fields.required("route") };
    let destinations = route.and_then(|value| read_destinations(&value)).unwrap_or_default();
    Some(HttpRoute {
        matches: matches.unwrap_or_default(),
        destinations,
        timeout: fields
            .get("timeout")
            .and_then(|value| read_timeout(&value, true))
            .filter(|time| !time.is_zero()),
        retries: fields.get("retries").and_then(|value| read_retries(&value)),
    })
}

fn read_match(value: &Value<'_>) -> Option<HttpMatch> {
    let fields = value.fields()?;
    let _ = fields.get("name").and_then(|name| name.text());
    fields.refuse("port", PORT);
    fields.refuse("gateways", LATER);
    fields.refuse("sourceLabels", CALLER);
    fields.refuse("sourceNamespace", CALLER);
    fields
        .refuse("statPrefix", "is not supported: statistics by route are Envoy's; the filter counts by rule");
    let text = |name| fields.get(name).and_then(|value| read_string_match(&value, false));
    let read = HttpMatch {
        uri: fields.get("uri").and_then(|value| read_string_match(&value, true)),
        ignore_uri_case: fields.get("ignoreUriCase").and_then(|value| value.boolean()).unwrap_or_default(),
        scheme: text("scheme"),
        method: text("method"),
        authority: text("authority"),
        headers: fields.get("headers").map(|value| read_headers(&value)).unwrap_or_default(),
        without_headers: fields.get("withoutHeaders").map(|value| read_headers(&value)).unwrap_or_default(),
        query_params: fields.get("queryParams").map(|value| read_params(&value)).unwrap_or_default(),
    };
    if read.ignore_uri_case && matches!(read.uri, Some(StringMatch::Regex(_))) {
        value.warn("`ignoreUriCase` does nothing for `uri.regex`; write `(?i)` in the pattern");
    }
    Some(read)
}

fn read_headers(value: &Value<'_>) -> Vec<(String, StringMatch)> {
    let entries = value.entries().unwrap_or_default();
    let read = entries.into_iter().filter_map(|(name, value)| {
        if name.starts_with("@request.auth.claims") {
            value.error(format!("matching on claims of a token {LATER}"));
        } else if !is_header_name(name) {
            value.error(format!("`{name}` is not a header name"));
        }
        if matches!(name, "uri" | "scheme" | "method" | "authority") {
            value.warn(format!(
                "matches a header that is called `{name}`; the field of that name is beside `headers`"
            ));
        }
        Some((name.to_ascii_lowercase(), read_string_match(&value, false)?))
    });
    read.collect()
}

/// Envoy's header names: a token (RFC 9110), or a pseudo header.
fn is_header_name(name: &str) -> bool {
    let token = name.strip_prefix(':').unwrap_or(name);
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !token.is_empty() && token.bytes().all(is_token)
}

fn read_params(value: &Value<'_>) -> Vec<(String, StringMatch)> {
    let entries = value.entries().unwrap_or_default();
    let read = entries.into_iter().filter_map(|(name, value)| {
        if name.is_empty() {
            value.error("a query parameter needs a name");
        }
        Some((name.to_owned(), read_string_match(&value, false)?))
    });
    read.collect()
}

fn read_string_match(value: &Value<'_>, is_uri: bool) -> Option<StringMatch> {
    if matches!(value.node(), Node::Null) {
        value.error("may not be null; write `{}` to match anything that is there");
        return None;
    }
    let fields = value.fields()?;
    let Some((kind, text)) = fields.one_of(&["exact", "prefix", "regex"]) else {
        return Some(StringMatch::Present);
    };
    let written = text.text()?;
    match kind {
        "exact" => Some(StringMatch::Exact(written.to_owned())),
        // An empty prefix is Istio's way to say "any path", and nowhere else allowed.
        "prefix" if written.is_empty() && !is_uri => {
            text.error("may not be empty; write `{}` to match anything that is there");
            None
        }
        "prefix" => Some(StringMatch::Prefix(written.to_owned())),
        "regex" if written == "*" && !is_uri => Some(StringMatch::Present),
        _ => read_regex(&text, written),
    }
}

fn read_regex(value: &Value<'_>, pattern: &str) -> Option<StringMatch> {
    if pattern.is_empty() {
        value.error("may not be empty");
        return None;
    }
    match Regex::new(pattern) {
        Ok(regex) => Some(StringMatch::Regex(Rc::new(regex))),
        Err(error) => {
            value.error(format!("`{pattern}` is not a regular expression of RE2's dialect: {error}"));
            None
        }
    }
}

fn read_destinations(value: &Value<'_>) -> Option<Vec<Destination>> {
    let count = value.items()?.len();
    let destinations = value.list(|item| read_destination(&item))?;
    if count == 0 {
        value.error("may not be empty");
    }
    let sum: u64 = destinations.iter().map(|destination| u64::from(destination.weight)).sum();
    if count > 1 && destinations.len() == count && sum == 0 {
        value.error("the weights add up to 0; at least one destination needs a weight");
    }
    Some(destinations)
}

fn read_destination(value: &Value<'_>) -> Option<Destination> {
    let fields = value.fields()?;
    fields.refuse("headers", LATER);
    let weight = fields.get("weight").and_then(|weight| weight.integer(0, i64::from(i32::MAX)));
    let destination = fields.required("destination")?;
    let fields = destination.fields()?;
    let host = fields.required("host").and_then(|host| read_destination_host(&host));
    let subset = fields.get("subset").and_then(|subset| read_subset(&subset));
    let port = fields.get("port").and_then(|port| read_port(&port));
    Some(Destination {
        host: host?,
        subset,
        port,
        weight: weight.and_then(|weight| u32::try_from(weight).ok()).unwrap_or_default(),
        path: destination.path().clone(),
    })
}

fn read_destination_host(value: &Value<'_>) -> Option<String> {
    let host = value.non_empty_text()?;
    let problem = if host == "*" { Some("a destination is one host") } else { problem_of_host(host) };
    if let Some(problem) = problem {
        value.error(format!("`{host}` is not a host: {problem}"));
        return None;
    }
    Some(host.to_owned())
}

fn read_subset(value: &Value<'_>) -> Option<String> {
    let subset = value.text()?;
    if !subset.is_empty() && (subset.contains(['.', '*']) || problem_of_host(subset).is_some()) {
        value.error(format!("`{subset}` is not the name of a subset; expected letters, digits and `-`"));
    }
    (!subset.is_empty()).then(|| subset.to_owned())
}

fn read_port(value: &Value<'_>) -> Option<u16> {
    let number = value.fields()?.required("number")?.integer(1, 65535)?;
    u16::try_from(number).ok()
}

/// A duration in whole milliseconds, as Istio demands; at least one unless 0 means none.
fn read_timeout(value: &Value<'_>, zero_is_none: bool) -> Option<Duration> {
    let time = value.duration()?;
    if time.is_zero() && zero_is_none {
        return Some(time);
    }
    if time < Duration::from_millis(1) || !time.subsec_nanos().is_multiple_of(1_000_000) {
        value.error("must be in whole milliseconds, at least `1ms`");
        return None;
    }
    Some(time)
}

fn read_retries(value: &Value<'_>) -> Option<Retries> {
    let fields = value.fields()?;
    let cannot = "cannot be set for a request; set it in the `retry_policy` of the native route";
    for name in ["backoff", "retryRemoteLocalities", "retryIgnorePreviousHosts"] {
        fields.refuse(name, cannot);
    }
    let attempts =
        fields.get("attempts").and_then(|value| value.integer(0, i64::from(i32::MAX))).unwrap_or_default();
    let per_try = fields.get("perTryTimeout");
    let retry_on = fields.get("retryOn");
    if attempts == 0 {
        for (name, value) in [("perTryTimeout", &per_try), ("retryOn", &retry_on)] {
            if let Some(value) = value {
                value.error(format!("`{name}` needs `attempts`: without it nothing is tried again"));
            }
        }
    }
    Some(Retries {
        attempts: u32::try_from(attempts).unwrap_or_default(),
        per_try_timeout: per_try.and_then(|value| read_timeout(&value, false)),
        retry_on: retry_on.and_then(|value| read_retry_on(&value)),
    })
}

fn read_retry_on(value: &Value<'_>) -> Option<Vec<String>> {
    let text = value.text()?;
    if text.is_empty() {
        return None;
    }
    for condition in text.split(',').filter(|condition| !is_retry_condition(condition)) {
        let known: Vec<&str> = HTTP_RETRY_CONDITIONS.iter().chain(&GRPC_RETRY_CONDITIONS).copied().collect();
        let hint = sailcloth_core::config::did_you_mean(condition, &known);
        value.error(format!("`{condition}` is not a condition or status code of Envoy's retries{hint}"));
    }
    Some(text.split(',').map(str::to_owned).collect())
}

/// Conditions that Envoy reads from `x-envoy-retry-on`.
pub const HTTP_RETRY_CONDITIONS: [&str; 11] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
];

/// Conditions that Envoy reads from `x-envoy-retry-grpc-on`.
pub const GRPC_RETRY_CONDITIONS: [&str; 5] =
    ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"];

fn is_retry_condition(text: &str) -> bool {
    HTTP_RETRY_CONDITIONS.contains(&text)
        || GRPC_RETRY_CONDITIONS.contains(&text)
        || retry_status(text).is_some()
}

/// A status code in a list of retry conditions. Istio takes those that have a name in HTTP's registry.
#[must_use]
pub fn retry_status(text: &str) -> Option<u16> {
    let status = text.parse::<u16>().ok()?;
    let registered = matches!(status,
        100..=103 | 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=418 | 421..=426 | 428 | 429 | 431 | 451
        | 500..=508 | 510 | 511);
    registered.then_some(status)
}
