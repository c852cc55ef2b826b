//! `limit`, and the table of keys that have one of their own.

use std::collections::BTreeSet;
use std::time::Duration;

use sailcloth_core::config::{Fields, Node, Value};
use sailcloth_core::secret::Secret;

use super::{KeyItem, MAX_REQUESTS};

/// The longest period.
const MAX_PERIOD: Duration = Duration::from_secs(366 * 24 * 3600);

/// A rule that this Envoy counts itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// `limit`.
    pub limit: Limit,
    /// `overrides`: limits of some keys.
    pub overrides: Vec<Override>,
    /// `unlisted`: what becomes of keys that `overrides` does not name.
    pub unlisted: Unlisted,
}

/// `limit`: `requests` per `per`, of which `burst` may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Limit {
    /// Requests per period.
    pub requests: u32,
    /// The period.
    pub per: Duration,
    /// The bucket's size: how many may come at once after a pause.
    pub burst: u32,
    /// How many a worker may take at once from the shared bucket, to give out by itself; 1 is exact.
    pub lease: u32,
}

/// One of `overrides`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The values of the parts of the key, in order; `None` is `*`, any value. They may be API keys.
    pub key: Vec<Option<Secret<String>>>,
    /// The limit of each key that has them.
    pub limit: Limit,
}

/// `unlisted`: keys that a table does not name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Unlisted {
    /// They share one bucket of `limit` (the default: an invented key buys nothing).
    #[default]
    Shared,
    /// Each has a bucket of `limit`.
    Separate,
}

impl Local {
    /// Reads `limit` with `overrides` and `unlisted` beside it.
    pub(super) fn read(limit: &Value<'_>, fields: &Fields<'_>, key: &[KeyItem]) -> Option<Self> {
        let overrides = fields.get("overrides").and_then(|value| read_overrides(&value, key));
        let unlisted = fields.get("unlisted").and_then(|value| {
            if fields.get("overrides").is_none() {
                value.error(
                    "says what becomes of keys that `overrides` does not name, and there are no `overrides`",
                );
            }
            value.word(&[("shared", Unlisted::Shared), ("separate", Unlisted::Separate)])
        });
        Some(Self {
            limit: Limit::read(limit)?,
            unlisted: unlisted.unwrap_or(if overrides.is_some() {
                Unlisted::Shared
            } else {
                Unlisted::Separate
            }),
            overrides: overrides.unwrap_or_default(),
        })
    }
}

impl Limit {
    /// Reads a limit.
    pub(super) fn read(value: &Value<'_>) -> Option<Self> {
        let fields = value.fields()?;
        let count =
            |value: Value<'_>| value.integer(1, MAX_REQUESTS).and_then(|count| u32::try_from(count).ok());
        let per = fields.required("per").and_then(|per| read_period(&per));
        let burst = fields.get("burst").map(count);
        let lease = fields.get("lease").map(|lease| (count(lease.clone()), lease));
        let requests = fields.required("requests").and_then(count);
        let (requests, per) = (requests?, per?);
        let burst = burst.unwrap_or(Some(requests))?;
        let lease = lease.map_or(Some(1), |(lease, value)| {
            if lease.is_some_and(|lease| lease > burst) {
                value.error(format!("a worker cannot take more at once than the burst of {burst}"));
            }
            lease
        });
        Some(Self { requests, per, burst, lease: lease? })
    }
}

fn read_period(value: &Value<'_>) -> Option<Duration> {
    const UNITS: [(&str, u64); 4] = [("second", 1), ("minute", 60), ("hour", 3600), ("day", 24 * 3600)];
    let text = value.text()?;
    if let Some((_, seconds)) = UNITS.iter().find(|(unit, _)| *unit == text) {
        return Some(Duration::from_secs(*seconds));
    }
    if !text.starts_with(|first: char| first.is_ascii_digit()) {
        value.error(format!(
            "unknown unit `{text}`; expected `second`, `minute`, `hour`, `day` or a duration like `30s`"
        ));
        return None;
    }
    let per = value.duration()?;
    if per.is_zero() || per > MAX_PERIOD {
        value.error(format!("`{text}` is out of range; expected more than 0 and at most 366 days"));
        return None;
    }
    Some(per)
}

fn read_overrides(value: &Value<'_>, key: &[KeyItem]) -> Option<Vec<Override>> {
    let items = value.items()?;
    if items.is_empty() {
        value.error("may not be empty; leave `overrides` out where no key has a limit of its own");
    }
    if key.is_empty() {
        value.error("needs a `key`, whose values it lists");
        return None;
    }
    let mut seen = BTreeSet::new();
    let mut overrides = Vec::new();
    for item in items {
        let Some(over) = read_override(&item, key) else { continue };
        let values: Vec<Option<String>> =
            over.key.iter().map(|value| value.as_ref().map(|value| value.expose().clone())).collect();
        if !seen.insert(values) {
            item.error("is the same key as an earlier one; keep one");
        }
        overrides.push(over);
    }
    Some(overrides)
}

fn read_override(value: &Value<'_>, parts: &[KeyItem]) -> Option<Override> {
    let fields = value.fields()?;
    let limit = fields.required("limit").and_then(|limit| Limit::read(&limit));
    let written = fields.required("key")?;
    let key: Vec<Option<Secret<String>>> = match written.node() {
        Node::List(_) => written.list(|part| part.text().map(read_value))?,
        _ => vec![read_value(written.text()?)],
    };
    if key.len() != parts.len() {
        written.error(format!(
            "has {} values where `key` has {} parts; give one for each, `*` for any",
            key.len(),
            parts.len()
        ));
        return None;
    }
    if key.iter().all(Option::is_none) {
        written.error("is every key, whose limit is the rule's own `limit`");
    }
    Some(Override { key, limit: limit? })
}

fn read_value(text: &str) -> Option<Secret<String>> {
    (text != "*").then(|| Secret::new(text.to_owned()))
}
