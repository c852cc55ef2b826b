//! `settings.jwks`: how key sets are fetched and kept.

use std::time::Duration;

use sailcloth_core::config::{Fields, Value};

use crate::Url;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// How key sets are fetched and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchSettings {
    /// `clusters`: the Envoy cluster by `host` or `host:port` of a URL, in place of Istio's `outbound|<port>||<host>`.
    pub clusters: Vec<(String, String)>,
    /// `refreshInterval`: a set is fetched anew after this time at the latest.
    pub refresh_interval: Duration,
    /// `refetchInterval`: the least time between two fetches of one set, whoever asks.
    pub refetch_interval: Duration,
    /// `maxAge`: keys are dropped when no fetch has succeeded for this long.
    pub max_age: Duration,
    /// `maxBytes`: the largest key set, in bytes.
    pub max_bytes: usize,
    /// `maxWaiting`: the most requests that wait for one set at one time, in each worker.
    pub max_waiting: usize,
}

impl Default for FetchSettings {
    fn default() -> Self {
        Self {
            clusters: Vec::new(),
            refresh_interval: 5 * MINUTE,
            refetch_interval: Duration::from_secs(2),
            max_age: 24 * HOUR,
            max_bytes: 256 * 1024,
            max_waiting: 1000,
        }
    }
}

impl FetchSettings {
    /// The largest key set that may be allowed, in bytes.
    pub const MAX_BYTES: usize = 4 << 20;

    /// Reads them.
    pub(crate) fn read(fields: &Fields<'_>) -> Self {
        let default = Self::default();
        let read = |name, least, most, otherwise| {
            fields.get(name).and_then(|value| duration(&value, least, most)).unwrap_or(otherwise)
        };
        let size = |name, least, most, otherwise| {
            let number = fields.get(name).and_then(|value| value.integer(least, most));
            number.and_then(|number| usize::try_from(number).ok()).unwrap_or(otherwise)
        };
        let refresh_interval =
            read("refreshInterval", Duration::from_secs(10), 24 * HOUR, default.refresh_interval);
        Self {
            clusters: fields.get("clusters").map(|value| clusters(&value)).unwrap_or_default(),
            refresh_interval,
            refetch_interval: read(
                "refetchInterval",
                Duration::from_millis(100),
                MINUTE,
                default.refetch_interval,
            ),
            max_age: read("maxAge", refresh_interval, 30 * 24 * HOUR, default.max_age.max(refresh_interval)),
            max_bytes: size("maxBytes", 1024, 4 << 20, default.max_bytes),
            max_waiting: size("maxWaiting", 0, 100_000, default.max_waiting),
        }
    }

    /// The cluster through which a URL is fetched.
    #[must_use]
    pub fn cluster(&self, url: &Url) -> String {
        let with_port = |key: &str| {
            key.rsplit_once(':').is_some_and(|(host, port)| {
                host.trim_matches(['[', ']']) == url.host && port.parse() == Ok(url.port)
            })
        };
        let named = self.clusters.iter().find(|(key, _)| with_port(key));
        let named = named.or_else(|| self.clusters.iter().find(|(key, _)| *key == url.host));
        named.map_or_else(|| url.istio_cluster(), |(_, cluster)| cluster.clone())
    }
}

fn clusters(value: &Value<'_>) -> Vec<(String, String)> {
    let mut clusters = Vec::new();
    for (host, cluster) in value.entries().unwrap_or_default() {
        if host.is_empty() || host.contains('/') {
            cluster
                .error("is not for a host: expected `host` or `host:port` as key, without scheme and path");
        }
        if let Some(cluster) = cluster.non_empty_text() {
            clusters.push((host.to_ascii_lowercase(), cluster.to_owned()));
        }
    }
    clusters
}

fn duration(value: &Value<'_>, least: Duration, most: Duration) -> Option<Duration> {
    let duration = value.duration()?;
    if duration < least || duration > most {
        value.error(format!("must be from `{}` to `{}`", text(least), text(most)));
        return None;
    }
    Some(duration)
}

fn text(duration: Duration) -> String {
    match duration.as_millis() {
        whole if whole % 3_600_000 == 0 => format!("{}h", whole / 3_600_000),
        whole if whole % 60_000 == 0 => format!("{}m", whole / 60_000),
        whole if whole % 1000 == 0 => format!("{}s", whole / 1000),
        whole => format!("{whole}ms"),
    }
}
