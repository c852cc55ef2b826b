//! Why a request was decided as it was: every rule, and every condition of it that did not hold.
//!
//! Not for the request path: everything is tried and every value is fetched.

use std::fmt;

use sailcloth_core::decision::Mode;
use sailcloth_core::request::Request;
use sailcloth_resources::authorization_policy::Action;

use crate::caller::Caller;
use crate::engine::{Engine, Outcome};
use crate::rule::{CompiledRule, Failure};
use crate::rules::Rules;

/// A decision and what every rule had to do with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation<'e> {
    /// What DENY and ALLOW decide; a provider that a CUSTOM rule asks is asked before.
    pub outcome: Outcome<'e>,
    /// Every policy that applies to the workload, in the order of the configuration.
    pub policies: Vec<ExplainedPolicy<'e>>,
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedPolicy<'e> {
    /// `namespace/name`.
    pub policy: &'e str,
    /// `ALLOW`, `DENY`, `AUDIT`, `CUSTOM`.
    pub action: &'static str,
    /// Whether it acts on this request.
    pub mode: Mode,
    /// Its rules.
    pub rules: Vec<ExplainedRule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedRule {
    /// Its index in the policy.
    pub rule: u32,
    /// Whether it matches.
    pub matches: Truth,
    /// The conditions that do not hold; of alternatives those of each one, where none holds.
    pub failed: Vec<FailedCondition>,
}

/// Whether something holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It does.
    Holds,
    /// It does not.
    Fails,
    /// It cannot be known, because of this.
    Unknown(&'static str),
}

/// A condition that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedCondition {
    /// Where it stands in the rule: `from[0].principals`, `when[1].request.headers[x-a]`.
    pub condition: String,
    /// The values that were met; none where there is no such thing in the request.
    pub found: Vec<String>,
    /// Whether it fails or cannot be known.
    pub truth: Truth,
}

impl Engine {
    /// Decides and explains. `now` gives seconds since the Unix epoch.
    #[must_use]
    pub fn explain(&self, request: Request<'_>, now: &dyn Fn() -> u64) -> Explanation<'_> {
        let caller = Caller::new(request, now);
        let policies = self.policies.iter().enumerate().map(|(number, policy)| {
            let shadow = self.shadow.as_ref().filter(|shadow| shadow.policies.contains(&number));
            let staged = shadow.is_some() && self.enforced.policies.contains(&number);
            let mode = match &policy.action {
                Action::Audit => Mode::Audit,
                _ if shadow.is_none() => Mode::Enforce,
                _ if staged && self.in_force(number, &caller, Mode::Enforce) => Mode::Enforce,
                _ => Mode::Shadow,
            };
            let acting = shadow.filter(|_| !staged).unwrap_or(&self.enforced);
            let (action, rules) = match &policy.action {
                Action::Allow => ("ALLOW", &acting.allow),
                Action::Deny => ("DENY", &acting.deny),
                Action::Audit => ("AUDIT", &self.audit),
                Action::Custom { .. } => ("CUSTOM", &self.custom),
            };
            ExplainedPolicy { policy: &policy.id, action, mode, rules: explain_rules(rules, number, &caller) }
        });
        let policies = policies.collect();
        Explanation { outcome: self.decide(request, now), policies }
    }
}

fn explain_rules(rules: &Rules, policy: usize, caller: &Caller<'_>) -> Vec<ExplainedRule> {
    rules.iter().filter(|rule| rule.policy == policy).map(|rule| explain_rule(rule, caller)).collect()
}

fn explain_rule(rule: &CompiledRule, caller: &Caller<'_>) -> ExplainedRule {
    let mut failed = Vec::new();
    rule.failures(caller, &mut |failure| failed.push(explain_failure(&failure, caller)));
    let matches = match rule.matches(caller) {
        Ok(true) => Truth::Holds,
        Ok(false) => Truth::Fails,
        Err(unknown) => Truth::Unknown(crate::reasons::unavailable(unknown).code),
    };
    ExplainedRule { rule: rule.index, matches, failed }
}

fn explain_failure(failure: &Failure<'_>, caller: &Caller<'_>) -> FailedCondition {
    let mut found = Vec::new();
    // What cannot be known has no value, which `truth` says.
    let _ = caller.shown(&failure.check.subject, &mut |value| found.push(value));
    let truth = failure
        .unknown
        .map_or(Truth::Fails, |unknown| Truth::Unknown(crate::reasons::unavailable(unknown).code));
    FailedCondition { condition: failure.place(), found, truth }
}

impl fmt::Display for FailedCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.condition)?;
        match (self.truth, self.found.as_slice()) {
            (Truth::Unknown(why), _) => f.write_fmt(format_args!(": {why}")),
            (_, []) => f.write_str(": nothing there"),
            (_, found) => f.write_fmt(format_args!(": found `{}`", found.join("`, `"))),
        }
    }
}
