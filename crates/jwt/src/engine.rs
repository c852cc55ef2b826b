//! All rules of all RequestAuthentications, ready to work.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use sailcloth_core::config::{Node, Problem, Problems};
use sailcloth_core::decision::{Decision, Filter, Mode, Reason, RuleRef, Verdict};
use sailcloth_core::facts::Sources;
use sailcloth_core::identity::Token;
use sailcloth_core::request::Request;
use sailcloth_resources::request_authentication::RequestAuthentication;
use sailcloth_resources::{Config, Kind};

use crate::claims::check_time;
use crate::outcome::challenge;
use crate::places::{Found, Place, PlaceId, Places, without_params};
use crate::rule::{Parsed, Rule};
use crate::{CORS_PREFLIGHT, Edit, NO_TOKEN, Outcome, Refusal, Settings, TokenCache, VALID_TOKEN, Verifier};

type Wire = Config<RequestAuthentication, Settings>;

/// A configured engine.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    sources: Sources,
    documents: usize,
    /// `namespace/name` by number.
    policies: Vec<String>,
    /// In order of issuer, as Istio sorts them.
    rules: Vec<Rule>,
    /// Rules by issuer: a token is tried with these and with `any_issuer`, however many others there are.
    by_issuer: BTreeMap<String, Vec<usize>>,
    any_issuer: Vec<usize>,
    /// The first rule that a token must be there for.
    required: Option<usize>,
    places: Places,
    /// Every request header that some rule may write, sorted: clients may not.
    output_headers: BTreeSet<String>,
}

/// A verified token and all that follows from it, so that a cached one costs no more than copying.
#[derive(Default)]
pub(crate) struct Verified {
    pub(crate) rule: usize,
    pub(crate) place: PlaceId,
    pub(crate) not_before: Option<u64>,
    pub(crate) expires: Option<u64>,
    pub(crate) token: Option<Token>,
    pub(crate) principal: Option<Vec<u8>>,
    pub(crate) outputs: Vec<(String, Vec<u8>)>,
}

/// Why a request is refused, and by which rule if one was concerned.
struct Miss {
    refusal: Refusal,
    rule: Option<usize>,
}

impl Engine {
    /// Makes an engine of a filter's configuration text (JSON).
    ///
    /// # Errors
    /// Every problem of the configuration.
    pub fn load(text: &[u8]) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Wire::load(text, Settings::read, |config, problems| Self::compile(&config, problems))
    }

    /// [`Self::load`] from a tree that was parsed elsewhere.
    ///
    /// # Errors
    /// Every problem of the configuration.
    pub fn load_node(node: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Wire::load_node(node, Settings::read, |config, problems| Self::compile(&config, problems))
    }

    fn compile(config: &Wire, problems: &Problems) -> Self {
        let applicable = config.applicable();
        let mut places = Places::default();
        // In order of issuer, those of one issuer in the order written.
        let mut sorted: BTreeMap<Option<String>, Vec<Rule>> = BTreeMap::new();
        // What does not apply here is compiled too, and dropped: its problems would surface in another workload.
        for document in &config.resources {
            let policy = applicable.iter().position(|one| std::ptr::eq(*one, document));
            let mut unused = Places::default();
            for (index, rule) in document.spec.rules.iter().enumerate() {
                let places = if policy.is_some() { &mut places } else { &mut unused };
                let rule = Rule::compile(rule, policy.unwrap_or(0), index, places, problems);
                if let Some(rule) = rule.filter(|_| policy.is_some()) {
                    sorted.entry(rule.issuer.clone()).or_default().push(rule);
                }
            }
        }
        let rules: Vec<Rule> = sorted.into_values().flatten().collect();
        let mut output_headers = BTreeSet::new();
        for header in rules.iter().flat_map(Rule::output_headers) {
            output_headers.insert(header.to_owned());
        }
        let (by_issuer, any_issuer) = index(&rules);
        Self {
            settings: config.settings,
            sources: config.common.sources,
            documents: applicable.len(),
            policies: applicable.iter().map(|document| document.metadata.id()).collect(),
            required: rules.iter().position(|rule| rule.required),
            rules,
            by_issuer,
            any_issuer,
            places,
            output_headers,
        }
    }

    /// Resources in force, by kind.
    #[must_use]
    pub fn resources(&self) -> Vec<(&'static str, usize)> {
        vec![(Kind::REQUEST_AUTHENTICATION.name, self.documents)]
    }

    /// Where facts are read.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// An empty cache of the configured size, for [`Self::decide`]; one per worker.
    #[must_use]
    pub fn cache(&self) -> TokenCache {
        TokenCache::new(self.settings.token_cache_bytes)
    }

    /// Decides about a request at a time since the epoch. `cache` is one that only this engine uses.
    pub fn decide(
        &self,
        request: &Request<'_>,
        now: Duration,
        verifier: &impl Verifier,
        cache: &mut TokenCache,
    ) -> Outcome<'_> {
        let mut edits = self.stripped(request);
        if is_preflight(request) {
            return self.pass(CORS_PREFLIGHT, edits);
        }
        let found = self.places.find(request.headers);
        if found.is_empty() {
            return match self.required {
                None => self.pass(NO_TOKEN, edits),
                rule => self.refuse(request, &Miss { refusal: Refusal::Missing, rule }, edits),
            };
        }
        match self.verify(&found, now, verifier, cache) {
            Err(miss) => self.refuse(request, &miss, edits),
            Ok(verified) => {
                self.write(request, &found, &verified, &mut edits);
                let decision = self.decision(Verdict::Allow, Some(verified.rule), VALID_TOKEN);
                Outcome { decision, edits, verified: Some(verified), challenge: None }
            }
        }
    }

    /// Verifies one token at a time since the epoch, as if every rule had found it.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify_token(
        &self,
        token: &[u8],
        now: Duration,
        verifier: &impl Verifier,
    ) -> Result<Token, Refusal> {
        let parsed = Parsed::read(token, self.settings.max_token_bytes)?;
        let mut refusal = Refusal::UnknownIssuer;
        for number in self.rules_for(parsed.claims.issuer.as_deref()) {
            let Some(rule) = self.rules.get(number) else { continue };
            match rule.verify(&parsed, now, verifier) {
                Ok(()) => {
                    let verified = rule.identity(number, 0, &parsed);
                    return verified.token.ok_or(Refusal::UnknownIssuer);
                }
                Err(miss) if refusal.says_little() => refusal = miss,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    /// One token alone may be known; several are verified anew, each request.
    fn verify(
        &self,
        found: &[Found<'_>],
        now: Duration,
        verifier: &impl Verifier,
        cache: &mut TokenCache,
    ) -> Result<Rc<Verified>, Miss> {
        let [only] = found else { return self.verify_all(found, now, verifier).map(Rc::new) };
        if let Some(known) = cache.get(&only.token) {
            if known.place == only.place && check_time(known.not_before, known.expires, now).is_ok() {
                return Ok(known);
            }
            cache.remove(&only.token);
        }
        let verified = Rc::new(self.verify_all(found, now, verifier)?);
        cache.insert(&only.token, &verified);
        Ok(verified)
    }

    /// The first rule all of whose tokens verify, or the refusal that says most.
    fn verify_all(
        &self,
        found: &[Found<'_>],
        now: Duration,
        verifier: &impl Verifier,
    ) -> Result<Verified, Miss> {
        let parsed: Vec<Result<Parsed<'_>, Refusal>> =
            found.iter().map(|found| Parsed::read(&found.token, self.settings.max_token_bytes)).collect();
        let mut nearest = Miss { refusal: Refusal::UnknownIssuer, rule: None };
        for number in self.candidates(&parsed) {
            let Some(rule) = self.rules.get(number) else { continue };
            match verify_under(rule, found, &parsed, now, verifier) {
                Some(Ok((place, token))) => return Ok(rule.identity(number, place, token)),
                Some(Err(refusal)) if nearest.refusal.says_little() && !refusal.says_little() => {
                    nearest = Miss { refusal, rule: Some(number) };
                }
                _ => {}
            }
        }
        let malformed = parsed.iter().find_map(|parsed| parsed.as_ref().err());
        match malformed {
            Some(refusal) if nearest.refusal.says_little() => Err(Miss { refusal: *refusal, rule: None }),
            _ => Err(nearest),
        }
    }

    /// The rules that may accept one of these tokens, in their order.
    fn candidates(&self, parsed: &[Result<Parsed<'_>, Refusal>]) -> BTreeSet<usize> {
        let mut numbers = BTreeSet::new();
        for token in parsed.iter().flatten() {
            for number in self.rules_for(token.claims.issuer.as_deref()) {
                numbers.insert(number);
            }
        }
        numbers
    }

    fn rules_for(&self, issuer: Option<&str>) -> impl Iterator<Item = usize> {
        let named = issuer.and_then(|issuer| self.by_issuer.get(issuer));
        self.any_issuer.iter().chain(named.into_iter().flatten()).copied()
    }

    /// Removes what only this filter may say. First, and on every path.
    fn stripped(&self, request: &Request<'_>) -> Vec<Edit<'_>> {
        let sent = self.output_headers.iter().filter(|name| request.headers.contains(name));
        sent.map(|name| Edit::Remove(name)).collect()
    }

    /// Takes the token out of the request, unless its rule forwards it, and puts its claims in. Cookies stay.
    fn write<'e>(
        &'e self,
        request: &Request<'_>,
        found: &[Found<'_>],
        verified: &Verified,
        edits: &mut Vec<Edit<'e>>,
    ) {
        let rule = self.rules.get(verified.rule).filter(|rule| !rule.forward);
        let mut params = Vec::new();
        for found in found.iter().filter(|found| rule.is_some_and(|rule| rule.places.contains(&found.place)))
        {
            match self.places.place(found.place) {
                Some(Place::Header { name, .. }) if !edits.contains(&Edit::Remove(name)) => {
                    edits.push(Edit::Remove(name));
                }
                Some(Place::Param(name)) => params.push(name.as_str()),
                _ => {}
            }
        }
        if !params.is_empty() {
            let target = without_params(request.target(), &params);
            edits.push(Edit::Set(Cow::Borrowed(":path"), target));
        }
        edits.extend(
            verified.outputs.iter().map(|(name, value)| Edit::Set(Cow::Owned(name.clone()), value.clone())),
        );
    }

    fn pass<'e>(&'e self, reason: Reason, edits: Vec<Edit<'e>>) -> Outcome<'e> {
        Outcome {
            decision: self.decision(Verdict::Allow, None, reason),
            edits,
            verified: None,
            challenge: None,
        }
    }

    fn refuse<'e>(&'e self, request: &Request<'_>, miss: &Miss, edits: Vec<Edit<'e>>) -> Outcome<'e> {
        let decision = self.decision(Verdict::Deny, miss.rule, miss.refusal.reason());
        Outcome { decision, edits, verified: None, challenge: challenge(request, miss.refusal) }
    }

    fn decision(&self, verdict: Verdict, rule: Option<usize>, reason: Reason) -> Decision<'_> {
        let by = rule.and_then(|number| self.rule_ref(number));
        Decision { filter: Filter::Jwt, verdict, by, reason, mode: Mode::Enforce }
    }

    fn rule_ref(&self, number: usize) -> Option<RuleRef<'_>> {
        let rule = self.rules.get(number)?;
        Some(RuleRef { id: number, policy: self.policies.get(rule.policy)?, rule: rule.index })
    }
}

/// Verifies every token in the places of a rule: the last one, which names the caller as in Envoy; `None` when there is
/// none.
fn verify_under<'p, 't>(
    rule: &Rule,
    found: &[Found<'_>],
    parsed: &'p [Result<Parsed<'t>, Refusal>],
    now: Duration,
    verifier: &impl Verifier,
) -> Option<Result<(PlaceId, &'p Parsed<'t>), Refusal>> {
    let mut last = None;
    for (found, parsed) in found.iter().zip(parsed).filter(|(found, _)| rule.places.contains(&found.place)) {
        let verified = match parsed {
            Ok(token) => rule.verify(token, now, verifier).map(|()| token),
            Err(refusal) => Err(*refusal),
        };
        match verified {
            Ok(token) => last = Some(Ok((found.place, token))),
            Err(refusal) => return Some(Err(refusal)),
        }
    }
    last
}

fn index(rules: &[Rule]) -> (BTreeMap<String, Vec<usize>>, Vec<usize>) {
    let mut by_issuer: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut any_issuer = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        match &rule.issuer {
            Some(issuer) => by_issuer.entry(issuer.clone()).or_default().push(number),
            None => any_issuer.push(number),
        }
    }
    (by_issuer, any_issuer)
}

/// A CORS preflight, as Envoy's `bypass_cors_preflight` (which Istio sets) defines it.
fn is_preflight(request: &Request<'_>) -> bool {
    let present = |name| request.headers.first(name).is_some_and(|value| !value.is_empty());
    request.method() == b"OPTIONS" && present("origin") && present("access-control-request-method")
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
