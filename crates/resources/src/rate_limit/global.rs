//! `global`: a rate limit service that several Envoys ask.

use std::time::Duration;

use sailcloth_core::config::Value;

use super::Limit;

/// Envoy's own default for its `ratelimit` filter.
const TIMEOUT: Duration = Duration::from_millis(20);
const MAX_TIMEOUT: Duration = Duration::from_secs(10);

/// `global`: a service that speaks `envoy.service.ratelimit.v3`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Global {
    /// `cluster`: Envoy's name of the service's cluster, an HTTP/2 one.
    pub cluster: String,
    /// `domain`: which of the service's configurations is meant.
    pub domain: String,
    /// `timeout`: how long a request waits for the answer at most.
    pub timeout: Duration,
    /// `onFailure`: what becomes of a request when there is no answer.
    pub on_failure: OnFailure,
    /// `circuitBreaker`.
    pub breaker: Breaker,
}

/// What becomes of a request that the service gives no answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnFailure {
    /// It is admitted.
    Allow,
    /// It is refused with 503.
    Deny,
    /// It meets this limit, kept by each Envoy for itself (`local`).
    Local(Limit),
}

/// When the service is not asked for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Breaker {
    /// `failures`: so many in a row open it.
    pub failures: u32,
    /// `openFor`: how long it stays open before one request tries again.
    pub open_for: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 5, open_for: Duration::from_secs(1) }
    }
}

impl Global {
    /// Reads `global`.
    pub(super) fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.fields()?;
        let cluster = fields.required("cluster").and_then(|cluster| read_cluster(&cluster));
        let domain = fields.required("domain").and_then(|domain| domain.non_empty_text());
        let timeout = fields
            .get("timeout")
            .map(|timeout| read_time(&timeout, Duration::from_millis(1), MAX_TIMEOUT, "1ms to 10s"));
        let breaker = fields.get("circuitBreaker").map(|breaker| read_breaker(&breaker));
        let local = fields.get("local").map(|local| (Limit::read(&local), local));
        // Whether a limit that cannot be asked lets through or refuses is nobody's to guess.
        let word = fields
            .required("onFailure")
            .and_then(|value| value.word(&[("allow", "allow"), ("deny", "deny"), ("local", "local")]));
        let on_failure = match (word?, local) {
            ("local", Some((limit, _))) => OnFailure::Local(limit?),
            ("local", None) => {
                value.error("`onFailure: local` needs `local`, the limit that holds meanwhile");
                return None;
            }
            (word, Some((_, local))) => {
                local.error(format!("takes no effect with `onFailure: {word}`; write `onFailure: local`"));
                return None;
            }
            ("allow", None) => OnFailure::Allow,
            _ => OnFailure::Deny,
        };
        Some(Self {
            cluster: cluster?,
            domain: domain?.to_owned(),
            timeout: timeout.unwrap_or(Some(TIMEOUT))?,
            on_failure,
            breaker: breaker.unwrap_or(Some(Breaker::default()))?,
        })
    }
}

fn read_cluster(value: &Value<'_>) -> Option<String> {
    let name = value.non_empty_text()?;
    if name.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        value.error("a cluster's name holds no control characters");
    }
    Some(name.to_owned())
}

fn read_breaker(value: &Value<'_>) -> Option<Breaker> {
    let fields = value.fields()?;
    let default = Breaker::default();
    let failures = fields.get("failures").map(|failures| failures.integer(1, 10_000));
    let open_for = fields
        .get("openFor")
        .map(|open| read_time(&open, Duration::from_millis(10), Duration::from_secs(3600), "10ms to 1h"));
    Some(Breaker {
        failures: failures
            .map_or(Some(default.failures), |count| count.and_then(|count| u32::try_from(count).ok()))?,
        open_for: open_for.unwrap_or(Some(default.open_for))?,
    })
}

fn read_time(value: &Value<'_>, min: Duration, max: Duration, range: &str) -> Option<Duration> {
    let time = value.duration()?;
    if time < min || time > max {
        value.error(format!("`{}` is out of range; expected {range}", value.text().unwrap_or_default()));
        return None;
    }
    Some(time)
}
