//! The filter's own settings.

use std::time::Duration;

use sailcloth_core::config::{Fields, Value, did_you_mean};

/// Istio's names of outbound clusters.
const DEFAULT_TEMPLATE: &str = "outbound|{port}|{subset}|{host}";
const DEFAULT_PORT: u16 = 80;
const DEFAULT_DOMAIN: &str = "cluster.local";
/// More copies than that nobody means.
const MAX_MIRRORS: i64 = 16;

/// `settings` of the routing filter.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How a destination becomes the name of a cluster (`cluster`).
    pub(crate) template: Template,
    /// The clusters that this Envoy has (`clusters`); none when the field is missing, which is reported.
    pub(crate) clusters: Option<Vec<String>>,
    /// The port of a destination that names none (`defaultPort`).
    pub(crate) default_port: u16,
    /// The domain that short names are completed with (`domain`).
    pub(crate) domain: String,
    /// The port that the listener stands for (`port`); asked of each connection when absent.
    pub(crate) port: Option<u16>,
    /// How many mirror policies the native route has (`mirrors`).
    pub(crate) mirrors: usize,
    /// What the native route says about retries (`nativeRetries`).
    pub(crate) native_retries: NativeRetries,
    /// Who does what a rule says beside its choice (`carryOut`).
    pub(crate) carry_out: CarryOut,
}

/// How a choice is carried out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum CarryOut {
    /// By headers that the router reads, and by the filter itself (`standalone`).
    #[default]
    Standalone,
    /// By one native route for each rule (`paired`).
    Paired,
}

/// The part of a retry policy that no request can set.
#[derive(Debug, Clone)]
pub(crate) struct NativeRetries {
    pub(crate) backoff: Option<Duration>,
    pub(crate) remote_localities: bool,
    pub(crate) ignore_previous_hosts: bool,
}

/// The name of a cluster with places for what a destination says.
#[derive(Debug, Clone)]
pub(crate) struct Template(Vec<Segment>);

#[derive(Debug, Clone)]
enum Segment {
    Text(String),
    Host,
    Port,
    Subset,
}

impl Settings {
    /// Reads `settings`; every problem is reported.
    #[must_use]
    pub fn read(fields: &Fields<'_>) -> Self {
        let written = fields.get("cluster");
        let template = written.and_then(|value| Template::read(&value, value.non_empty_text()?));
        let clusters =
            fields.get("clusters").map(|value| value.list(|item| read_cluster(&item)).unwrap_or_default());
        if clusters.is_none() {
            fields.value().error(
                "missing field `clusters`: the names of the clusters that this Envoy has; a route to any other would \
                 answer 503",
            );
        }
        let port = |name| {
            let port = fields.get(name).and_then(|value| value.integer(1, 65535));
            port.and_then(|port| u16::try_from(port).ok())
        };
        let (listener, default_port) = (port("port"), port("defaultPort"));
        let mirrors =
            fields.get("mirrors").and_then(|value| value.integer(0, MAX_MIRRORS)).unwrap_or_default();
        let carry_out = fields.get("carryOut").and_then(|value| {
            value.word(&[("standalone", CarryOut::Standalone), ("paired", CarryOut::Paired)])
        });
        let domain = fields.get("domain").and_then(|value| value.non_empty_text());
        Self {
            template: template.unwrap_or_default(),
            clusters,
            // Istio: "with several ports, the listener's".
            default_port: default_port.or(listener).unwrap_or(DEFAULT_PORT),
            domain: domain.unwrap_or(DEFAULT_DOMAIN).to_ascii_lowercase(),
            port: listener,
            mirrors: usize::try_from(mirrors).unwrap_or_default(),
            carry_out: carry_out.unwrap_or_default(),
            native_retries: NativeRetries::read(fields.get("nativeRetries").as_ref()),
        }
    }
}

impl NativeRetries {
    fn read(value: Option<&Value<'_>>) -> Self {
        let fields = value.and_then(Value::fields);
        let flag = |name| fields.as_ref().and_then(|fields| fields.get(name)?.boolean());
        Self {
            backoff: fields.as_ref().and_then(|fields| fields.get("backoff")?.duration()),
            remote_localities: flag("retryRemoteLocalities").unwrap_or(false),
            ignore_previous_hosts: flag("retryIgnorePreviousHosts").unwrap_or(true),
        }
    }
}

/// A cluster's name becomes a header value: no control characters, and no blanks at its ends, which would be lost.
fn read_cluster(value: &Value<'_>) -> Option<String> {
    let name = value.non_empty_text()?;
    if name.chars().any(char::is_control) || name.trim() != name {
        value.error("has blanks at an end or control characters, which no header can carry");
    }
    Some(name.to_owned())
}

impl Default for Template {
    fn default() -> Self {
        Self::parse(DEFAULT_TEMPLATE).unwrap_or_else(|_| Self(vec![Segment::Host]))
    }
}

impl Template {
    fn read(value: &Value<'_>, text: &str) -> Option<Self> {
        Self::parse(text).map_err(|problem| value.error(problem)).ok()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut segments = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) =
                after.split_once('}').ok_or_else(|| format!("`{text}` has a `{{` without `}}`"))?;
            segments.push(Segment::Text(before.to_owned()));
            segments.push(match name {
                "host" => Segment::Host,
                "port" => Segment::Port,
                "subset" => Segment::Subset,
                _ => {
                    let hint = did_you_mean(name, &["host", "port", "subset"]);
                    return Err(format!(
                        "unknown place `{{{name}}}`{hint}; there are `{{host}}`, `{{port}}`, `{{subset}}`"
                    ));
                }
            });
            rest = after;
        }
        segments.push(Segment::Text(rest.to_owned()));
        Ok(Self(segments))
    }

    /// The name of the cluster of a destination.
    pub(crate) fn name(&self, host: &str, port: u16, subset: &str) -> String {
        let mut name = String::new();
        for segment in &self.0 {
            match segment {
                Segment::Text(text) => name.push_str(text),
                Segment::Host => name.push_str(host),
                Segment::Port => name.push_str(&port.to_string()),
                Segment::Subset => name.push_str(subset),
            }
        }
        name
    }
}
