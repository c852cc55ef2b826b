//! A token in JWS compact form (RFC 7515 7.1): its parts, decoded strictly.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sailcloth_core::identity::{Claim, PayloadError, Token};

use crate::{Algorithm, Refusal};

/// A token, taken apart; nothing of it is verified yet.
pub struct Jws<'t> {
    /// `alg`.
    pub algorithm: Algorithm,
    /// `kid`.
    pub key_id: Option<Vec<u8>>,
    /// What is signed: header and payload as they came, with the dot between them.
    pub signed: &'t [u8],
    /// The payload as it came.
    pub raw_payload: &'t [u8],
    /// The signature, decoded.
    pub signature: Vec<u8>,
}

impl<'t> Jws<'t> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// What is wrong with its form or its header.
    pub fn parse(token: &'t [u8]) -> Result<Self, Refusal> {
        let [header, raw_payload, signature, signed] = parts(token).ok_or(Refusal::NotCompact)?;
        let header = decode(header).ok_or(Refusal::HeaderNotBase64)?;
        let header = Token::of_json(&header).map_err(|error| match error {
            PayloadError::NotObject => Refusal::HeaderNotJson,
            PayloadError::DuplicateKey => Refusal::HeaderDuplicateKey,
        })?;
        let algorithm = match header.claim(&["alg"]) {
            Some(Claim::Text(name)) => Algorithm::of_header(name)?,
            _ => return Err(Refusal::AlgMissing),
        };
        // Only after `alg: none`, which comes with an empty signature and has a reason of its own.
        if signature.is_empty() {
            return Err(Refusal::NotCompact);
        }
        let key_id = match header.claim(&["kid"]) {
            // An empty one names no key, as in Envoy.
            None | Some(Claim::Text([])) => None,
            Some(Claim::Text(kid)) => Some(kid.to_vec()),
            Some(_) => return Err(Refusal::KidNotString),
        };
        // "If any of the listed extension Header Parameters are not understood and supported by the recipient, then the
        // JWS is invalid" (RFC 7515 4.1.11); an empty or malformed list is invalid too.
        if header.claim(&["crit"]).is_some() {
            return Err(Refusal::Crit);
        }
        let signature = decode(signature).ok_or(Refusal::SignatureNotBase64)?;
        Ok(Self { algorithm, key_id, signed, raw_payload, signature })
    }
}

/// Header, payload, signature, and what is signed: the first two with the dot between them. Only the signature may be
/// empty.
fn parts(token: &[u8]) -> Option<[&[u8]; 4]> {
    let first = token.iter().position(|byte| *byte == b'.')?;
    let (header, rest) = (token.get(..first)?, token.get(first + 1..)?);
    let second = rest.iter().position(|byte| *byte == b'.')?;
    let (payload, signature) = (rest.get(..second)?, rest.get(second + 1..)?);
    let whole = !header.is_empty() && !payload.is_empty() && !signature.contains(&b'.');
    whole.then_some([header, payload, signature, token.get(..first + 1 + second)?])
}

/// base64url without padding (RFC 7515 2), and without stray bits in its last letter: one text per value.
pub(crate) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

impl std::fmt::Debug for Jws<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jws").field("algorithm", &self.algorithm.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn token(header: &str) -> Vec<u8> {
        format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(header)).into_bytes()
    }

    fn refusal(token: &[u8]) -> Option<Refusal> {
        Jws::parse(token).err()
    }

    #[test]
    fn a_token_comes_apart_into_its_parts() {
        let token = token(r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#);
        let jws = Jws::parse(&token).unwrap();
        assert_eq!((jws.algorithm.name, jws.key_id.as_deref()), ("ES256", Some(b"k".as_slice())));
        assert_eq!(jws.raw_payload, b"e30");
        assert_eq!(jws.signature, [0, 0, 0]);
        assert!(jws.signed.ends_with(b".e30") && token.starts_with(jws.signed));
    }

    #[test]
    fn an_empty_kid_is_none() {
        assert_eq!(Jws::parse(&token(r#"{"alg":"ES256","kid":""}"#)).unwrap().key_id, None);
    }

    #[test]
    fn what_is_not_three_parts_is_not_compact() {
        for token in ["", ".", "..", "a.b", "a.b.c.d", ".b.c", "a..c", "e30", "aaa.bbb.ccc.ddd.eee"] {
            assert_eq!(refusal(token.as_bytes()), Some(Refusal::NotCompact), "{token}");
        }
    }

    #[test]
    fn every_defect_of_a_header_has_its_reason() {
        for (header, expected) in [
            ("", Refusal::NotCompact),
            ("5", Refusal::HeaderNotJson),
            ("[]", Refusal::HeaderNotJson),
            ("{}", Refusal::AlgMissing),
            (r#"{"alg":5}"#, Refusal::AlgMissing),
            (r#"{"alg":"none"}"#, Refusal::AlgNone),
            (r#"{"alg":"nOnE"}"#, Refusal::AlgNone),
            (r#"{"alg":"A128KW"}"#, Refusal::AlgUnknown),
            (r#"{"alg":"rs256"}"#, Refusal::AlgUnknown),
            (r#"{"alg":"RS256","alg":"none"}"#, Refusal::HeaderDuplicateKey),
            (r#"{"alg":"RS256","x":{"a":1,"a":2}}"#, Refusal::HeaderDuplicateKey),
            (r#"{"alg":"RS256","kid":1}"#, Refusal::KidNotString),
            (r#"{"alg":"RS256","kid":null}"#, Refusal::KidNotString),
            (r#"{"alg":"RS256","crit":["exp"]}"#, Refusal::Crit),
            (r#"{"alg":"RS256","crit":[]}"#, Refusal::Crit),
        ] {
            assert_eq!(refusal(&token(header)), Some(expected), "{header}");
        }
        assert_eq!(refusal(b"a=.e30.AAAA"), Some(Refusal::HeaderNotBase64));
        assert_eq!(refusal(b"\xff\xfe.e30.AAAA"), Some(Refusal::HeaderNotBase64));
    }

    #[test]
    fn an_empty_signature_is_alg_none_or_not_compact() {
        for (header, expected) in
            [(r#"{"alg":"none"}"#, Refusal::AlgNone), (r#"{"alg":"RS256"}"#, Refusal::NotCompact)]
        {
            let mut token = token(header);
            token.truncate(token.len() - 4);
            assert_eq!(refusal(&token), Some(expected), "{header}");
        }
    }

    #[test]
    fn signatures_with_padding_or_stray_bits_are_refused() {
        let good = token(r#"{"alg":"RS256"}"#);
        assert_eq!(refusal(&good), None);
        for end in ["AA==", "AAA=", "AAAA=", "AB", "A", "+/AA", "AA A"] {
            let mut bad = good[..good.len() - 4].to_vec();
            bad.extend_from_slice(end.as_bytes());
            assert_eq!(refusal(&bad), Some(Refusal::SignatureNotBase64), "{end}");
        }
    }
}
