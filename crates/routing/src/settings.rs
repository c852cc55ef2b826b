//! The filter's own settings.

use sailcloth_core::config::{Fields, Value, did_you_mean};

/// Istio's names of outbound clusters.
const DEFAULT_TEMPLATE: &str = "outbound|{port}|{subset}|{host}";
const DEFAULT_PORT: u16 = 80;
const DEFAULT_DOMAIN: &str = "cluster.local";

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
        let port = fields.get("defaultPort").and_then(|value| value.integer(1, 65535));
        let domain = fields.get("domain").and_then(|value| value.non_empty_text());
        Self {
            template: template.unwrap_or_default(),
            clusters,
            default_port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(DEFAULT_PORT),
            domain: domain.unwrap_or(DEFAULT_DOMAIN).to_ascii_lowercase(),
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
