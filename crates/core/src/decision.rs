//! What a filter decided, by which rule and why, and the one function that gives it a face.

use std::borrow::Cow;

/// The filter that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// `VirtualService`.
    Routing,
    /// `RequestAuthentication`.
    Jwt,
    /// `AuthorizationPolicy`.
    Authz,
    /// `RateLimit`.
    RateLimit,
    /// `Telemetry`.
    Metrics,
}

impl Filter {
    /// The name in metrics, response code details, logs and file names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Routing => "routing",
            Self::Jwt => "jwt",
            Self::Authz => "authz",
            Self::RateLimit => "ratelimit",
            Self::Metrics => "metrics",
        }
    }
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// The request goes on.
    Allow,
    /// The request is refused.
    Deny,
    /// The request is over a limit.
    Limit,
    /// The request goes to the chosen destination.
    Route,
}

impl Verdict {
    /// The word in metrics and access logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Limit => "limit",
            Self::Route => "route",
        }
    }
}

/// Whether a decision acts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// It acts.
    #[default]
    Enforce,
    /// It is computed and counted, and never acts.
    Shadow,
    /// It is counted because somebody wants to know of it (Istio's AUDIT).
    Audit,
}

/// Why, in the words of a specification: one row per reason, from which status, body and words come, and from nowhere
/// else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// One lower-case word group for details, logs and metrics: `token_expired`, `no_rule_matched`.
    pub code: &'static str,
    /// The HTTP status of the refusal; 0 for a reason that refuses nothing.
    pub status: u16,
    /// The gRPC status of the refusal (<https://grpc.io/docs/guides/status-codes/>).
    pub grpc_status: u8,
    /// The body of the refusal: what the client may learn.
    pub body: &'static str,
}

impl Reason {
    /// A reason that lets the request go on.
    #[must_use]
    pub const fn pass(code: &'static str) -> Self {
        Self { code, status: 0, grpc_status: 0, body: "" }
    }
}

/// The rule that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleRef<'e> {
    /// Number of the rule in its engine, for tables of counters.
    pub id: usize,
    /// `namespace/name` of the resource.
    pub policy: &'e str,
    /// Index of the rule in the resource.
    pub rule: u32,
}

/// A decision: what, by which rule, why, and whether it acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision<'e> {
    /// The filter that decided.
    pub filter: Filter,
    /// What was decided.
    pub verdict: Verdict,
    /// By which rule; none where the absence of a rule decided.
    pub by: Option<RuleRef<'e>>,
    /// Why.
    pub reason: Reason,
    /// Whether it acts.
    pub mode: Mode,
}

/// A response that the proxy gives itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalReply {
    /// HTTP status. Envoy answers gRPC requests with 200 and `grpc_status` by itself.
    pub status: u16,
    /// gRPC status, used when the request is gRPC.
    pub grpc_status: u8,
    /// Response headers.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// Response body.
    pub body: Cow<'static, str>,
    /// `%RESPONSE_CODE_DETAILS%`: what the operator may learn.
    pub details: String,
}

impl Decision<'_> {
    /// Whether the request is refused.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.mode == Mode::Enforce && matches!(self.verdict, Verdict::Deny | Verdict::Limit)
    }

    /// Response code details: `sailcloth_authz_denied[production/api-service-authz#0]`.
    #[must_use]
    pub fn details(&self) -> String {
        format!("sailcloth_{}_{}[{}]", self.filter.name(), self.reason.code, self.rule_text())
    }

    /// What the access log shows (filter state `sailcloth.<filter>`): `deny production/api-service-authz#0 denied`.
    #[must_use]
    pub fn state(&self) -> String {
        format!("{} {} {}", self.verdict.name(), self.rule_text(), self.reason.code)
    }

    fn rule_text(&self) -> Cow<'static, str> {
        self.by.map_or(Cow::Borrowed("none"), |by| Cow::Owned(format!("{}#{}", by.policy, by.rule)))
    }

    /// The reply of a refusal, without the headers that only its engine knows.
    #[must_use]
    pub fn reply(&self) -> LocalReply {
        LocalReply {
            status: self.reason.status,
            grpc_status: self.reason.grpc_status,
            headers: Vec::new(),
            body: Cow::Borrowed(self.reason.body),
            details: self.details(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const DENIED: Reason =
        Reason { code: "denied", status: 403, grpc_status: 7, body: "RBAC: access denied" };

    fn decision(by: Option<RuleRef<'_>>) -> Decision<'_> {
        Decision { filter: Filter::Authz, verdict: Verdict::Deny, by, reason: DENIED, mode: Mode::Enforce }
    }

    #[test]
    fn a_refusal_names_filter_reason_policy_and_rule() {
        let by = RuleRef { id: 0, policy: "production/deny-admin", rule: 2 };
        let reply = decision(Some(by)).reply();
        assert_eq!(reply.details, "sailcloth_authz_denied[production/deny-admin#2]");
        assert_eq!((reply.status, reply.grpc_status, reply.body.as_ref()), (403, 7, "RBAC: access denied"));
        assert_eq!(decision(None).details(), "sailcloth_authz_denied[none]");
    }

    #[test]
    fn a_shadow_decision_refuses_nothing() {
        assert!(decision(None).refuses());
        assert!(!Decision { mode: Mode::Shadow, ..decision(None) }.refuses());
    }
}
