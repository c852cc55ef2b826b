//! `VirtualService`: Istio's routing rules for HTTP (`istio-api.md` 5).
//!
//! All of `http` is read here, and what Istio's validation refuses is refused. What a filter cannot carry out although
//! Istio can is refused by the engine, which knows its settings.

mod action;
mod cors;
pub mod delegate;
mod fault;
mod headers;
mod matching;
mod retries;

use std::time::Duration;

use sailcloth_core::config::{Fields, Path, Value};

pub use action::{
    Action, Delegate, Destination, DirectResponse, Mirror, PathRewrite, Redirect, RedirectPath, RedirectPort,
    Rewrite,
};
pub use cors::CorsPolicy;
pub use fault::{Abort, AbortStatus, Delay, Fault, Share};
pub use headers::{AUTHORITY, HeaderEdits, HeaderText, Headers};
pub use matching::{HttpMatch, StringMatch, routing_claim};
pub use retries::{GRPC_RETRY_CONDITIONS, HTTP_RETRY_CONDITIONS, Retries, retry_status};

use crate::host_name::{is_ip, is_wildcard_of, problem_of_host};
use crate::sticky::{STICKY, Sticky};
use crate::{Kind, MODE, Metadata, Resource, Scope};

/// The reserved gateway name that means all sidecars.
pub const MESH: &str = "mesh";

/// Routing rules for some hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    /// The hosts as written: short names, full names, `*.suffix`, `*`. None in a delegate.
    pub hosts: Vec<String>,
    /// The gateways it is bound to; empty means the mesh.
    pub gateways: Vec<String>,
    /// The namespaces that see it; empty means all.
    pub export_to: Vec<String>,
    /// The rules, of which the first that matches is taken.
    pub http: Vec<HttpRoute>,
    /// What keeps a user on one destination of a weighted rule.
    pub sticky: Option<Sticky>,
    /// Computed and counted, and never acts.
    pub shadow: bool,
}

/// One rule. What few rules have is boxed: a document may have ten thousand.
#[derive(Debug, Clone)]
pub struct HttpRoute {
    /// Its name.
    pub name: Option<String>,
    /// Any of these; empty matches everything.
    pub matches: Vec<HttpMatch>,
    /// What it does.
    pub action: Action,
    /// What is changed in the request line.
    pub rewrite: Option<Box<Rewrite>>,
    /// Edits of headers.
    pub headers: Option<Box<Headers>>,
    /// For the whole request with its retries; `None` or 0 is no timeout.
    pub timeout: Option<Duration>,
    /// `None` means Istio's default.
    pub retries: Option<Box<Retries>>,
    /// Faults that are injected.
    pub fault: Option<Box<Fault>>,
    /// Copies of the request.
    pub mirrors: Vec<Mirror>,
    /// Which pages may read answers.
    pub cors: Option<Box<CorsPolicy>>,
    /// Where it is written.
    pub path: Path,
}

impl PartialEq for HttpRoute {
    fn eq(&self, other: &Self) -> bool {
        let asked = |of: &Self| (of.name.clone(), of.matches.clone(), of.action.clone());
        let done = |of: &Self| (of.rewrite.clone(), of.headers.clone(), of.timeout, of.retries.clone());
        let more = |of: &Self| (of.fault.clone(), of.mirrors.clone(), of.cors.clone());
        asked(self) == asked(other) && done(self) == done(other) && more(self) == more(other)
    }
}

impl Eq for HttpRoute {}

impl Resource for VirtualService {
    const KINDS: &'static [Kind] = &[Kind::VIRTUAL_SERVICE];
    const ANNOTATIONS: &'static [&'static str] = &[MODE, STICKY];

    fn read(_: Kind, metadata: &Metadata, spec: &Value<'_>) -> Option<Self> {
        let fields = spec.fields()?;
        let gateways = fields.get("gateways").and_then(|value| read_gateways(&value)).unwrap_or_default();
        let in_mesh = gateways.is_empty() || gateways.iter().any(|gateway| gateway == MESH);
        let hosts = read_hosts(&fields, in_mesh);
        let is_delegate =
            fields.get("hosts").and_then(|hosts| hosts.items()).is_none_or(|hosts| hosts.is_empty());
        if is_delegate && !gateways.is_empty() {
            spec.error("a document without `hosts` is a delegate and has the gateways of those that name it; remove `gateways`");
        }
        let export_to = fields
            .get("exportTo")
            .and_then(|value| read_export_to(&value, &metadata.namespace))
            .unwrap_or_default();
        let others = ["tls", "tcp"];
        for protocol in others {
            let why = if is_delegate {
                "means nothing in a delegate (a document without `hosts`), which has `http` only"
            } else {
                "is not supported: an HTTP filter sees HTTP requests only"
            };
            fields.refuse(protocol, why);
        }
        let http = if others.iter().any(|protocol| fields.get(protocol).is_some()) {
            fields.get("http")
        } else {
            fields.required("http")
        };
        let http = http.and_then(|value| read_http(&value, is_delegate)).unwrap_or_default();
        if gateways.iter().all(|gateway| gateway == MESH) {
            refuse_claims(&http, spec);
        }
        let (sticky, shadow) = (Sticky::read(metadata, spec), metadata.is_shadow(spec));
        Some(Self { hosts, gateways, export_to, http, sticky, shadow })
    }

    fn scope(&self) -> Option<&Scope> {
        None
    }
}

fn read_hosts(fields: &Fields<'_>, in_mesh: bool) -> Vec<String> {
    let listed = fields.get("hosts");
    let hosts = listed.as_ref().and_then(|value| value.list(|host| read_host(&host, in_mesh)));
    let hosts = hosts.unwrap_or_default();
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

fn read_http(value: &Value<'_>, is_delegate: bool) -> Option<Vec<HttpRoute>> {
    let items = value.items()?;
    if items.is_empty() {
        value.error("may not be empty");
    }
    let mut routes: Vec<(HttpRoute, &Value<'_>)> = Vec::with_capacity(items.len());
    for item in &items {
        if let Some(route) = read_route(item, is_delegate) {
            routes.push((route, item));
        }
    }
    let ends = routes.iter().position(|(route, _)| route.matches.is_empty());
    for (_, unreachable) in ends.map(|end| routes.get(end + 1..).unwrap_or_default()).unwrap_or_default() {
        unreachable.warn("is never reached: an earlier rule has no `match` and takes every request");
    }
    // In place it would keep the room of the pairs, and of their growing; a VM never gives room back.
    let mut rules = Vec::with_capacity(routes.len());
    routes.into_iter().for_each(|(route, _)| rules.push(route));
    Some(rules)
}

fn read_route(value: &Value<'_>, is_delegate: bool) -> Option<HttpRoute> {
    let fields = value.fields()?;
    let name = fields.get("name").and_then(|name| name.text()).filter(|name| !name.is_empty());
    let matches = fields.get("match").and_then(|value| value.list(|item| matching::read_match(&item)));
    let matches = matches.unwrap_or_default();
    let rewrite = fields.get("rewrite");
    let fault = fields.get("fault");
    let action = read_action(&fields, is_delegate);
    if let Some(Action::Redirect(_) | Action::Direct(_)) = &action {
        for (field, written) in [("fault", &fault), ("rewrite", &rewrite)] {
            if let Some(written) = written {
                written
                    .error(format!("`{field}` means nothing for a rule that answers by itself; remove it"));
            }
        }
    }
    if let Some(Action::Redirect(redirect)) = &action
        && matches!(redirect.path, RedirectPath::Prefix(_))
        && matches.iter().any(|one| matches!(&one.uri, Some(StringMatch::Exact(_) | StringMatch::Regex(_))))
    {
        value.error("`prefixRewrite` needs matches by `uri.prefix`, or without `uri`");
    }
    let route = HttpRoute {
        name: name.map(str::to_owned),
        matches,
        rewrite: rewrite.and_then(|value| action::read_rewrite(&value)).map(Box::new),
        headers: fields.get("headers").and_then(|value| headers::read_headers(&value)).map(Box::new),
        timeout: fields.get("timeout").and_then(|value| retries::read_timeout(&value, true)),
        retries: fields.get("retries").and_then(|value| retries::read_retries(&value)).map(Box::new),
        fault: fault.and_then(|value| fault::read_fault(&value)).map(Box::new),
        mirrors: action::read_mirrors(&fields),
        cors: fields.get("corsPolicy").and_then(|value| cors::read_cors(&value)).map(Box::new),
        path: value.path().clone(),
        action: action?,
    };
    refuse_two_hosts(&route, value);
    Some(route)
}

/// Exactly one of the four; in a delegate no further `delegate`.
fn read_action(fields: &Fields<'_>, is_delegate: bool) -> Option<Action> {
    if is_delegate {
        fields
            .refuse("delegate", "leads from one delegate to another; only a document with `hosts` delegates");
    }
    let kinds = ["route", "redirect", "directResponse", "delegate"];
    if kinds.iter().all(|kind| fields.get(kind).is_none()) {
        let needed = if is_delegate { "" } else { ", `delegate`" };
        fields.value().error(format!("needs one of `route`, `redirect`, `directResponse`{needed}"));
    }
    let (kind, value) = fields.one_of(&kinds)?;
    match kind {
        "route" => action::read_destinations(&value).map(Action::Route),
        "redirect" => action::read_redirect(&value).map(Box::new).map(Action::Redirect),
        "directResponse" => action::read_direct(&value).map(Action::Direct),
        _ => action::read_delegate(&value).map(Action::Delegate),
    }
}

/// `rewrite.authority` and `headers` must not both say the host.
fn refuse_two_hosts(route: &HttpRoute, value: &Value<'_>) {
    let rewritten = route.rewrite.as_ref().is_some_and(|rewrite| rewrite.authority.is_some());
    let edits = route.headers.as_ref().map(|headers| &headers.request);
    let edited =
        edits.is_some_and(|edits| edits.set.iter().chain(&edits.add).any(|header| header.name == AUTHORITY));
    if rewritten && edited {
        value.error("the host is set by `rewrite.authority` and by `headers`; keep one");
    }
}

/// As in Istio: the sidecars of a mesh verify no tokens of the requests that they send.
fn refuse_claims(http: &[HttpRoute], spec: &Value<'_>) {
    let claims = http
        .iter()
        .flat_map(|route| &route.matches)
        .flat_map(|one| one.headers.iter().chain(&one.without_headers))
        .filter(|(name, _)| routing_claim(name).is_some());
    for (name, _) in claims {
        spec.error(format!("`{name}` needs `gateways`: claims of a token are matched on a gateway only"));
    }
}
