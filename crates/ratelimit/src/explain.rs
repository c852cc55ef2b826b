//! What the engine would decide about a request, and why; nothing is taken and nobody is asked.

use std::fmt;

use sailcloth_core::decision::{Reason, RuleRef};
use sailcloth_core::key::Part;
use sailcloth_core::request::Request;

use crate::gcra::ceil_seconds;
use crate::rule::{Bound, Counted, Rule, Verdict};
use crate::tier::{Claim, Tier};
use crate::{Engine, Moment, Store, StoreError, Take};

/// What one rule makes of a request. Reads as a line for a person; no value of a key stands in it, since it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained<'e> {
    /// The rule.
    pub rule: RuleRef<'e>,
    /// Its name, or `namespace/name#0`.
    pub name: &'e str,
    /// Whether it is in shadow mode.
    pub shadow: bool,
    /// What it makes of the request.
    pub what: What<'e>,
}

/// What a rule makes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What<'e> {
    /// It does not match.
    NoMatch,
    /// It matches, and has its verdict without a bucket.
    Decided(Reason),
    /// It counts the request in a bucket of this Envoy.
    Bucket {
        /// The parts of the key.
        key: Vec<KeyState>,
        /// Which limit: 0 is the rule's own, others are of its table.
        limit: usize,
        /// Requests per period and burst of it.
        quota: (u32, u32),
        /// What the request costs.
        cost: u32,
        /// What is left before the request.
        remaining: u64,
        /// Whether it would be admitted; else after how many seconds, `None` for never.
        admitted: Result<(), Option<u64>>,
        /// Whether it is the bucket of those without a place.
        shared: bool,
    },
    /// It asks a rate limit service.
    Service {
        /// The parts of the key.
        key: Vec<KeyState>,
        /// What the request costs.
        cost: u32,
        /// The service's cluster.
        cluster: &'e str,
        /// The domain.
        domain: &'e str,
    },
}

/// Whether a part of the key is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyState {
    /// Its name, as in a descriptor.
    pub name: String,
    /// `present`, `missing` or `ambiguous`.
    pub state: &'static str,
}

impl Engine {
    /// What every rule makes of a request, in their order.
    pub fn explain(
        &self,
        request: &Request<'_>,
        moment: Moment,
        store: &mut dyn Store,
    ) -> Vec<Explained<'_>> {
        let rules = self.rules.iter().enumerate();
        rules
            .filter_map(|(id, rule)| {
                let what = self.explain_rule(rule, request, moment, store);
                Some(Explained { rule: self.rule_ref(id)?, name: &rule.label, shadow: rule.shadow, what })
            })
            .collect()
    }

    fn explain_rule<'e>(
        &'e self,
        rule: &'e Rule,
        request: &Request<'_>,
        moment: Moment,
        store: &mut dyn Store,
    ) -> What<'e> {
        let counted = match rule.count(request) {
            Ok(None) => return What::NoMatch,
            Ok(Some(counted)) => counted,
            Err(Verdict::Within(reason) | Verdict::Over { reason, .. } | Verdict::Failed(reason)) => {
                return What::Decided(reason);
            }
        };
        let key = key_states(rule, &counted);
        match &rule.bound {
            Bound::Global(remote) => {
                let cluster = self.services.get(remote.service).map_or("", |service| &service.cluster);
                What::Service { key, cost: counted.cost, cluster, domain: &remote.domain }
            }
            Bound::Local(table) => match table.find(&counted, moment) {
                None => What::NoMatch,
                Some((limit, tier, claim)) => explain_bucket(key, limit, tier, claim, moment, store)
                    .unwrap_or(What::Decided(crate::Reasons::STORE)),
            },
        }
    }
}

fn explain_bucket(
    key: Vec<KeyState>,
    limit: usize,
    tier: &Tier,
    claim: Claim,
    moment: Moment,
    store: &mut dyn Store,
) -> Result<What<'static>, StoreError> {
    let (tat, shared) = tier.peek(claim.tag, moment.now, store)?;
    let admitted = match tier.gcra.take(tat, moment.now, claim.cost) {
        Take::Admitted { .. } => Ok(()),
        Take::Limited { retry_after } => Err(Some(ceil_seconds(retry_after).max(1))),
        Take::TooLarge => Err(None),
    };
    Ok(What::Bucket {
        key,
        limit,
        quota: (tier.limit.requests, tier.limit.burst),
        cost: claim.cost,
        remaining: tier.gcra.remaining(tat, moment.now),
        admitted,
        shared,
    })
}

fn key_states(rule: &Rule, counted: &Counted<'_>) -> Vec<KeyState> {
    let state = |part: &Part<'_>| match part {
        Part::Value(_) => "present",
        Part::Ambiguous(_) => "ambiguous",
        Part::Missing => "missing",
    };
    let items = rule.key.iter().zip(&counted.parts);
    items.map(|(item, part)| KeyState { name: item.entry(), state: state(part) }).collect()
}

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.rule.policy, self.rule.rule)?;
        if self.shadow {
            f.write_str(" (shadow)")?;
        }
        match &self.what {
            What::NoMatch => f.write_str(": does not match"),
            What::Decided(reason) => write!(f, ": {}", reason.code),
            What::Bucket { key, limit, quota, cost, remaining, admitted, shared } => {
                write_key(f, key)?;
                let table = if *limit == 0 { "" } else { " (from the table)" };
                let place = if *shared { ", in the bucket of those without a slot" } else { "" };
                let (requests, burst) = quota;
                write!(
                    f,
                    "; limit {requests}, burst {burst}{table}; {remaining} left{place}; costs {cost}: "
                )?;
                match admitted {
                    Ok(()) => f.write_str("admitted"),
                    Err(Some(seconds)) => write!(f, "limited for {seconds} s"),
                    Err(None) => f.write_str("never admitted"),
                }
            }
            What::Service { key, cost, cluster, domain } => {
                write_key(f, key)?;
                write!(f, "; costs {cost}; asks `{cluster}` for domain `{domain}`")
            }
        }
    }
}

fn write_key(f: &mut fmt::Formatter<'_>, key: &[KeyState]) -> fmt::Result {
    f.write_str(": key ")?;
    if key.is_empty() {
        return f.write_str("of all requests");
    }
    for (place, part) in key.iter().enumerate() {
        let comma = if place == 0 { "" } else { ", " };
        write!(f, "{comma}{} {}", part.name, part.state)?;
    }
    Ok(())
}
