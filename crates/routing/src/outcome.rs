//! What was decided about a request, and what to do about it.

use std::borrow::Cow;
use std::time::Duration;

use sailcloth_core::decision::{Decision, Filter, Mode, Reason, Verdict};

use crate::edit::Edit;
use crate::engine::Arm;

/// What was decided about a request, and what to do about it: the edits of the request, then the delay, then the
/// answer if there is one, else the request goes on; when a response passes, its edits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<'e> {
    /// Verdict [`Verdict::Route`] with its rule, or [`Verdict::Deny`].
    pub decision: Decision<'e>,
    /// Edits of the request headers, in their order; none when the request is refused.
    pub request: Vec<Edit<'e>>,
    /// Edits of the response headers, whoever responds.
    pub response: Vec<Edit<'e>>,
    /// How long the request is held.
    pub delay: Option<Duration>,
    /// What the client gets from this proxy in place of an upstream's response.
    pub answer: Option<Answer<'e>>,
    /// By what native routes match the rule (filter state `sailcloth.route`), where they carry it out.
    pub route: Option<&'e str>,
    /// What documents in shadow mode would have decided; none where they have no rules for the host.
    pub shadow: Option<Shadow<'e>>,
    pub(crate) arm: Option<(usize, &'e Arm)>,
}

/// A decision that never acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadow<'e> {
    /// In [`Mode::Shadow`].
    pub decision: Decision<'e>,
    arm: Option<(usize, &'e Arm)>,
}

impl Shadow<'_> {
    /// As [`Outcome::arm`].
    #[must_use]
    pub fn arm(&self) -> Option<(usize, &str)> {
        self.arm.map(|(number, arm)| (number, arm.label.as_str()))
    }
}

/// A response that the rule gives itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer<'e> {
    /// HTTP status.
    pub status: u16,
    /// gRPC status, used when the request is gRPC.
    pub grpc_status: u8,
    /// Response headers.
    pub headers: Vec<(&'static str, Cow<'e, [u8]>)>,
    /// Response body.
    pub body: Cow<'e, [u8]>,
}

impl Answer<'_> {
    /// The answer without what it borrowed, for a request that is held.
    #[must_use]
    pub fn into_owned(self) -> Answer<'static> {
        let headers = self.headers.into_iter().map(|(name, value)| (name, Cow::Owned(value.into_owned())));
        Answer {
            status: self.status,
            grpc_status: self.grpc_status,
            headers: headers.collect(),
            body: Cow::Owned(self.body.into_owned()),
        }
    }
}

impl<'e> Outcome<'e> {
    /// A refusal by the absence of a rule.
    pub(crate) fn refusal(reason: Reason) -> Self {
        let decision = Decision {
            filter: Filter::Routing,
            verdict: Verdict::Deny,
            by: None,
            reason,
            mode: Mode::Enforce,
        };
        Self {
            decision,
            request: Vec::new(),
            response: Vec::new(),
            delay: None,
            answer: None,
            route: None,
            shadow: None,
            arm: None,
        }
    }

    /// What is left of it where it does not act.
    pub(crate) fn into_shadow(self) -> Shadow<'e> {
        Shadow { decision: Decision { mode: Mode::Shadow, ..self.decision }, arm: self.arm }
    }

    /// The chosen cluster.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        self.arm.map(|(_, arm)| arm.cluster.as_str())
    }

    /// The chosen destination's number in its rule, and its name for metrics: the subset, else the host; the cluster's
    /// name where two destinations of a rule share that. Comes from the configuration, never from a request.
    #[must_use]
    pub fn arm(&self) -> Option<(usize, &str)> {
        self.arm.map(|(number, arm)| (number, arm.label.as_str()))
    }
}
