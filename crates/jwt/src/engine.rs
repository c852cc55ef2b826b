//! All rules of all RequestAuthentications, ready to work.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sailcloth_core::config::{Node, Problem, Problems};
use sailcloth_core::decision::{Decision, Filter, Mode, Reason, RuleRef, Verdict};
use sailcloth_core::facts::Sources;
use sailcloth_core::request::Request;
use sailcloth_resources::request_authentication::RequestAuthentication;
use sailcloth_resources::{Config, Kind};

use crate::outcome::challenge;
use crate::places::{Found, Place, Places, without_params};
use crate::rule::Rule;
use crate::verification::{Miss, Verified};
use crate::{
    CORS_PREFLIGHT, Edit, Environment, KeySource, KeyStore, NO_TOKEN, Outcome, Refusal, Settings, TokenCache,
    VALID_TOKEN, Verifier,
};

type Wire = Config<RequestAuthentication, Settings>;

/// A configured engine.
#[derive(Debug)]
pub struct Engine {
    pub(crate) settings: Settings,
    /// Those that this build verifies.
    pub(crate) environment: Environment,
    sources: Sources,
    documents: usize,
    /// `namespace/name` by number.
    policies: Vec<String>,
    /// In order of issuer, as Istio sorts them.
    pub(crate) rules: Vec<Rule>,
    /// Rules by issuer: a token is tried with these and with `any_issuer`, however many others there are.
    pub(crate) by_issuer: BTreeMap<Vec<u8>, Vec<usize>>,
    pub(crate) any_issuer: Vec<usize>,
    /// The first rule that a token must be there for.
    required: Option<usize>,
    pub(crate) places: Places,
    /// Key sets that are fetched, by number.
    key_sources: Vec<KeySource>,
    /// Every request header that some rule may write, sorted: clients may not.
    output_headers: BTreeSet<String>,
}

impl Engine {
    /// Makes an engine of a filter's configuration text (JSON).
    ///
    /// # Errors
    /// Every problem of the configuration.
    pub fn load(text: &[u8], environment: &Environment) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Wire::load(text, Settings::read, |config, problems| Self::compile(&config, environment, problems))
    }

    /// [`Self::load`] from a tree that was parsed elsewhere.
    ///
    /// # Errors
    /// Every problem of the configuration.
    pub fn load_node(node: &Node, environment: &Environment) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Wire::load_node(node, Settings::read, |config, problems| {
            Self::compile(&config, environment, problems)
        })
    }

    fn compile(config: &Wire, environment: &Environment, problems: &Problems) -> Self {
        let applicable = config.applicable();
        let mut places = Places::default();
        let mut key_sources = Vec::new();
        // In order of issuer, those of one issuer in the order written.
        let mut sorted: BTreeMap<Option<String>, Vec<Rule>> = BTreeMap::new();
        // What does not apply here is compiled too, and dropped: its problems would surface in another workload.
        for document in &config.resources {
            let policy = applicable.iter().position(|one| std::ptr::eq(*one, document));
            for (index, rule) in document.spec.rules.iter().enumerate() {
                let mut unused = (Places::default(), Vec::new());
                let (places, sources) = match policy {
                    Some(_) => (&mut places, &mut key_sources),
                    None => (&mut unused.0, &mut unused.1),
                };
                let settings = config.settings.issuers.of(rule.issuer.as_deref());
                let place = (policy.unwrap_or(0), index);
                let rule = Rule::compile(rule, place, places, sources, settings, environment, problems);
                if let Some(rule) = rule.filter(|_| policy.is_some()) {
                    sorted.entry(rule.issuer.clone()).or_default().push(rule);
                }
            }
        }
        let written = config.resources.iter().flat_map(|document| &document.spec.rules);
        let issuers = written.map(|rule| rule.issuer.as_deref());
        config.settings.issuers.check(issuers, environment.algorithms, problems);
        let rules: Vec<Rule> = sorted.into_values().flatten().collect();
        let mut output_headers = BTreeSet::new();
        for header in rules.iter().flat_map(Rule::output_headers) {
            output_headers.insert(header.to_owned());
        }
        let (by_issuer, any_issuer) = index(&rules);
        Self {
            settings: config.settings.clone(),
            environment: *environment,
            sources: config.common.sources,
            documents: applicable.len(),
            policies: applicable.iter().map(|document| document.metadata.id()).collect(),
            required: required(&rules),
            rules,
            by_issuer,
            any_issuer,
            places,
            key_sources,
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

    /// An empty cache of the configured size, for [`Self::decide`]; one per worker. `key` is random, and nobody else's.
    #[must_use]
    pub fn cache(&self, key: [u64; 2]) -> TokenCache {
        TokenCache::new(self.settings.token_cache_bytes, key)
    }

    /// The fetched key sets, none yet, for [`Self::decide`]; one per worker.
    #[must_use]
    pub fn key_store<W: Copy + PartialEq>(&self) -> KeyStore<W> {
        KeyStore::new(&self.key_sources, &self.settings.jwks, self.environment)
    }

    /// Decides about a request at a time since the epoch. `keys` and `cache` are those that only this engine uses. A
    /// refusal with [`Outcome::wants`] may become another decision when keys have been fetched: see [`KeyStore::wait`].
    pub fn decide<W>(
        &self,
        request: &Request<'_>,
        now: Duration,
        keys: &KeyStore<W>,
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
                rule => {
                    let miss = Miss { refusal: Refusal::Missing, rule, wants: Vec::new() };
                    self.refuse(request, miss, edits)
                }
            };
        }
        match self.verify(&found, now, keys, verifier, cache) {
            Err(miss) => self.refuse(request, miss, edits),
            Ok(verified) => {
                self.write(request, &found, &verified, &mut edits);
                let decision = self.decision(Verdict::Allow, Some(verified.rule), VALID_TOKEN);
                Outcome { decision, edits, wants: Vec::new(), verified: Some(verified), challenge: None }
            }
        }
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
            wants: Vec::new(),
            verified: None,
            challenge: None,
        }
    }

    fn refuse<'e>(&'e self, request: &Request<'_>, miss: Miss, edits: Vec<Edit<'e>>) -> Outcome<'e> {
        let mut decision = self.decision(Verdict::Deny, miss.rule, miss.refusal.reason());
        decision.mode = self.mode(miss.rule);
        let challenge = challenge(request, miss.refusal);
        Outcome { decision, edits, wants: miss.wants, verified: None, challenge }
    }

    fn decision(&self, verdict: Verdict, rule: Option<usize>, reason: Reason) -> Decision<'_> {
        let by = rule.and_then(|number| self.rule_ref(number));
        Decision { filter: Filter::Jwt, verdict, by, reason, mode: Mode::Enforce }
    }

    /// Whether a refusal acts: as its rule's issuer says, and where no rule was concerned unless all are in shadow.
    pub(crate) fn mode(&self, rule: Option<usize>) -> Mode {
        let shadow = |rule: &Rule| rule.settings.mode == Mode::Shadow;
        let all = match rule.and_then(|number| self.rules.get(number)) {
            Some(rule) => shadow(rule),
            None => self.rules.iter().all(shadow),
        };
        if all { Mode::Shadow } else { Mode::Enforce }
    }

    fn rule_ref(&self, number: usize) -> Option<RuleRef<'_>> {
        let rule = self.rules.get(number)?;
        Some(RuleRef { id: number, policy: self.policies.get(rule.policy)?, rule: rule.index })
    }
}

fn index(rules: &[Rule]) -> (BTreeMap<Vec<u8>, Vec<usize>>, Vec<usize>) {
    let mut by_issuer: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    let mut any_issuer = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        match &rule.issuer {
            Some(issuer) => by_issuer.entry(issuer.as_bytes().to_vec()).or_default().push(number),
            None => any_issuer.push(number),
        }
    }
    (by_issuer, any_issuer)
}

/// The first rule that a token must be there for, before those in shadow.
fn required(rules: &[Rule]) -> Option<usize> {
    let acts = |rule: &Rule| rule.required && rule.settings.mode == Mode::Enforce;
    rules.iter().position(acts).or_else(|| rules.iter().position(|rule| rule.required))
}

/// A CORS preflight, as Envoy's `bypass_cors_preflight` (which Istio sets) defines it.
fn is_preflight(request: &Request<'_>) -> bool {
    let present = |name| request.headers.first(name).is_some_and(|value| !value.is_empty());
    request.method() == b"OPTIONS" && present("origin") && present("access-control-request-method")
}
