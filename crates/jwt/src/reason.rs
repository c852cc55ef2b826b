//! Why a request passed or was refused: one row per reason.

use sailcloth_core::decision::Reason;

/// A request passed because it carries no token in any place that is looked at.
pub const NO_TOKEN: Reason = Reason::pass("no_token");
/// A request passed because it is a CORS preflight, which browsers send without credentials.
pub const CORS_PREFLIGHT: Reason = Reason::pass("cors_preflight");
/// A request passed with a valid token.
pub const VALID_TOKEN: Reason = Reason::pass("valid_token");

/// Why a token, and with it the request, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// No token, where one is required.
    Missing,
    /// Longer than `settings.maxTokenBytes`.
    TooLarge,
    /// Not three parts between two dots.
    NotCompact,
    /// The header is not base64url without padding.
    HeaderNotBase64,
    /// The header is not a JSON object.
    HeaderNotJson,
    /// The header has a key twice: two readers would read two headers.
    HeaderDuplicateKey,
    /// No `alg`, or one that is not a string.
    AlgMissing,
    /// `alg: none`: no signature.
    AlgNone,
    /// A name that is no signature algorithm.
    AlgUnknown,
    /// An algorithm that this build cannot verify: PS* without the full build.
    AlgNotInBuild,
    /// `kid` is not a string.
    KidNotString,
    /// `crit` names extensions, of which this filter knows none (RFC 7515 4.1.11).
    Crit,
    /// The payload is not base64url without padding.
    PayloadNotBase64,
    /// The payload is not a JSON object.
    PayloadNotJson,
    /// The payload has a key twice.
    PayloadDuplicateKey,
    /// `iss` is not a string.
    IssNotString,
    /// `sub` is not a string.
    SubNotString,
    /// `jti` is not a string.
    JtiNotString,
    /// `aud` is neither a string nor a list of strings.
    AudNotStrings,
    /// `iat` is not a number.
    IatNotNumber,
    /// `nbf` is not a number.
    NbfNotNumber,
    /// `exp` is not a number.
    ExpNotNumber,
    /// `iat` is negative or past 64 bits.
    IatOutOfRange,
    /// `nbf` is negative or past 64 bits.
    NbfOutOfRange,
    /// `exp` is negative or past 64 bits.
    ExpOutOfRange,
    /// The signature is not base64url without padding.
    SignatureNotBase64,
    /// An algorithm that the issuer's settings do not list.
    AlgNotAllowed,
    /// A claim is missing that the issuer's settings require.
    ClaimMissing,
    /// More between `iat` and `exp` than the issuer's settings allow.
    LivesTooLong,
    /// No rule has this issuer.
    UnknownIssuer,
    /// `exp` has passed.
    Expired,
    /// `nbf` has not come.
    NotYetValid,
    /// No audience of the rule is in `aud`.
    WrongAudience,
    /// The keys of the rule have not been fetched yet, or could not be.
    KeysUnavailable,
    /// No key of the rule has this `kid`.
    UnknownKid,
    /// Keys are there, but none for this algorithm: RS256 with an EC key, or a key whose `alg` is another.
    KeyAlgMismatch,
    /// The signature is wrong.
    BadSignature,
    /// The host could not verify the signature.
    CannotVerify,
}

/// gRPC's UNAUTHENTICATED.
const UNAUTHENTICATED: u8 = 16;
/// gRPC's PERMISSION_DENIED.
const PERMISSION_DENIED: u8 = 7;
/// gRPC's INTERNAL.
const INTERNAL: u8 = 13;

impl Refusal {
    /// Every refusal, for tables and documentation.
    pub const ALL: [Self; 38] = [
        Self::Missing,
        Self::TooLarge,
        Self::NotCompact,
        Self::HeaderNotBase64,
        Self::HeaderNotJson,
        Self::HeaderDuplicateKey,
        Self::AlgMissing,
        Self::AlgNone,
        Self::AlgUnknown,
        Self::AlgNotInBuild,
        Self::KidNotString,
        Self::Crit,
        Self::PayloadNotBase64,
        Self::PayloadNotJson,
        Self::PayloadDuplicateKey,
        Self::IssNotString,
        Self::SubNotString,
        Self::JtiNotString,
        Self::AudNotStrings,
        Self::IatNotNumber,
        Self::NbfNotNumber,
        Self::ExpNotNumber,
        Self::IatOutOfRange,
        Self::NbfOutOfRange,
        Self::ExpOutOfRange,
        Self::SignatureNotBase64,
        Self::AlgNotAllowed,
        Self::ClaimMissing,
        Self::LivesTooLong,
        Self::UnknownIssuer,
        Self::Expired,
        Self::NotYetValid,
        Self::WrongAudience,
        Self::KeysUnavailable,
        Self::UnknownKid,
        Self::KeyAlgMismatch,
        Self::BadSignature,
        Self::CannotVerify,
    ];

    /// Its code, status and body. Bodies are those of Istio's data plane (Envoy's `jwt_authn`), where it has one.
    #[must_use]
    pub const fn reason(self) -> Reason {
        const NO_FORM: &str =
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
        const HEADER_JSON: &str = "Jwt header is an invalid JSON";
        const PAYLOAD_JSON: &str = "Jwt payload is an invalid JSON";
        const ALG: &str = "Jwt header [alg] is not supported";
        const NO_KEY: &str = "Jwks doesn't have key to match kid or alg from Jwt";
        let (code, body) = match self {
            Self::Missing => ("token_missing", "Jwt is missing"),
            Self::TooLarge => ("token_too_large", NO_FORM),
            Self::NotCompact => ("token_malformed", NO_FORM),
            Self::HeaderNotBase64 => ("header_not_base64", "Jwt header is an invalid Base64url encoded"),
            Self::HeaderNotJson => ("header_not_json", HEADER_JSON),
            Self::HeaderDuplicateKey => ("header_duplicate_key", HEADER_JSON),
            Self::AlgMissing => ("alg_missing", "Jwt header [alg] field is required and must be a string"),
            Self::AlgNone => ("alg_none", ALG),
            Self::AlgUnknown => ("alg_unknown", ALG),
            Self::AlgNotInBuild => ("alg_not_in_build", ALG),
            Self::KidNotString => ("kid_not_string", "Jwt header [kid] field is not a string"),
            Self::Crit => ("crit_unsupported", "Jwt header [crit] names an extension that is not supported"),
            Self::PayloadNotBase64 => ("payload_not_base64", "Jwt payload is an invalid Base64url encoded"),
            Self::PayloadNotJson => ("payload_not_json", PAYLOAD_JSON),
            Self::PayloadDuplicateKey => ("payload_duplicate_key", PAYLOAD_JSON),
            Self::IssNotString => ("iss_not_string", "Jwt payload [iss] field is not a string"),
            Self::SubNotString => ("sub_not_string", "Jwt payload [sub] field is not a string"),
            Self::JtiNotString => ("jti_not_string", "Jwt payload [jti] field is not a string"),
            Self::AudNotStrings => {
                ("aud_not_strings", "Jwt payload [aud] field is not a string or string list")
            }
            Self::IatNotNumber => ("iat_not_number", "Jwt payload [iat] field is not an integer"),
            Self::NbfNotNumber => ("nbf_not_number", "Jwt payload [nbf] field is not an integer"),
            Self::ExpNotNumber => ("exp_not_number", "Jwt payload [exp] field is not an integer"),
            Self::IatOutOfRange => {
                ("iat_out_of_range", "Jwt payload [iat] field is not a positive 64 bit integer")
            }
            Self::NbfOutOfRange => {
                ("nbf_out_of_range", "Jwt payload [nbf] field is not a positive 64 bit integer")
            }
            Self::ExpOutOfRange => {
                ("exp_out_of_range", "Jwt payload [exp] field is not a positive 64 bit integer")
            }
            Self::SignatureNotBase64 => {
                ("signature_not_base64", "Jwt signature is an invalid Base64url encoded")
            }
            Self::AlgNotAllowed => ("alg_not_allowed", ALG),
            Self::ClaimMissing => ("claim_missing", "Jwt lacks a claim that is required"),
            Self::LivesTooLong => ("lifetime_too_long", "Jwt is valid for longer than is allowed"),
            Self::UnknownIssuer => ("unknown_issuer", "Jwt issuer is not configured"),
            Self::Expired => ("token_expired", "Jwt is expired"),
            Self::NotYetValid => ("token_not_yet_valid", "Jwt not yet valid"),
            Self::WrongAudience => ("wrong_audience", "Audiences in Jwt are not allowed"),
            Self::KeysUnavailable => ("keys_unavailable", "Jwks remote fetch is failed"),
            Self::UnknownKid => ("unknown_kid", NO_KEY),
            Self::KeyAlgMismatch => ("key_alg_mismatch", NO_KEY),
            Self::BadSignature => ("bad_signature", "Jwt verification fails"),
            Self::CannotVerify => ("cannot_verify", ""),
        };
        let (status, grpc_status) = match self {
            Self::WrongAudience => (403, PERMISSION_DENIED),
            Self::CannotVerify => (500, INTERNAL),
            _ => (401, UNAUTHENTICATED),
        };
        Reason { code, status, grpc_status, body }
    }

    /// Whether it is only that the token is meant for somebody else: another rule's refusal tells the client more.
    pub(crate) const fn says_little(self) -> bool {
        matches!(self, Self::UnknownIssuer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn every_refusal_has_a_code_of_its_own_and_refuses() {
        let codes: BTreeSet<&str> = Refusal::ALL.iter().map(|refusal| refusal.reason().code).collect();
        assert_eq!(codes.len(), Refusal::ALL.len());
        for refusal in Refusal::ALL {
            assert!(refusal.reason().status >= 401, "{refusal:?}");
        }
    }

    #[test]
    fn only_a_wrong_audience_is_403() {
        let forbidden: Vec<_> =
            Refusal::ALL.into_iter().filter(|refusal| refusal.reason().status == 403).collect();
        assert_eq!(forbidden, [Refusal::WrongAudience]);
    }
}
