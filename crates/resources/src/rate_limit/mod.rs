//! `RateLimit` (`sailcloth.dev/v1alpha1`): Istio has no such kind.

mod cost;
mod global;
mod key;
mod limit;
#[cfg(test)]
mod tests;

use sailcloth_core::config::{Fields, Value};

pub use cost::{Cost, ResponseCost, Statuses};
pub use global::{Breaker, Global, OnFailure};
pub use key::KeyItem;
pub use limit::{Limit, Local, Override, Unlisted};

use crate::deny_reply::DenyReply;
use crate::operation::Operation;
use crate::{Kind, Metadata, Resource, Scope};

/// The largest number in a limit; anything above is a slip of the hand.
const MAX_REQUESTS: i64 = 1_000_000_000;

/// `spec` of a RateLimit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Where it applies.
    pub scope: Scope,
    /// Its rules; a request must pass every one that matches it.
    pub rules: Vec<LimitRule>,
}

/// One of `rules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitRule {
    /// `name`: tells two rules of equal content apart, and names the policy in `RateLimit`; empty where none is written.
    pub name: String,
    /// `match.to`: the rule counts a request that does any of these; every request where it is empty.
    pub to: Vec<Operation>,
    /// `key`: requests of equal key share a bucket; one bucket for all where it is empty.
    pub key: Vec<KeyItem>,
    /// `limit` or `global`.
    pub bound: Bound,
    /// `cost`: what one request takes from the bucket.
    pub cost: Cost,
    /// `onMissingKey`.
    pub on_missing_key: MissingKey,
    /// `mode: shadow`: counted, never refused.
    pub shadow: bool,
    /// `deny`: how the refusal looks.
    pub deny: DenyReply,
}

/// Who keeps count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// `limit`: this Envoy, exactly over all its workers.
    Local(Local),
    /// `global`: a rate limit service, for all that ask it.
    Global(Global),
}

/// What a request counts against when a part of its key is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum MissingKey {
    /// All requests without that part share a bucket (the default: leaving a header out escapes nothing).
    #[default]
    Shared,
    /// The rule does not count the request.
    Skip,
}

impl Resource for RateLimit {
    const KINDS: &'static [Kind] = &[Kind::RATE_LIMIT];
    const ANNOTATIONS: &'static [&'static str] = &[];

    fn read(_: Kind, _: &Metadata, spec: &Value<'_>) -> Option<Self> {
        let fields = spec.fields()?;
        let scope = Scope::read(&fields);
        let rules = fields.required("rules")?;
        if rules.items()?.is_empty() {
            rules.error("may not be empty; a RateLimit without rules limits nothing");
        }
        Some(Self { scope, rules: rules.list(|rule| read_rule(&rule))? })
    }

    fn scope(&self) -> Option<&Scope> {
        Some(&self.scope)
    }
}

fn read_rule(value: &Value<'_>) -> Option<LimitRule> {
    let fields = value.fields()?;
    fields.refuse("dryRun", "is written `mode: shadow`");
    let name = fields.get("name").and_then(|name| read_name(&name)).unwrap_or_default();
    let to = fields.get("match").and_then(|matched| read_match(&matched));
    let key = fields.get("key").and_then(|key| key::read(&key));
    let missing = fields
        .get("onMissingKey")
        .and_then(|value| value.word(&[("shared", MissingKey::Shared), ("skip", MissingKey::Skip)]));
    let shadow = fields.get("mode").and_then(|mode| mode.word(&[("enforce", false), ("shadow", true)]));
    let deny = fields.get("deny").and_then(|deny| DenyReply::read(&deny));
    let cost = fields.get("cost").map(|cost| Cost::read(&cost));
    let key = key.unwrap_or_default();
    let bound = read_bound(&fields, &key)?;
    let cost = cost.unwrap_or(Some(Cost::default()))?;
    check_cost(&fields, &cost, &bound);
    Some(LimitRule {
        name,
        to: to.unwrap_or_default(),
        key,
        bound,
        cost,
        on_missing_key: missing.unwrap_or_default(),
        shadow: shadow.unwrap_or(false),
        deny: deny.unwrap_or_default(),
    })
}

/// A name stands in response headers as a structured field's string (RFC 9651 3.3.3).
fn read_name(value: &Value<'_>) -> Option<String> {
    let name = value.non_empty_text()?;
    if !name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\') {
        value.error(
            "may hold only printable ASCII without quotes and backslashes; it stands in response headers",
        );
    }
    Some(name.to_owned())
}

fn read_match(value: &Value<'_>) -> Option<Vec<Operation>> {
    let fields = value.fields()?;
    for name in ["when", "from"] {
        fields.refuse(name, "is not supported by this version of the ratelimit filter");
    }
    if fields.is_empty() {
        value.error("may not be empty; leave `match` out to count every request");
    }
    let to = fields.get("to")?;
    if to.items()?.is_empty() {
        to.error("may not be empty; leave `match` out to count every request");
    }
    to.list(|item| Operation::read_to(&item))
}

fn read_bound(fields: &Fields<'_>, key: &[KeyItem]) -> Option<Bound> {
    match fields.one_of(&["limit", "global"]) {
        Some(("global", global)) => {
            for name in ["overrides", "unlisted"] {
                fields
                    .refuse(name, "has no meaning beside `global`: the rate limit service has its own table");
            }
            if key.is_empty() && fields.get("key").is_none() {
                global.error("needs a `key`, of which its descriptor is made; for one bucket write `key: [{constant: all}]`");
            }
            Global::read(&global).map(Bound::Global)
        }
        Some((_, limit)) => Local::read(&limit, fields, key).map(Bound::Local),
        None => {
            let _ = (fields.get("overrides"), fields.get("unlisted"));
            if fields.get("limit").is_none() && fields.get("global").is_none() {
                fields.value().error("needs `limit`, or `global` to ask a rate limit service");
            }
            None
        }
    }
}

/// A request that costs more than a bucket can ever hold would be refused for ever.
fn check_cost(fields: &Fields<'_>, cost: &Cost, bound: &Bound) {
    let (most, what) = cost.most();
    let buckets: Vec<(&'static str, &Limit)> = match bound {
        Bound::Local(local) => std::iter::once(("limit", &local.limit))
            .chain(local.overrides.iter().map(|over| ("overrides", &over.limit)))
            .collect(),
        Bound::Global(global) => {
            if let (Cost::Response(_), Some(value)) = (cost, fields.get("cost")) {
                value.error("a cost that only the response knows cannot be asked of a rate limit service; use `limit`");
            }
            match &global.on_failure {
                OnFailure::Local(limit) => vec![("global", limit)],
                OnFailure::Allow | OnFailure::Deny => Vec::new(),
            }
        }
    };
    for (name, limit) in buckets.into_iter().filter(|(_, limit)| most > limit.burst) {
        if let Some(value) = fields.get(name) {
            value.error(format!(
                "{what} {most}, which a burst of {} can never give; raise `burst` or lower the cost",
                limit.burst
            ));
        }
    }
}
