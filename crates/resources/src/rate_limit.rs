//! `RateLimit` (`sailcloth.dev/v1alpha1`): Istio has no such kind.

use std::time::Duration;

use sailcloth_core::config::{Node, Value};
use sailcloth_core::key::KeyPart;

use crate::deny_reply::DenyReply;
use crate::key;
use crate::operation::Operation;
use crate::{Kind, Metadata, Resource, Scope};

/// The largest number in a limit; anything above is a slip of the hand.
const MAX_REQUESTS: i64 = 1_000_000_000;
/// The longest period.
const MAX_PERIOD: Duration = Duration::from_secs(366 * 24 * 3600);

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
    /// `name`: tells two rules of equal content apart; empty where none is written.
    pub name: String,
    /// `match.to`: the rule counts a request that does any of these; every request where it is empty.
    pub to: Vec<Operation>,
    /// `key`: requests of equal key share a bucket; one bucket for all where it is empty.
    pub key: Vec<KeyPart>,
    /// `limit`.
    pub limit: Limit,
    /// `cost`: what one request takes from the bucket.
    pub cost: u32,
    /// `onMissingKey`.
    pub on_missing_key: MissingKey,
    /// `mode: shadow`: counted, never refused.
    pub shadow: bool,
    /// `deny`: how the refusal looks.
    pub deny: DenyReply,
}

/// `limit`: `requests` per `per`, of which `burst` may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    /// Requests per period.
    pub requests: u32,
    /// The period.
    pub per: Duration,
    /// The bucket's size: how many may come at once after a pause.
    pub burst: u32,
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
    const LATER: &str = "is not supported by this version of the ratelimit filter";
    let fields = value.fields()?;
    for name in ["global", "overrides", "dryRun"] {
        let hint = if name == "dryRun" { "is written `mode: shadow`" } else { LATER };
        fields.refuse(name, hint);
    }
    let name = fields.get("name").and_then(|name| name.non_empty_text()).unwrap_or_default();
    let to = fields.get("match").and_then(|matched| read_match(&matched));
    let key = fields.get("key").and_then(|key| read_key(&key));
    let missing = fields
        .get("onMissingKey")
        .and_then(|value| value.word(&[("shared", MissingKey::Shared), ("skip", MissingKey::Skip)]));
    let shadow = fields.get("mode").and_then(|mode| mode.word(&[("enforce", false), ("shadow", true)]));
    let cost = fields.get("cost").and_then(|cost| read_cost(&cost));
    let deny = fields.get("deny").and_then(|deny| DenyReply::read(&deny));
    let limit_value = fields.required("limit")?;
    let limit = read_limit(&limit_value)?;
    let cost = cost.unwrap_or(1);
    if cost > limit.burst {
        limit_value.error(format!(
            "one request costs {cost}, which a burst of {} can never give; raise `burst` or lower `cost`",
            limit.burst
        ));
    }
    Some(LimitRule {
        name: name.to_owned(),
        to: to.unwrap_or_default(),
        key: key.unwrap_or_default(),
        limit,
        cost,
        on_missing_key: missing.unwrap_or_default(),
        shadow: shadow.unwrap_or(false),
        deny: deny.unwrap_or_default(),
    })
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

fn read_key(value: &Value<'_>) -> Option<Vec<KeyPart>> {
    if value.items()?.is_empty() {
        value.error("may not be empty; leave `key` out for one bucket that all requests share");
    }
    value.list(|part| {
        let fields = part.fields()?;
        fields.refuse("pathTemplate", "is not supported by this version of the ratelimit filter");
        if fields.is_empty() {
            part.error(format!("expected one of {}", key::PARTS.map(|part| format!("`{part}`")).join(", ")));
        }
        key::read_part(&fields, &key::PARTS)
    })
}

fn read_cost(value: &Value<'_>) -> Option<u32> {
    if matches!(value.node(), Node::Map(_)) {
        value.error("only a constant cost is supported by this version of the ratelimit filter");
        return None;
    }
    value.integer(1, MAX_REQUESTS).and_then(|cost| u32::try_from(cost).ok())
}

fn read_limit(value: &Value<'_>) -> Option<Limit> {
    let fields = value.fields()?;
    let count = |value: Value<'_>| value.integer(1, MAX_REQUESTS).and_then(|count| u32::try_from(count).ok());
    let per = fields.required("per").and_then(|per| read_period(&per));
    let burst = fields.get("burst").map(count);
    let requests = fields.required("requests").and_then(count);
    let (requests, per) = (requests?, per?);
    let burst = burst.unwrap_or(Some(requests))?;
    Some(Limit { requests, per, burst })
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

#[cfg(test)]
mod tests {
    use super::*;
    use sailcloth_core::config::Problems;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read(spec: &str) -> Result<RateLimit, Vec<String>> {
        let node = Node::from_json(spec.as_bytes()).unwrap();
        let problems = Problems::default();
        let policy = RateLimit::read(Kind::RATE_LIMIT, &Metadata::default(), &Value::root(&node, &problems));
        policy.filter(|_| !problems.refuse()).ok_or_else(|| problems.errors())
    }

    fn rule(fields: &str) -> Result<LimitRule, Vec<String>> {
        read(&format!(r#"{{"rules": [{{{fields}}}]}}"#)).map(|mut policy| policy.rules.remove(0))
    }

    const LIMIT: &str = r#""limit": {"requests": 100, "per": "1m"}"#;

    #[test]
    fn a_limit_alone_is_one_bucket_for_all_with_a_burst_of_its_requests() {
        let rule = rule(LIMIT).unwrap();
        assert_eq!(rule.limit, Limit { requests: 100, per: Duration::from_secs(60), burst: 100 });
        assert_eq!((rule.key.len(), rule.to.len(), rule.cost, rule.shadow), (0, 0, 1, false));
        assert_eq!(rule.on_missing_key, MissingKey::Shared);
    }

    #[test]
    fn every_key_part_is_read() {
        let key = r#""key": [{"header": "X-API-Key"}, {"cookie": "sid"}, {"queryParameter": "q"}, {"claim": "sub"},
            {"claim": ["realm", "id"]}, {"sourceIp": {}}, {"sourceIp": {"prefixLength": 24, "prefixLengthV6": 48}},
            {"method": {}}, {"principal": {}}, {"requestPrincipal": {}}, {"constant": "all"}]"#;
        let rule = rule(&format!("{LIMIT}, {key}")).unwrap();
        assert_eq!(
            rule.key,
            [
                KeyPart::Header("x-api-key".into()),
                KeyPart::Cookie("sid".into()),
                KeyPart::QueryParameter("q".into()),
                KeyPart::Claim(vec!["sub".into()]),
                KeyPart::Claim(vec!["realm".into(), "id".into()]),
                KeyPart::SourceIp { prefix: 32, prefix_v6: 64 },
                KeyPart::SourceIp { prefix: 24, prefix_v6: 48 },
                KeyPart::Method,
                KeyPart::Principal,
                KeyPart::RequestPrincipal,
                KeyPart::Constant("all".into()),
            ]
        );
    }

    #[test]
    fn periods_are_units_or_durations() {
        for (per, seconds) in [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400), ("1m30s", 90)] {
            let rule = rule(&format!(r#""limit": {{"requests": 1, "per": "{per}"}}"#)).unwrap();
            assert_eq!(rule.limit.per, Duration::from_secs(seconds), "{per}");
        }
    }

    #[test]
    fn bad_rules_are_located_errors() {
        const LATER: &str = "is not supported by this version of the ratelimit filter";
        let cases = [
            (r#""limit": {"requests": 0, "per": "1m"}"#, "limit.requests: 0 is out of range; expected 1 to 1000000000".to_owned()),
            (r#""limit": {"requests": 1, "per": "0s"}"#, "limit.per: `0s` is out of range; expected more than 0 and at most 366 days".to_owned()),
            (r#""limit": {"requests": 1, "per": "fortnight"}"#, "limit.per: unknown unit `fortnight`; expected `second`, `minute`, `hour`, `day` or a duration like `30s`".to_owned()),
            (r#""limit": {"requests": 1, "per": "1x"}"#, "limit.per: `1x` is not a duration; expected a form like `10s`, `1m30s` or `250ms`".to_owned()),
            (r#""limit": {"requests": 9, "per": "1s", "burst": 2}, "cost": 3"#, "limit: one request costs 3, which a burst of 2 can never give; raise `burst` or lower `cost`".to_owned()),
            (&format!(r#"{LIMIT}, "cost": {{"header": "x"}}"#), "cost: only a constant cost is supported by this version of the ratelimit filter".to_owned()),
            (&format!(r#"{LIMIT}, "global": {{}}"#), format!("global: `global` {LATER}")),
            (&format!(r#"{LIMIT}, "overrides": []"#), format!("overrides: `overrides` {LATER}")),
            (&format!(r#"{LIMIT}, "match": {{"when": []}}"#), format!("match.when: `when` {LATER}")),
            (&format!(r#"{LIMIT}, "match": {{}}"#), "match: may not be empty; leave `match` out to count every request".to_owned()),
            (&format!(r#"{LIMIT}, "match": {{"to": [{{"operation": {{"path": []}}}}]}}"#), "match.to[0].operation.path: unknown field; did you mean `paths`?".to_owned()),
            (&format!(r#"{LIMIT}, "key": []"#), "key: may not be empty; leave `key` out for one bucket that all requests share".to_owned()),
            (&format!(r#"{LIMIT}, "key": [{{"header": "a b"}}]"#), "key[0].header: `a b` is not a header name".to_owned()),
            (&format!(r#"{LIMIT}, "key": [{{"sourceIp": {{"prefixLength": 33}}}}]"#), "key[0].sourceIp.prefixLength: 33 is out of range; expected 0 to 32".to_owned()),
            (&format!(r#"{LIMIT}, "key": [{{"header": "a", "cookie": "b"}}]"#), "key[0]: `header` and `cookie` exclude each other; keep one".to_owned()),
            (&format!(r#"{LIMIT}, "deny": {{"status": 200}}"#), "deny.status: 200 is out of range; expected 400 to 599".to_owned()),
            (&format!(r#"{LIMIT}, "deny": {{"headers": {{"a": "b\nc"}}}}"#), "deny.headers.a: a header value may not contain line breaks or NUL".to_owned()),
            (&format!(r#"{LIMIT}, "mode": "dryrun""#), "mode: unknown value `dryrun`; expected `enforce`, `shadow`".to_owned()),
            (r#""name": "x""#, ": missing field `limit`".to_owned()),
        ];
        for (json, expected) in cases {
            let expected = format!("rules[0].{expected}").replace(".:", ":");
            let errors = rule(json).unwrap_err();
            assert!(errors.contains(&expected), "{json}\n  expected {expected}\n  found {errors:?}");
        }
    }

    #[test]
    fn a_policy_without_rules_is_refused() {
        assert_eq!(read("{}").unwrap_err(), ["missing field `rules`"]);
        assert_eq!(
            read(r#"{"rules": []}"#).unwrap_err(),
            ["rules: may not be empty; a RateLimit without rules limits nothing"]
        );
    }
}
