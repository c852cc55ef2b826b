//! From the tokens that were found to the rule that accepts them, or the refusal that says most.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use sailcloth_core::decision::Mode;
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::identity::Token;

use crate::claims::Validity;
use crate::places::{Found, PlaceId};
use crate::rule::{Parsed, Rule};
use crate::{Engine, KeyStore, Refusal, TokenCache, Verifier, Want};

/// A verified token and all that follows from it, so that a cached one costs no more than copying.
#[derive(Default)]
pub(crate) struct Verified {
    pub(crate) rule: usize,
    pub(crate) place: PlaceId,
    /// The fetched keys that verified it: their source and version.
    pub(crate) keys: Option<(usize, u32)>,
    pub(crate) validity: Validity,
    pub(crate) token: Option<Token>,
    pub(crate) principal: Option<Vec<u8>>,
    pub(crate) outputs: Vec<(String, Vec<u8>)>,
}

/// Why a request is refused, and by which rule if one was concerned.
pub(crate) struct Miss {
    pub(crate) refusal: Refusal,
    pub(crate) rule: Option<usize>,
    /// Keys that were missing.
    pub(crate) wants: Vec<Want>,
}

impl Engine {
    /// Verifies one token at a time since the epoch, as if every rule had found it. Keys that are to be fetched
    /// are not there.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify_token(
        &self,
        token: &[u8],
        now: Duration,
        verifier: &impl Verifier,
    ) -> Result<Token, Refusal> {
        let parsed = self.parse(token)?;
        let keys = &self.key_store::<u32>();
        let mut refusal = Refusal::UnknownIssuer;
        for number in self.rules_for(parsed.claims.issuer()) {
            let Some(rule) = self.rules.get(number) else { continue };
            match rule.verify(&parsed, now, keys, verifier, &mut Vec::new()) {
                Ok(()) => {
                    let verified = rule.identity(number, 0, &parsed, keys);
                    return verified.token.ok_or(Refusal::UnknownIssuer);
                }
                Err(miss) if refusal.says_little() => refusal = miss,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    /// Every token that some rule would look at, unverified, for tools that explain.
    #[must_use]
    pub fn tokens<'r>(&self, headers: &'r HeaderBlock) -> Vec<Cow<'r, [u8]>> {
        self.places.find(headers).into_iter().map(|found| found.token).collect()
    }

    /// One token alone may be known; several are verified anew, each request.
    pub(crate) fn verify<W>(
        &self,
        found: &[Found<'_>],
        now: Duration,
        keys: &KeyStore<W>,
        verifier: &impl Verifier,
        cache: &mut TokenCache,
    ) -> Result<Rc<Verified>, Miss> {
        let [only] = found else { return self.verify_all(found, now, keys, verifier).map(Rc::new) };
        if !cache.keeps_any() {
            return self.verify_all(found, now, keys, verifier).map(Rc::new);
        }
        let digest = cache.digest(&only.token);
        if let Some(known) = cache.get(digest) {
            // A key that was withdrawn vouches for nothing it signed before.
            let current = known.keys.is_none_or(|(source, version)| keys.version(source) == version);
            let current = current && known.validity.check(now).is_ok();
            if known.place == only.place && current {
                return Ok(known);
            }
            cache.remove(digest);
        }
        let verified = Rc::new(self.verify_all(found, now, keys, verifier)?);
        cache.insert(digest, &verified);
        Ok(verified)
    }

    fn parse<'t>(&self, token: &'t [u8]) -> Result<Parsed<'t>, Refusal> {
        Parsed::read(token, self.settings.max_token_bytes, self.environment.algorithms)
    }

    /// The first rule all of whose tokens verify, or the refusal that says most.
    fn verify_all<W>(
        &self,
        found: &[Found<'_>],
        now: Duration,
        keys: &KeyStore<W>,
        verifier: &impl Verifier,
    ) -> Result<Verified, Miss> {
        let parsed: Vec<Result<Parsed<'_>, Refusal>> =
            found.iter().map(|found| self.parse(&found.token)).collect();
        let mut nearest = Miss { refusal: Refusal::UnknownIssuer, rule: None, wants: Vec::new() };
        let mut wants = Vec::new();
        for number in self.candidates(&parsed) {
            let Some(rule) = self.rules.get(number) else { continue };
            match verify_under(rule, found, &parsed, now, keys, verifier, &mut wants) {
                Some(Ok((place, token))) => return Ok(rule.identity(number, place, token, keys)),
                Some(Err(refusal)) if !refusal.says_little() && self.outweighs(number, &nearest) => {
                    nearest = Miss { refusal, rule: Some(number), wants: Vec::new() };
                }
                _ => {}
            }
        }
        let malformed = parsed.iter().find_map(|parsed| parsed.as_ref().err());
        match malformed {
            Some(refusal) if nearest.refusal.says_little() => {
                Err(Miss { refusal: *refusal, rule: None, wants })
            }
            _ => Err(Miss { wants, ..nearest }),
        }
    }

    /// Whether a rule's refusal says more than the one before: the first one counts, but one that acts before one in
    /// shadow.
    fn outweighs(&self, rule: usize, nearest: &Miss) -> bool {
        nearest.refusal.says_little()
            || self.mode(nearest.rule) == Mode::Shadow && self.mode(Some(rule)) == Mode::Enforce
    }

    /// The rules that may accept one of these tokens, in their order.
    fn candidates(&self, parsed: &[Result<Parsed<'_>, Refusal>]) -> BTreeSet<usize> {
        let mut numbers = BTreeSet::new();
        for token in parsed.iter().flatten() {
            for number in self.rules_for(token.claims.issuer()) {
                numbers.insert(number);
            }
        }
        numbers
    }

    fn rules_for(&self, issuer: Option<&[u8]>) -> impl Iterator<Item = usize> {
        let named = issuer.and_then(|issuer| self.by_issuer.get(issuer));
        self.any_issuer.iter().chain(named.into_iter().flatten()).copied()
    }
}

/// Verifies every token in the places of a rule: the last one, which names the caller as in Envoy; `None` when there is
/// none.
fn verify_under<'p, 't, W>(
    rule: &Rule,
    found: &[Found<'_>],
    parsed: &'p [Result<Parsed<'t>, Refusal>],
    now: Duration,
    keys: &KeyStore<W>,
    verifier: &impl Verifier,
    wants: &mut Vec<Want>,
) -> Option<Result<(PlaceId, &'p Parsed<'t>), Refusal>> {
    let mut last = None;
    for (found, parsed) in found.iter().zip(parsed).filter(|(found, _)| rule.places.contains(&found.place)) {
        let verified = match parsed {
            Ok(token) => rule.verify(token, now, keys, verifier, wants).map(|()| token),
            Err(refusal) => Err(*refusal),
        };
        match verified {
            Ok(token) => last = Some(Ok((found.place, token))),
            Err(refusal) => return Some(Err(refusal)),
        }
    }
    last
}
impl Verified {
    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        let outputs: usize = self.outputs.iter().map(|(name, value)| name.len() + value.len() + 48).sum();
        self.token.as_ref().map_or(0, |token| token.state().len())
            + self.principal.as_ref().map_or(0, Vec::len)
            + outputs
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified").field("rule", &self.rule).finish_non_exhaustive()
    }
}
