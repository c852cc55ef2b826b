//! `retries` and `timeout` (`istio-api.md` 5.7).

use std::time::Duration;

use sailcloth_core::config::{Value, did_you_mean};

/// What is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// How many tries beyond the first; 0 switches retries off.
    pub attempts: u32,
    /// For each try.
    pub per_try_timeout: Option<Duration>,
    /// Envoy's conditions and status codes; `None` means Istio's default list.
    pub retry_on: Option<Vec<String>>,
    /// Between tries; `None` means Envoy's default.
    pub backoff: Option<Duration>,
    /// Whether hosts of other localities are tried; `None` means not.
    pub remote_localities: Option<bool>,
    /// Whether a host that failed is not tried again; `None` means so.
    pub ignore_previous_hosts: Option<bool>,
}

/// A duration in whole milliseconds, as Istio demands; at least one unless 0 means none.
pub(super) fn read_timeout(value: &Value<'_>, zero_is_none: bool) -> Option<Duration> {
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

pub(super) fn read_retries(value: &Value<'_>) -> Option<Retries> {
    let fields = value.fields()?;
    let attempts =
        fields.get("attempts").and_then(|value| value.integer(0, i64::from(i32::MAX))).unwrap_or_default();
    let per_try = fields.get("perTryTimeout");
    let retry_on = fields.get("retryOn");
    let remote = fields.get("retryRemoteLocalities");
    if attempts == 0 {
        for (name, value) in
            [("perTryTimeout", &per_try), ("retryOn", &retry_on), ("retryRemoteLocalities", &remote)]
        {
            if let Some(value) = value.as_ref().filter(|value| value.node().text() != Some("")) {
                value.error(format!("`{name}` needs `attempts`: without it nothing is tried again"));
            }
        }
    }
    Some(Retries {
        attempts: u32::try_from(attempts).unwrap_or_default(),
        per_try_timeout: per_try.and_then(|value| read_timeout(&value, false)),
        retry_on: retry_on.and_then(|value| read_retry_on(&value)),
        backoff: fields.get("backoff").and_then(|value| read_timeout(&value, false)),
        remote_localities: remote.and_then(|value| value.boolean()),
        ignore_previous_hosts: fields.get("retryIgnorePreviousHosts").and_then(|value| value.boolean()),
    })
}

fn read_retry_on(value: &Value<'_>) -> Option<Vec<String>> {
    let text = value.text()?;
    if text.is_empty() {
        return None;
    }
    for condition in text.split(',').filter(|condition| !is_retry_condition(condition)) {
        let known: Vec<&str> = HTTP_RETRY_CONDITIONS.iter().chain(&GRPC_RETRY_CONDITIONS).copied().collect();
        let hint = did_you_mean(condition, &known);
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
