//! The counters of decisions, retries, slots and calls.

use sailcloth_core::decision::RuleRef;
use sailcloth_host::callout::GrpcAnswer;
use sailcloth_host::metrics::{Counters, DecisionCounters, Gauges, name};
use sailcloth_ratelimit::{Engine, Outcome};

/// All counters of this filter.
#[derive(Default)]
pub(crate) struct Counts {
    decisions: DecisionCounters,
    retries: Counters<usize>,
    slots: Gauges<usize>,
    calls: Counters<(usize, CallResult)>,
}

/// What came of a call to a rate limit service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CallResult {
    /// It was answered.
    Answered,
    /// The answer was no response of the protocol.
    Unreadable,
    /// The service answered with a gRPC error.
    Error,
    /// It did not answer in time, or could not be reached.
    Unavailable,
    /// Envoy refused to send it: there is no such cluster, or it has no endpoints.
    Refused,
    /// It was not made: the circuit breaker is open.
    BreakerOpen,
}

impl CallResult {
    pub(crate) fn of(answer: &GrpcAnswer, readable: bool) -> Self {
        match answer {
            GrpcAnswer::Message(_) if readable => Self::Answered,
            GrpcAnswer::Message(_) => Self::Unreadable,
            // Envoy closes with 14 at the deadline and without a connection; 4 is our own deadline.
            GrpcAnswer::Closed(4 | 14) => Self::Unavailable,
            GrpcAnswer::Closed(_) => Self::Error,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unreadable => "unreadable",
            Self::Error => "error",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::BreakerOpen => "breaker_open",
        }
    }
}

impl Counts {
    /// Counts what each rule said, and what it took to find out.
    pub(crate) fn outcome(&mut self, outcome: &Outcome<'_>) {
        for decision in &outcome.said {
            self.decisions.count(decision);
        }
        for (rule, times) in &outcome.retries {
            self.retries.add(rule.id, *times, || of_rule("sailcloth_ratelimit_retries_total", rule));
        }
        self.slots(&outcome.slots);
    }

    /// Counts slots taken and given back.
    pub(crate) fn slots(&mut self, changes: &[(RuleRef<'_>, i64)]) {
        for (rule, change) in changes {
            self.slots.add(rule.id, *change, || of_rule("sailcloth_ratelimit_slots_used", rule));
        }
    }

    /// Counts a call.
    pub(crate) fn call(&mut self, service: usize, engine: &Engine, result: CallResult) {
        self.calls.count((service, result), || {
            let cluster = engine.services().get(service).map_or("none", |service| service.cluster.as_str());
            name("sailcloth_ratelimit_calls_total", &[("cluster", cluster), ("result", result.word())])
        });
    }
}

fn of_rule(metric: &str, rule: &RuleRef<'_>) -> String {
    name(metric, &[("policy", rule.policy), ("rule", &rule.rule.to_string())])
}
