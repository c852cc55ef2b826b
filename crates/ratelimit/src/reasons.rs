//! Why a request was limited, let through or refused.

use sailcloth_core::decision::Reason;
use sailcloth_core::key::Unknown;

/// The reasons of this engine.
#[derive(Debug, Clone, Copy)]
pub struct Reasons;

impl Reasons {
    /// Within every limit.
    pub const WITHIN: Reason = Reason::pass("within_limit");
    /// Within the limit of the bucket that clients without a place share.
    pub const SHARED: Reason = Reason::pass("slots_full");
    /// No rule counts this request.
    pub const NO_RULE: Reason = Reason::pass("no_rule_matched");
    /// The rule does not count requests without its key.
    pub const SKIPPED: Reason = Reason::pass("key_missing");
    /// Over the limit of the client's own bucket.
    pub const LIMITED: Reason = limited("limited");
    /// Over the limit of the bucket that clients without a place share.
    pub const CROWDED: Reason = limited("slots_full");
    /// Other workers changed the bucket at every attempt.
    pub const CONTENDED: Reason = limited("contended");
    /// It costs more than the bucket can hold, or than one request may: it will never be admitted.
    pub const TOO_LARGE: Reason = limited("cost_too_large");
    /// The header that says what it costs is there twice, or no number.
    pub const COST_UNREADABLE: Reason = Reason {
        code: "cost_unreadable",
        status: 400,
        grpc_status: 3,
        body: "the request's cost cannot be read",
    };
    /// Over the limit of the rate limit service.
    pub const GLOBAL: Reason = limited("limited_globally");
    /// The rate limit service gives no answer, and `onFailure` admits.
    pub const FALLBACK_ALLOW: Reason = Reason::pass("fallback_allow");
    /// The rate limit service gives no answer, and the request is within `local`.
    pub const FALLBACK_WITHIN: Reason = Reason::pass("fallback_within_limit");
    /// The rate limit service gives no answer, and the request is over `local`.
    pub const FALLBACK_LIMITED: Reason = limited("fallback_limited");
    /// The rate limit service gives no answer, and `onFailure` refuses.
    pub const FALLBACK_DENY: Reason = Reason {
        code: "fallback_deny",
        status: 503,
        grpc_status: 14,
        body: "the rate limit cannot be checked",
    };
    /// The shared store failed.
    pub const STORE: Reason = failed("store_error");
    /// The key asks for the peer's address, which is not known.
    pub const NO_ADDRESS: Reason = failed("peer_address_unavailable");
    /// The key asks for the peer's identity, which cannot be asked for.
    pub const NO_PEER: Reason = failed("peer_identity_unavailable");
    /// The key asks for the caller's token, and no filter has verified one.
    pub const NO_TOKEN: Reason = failed("token_unavailable");
    /// The match asks for the connection's port, which is not known.
    pub const NO_PORT: Reason = failed("port_unavailable");

    /// A key that depends on what cannot be known.
    pub(crate) const fn of(unknown: Unknown) -> Reason {
        match unknown {
            Unknown::Address => Self::NO_ADDRESS,
            Unknown::Peer => Self::NO_PEER,
            Unknown::Token => Self::NO_TOKEN,
        }
    }
}

const fn limited(code: &'static str) -> Reason {
    Reason { code, status: 429, grpc_status: 8, body: "rate limit exceeded" }
}

const fn failed(code: &'static str) -> Reason {
    Reason { code, status: 500, grpc_status: 13, body: "" }
}
