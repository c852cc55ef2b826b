//! The headers by which Envoy's router is told the choice, and that nobody else may set.

use std::borrow::Cow;
use std::time::Duration;

use sailcloth_core::headers::HeaderBlock;
use sailcloth_resources::virtual_service::{GRPC_RETRY_CONDITIONS, HttpRoute, Retries, retry_status};

use crate::edit::Edit;

/// The header that carries the chosen cluster's name to the route's `cluster_header`.
pub const CLUSTER_HEADER: &str = "x-sailcloth-cluster";

/// Headers that begin so are ours: a client's are removed.
const OURS: &str = "x-sailcloth-";

/// The header that carries the cluster of a copy to the native route's n-th `request_mirror_policies`, from 1 on.
pub(crate) fn mirror_header(number: usize) -> String {
    format!("x-sailcloth-mirror-{number}")
}

const TIMEOUT: &str = "x-envoy-upstream-rq-timeout-ms";
const PER_TRY_TIMEOUT: &str = "x-envoy-upstream-rq-per-try-timeout-ms";
const MAX_RETRIES: &str = "x-envoy-max-retries";
const RETRY_ON: &str = "x-envoy-retry-on";
const RETRY_GRPC_ON: &str = "x-envoy-retry-grpc-on";
const RETRIABLE_CODES: &str = "x-envoy-retriable-status-codes";

/// Everything by which a request may change the router's timeouts and retries. Envoy removes these only from requests
/// that it takes for external ones (`envoy-wasm.md` 3.3), so whatever of them a rule does not set is removed here.
const CONTROLS: [&str; 12] = [
    TIMEOUT,
    PER_TRY_TIMEOUT,
    MAX_RETRIES,
    RETRY_ON,
    RETRY_GRPC_ON,
    RETRIABLE_CODES,
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-retriable-header-names",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-stream-duration-ms",
];

/// Istio's default retries (`istio-api.md` 5.7).
const DEFAULT_ATTEMPTS: u32 = 2;
const DEFAULT_RETRY_ON: [&str; 5] =
    ["connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes"];

/// Removals of the headers by which a client could choose for the router, beside those that are set anyway: only such
/// as the request has, each once.
pub(crate) fn forged<'e>(headers: &'e HeaderBlock, set: &[(&str, &str)]) -> Vec<Edit<'e>> {
    let mut remove: Vec<&str> = Vec::new();
    for (name, _) in headers.iter() {
        let Some(name) = controlled(name) else { continue };
        if !remove.contains(&name) && !set.iter().any(|(other, _)| *other == name) {
            remove.push(name);
        }
    }
    remove.into_iter().map(|name| Edit::Remove(Cow::Borrowed(name))).collect()
}

/// The name of a header that no client may set; header names are ASCII in Envoy.
fn controlled(name: &[u8]) -> Option<&str> {
    if !name.starts_with(b"x-") {
        return None;
    }
    let text = std::str::from_utf8(name).ok()?;
    is_controlled(text).then_some(text)
}

/// Whether a header is ours or steers Envoy's router: neither a client nor a document's `headers` may set it.
pub(crate) fn is_controlled(name: &str) -> bool {
    name.starts_with(OURS) || CONTROLS.contains(&name)
}

/// The headers that carry a rule's timeout and retries to Envoy's router.
pub(crate) fn controls(rule: &HttpRoute) -> Vec<(&'static str, String)> {
    // 0 is "none"; without the header Envoy's own 15 s would apply.
    let mut headers = vec![(TIMEOUT, milliseconds(rule.timeout.unwrap_or_default()))];
    let default = Retries {
        attempts: DEFAULT_ATTEMPTS,
        per_try_timeout: None,
        retry_on: None,
        backoff: None,
        remote_localities: None,
        ignore_previous_hosts: None,
    };
    let retries = rule.retries.as_deref().unwrap_or(&default);
    headers.push((MAX_RETRIES, retries.attempts.to_string()));
    if retries.attempts > 0 {
        retry_conditions(retries, &mut headers);
        headers.extend(retries.per_try_timeout.map(|time| (PER_TRY_TIMEOUT, milliseconds(time))));
    }
    headers
}

/// Istio's one list, sorted into Envoy's three headers.
fn retry_conditions(retries: &Retries, headers: &mut Vec<(&'static str, String)>) {
    let mut http: Vec<&str> = Vec::new();
    let mut grpc: Vec<&str> = Vec::new();
    let mut codes: Vec<&str> = Vec::new();
    let default: Vec<String> = DEFAULT_RETRY_ON.map(str::to_owned).to_vec();
    let conditions = retries.retry_on.as_ref().unwrap_or(&default);
    for condition in conditions {
        if GRPC_RETRY_CONDITIONS.contains(&condition.as_str()) {
            grpc.push(condition);
        } else if retry_status(condition).is_some() {
            codes.push(condition);
        } else {
            http.push(condition);
        }
    }
    if !codes.is_empty() && !http.contains(&"retriable-status-codes") {
        http.push("retriable-status-codes");
    }
    for (name, list) in [(RETRY_ON, http), (RETRY_GRPC_ON, grpc), (RETRIABLE_CODES, codes)] {
        if !list.is_empty() {
            headers.push((name, list.join(",")));
        }
    }
}

fn milliseconds(time: Duration) -> String {
    time.as_millis().to_string()
}
