//! The limits of the service: Limitador's counters in memory, or counters in Redis, one for each descriptor.

use std::collections::HashMap;
use std::str::FromStr;

use limitador::RateLimiter;
use limitador::counter::Counter;
use limitador::limit::{Context, Limit};

use crate::proto::{
    Code, DescriptorStatus, Duration, HeaderValue, RateLimit, RateLimitDescriptor, RateLimitRequest,
    RateLimitResponse,
};
use crate::redis::Redis;

/// A limit as the command line has it: `shop/x-api-key+method=100/60`, so many in so many seconds for each combination of
/// the values of these entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSpec {
    domain: String,
    keys: Vec<String>,
    max: u64,
    seconds: u64,
}

impl FromStr for LimitSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (domain, rest) = text.split_once('/')?;
            let (keys, quota) = rest.split_once('=')?;
            let (max, seconds) = quota.split_once('/')?;
            let keys: Vec<String> = keys.split('+').map(str::to_owned).collect();
            let fine =
                !domain.is_empty() && keys.iter().all(|key| !key.is_empty() && !key.contains(['"', '\\']));
            let (max, seconds) = (max.parse().ok()?, seconds.parse().ok()?);
            (fine && seconds > 0).then(|| Self { domain: domain.to_owned(), keys, max, seconds })
        };
        parse().ok_or_else(|| format!("`{text}` is not of the form `domain/key+key=requests/seconds`"))
    }
}

impl LimitSpec {
    /// Limitador sees one descriptor at a time, as `descriptors[0]`.
    fn limit(&self) -> Result<Limit, String> {
        let named = |key: &String| format!("descriptors[0][\"{key}\"]");
        let conditions = self.keys.iter().map(|key| format!("\"{key}\" in descriptors[0]").try_into());
        let variables = self.keys.iter().map(|key| named(key).try_into());
        let conditions = conditions.collect::<Result<Vec<_>, _>>().map_err(|error| format!("{error}"))?;
        let variables = variables.collect::<Result<Vec<_>, _>>().map_err(|error| format!("{error}"))?;
        Ok(Limit::new(self.domain.as_str(), self.max, self.seconds, conditions, variables))
    }
}

/// Where counters are. Limitador's own Redis storage needs RocksDB to compile (0.11 to 0.14), so this one is ours: the fixed
/// windows of envoyproxy/ratelimit.
enum Counters {
    Memory(RateLimiter),
    Redis(Redis),
}

/// The limits with their counters.
pub struct Limits {
    specs: Vec<LimitSpec>,
    counters: Counters,
}

impl Limits {
    /// Limits whose counters are in memory, or in the Redis at this `host:port`. Redis is connected to when it is needed.
    ///
    /// # Errors
    /// A sentence, when a limit cannot be used.
    pub fn new(specs: Vec<LimitSpec>, redis: Option<String>) -> Result<Self, String> {
        let limits = specs.iter().map(LimitSpec::limit).collect::<Result<Vec<_>, _>>()?;
        let counters = match redis {
            Some(address) => Counters::Redis(Redis::new(address)),
            None => {
                let limiter = RateLimiter::new(100_000);
                limits.into_iter().for_each(|limit| {
                    limiter.add_limit(limit);
                });
                Counters::Memory(limiter)
            }
        };
        Ok(Self { specs, counters })
    }

    /// Counts a request and says whether it is within its limits. Each descriptor is counted by itself, as in
    /// envoyproxy/ratelimit.
    ///
    /// # Errors
    /// Why the counters could not be asked.
    pub async fn should_rate_limit(&self, request: &RateLimitRequest) -> Result<RateLimitResponse, String> {
        let mut statuses = Vec::new();
        for descriptor in &request.descriptors {
            statuses.push(self.count(&request.domain, descriptor, request.hits_addend.max(1)).await?);
        }
        let over = statuses.iter().any(|status| status.code() == Code::OverLimit);
        let tightest = statuses.iter().min_by_key(|status| status.limit_remaining);
        let header = |key: &str, value: String| HeaderValue { key: key.to_owned(), value };
        let headers =
            tightest.iter().map(|status| header("x-rls-remaining", status.limit_remaining.to_string()));
        Ok(RateLimitResponse {
            overall_code: if over { Code::OverLimit } else { Code::Ok }.into(),
            response_headers_to_add: headers.collect(),
            statuses,
            request_headers_to_add: vec![header("x-rls-asked", "true".to_owned())],
            raw_body: Vec::new(),
        })
    }

    async fn count(
        &self,
        domain: &str,
        descriptor: &RateLimitDescriptor,
        hits: u32,
    ) -> Result<DescriptorStatus, String> {
        let entries: HashMap<String, String> =
            descriptor.entries.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect();
        match &self.counters {
            Counters::Memory(limiter) => in_memory(limiter, domain, entries, hits),
            Counters::Redis(redis) => self.in_redis(redis, domain, &entries, hits).await,
        }
    }

    /// Of all limits whose entries the descriptor has, the one of which the least is left.
    async fn in_redis(
        &self,
        redis: &Redis,
        domain: &str,
        entries: &HashMap<String, String>,
        hits: u32,
    ) -> Result<DescriptorStatus, String> {
        let mut tightest: Option<DescriptorStatus> = None;
        for spec in self.specs.iter().filter(|spec| spec.domain == domain) {
            let values: Option<Vec<&String>> = spec.keys.iter().map(|key| entries.get(key)).collect();
            let Some(values) = values else { continue };
            let key = format!("{domain}|{:?}|{values:?}|{}", spec.keys, spec.seconds);
            let (count, left) = redis.count(&key, hits, spec.seconds).await?;
            let status = DescriptorStatus {
                code: if count > spec.max { Code::OverLimit } else { Code::Ok }.into(),
                current_limit: Some(RateLimit {
                    requests_per_unit: small(spec.max),
                    unit: unit(spec.seconds),
                }),
                limit_remaining: small(spec.max.saturating_sub(count)),
                duration_until_reset: Some(Duration {
                    seconds: i64::try_from(left).unwrap_or(i64::MAX),
                    nanos: 0,
                }),
            };
            let tighter = |other: &DescriptorStatus| {
                (other.code, status.limit_remaining) < (status.code, other.limit_remaining)
            };
            if tightest.as_ref().is_none_or(tighter) {
                tightest = Some(status);
            }
        }
        Ok(tightest
            .unwrap_or_else(|| DescriptorStatus { limit_remaining: u32::MAX, ..status_of(false, None) }))
    }
}

fn in_memory(
    limiter: &RateLimiter,
    domain: &str,
    entries: HashMap<String, String>,
    hits: u32,
) -> Result<DescriptorStatus, String> {
    let mut context = Context::default();
    context.list_binding("descriptors".to_owned(), vec![entries]);
    let namespace = domain.to_owned().into();
    let checked = limiter.check_rate_limited_and_update(&namespace, &context, u64::from(hits));
    let checked = checked.map_err(|error| error.to_string())?;
    let tightest = checked.counters.iter().min_by_key(|counter| counter.remaining().unwrap_or(u64::MAX));
    Ok(status_of(checked.limited, tightest))
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// `RateLimit.Unit`
fn unit(seconds: u64) -> i32 {
    match seconds {
        1 => 1,
        60 => 2,
        3600 => 3,
        86400 => 4,
        _ => 0,
    }
}

fn status_of(limited: bool, counter: Option<&Counter>) -> DescriptorStatus {
    DescriptorStatus {
        code: if limited { Code::OverLimit } else { Code::Ok }.into(),
        current_limit: counter.map(|counter| RateLimit {
            requests_per_unit: small(counter.max_value()),
            unit: unit(counter.window().as_secs()),
        }),
        limit_remaining: counter.map_or(u32::MAX, |counter| {
            if limited { 0 } else { small(counter.remaining().unwrap_or(counter.max_value())) }
        }),
        duration_until_reset: counter.and_then(Counter::expires_in).map(|left| Duration {
            seconds: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(left.subsec_nanos()).unwrap_or(0),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_or_refused_with_the_form() {
        let limit: LimitSpec = "shop/a+b=10/60".parse().unwrap();
        assert_eq!((limit.keys, limit.max, limit.seconds), (vec!["a".into(), "b".into()], 10, 60));
        for text in ["", "shop", "shop/a", "shop/a=1", "shop/a=x/1", "shop/a=1/0", "/a=1/1", "shop/=1/1"] {
            assert!(
                text.parse::<LimitSpec>().unwrap_err().contains("domain/key+key=requests/seconds"),
                "{text}"
            );
        }
    }
}
