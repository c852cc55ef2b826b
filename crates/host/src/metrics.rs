//! Counters, gauges and histograms in Envoy's own stats.
//!
//! Labels are part of the flat name, `name;.;label=.=value`, and become Prometheus labels by the `stats_tags` snippet
//! that every shipped configuration carries. A metric is never freed by Envoy, so label values must be bounded, and a
//! metric is defined once per VM, at its first use.

use std::collections::HashMap;
use std::hash::Hash;

use sailcloth_core::decision::{Decision, Mode};

pub use sailcloth_core::metric::flat_name as name;

use crate::{Status, abi};

const COUNTER: u32 = 0;
const GAUGE: u32 = 1;
const HISTOGRAM: u32 = 2;

/// A metric that only grows.
#[derive(Debug, Clone, Copy)]
pub struct Counter(u32);

/// A metric that goes up and down. Changes are added up over all workers; an absolute value would be the last
/// writer's.
#[derive(Debug, Clone, Copy)]
pub struct Gauge(u32);

/// A distribution.
#[derive(Debug, Clone, Copy)]
pub struct Histogram(u32);

impl Counter {
    /// Defines it.
    ///
    /// # Errors
    /// The status of the host.
    pub fn define(name: &str) -> Result<Self, Status> {
        abi::define_metric(COUNTER, name).map(Self)
    }

    /// Adds `count`; adding 0 does nothing.
    pub fn add(self, count: u32) {
        self.add_many(u64::from(count));
    }

    /// [`Self::add`] for what may pass 32 bits, such as bytes.
    pub fn add_many(self, count: u64) {
        if count > 0 {
            // A metric that cannot be counted must not change the decision it counts.
            let _ = abi::increment_metric(self.0, i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

impl Gauge {
    /// Defines it.
    ///
    /// # Errors
    /// The status of the host.
    pub fn define(name: &str) -> Result<Self, Status> {
        abi::define_metric(GAUGE, name).map(Self)
    }

    /// Changes it.
    pub fn add(self, change: i64) {
        let _ = abi::increment_metric(self.0, change);
    }

    /// Sets it for the whole process.
    pub fn set(self, value: u64) {
        let _ = abi::record_metric(self.0, value);
    }
}

impl Histogram {
    /// Defines it.
    ///
    /// # Errors
    /// The status of the host.
    pub fn define(name: &str) -> Result<Self, Status> {
        abi::define_metric(HISTOGRAM, name).map(Self)
    }

    /// Records a value.
    pub fn record(self, value: u64) {
        let _ = abi::record_metric(self.0, value);
    }
}

/// Counters by a bounded key, each defined at its first use.
#[derive(Debug)]
pub struct Counters<K>(HashMap<K, Option<Counter>>);

impl<K> Default for Counters<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Counters<K> {
    /// Counts one; `name` is asked for the flat name when the counter is new.
    pub fn count(&mut self, key: K, name: impl FnOnce() -> String) {
        self.add(key, 1, name);
    }

    /// Counts several; `name` is asked for the flat name when the counter is new.
    pub fn add(&mut self, key: K, count: u32, name: impl FnOnce() -> String) {
        // A name that the host refused once is not tried on every request.
        let counter = *self.0.entry(key).or_insert_with(|| Counter::define(&name()).ok());
        if let Some(counter) = counter {
            counter.add(count);
        }
    }
}

/// Gauges by a bounded key, each defined at its first use.
#[derive(Debug)]
pub struct Gauges<K>(HashMap<K, Option<Gauge>>);

impl<K> Default for Gauges<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Gauges<K> {
    /// Changes one; `name` is asked for the flat name when the gauge is new.
    pub fn add(&mut self, key: K, change: i64, name: impl FnOnce() -> String) {
        if let Some(gauge) = *self.0.entry(key).or_insert_with(|| Gauge::define(&name()).ok()) {
            gauge.add(change);
        }
    }
}

/// Counters of a filter's decisions, one per rule, verdict and reason:
/// `sailcloth_<filter>_decisions_total{policy, rule, outcome, reason}`.
#[derive(Debug, Default)]
pub struct DecisionCounters(Counters<(Option<usize>, &'static str, &'static str)>);

impl DecisionCounters {
    /// Counts a decision, also one in shadow mode.
    pub fn count(&mut self, decision: &Decision<'_>) {
        let outcome = outcome(decision);
        self.0.count((decision.by.map(|by| by.id), outcome, decision.reason.code), || {
            let metric = format!("sailcloth_{}_decisions_total", decision.filter.name());
            let rule = decision.by.map_or_else(|| "none".to_owned(), |by| by.rule.to_string());
            let policy = decision.by.map_or("none", |by| by.policy);
            name(
                &metric,
                &[
                    ("policy", policy),
                    ("rule", &rule),
                    ("outcome", outcome),
                    ("reason", decision.reason.code),
                ],
            )
        });
    }
}

/// The label `outcome` of a decision: its verdict, with `shadow_` before it where it does not act.
#[must_use]
pub fn outcome(decision: &Decision<'_>) -> &'static str {
    match (decision.mode, decision.verdict.name()) {
        (Mode::Enforce, verdict) => verdict,
        (Mode::Audit, _) => "audit",
        (Mode::Shadow, "deny") => "shadow_deny",
        (Mode::Shadow, "limit") => "shadow_limit",
        (Mode::Shadow, "route") => "shadow_route",
        (Mode::Shadow, _) => "shadow_allow",
    }
}
