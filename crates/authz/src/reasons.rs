//! Why a request was let through or refused: one row per reason.

use sailcloth_core::decision::Reason;

use crate::caller::Unknown;

/// Istio's answer to a refused request.
const BODY: &str = "RBAC: access denied";

/// gRPC's PERMISSION_DENIED.
const PERMISSION_DENIED: u8 = 7;

pub(crate) const NO_POLICY: Reason = Reason::pass("no_policy");
pub(crate) const ALLOWED: Reason = Reason::pass("allowed");
pub(crate) const AUDITED: Reason = Reason::pass("audited");
pub(crate) const DENIED: Reason = refusal("denied");
pub(crate) const NO_RULE_MATCHED: Reason = refusal("no_rule_matched");
/// A provider failed whose `failOpen` lets the request pass.
pub(crate) const PROVIDER_IGNORED: Reason = Reason::pass("external_error_ignored");

/// A provider said no, by this status.
pub(crate) const fn external_denied(status: u16) -> Reason {
    Reason { code: "external_denied", status, grpc_status: grpc_status(status), body: "" }
}

/// A provider gave no answer that counts.
pub(crate) const fn external_error(status: u16) -> Reason {
    Reason { code: "external_error", status, grpc_status: grpc_status(status), body: "" }
}

pub(crate) const fn unavailable(unknown: Unknown) -> Reason {
    refusal(match unknown {
        Unknown::PeerIdentity => "peer_identity_unavailable",
        Unknown::PeerAddress => "peer_address_unavailable",
        Unknown::RemoteAddress => "remote_address_unavailable",
        Unknown::DestinationAddress => "destination_address_unavailable",
        Unknown::DestinationPort => "destination_port_unavailable",
        Unknown::ServerName => "server_name_unavailable",
        Unknown::WhichValue => "value_ambiguous",
        Unknown::RequestIdentity => "request_identity_unavailable",
    })
}

const fn refusal(code: &'static str) -> Reason {
    Reason { code, status: 403, grpc_status: PERMISSION_DENIED, body: BODY }
}

/// What a gRPC client is told for a status that a policy or a provider chose.
pub(crate) const fn grpc_status(status: u16) -> u8 {
    match status {
        401 => 16,
        404 => 5,
        429 => 8,
        500..=599 => 14,
        _ => PERMISSION_DENIED,
    }
}
