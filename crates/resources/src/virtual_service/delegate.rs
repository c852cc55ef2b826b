//! A rule that goes on in another document: what becomes of the two (`istio-api.md` 5.4).

use super::{HttpMatch, HttpRoute, StringMatch};

type Named<T> = [(String, T)];

/// A rule of a delegate under the rule that leads to it; `None` where no match of the one fits one of the other.
/// What the delegate's rule does not say is the root's; nothing is merged more deeply.
#[must_use]
pub fn merge_routes(root: &HttpRoute, delegate: &HttpRoute) -> Option<HttpRoute> {
    let matches = merge_matches(&root.matches, &delegate.matches)?;
    let mut merged = HttpRoute { matches, ..delegate.clone() };
    merged.name = join(root.name.as_ref(), delegate.name.as_ref());
    merged.rewrite = merged.rewrite.or_else(|| root.rewrite.clone());
    merged.headers = merged.headers.or_else(|| root.headers.clone());
    merged.timeout = merged.timeout.or(root.timeout);
    merged.retries = merged.retries.or_else(|| root.retries.clone());
    merged.fault = merged.fault.or_else(|| root.fault.clone());
    merged.cors = merged.cors.or_else(|| root.cors.clone());
    if merged.mirrors.is_empty() {
        merged.mirrors.clone_from(&root.mirrors);
    }
    Some(merged)
}

/// The pairs that do not contradict each other; `None` where a match of the delegate has no partner. No match at all
/// takes everything.
#[must_use]
pub fn merge_matches(root: &[HttpMatch], delegate: &[HttpMatch]) -> Option<Vec<HttpMatch>> {
    if root.is_empty() {
        return Some(delegate.to_vec());
    }
    if delegate.is_empty() {
        return Some(root.to_vec());
    }
    let mut merged = Vec::new();
    for leaf in delegate {
        let fitting = root.iter().filter(|root| !conflict(root, leaf));
        let before = merged.len();
        merged.extend(fitting.map(|root| merge_match(root, leaf)));
        if merged.len() == before {
            return None;
        }
    }
    Some(merged)
}

fn merge_match(root: &HttpMatch, leaf: &HttpMatch) -> HttpMatch {
    let gateways = if leaf.gateways.is_empty() { &root.gateways } else { &leaf.gateways };
    HttpMatch {
        name: join(root.name.as_ref(), leaf.name.as_ref()),
        uri: leaf.uri.clone().or_else(|| root.uri.clone()),
        ignore_uri_case: leaf.ignore_uri_case,
        scheme: leaf.scheme.clone().or_else(|| root.scheme.clone()),
        method: leaf.method.clone().or_else(|| root.method.clone()),
        authority: leaf.authority.clone().or_else(|| root.authority.clone()),
        headers: both(&root.headers, &leaf.headers),
        without_headers: both(&root.without_headers, &leaf.without_headers),
        query_params: both(&root.query_params, &leaf.query_params),
        port: leaf.port.or(root.port),
        gateways: gateways.clone(),
        source_labels: both(&root.source_labels, &leaf.source_labels),
        source_namespace: leaf.source_namespace.clone().or_else(|| root.source_namespace.clone()),
        path: leaf.path.clone(),
    }
}

/// Whether no request can be meant by both.
#[must_use]
pub fn conflict(root: &HttpMatch, leaf: &HttpMatch) -> bool {
    let texts = [
        (&root.uri, &leaf.uri),
        (&root.scheme, &leaf.scheme),
        (&root.method, &leaf.method),
        (&root.authority, &leaf.authority),
    ];
    let maps = [
        (&root.headers, &leaf.headers),
        (&root.without_headers, &leaf.without_headers),
        (&root.query_params, &leaf.query_params),
    ];
    let differ =
        |root: Option<&str>, leaf: Option<&str>| root.zip(leaf).is_some_and(|(root, leaf)| root != leaf);
    let labels = leaf
        .source_labels
        .iter()
        .any(|(name, value)| differ(find(&root.source_labels, name).map(String::as_str), Some(value)));
    texts.into_iter().any(|(root, leaf)| texts_conflict(root.as_ref(), leaf.as_ref()))
        || maps.into_iter().any(|(root, leaf)| {
            leaf.iter().any(|(name, value)| texts_conflict(find(root, name), Some(value)))
        })
        || root.ignore_uri_case != leaf.ignore_uri_case
        || root.port.zip(leaf.port).is_some_and(|(root, leaf)| root != leaf)
        || labels
        || differ(root.source_namespace.as_deref(), leaf.source_namespace.as_deref())
        || !root.gateways.is_empty() && leaf.gateways.iter().any(|gateway| !root.gateways.contains(gateway))
}

/// Whether the delegate's text is no refinement of the root's.
fn texts_conflict(root: Option<&StringMatch>, leaf: Option<&StringMatch>) -> bool {
    let (Some(root), Some(leaf)) = (root, leaf) else { return false };
    match (root, leaf) {
        (StringMatch::Exact(root), StringMatch::Exact(leaf)) => root != leaf,
        (StringMatch::Prefix(root), StringMatch::Exact(leaf) | StringMatch::Prefix(leaf)) => {
            !leaf.starts_with(root.as_str())
        }
        // A pattern refines nothing and is refined by nothing, as in Istio; nor does presence.
        _ => true,
    }
}

fn find<'m, T>(map: &'m Named<T>, name: &str) -> Option<&'m T> {
    map.iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// The entries of both; the delegate's where both have one.
fn both<T: Clone>(root: &Named<T>, leaf: &Named<T>) -> Vec<(String, T)> {
    let only_root = root.iter().filter(|(name, _)| find(leaf, name).is_none());
    only_root.chain(leaf).cloned().collect()
}

fn join(root: Option<&String>, leaf: Option<&String>) -> Option<String> {
    match (root, leaf) {
        (Some(root), Some(leaf)) => Some(format!("{root}-{leaf}")),
        (one, other) => other.or(one).cloned(),
    }
}
