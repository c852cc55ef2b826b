//! The named deviations of all areas.

use super::Deviation;

/// Tokens are read more strictly.
pub const STRICT_TOKENS: Deviation = Deviation {
    name: "stricter tokens",
    reason: "401 where Envoy's JWT library reads leniently: padding or blanks in base64, empty parts (`..`), JSON with a trailing comma or a bare control \
             character, duplicate keys, `crit`, `exp: 0` (there: never expires), an ECDSA signature with bytes too many.",
};

/// What a refusal says, where several things are wrong.
pub const OTHER_REASON: Deviation = Deviation {
    name: "another reason for the same refusal",
    reason: "Both refuse, and the body names another of the things that are wrong: of a token with two defects, of two tokens (then 401 and 403 may change \
             places), or where ours stopped at what Envoy reads leniently.",
};

/// Claims in request headers.
pub const CLAIM_TEXT: Deviation = Deviation {
    name: "text of claims in headers",
    reason: "`outputClaimToHeaders`: a number with a fraction and the keys of an object stand as in the token, and an empty string makes an empty header; \
             Envoy writes six digits (`0.500000`), its own order of keys, and no header.",
};

/// What the challenge tells.
pub const REALM: Deviation = Deviation {
    name: "realm without the query",
    reason: "`WWW-Authenticate` names the URL without its query, in which a token may stand (`access_token`); Envoy repeats the whole URL to the client.",
};

/// What is left of the query.
pub const QUERY_ORDER: Deviation = Deviation {
    name: "order of the query",
    reason: "Where a token was taken out of the query, ours leaves the other parameters as they were; Envoy sorts them.",
};

/// A bad token beside a good one.
pub const SEVERAL_TOKENS: Deviation = Deviation {
    name: "a bad token beside a good one",
    reason: "401, since every token found must verify. Envoy takes a token out of the request as soon as a rule accepts it (unless `forwardOriginalToken`), and \
             with a header its other values; what it looks at after that lacks them, so the bad one may be overlooked.",
};

/// Two tokens of two issuers.
pub const TWO_OUTPUTS: Deviation = Deviation {
    name: "output headers of two tokens",
    reason: "Envoy writes a token's output headers as soon as it verifies, also where its rule then fails over another token; ours writes those of the rule \
             that accepted the request.",
};

/// Defects, or odd places, with which ours refuses what Envoy accepts, and ours' reason.
pub const STRICT: &[(&str, &str)] = &[
    ("double padding", "signature_not_base64"),
    ("suffix ` more`", "signature_not_base64"),
    ("two dots", "token_malformed"),
    ("a dot at the end", "token_malformed"),
    ("a dot at the start", "token_malformed"),
    ("a comma too many", "payload_not_json"),
    ("a control character", "payload_not_json"),
    ("crit", "crit_unsupported"),
    ("exp zero", "token_expired"),
    ("signature long", "bad_signature"),
];

/// The deviation that a difference about tokens is: by the defects, the statuses, and what ours says in its details.
#[must_use]
pub fn of_tokens(about: &[String], native: u16, ours: u16, details: &str) -> Option<&'static str> {
    // "sailcloth_jwt_reason[rule]"
    let reason =
        details.strip_prefix("sailcloth_jwt_").and_then(|rest| rest.split('[').next()).unwrap_or_default();
    let has = |defect: &str| about.iter().any(|about| about.split(" + ").any(|one| one == defect));
    if native == ours {
        return (ours >= 400).then_some(OTHER_REASON.name);
    }
    let tokens = about.iter().filter(|about| about.starts_with("in ")).count();
    if tokens > 1 && native >= 400 && ours >= 400 {
        return Some(OTHER_REASON.name);
    }
    if ours != 401 {
        return None;
    }
    if STRICT.iter().any(|(defect, known)| *known == reason && has(defect)) {
        return Some(STRICT_TOKENS.name);
    }
    (tokens > 1 && native == 200).then_some(SEVERAL_TOKENS.name)
}

/// All of them, in the order of the page.
pub const ALL: &[Deviation] =
    &[STRICT_TOKENS, OTHER_REASON, CLAIM_TEXT, REALM, QUERY_ORDER, SEVERAL_TOKENS, TWO_OUTPUTS];
