//! What the client is told: the refusal, and the headers that say where it stands.

use std::time::Duration;

use sailcloth_core::decision::{Decision, LocalReply};

use crate::gcra::ceil_seconds;
use crate::outcome::Standing;
use crate::rule::{Rule, Verdict};
use crate::settings::{Format, Told};
use crate::{Engine, Moment};

/// A quota as the client is told it.
struct Quota<'e> {
    /// The rule's name.
    label: &'e str,
    requests: u32,
    /// Its period in seconds; `None` where it is no whole number of them.
    window: Option<u64>,
    /// Where more, or fewer, may come at once.
    burst: Option<u32>,
    remaining: u64,
    /// Seconds until all of it is there again, rounded up.
    reset: u64,
}

/// The reply to a request that a rule refuses.
pub(crate) fn refusal(
    engine: &Engine,
    rule: &Rule,
    decision: &Decision<'_>,
    verdict: Verdict,
    standing: Option<&Standing>,
    moment: Moment,
    body: &[u8],
) -> LocalReply {
    let mut reply = decision.reply();
    let Verdict::Over { retry_after, .. } = verdict else { return reply };
    let deny = &rule.deny;
    reply.status = deny.status.unwrap_or(reply.status);
    if let Some(body) = &deny.body {
        reply.body = body.clone().into();
    } else if let Ok(body) = std::str::from_utf8(body)
        && !body.is_empty()
    {
        reply.body = body.to_owned().into();
    }
    let mut headers = Vec::new();
    if let Some(nanoseconds) = retry_after {
        headers.push(("retry-after", ceil_seconds(nanoseconds).max(1).to_string()));
    }
    headers.push(("x-envoy-ratelimited", "true".to_owned()));
    if engine.settings.headers != Told::Never
        && let Some(quota) = standing.and_then(|standing| quota(engine, standing, moment))
    {
        headers.extend(written(&[quota], engine.settings.format));
    }
    // A header that the resource writes itself is not sent twice.
    headers.retain(|(name, _)| !deny.headers.iter().any(|(header, _)| header == name));
    reply.headers.extend(headers.into_iter().map(|(name, value)| (name, value.into())));
    reply
}

/// The headers for the response of an admitted request.
pub(crate) fn standing_headers(
    engine: &Engine,
    standings: &[Standing],
    moment: Moment,
) -> Vec<(String, Vec<u8>)> {
    let acts = |standing: &&Standing| engine.rules.get(standing.rule()).is_some_and(|rule| !rule.shadow);
    let quotas: Vec<Quota<'_>> =
        standings.iter().filter(acts).filter_map(|standing| quota(engine, standing, moment)).collect();
    let headers = written(&quotas, engine.settings.format).into_iter();
    headers.map(|(name, value)| (name.to_owned(), value.into_bytes())).collect()
}

fn quota<'e>(engine: &'e Engine, standing: &Standing, moment: Moment) -> Option<Quota<'e>> {
    let label = engine.rules.get(standing.rule())?.label.as_str();
    Some(match standing {
        Standing::Local { rule, tier, tat } => {
            let tier = engine.tier(*rule, *tier)?;
            let limit = tier.limit;
            Quota {
                label,
                requests: limit.requests,
                window: whole_seconds(limit.per),
                burst: Some(limit.burst).filter(|burst| *burst != limit.requests),
                remaining: tier.gcra.remaining(*tat, moment.now),
                reset: ceil_seconds(tat.saturating_sub(moment.now)),
            }
        }
        Standing::Global { requests, window, remaining, reset, .. } => Quota {
            label,
            requests: *requests,
            window: window.map(u64::from),
            burst: None,
            remaining: u64::from(*remaining),
            reset: *reset,
        },
    })
}

fn whole_seconds(per: Duration) -> Option<u64> {
    (per.subsec_nanos() == 0).then_some(per.as_secs())
}

fn written(quotas: &[Quota<'_>], format: Format) -> Vec<(&'static str, String)> {
    let mut headers = Vec::new();
    // draft-03 has one quota: the one of which the least is left.
    let tightest = quotas.iter().min_by_key(|quota| quota.remaining);
    if let (Some(quota), Format::XRateLimit | Format::Both) = (tightest, format) {
        headers.push(("x-ratelimit-limit", quota.limit_of_draft_03()));
        headers.push(("x-ratelimit-remaining", quota.remaining.to_string()));
        headers.push(("x-ratelimit-reset", quota.reset.to_string()));
    }
    if !quotas.is_empty() && matches!(format, Format::RateLimit | Format::Both) {
        headers.push(("ratelimit-policy", list(quotas, Quota::policy)));
        headers.push(("ratelimit", list(quotas, Quota::service_limit)));
    }
    headers
}

fn list<'e>(quotas: &[Quota<'e>], item: impl Fn(&Quota<'e>) -> String) -> String {
    quotas.iter().map(item).collect::<Vec<_>>().join(", ")
}

impl Quota<'_> {
    /// `100, 100;w=60;burst=20` (draft-ietf-httpapi-ratelimit-headers-03); a window that is no whole number of seconds
    /// cannot be written there and is left out.
    fn limit_of_draft_03(&self) -> String {
        let requests = self.requests;
        let burst = self.burst.map(|burst| format!(";burst={burst}")).unwrap_or_default();
        match self.window {
            Some(window) => format!("{requests}, {requests};w={window}{burst}"),
            None => requests.to_string(),
        }
    }

    /// `"per-key";q=100;w=60` (the draft since -08, an RFC 9651 list of strings with parameters). What is not the draft's
    /// own is prefixed, as it asks.
    fn policy(&self) -> String {
        let window = self.window.map(|window| format!(";w={window}")).unwrap_or_default();
        let burst = self.burst.map(|burst| format!(";sailcloth-burst={burst}")).unwrap_or_default();
        format!("\"{}\";q={}{window}{burst}", self.label, self.requests)
    }

    /// `"per-key";r=7;t=30`
    fn service_limit(&self) -> String {
        format!("\"{}\";r={};t={}", self.label, self.remaining, self.reset)
    }
}
