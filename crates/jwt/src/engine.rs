//! All rules of all RequestAuthentications, ready to work.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use sailcloth_core::config::{Node, Problem, Problems};
use sailcloth_core::decision::{Decision, Filter, Mode, Reason, RuleRef, Verdict};
use sailcloth_core::facts::Sources;
use sailcloth_core::headers::HeaderBlock;
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

    /// Every token that some rule would look at, unverified, for tools that explain.
    #[must_use]
    pub fn tokens<'r>(&self, headers: &'r HeaderBlock) -> Vec<Cow<'r, [u8]>> {
        self.places.find(headers).into_iter().map(|found| found.token).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CannotVerify, Hash, der};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use sailcloth_core::facts::{Facts, NoProperties};
    use sailcloth_core::identity::Claim;
    use std::cell::Cell;
    #[cfg(target_family = "wasm")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const NOW: Duration = Duration::from_secs(1_000_000);

    /// A verifier whose signatures anybody can make: the tests are about everything around it, and run where no
    /// cryptography is. It counts its calls.
    #[derive(Default)]
    struct Toy {
        calls: Cell<usize>,
        broken: bool,
    }

    impl Verifier for Toy {
        fn verify(
            &self,
            hash: Hash,
            key: &[u8],
            signature: &[u8],
            signed: &[u8],
        ) -> Result<bool, CannotVerify> {
            self.calls.set(self.calls.get() + 1);
            if self.broken { Err(CannotVerify) } else { Ok(signature == toy_signature(hash, key, signed)) }
        }
    }

    fn toy_signature(hash: Hash, key: &[u8], signed: &[u8]) -> Vec<u8> {
        let all = [hash.name().as_bytes(), key, signed].concat();
        let sum = all.iter().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        sum.to_le_bytes().to_vec()
    }

    fn modulus(key: u8) -> Vec<u8> {
        vec![key | 0x80; 256]
    }

    fn jwks(keys: &[u8]) -> String {
        let keys: Vec<String> = keys
            .iter()
            .map(|key| {
                let n = URL_SAFE_NO_PAD.encode(modulus(*key));
                format!(r#"{{"kty":"RSA","alg":"RS256","kid":"k{key}","e":"AQAB","n":"{n}"}}"#)
            })
            .collect();
        format!(r#"{{"keys":[{}]}}"#, keys.join(",")).replace('"', "\\\"")
    }

    fn token(key: u8, claims: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let signed =
            format!("{}.{}", encode(&format!(r#"{{"alg":"RS256","kid":"k{key}"}}"#)), encode(claims));
        let public = der::rsa_key(&modulus(key), &[1, 0, 1]);
        let signature = toy_signature(Hash::Sha256, &public, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn of(issuer: &str) -> String {
        token(1, &format!(r#"{{"iss":"{issuer}","sub":"alice","exp":1000600}}"#))
    }

    /// One resource per list of rules.
    fn configuration(resources: &[&str], rest: &str) -> String {
        let documents: Vec<String> = resources
            .iter()
            .enumerate()
            .map(|(index, rules)| {
                format!(
                    r#"{{"apiVersion":"security.istio.io/v1","kind":"RequestAuthentication",
                    "metadata":{{"name":"r{index}","namespace":"n"}},"spec":{{"jwtRules":[{rules}]}}}}"#
                )
            })
            .collect();
        format!(r#"{{"resources":[{}]{rest}}}"#, documents.join(","))
    }

    fn engine(resources: &[&str]) -> Engine {
        match Engine::load(configuration(resources, "").as_bytes()) {
            Ok((engine, _)) => engine,
            Err(problems) => panic!("{problems:?}"),
        }
    }

    fn rule(issuer: &str, rest: &str) -> String {
        format!(r#"{{"issuer":"{issuer}","jwks":"{}"{rest}}}"#, jwks(&[1, 2]))
    }

    fn decide<'e>(engine: &'e Engine, headers: &[(&str, &str)], cache: &mut TokenCache) -> Outcome<'e> {
        decide_at(engine, headers, cache, NOW, &Toy::default())
    }

    fn decide_at<'e>(
        engine: &'e Engine,
        headers: &[(&str, &str)],
        cache: &mut TokenCache,
        now: Duration,
        verifier: &Toy,
    ) -> Outcome<'e> {
        let standard = [(":method", "GET"), (":scheme", "https"), (":authority", "api"), (":path", "/p?q=1")];
        let given = |name: &str| headers.iter().any(|(other, _)| *other == name);
        let block = HeaderBlock::from_pairs(
            standard.into_iter().filter(|(name, _)| !given(name)).chain(headers.iter().copied()),
        );
        let request = Request { headers: &block, facts: Facts::new(&NoProperties, engine.sources()) };
        engine.decide(&request, now, verifier, cache)
    }

    /// `verdict code status by`.
    fn summary(engine: &Engine, headers: &[(&str, &str)]) -> String {
        let mut cache = engine.cache();
        let fresh = text(&decide(engine, headers, &mut cache));
        let again = text(&decide(engine, headers, &mut cache));
        assert_eq!(fresh, again, "a cached answer differs");
        fresh
    }

    fn text(outcome: &Outcome<'_>) -> String {
        let decision = &outcome.decision;
        let by = decision.by.map_or("none".to_owned(), |by| format!("{}#{}", by.policy, by.rule));
        format!("{} {} {} {by}", decision.verdict.name(), decision.reason.code, decision.reason.status)
    }

    fn bearer(token: &str) -> String {
        format!("Bearer {token}")
    }

    #[test]
    fn tokens_decide_as_in_istio() {
        let engine = engine(&[&rule("a", r#","audiences":["api"]"#)]);
        let claims = |rest: &str| bearer(&token(1, &format!(r#"{{"iss":"a"{rest}}}"#)));
        for (authorization, expected) in [
            (claims(r#","aud":"https://api/""#), "allow valid_token 0 n/r0#0"),
            (claims(r#","aud":["x","api"]"#), "allow valid_token 0 n/r0#0"),
            (claims(""), "deny wrong_audience 403 n/r0#0"),
            (claims(r#","aud":"other""#), "deny wrong_audience 403 n/r0#0"),
            (claims(r#","aud":"api","exp":999939"#), "deny token_expired 401 n/r0#0"),
            (claims(r#","aud":"api","exp":999940"#), "allow valid_token 0 n/r0#0"),
            (claims(r#","aud":"api","nbf":1000061"#), "deny token_not_yet_valid 401 n/r0#0"),
            (bearer(&of("b")), "deny unknown_issuer 401 none"),
            (bearer(&token(3, r#"{"iss":"a","aud":"api"}"#)), "deny unknown_kid 401 n/r0#0"),
            (bearer(&format!("{}A", token(1, "{}"))), "deny unknown_issuer 401 none"),
            (bearer("a.b"), "deny token_malformed 401 none"),
            (bearer(&"a".repeat(20_000)), "deny token_too_large 401 none"),
            ("Basic abc".to_owned(), "allow no_token 0 none"),
        ] {
            assert_eq!(summary(&engine, &[("authorization", &authorization)]), expected, "{authorization}");
        }
        assert_eq!(summary(&engine, &[]), "allow no_token 0 none");
    }

    #[test]
    fn all_resources_are_one_list_and_either_rule_of_an_issuer_may_verify() {
        let strict = [rule("a", r#","audiences":["foo"]"#), rule("b", r#","audiences":["bar"]"#)].join(",");
        let engine = engine(&[&strict, &rule("b", "")]);
        assert_eq!(
            summary(&engine, &[("authorization", &bearer(&of("a")))]),
            "deny wrong_audience 403 n/r0#0"
        );
        assert_eq!(summary(&engine, &[("authorization", &bearer(&of("b")))]), "allow valid_token 0 n/r1#0");
    }

    #[test]
    fn every_token_in_a_rules_places_must_verify() {
        let engine = engine(&[&rule("a", "")]);
        let good = of("a");
        let expired = token(1, r#"{"iss":"a","exp":1}"#);
        for (header, param, expected) in [
            (&good, &good, "allow valid_token 0 n/r0#0"),
            (&good, &expired, "deny token_expired 401 n/r0#0"),
            (&expired, &good, "deny token_expired 401 n/r0#0"),
            (&good, &"x".to_owned(), "deny token_malformed 401 n/r0#0"),
        ] {
            let path = format!("/?access_token={param}");
            let headers = [("authorization", bearer(header)), (":path", path)];
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            assert_eq!(summary(&engine, &headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn a_place_that_is_named_switches_the_defaults_off() {
        let engine = engine(&[&rule("a", r#","fromCookies":["c"]"#)]);
        let cookie = format!("c={}", of("a"));
        assert_eq!(summary(&engine, &[("authorization", &bearer(&of("a")))]), "allow no_token 0 none");
        assert_eq!(summary(&engine, &[("cookie", &cookie)]), "allow valid_token 0 n/r0#0");
    }

    #[test]
    fn rules_without_an_issuer_take_any() {
        let rule = format!(r#"{{"jwks":"{}"}}"#, jwks(&[1]));
        let engine = engine(&[&rule]);
        for claims in [r#"{"iss":"whoever"}"#, "{}"] {
            let authorization = bearer(&token(1, claims));
            assert_eq!(
                summary(&engine, &[("authorization", &authorization)]),
                "allow valid_token 0 n/r0#0",
                "{claims}"
            );
        }
    }

    #[test]
    fn a_required_token_must_be_there_and_a_preflight_never() {
        let engine = engine(&[&rule("a", r#","presence":"REQUIRED""#)]);
        assert_eq!(summary(&engine, &[]), "deny token_missing 401 n/r0#0");
        let preflight =
            [(":method", "OPTIONS"), ("origin", "https://a"), ("access-control-request-method", "GET")];
        assert_eq!(summary(&engine, &preflight), "allow cors_preflight 0 none");
        assert_eq!(summary(&engine, &preflight[..2]), "deny token_missing 401 n/r0#0");
        let challenge = decide(&engine, &[], &mut engine.cache()).reply();
        assert_eq!(challenge.headers[0].1, r#"Bearer realm="https://api/p""#);
    }

    #[test]
    fn without_rules_every_request_passes_as_nobody() {
        let engine = engine(&[""]);
        let outcome = decide(&engine, &[("authorization", "Bearer a.b.c")], &mut engine.cache()).decision;
        assert_eq!(outcome.reason.code, "no_token");
    }

    #[test]
    fn a_challenge_repeats_no_query_and_cannot_be_broken_out_of() {
        let engine = engine(&[&rule("a", "")]);
        let headers = [(":path", "/a\"b\\c\u{e9}?access_token=x.y.z"), (":authority", "h")];
        let reply = decide(&engine, &headers, &mut engine.cache()).reply();
        let value = r#"Bearer realm="https://h/a%22b%5Cc%C3%A9", error="invalid_token""#;
        assert_eq!((reply.headers[0].0, reply.headers[0].1.as_ref()), ("www-authenticate", value));
        assert_eq!((reply.status, reply.grpc_status), (401, 16));
    }

    #[test]
    fn the_token_is_removed_unless_forwarded() {
        let path = format!("/p?x=1&access_token={}&y", of("a"));
        for (rest, edits) in [
            ("", vec!["Remove(authorization)", "Set(:path, <redacted>)"]),
            (r#","forwardOriginalToken":true"#, vec![]),
        ] {
            let engine = engine(&[&rule("a", rest)]);
            let headers = [("authorization", bearer(&of("a"))), (":path", path.clone())];
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let outcome = decide(&engine, &headers, &mut engine.cache());
            let found: Vec<String> = outcome.edits.iter().map(|edit| format!("{edit:?}")).collect();
            assert_eq!(found, edits, "{rest}");
            if let Some(Edit::Set(_, path)) = outcome.edits.get(1) {
                assert_eq!(path, b"/p?x=1&y");
            }
        }
    }

    #[test]
    fn output_headers_are_stripped_from_clients_on_every_path() {
        let outputs = r#","outputPayloadToHeader":"x-payload","outputClaimToHeaders":[{"header":"X-Sub","claim":"sub"},{"header":"x-none","claim":"none"}]"#;
        let engine = engine(&[&rule("a", outputs)]);
        let spoofed = [("x-sub", "root"), ("x-payload", "e30"), ("x-none", "1")];
        let strip = vec![Edit::Remove("x-none"), Edit::Remove("x-payload"), Edit::Remove("x-sub")];
        let preflight =
            [(":method", "OPTIONS"), ("origin", "https://a"), ("access-control-request-method", "GET")];
        for more in [vec![], vec![("authorization", "Bearer bad")], preflight.to_vec()] {
            let headers: Vec<(&str, &str)> = spoofed.into_iter().chain(more).collect();
            assert_eq!(decide(&engine, &headers, &mut engine.cache()).edits, strip, "{headers:?}");
        }
        let good = of("a");
        let bearer = bearer(&good);
        let headers: Vec<(&str, &str)> =
            spoofed.into_iter().chain([("authorization", bearer.as_str())]).collect();
        let mut cache = engine.cache();
        for _ in 0..2 {
            let edits = decide(&engine, &headers, &mut cache).edits;
            assert_eq!(edits[..3], strip);
            let payload = good.split('.').nth(1).unwrap().as_bytes().to_vec();
            assert!(edits.contains(&Edit::Set(Cow::Borrowed("x-payload"), payload)), "{edits:?}");
            assert!(edits.contains(&Edit::Set(Cow::Borrowed("x-sub"), b"alice".to_vec())), "{edits:?}");
            assert_eq!(edits.len(), 6);
        }
    }

    #[test]
    fn the_identity_is_handed_on_with_scopes_as_lists() {
        let engine = engine(&[&rule("a", r#","spaceDelimitedClaims":["roles"]"#)]);
        let claims = r#"{"iss":"a","sub":"s","scope":"read  write","roles":"x","other":"a b"}"#;
        let bearer = bearer(&token(1, claims));
        let outcome = decide(&engine, &[("authorization", &bearer)], &mut engine.cache());
        assert_eq!(outcome.principal(), Some(b"a/s".as_slice()));
        let token = outcome.token().unwrap();
        assert_eq!(outcome.state(), token.state());
        let Some(Claim::List(scopes)) = token.claim(&["scope"]) else { panic!("no list") };
        assert_eq!(scopes.collect::<Vec<_>>(), [Claim::Text(b"read"), Claim::Text(b"write")]);
        assert!(matches!(token.claim(&["roles"]), Some(Claim::List(_))));
        assert_eq!(token.text(&["other"]), Some(b"a b".as_slice()));
        let nobody = decide(&engine, &[], &mut engine.cache());
        assert_eq!((nobody.state(), nobody.principal()), (Token::anonymous_state(), None));
    }

    #[test]
    fn a_verified_token_is_verified_once_and_ends_with_its_date() {
        let engine = engine(&[&rule("a", "")]);
        let mut cache = engine.cache();
        let toy = Toy::default();
        let bearer = bearer(&of("a"));
        let headers = [("authorization", bearer.as_str())];
        for _ in 0..3 {
            assert!(!decide_at(&engine, &headers, &mut cache, NOW, &toy).decision.refuses());
        }
        assert_eq!((toy.calls.get(), cache.len()), (1, 1));
        let late = Duration::from_secs(1_000_661);
        let expired = decide_at(&engine, &headers, &mut cache, late, &toy);
        assert_eq!((expired.decision.reason.code, cache.len()), ("token_expired", 0));
    }

    #[test]
    fn a_known_token_in_another_place_is_verified_anew() {
        let rules = [
            rule("a", r#","fromHeaders":[{"name":"x"}],"audiences":["api"]"#),
            rule("a", r#","fromHeaders":[{"name":"y"}]"#),
        ];
        let engine = engine(&[&rules.join(",")]);
        let mut cache = engine.cache();
        let token = of("a");
        let reason =
            |cache: &mut TokenCache, header| decide(&engine, &[(header, &token)], cache).decision.reason.code;
        assert_eq!(reason(&mut cache, "y"), "valid_token");
        assert_eq!(reason(&mut cache, "x"), "wrong_audience");
        assert_eq!(reason(&mut cache, "y"), "valid_token");
    }

    #[test]
    fn a_verifier_without_an_answer_refuses_and_is_not_remembered() {
        let engine = engine(&[&rule("a", "")]);
        let mut cache = engine.cache();
        let bearer = bearer(&of("a"));
        let headers = [("authorization", bearer.as_str())];
        let broken = Toy { broken: true, ..Toy::default() };
        let outcome = decide_at(&engine, &headers, &mut cache, NOW, &broken);
        assert_eq!((outcome.decision.reason.code, outcome.reply().status), ("cannot_verify", 500));
        assert!(outcome.decision.refuses() && cache.is_empty() && outcome.reply().headers.is_empty());
    }

    #[test]
    fn a_token_costs_no_more_with_a_thousand_other_issuers() {
        let rules: Vec<String> = (0..1000).map(|number| rule(&format!("i{number}"), "")).collect();
        let engine = engine(&[&rules.join(",")]);
        let toy = Toy::default();
        let bad = of("i500").replace("k1", "k2");
        for token in [of("i500"), of("nobody"), bad] {
            let bearer = bearer(&token);
            decide_at(&engine, &[("authorization", &bearer)], &mut engine.cache(), NOW, &toy);
        }
        assert!(toy.calls.get() <= 2, "{}", toy.calls.get());
    }

    #[test]
    fn verify_token_agrees_with_decide() {
        let engine = engine(&[&rule("a", "")]);
        let toy = Toy::default();
        assert!(engine.verify_token(of("a").as_bytes(), NOW, &toy).is_ok());
        assert_eq!(engine.verify_token(of("b").as_bytes(), NOW, &toy), Err(Refusal::UnknownIssuer));
        assert_eq!(engine.verify_token(b"", NOW, &toy), Err(Refusal::NotCompact));
    }

    #[test]
    fn what_this_version_cannot_do_is_refused_by_name() {
        for (rule, message) in [
            (
                r#"{"issuer":"a","jwksUri":"https://a/jwks"}"#,
                "jwtRules[0].jwksUri: fetching keys is not supported",
            ),
            (r#"{"issuer":"a"}"#, "jwtRules[0]: has neither `jwks` nor `jwksUri`"),
            (r#"{"issuer":"a","jwks":"{\"keys\":[]}"}"#, "jwtRules[0].jwks: holds no key that can be used"),
        ] {
            let problems = Engine::load(configuration(&[rule], "").as_bytes()).unwrap_err();
            let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
            assert!(all.join("\n").contains(message), "{all:?}");
        }
        // Also where it does not apply to this workload: the mistake is in the document.
        let elsewhere = configuration(&[r#"{"issuer":"a"}"#], r#","workload":{"namespace":"other"}"#);
        assert!(Engine::load(elsewhere.as_bytes()).is_err());
    }

    #[test]
    fn only_rules_for_the_workload_take_effect() {
        let text = configuration(&[&rule("a", "")], r#","workload":{"namespace":"other"}"#);
        let (engine, _) = Engine::load(text.as_bytes()).unwrap();
        assert_eq!(engine.resources(), [("RequestAuthentication", 0)]);
        assert_eq!(summary(&engine, &[("authorization", "Bearer bad")]), "allow no_token 0 none");
    }

    #[test]
    fn settings_bound_the_token_and_the_cache() {
        let rest = r#","settings":{"maxTokenBytes":256,"tokenCache":{"bytes":0}}"#;
        let (engine, _) = Engine::load(configuration(&[&rule("a", "")], rest).as_bytes()).unwrap();
        let long = bearer(&token(1, &format!(r#"{{"iss":"a","x":"{}"}}"#, "y".repeat(256))));
        assert_eq!(summary(&engine, &[("authorization", &long)]), "deny token_too_large 401 none");
        let mut cache = engine.cache();
        let short = bearer(&token(1, r#"{"iss":"a"}"#));
        assert!(!decide(&engine, &[("authorization", &short)], &mut cache).decision.refuses());
        assert!(cache.is_empty());
        for bad in
            [r#"{"maxTokenBytes":1}"#, r#"{"tokenCache":{"byte":1}}"#, r#"{"tokenCache":{"bytes":-1}}"#]
        {
            let rest = format!(r#","settings":{bad}"#);
            assert!(Engine::load(configuration(&[], &rest).as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_type_prints_a_token_or_a_key() {
        let engine = engine(&[&rule("a", r#","outputClaimToHeaders":[{"header":"x-s","claim":"sub"}]"#)]);
        let mut cache = engine.cache();
        let token = token(1, r#"{"iss":"a","sub":"hunter2"}"#);
        let bearer = bearer(&token);
        let path = format!("/?access_token={token}");
        let outcome = decide(&engine, &[("authorization", &bearer)], &mut cache);
        let refused = decide(&engine, &[("authorization", "Bearer hunter2"), (":path", &path)], &mut cache);
        let jws = crate::Jws::parse(token.as_bytes()).unwrap();
        let claims = crate::Claims::parse(jws.raw_payload).unwrap();
        let printed = format!(
            "{engine:?} {cache:?} {outcome:?} {refused:?} {:?} {jws:?} {claims:?} {:#?} {}",
            refused.reply(),
            outcome.verified,
            refused.decision.details()
        );
        let modulus = URL_SAFE_NO_PAD.encode(modulus(1));
        let signature = token.rsplit('.').next().unwrap();
        let payload = token.split('.').nth(1).unwrap();
        for secret in ["hunter2", payload, signature, &modulus, "129, 129, 129"] {
            assert!(!printed.contains(secret), "{secret} in {printed}");
        }
    }

    #[test]
    fn no_change_of_a_token_is_accepted_and_none_panics() {
        let engine = engine(&[&rule("a", r#","audiences":["api"]"#)]);
        let good = token(1, r#"{"iss":"a","sub":"alice","aud":"api","exp":1000600}"#).into_bytes();
        let toy = Toy::default();
        assert!(engine.verify_token(&good, NOW, &toy).is_ok());
        for at in 0..good.len() {
            for change in [0x01u8, 0x20, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= change;
                assert!(engine.verify_token(&bad, NOW, &toy).is_err(), "byte {at} ^ {change}");
            }
            for insert in [b'.', b'=', b'A', b' ', 0, 0xff] {
                let mut bad = good.clone();
                bad.insert(at, insert);
                assert!(engine.verify_token(&bad, NOW, &toy).is_err(), "{insert} before {at}");
            }
            assert!(engine.verify_token(&good[..at], NOW, &toy).is_err(), "cut at {at}");
            assert!(engine.verify_token(&good[at + 1..], NOW, &toy).is_err(), "begun after {at}");
        }
    }

    #[test]
    fn random_bytes_in_every_place_never_panic_and_never_pass() {
        let rules =
            rule("a", r#","fromHeaders":[{"name":"h","prefix":"P"}],"fromParams":["t"],"fromCookies":["c"]"#);
        let engine = engine(&[&rules]);
        let alphabet = b"eyJ0.-_=AP%2;\"& \x00\xff\xc3{}:,";
        let mut state = 1u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(state >> 33).unwrap() % below
        };
        for round in 0..5_000 {
            let length = next(60);
            let bytes: Vec<u8> = (0..length).map(|_| alphabet[next(alphabet.len())]).collect();
            let header = [b"P", bytes.as_slice()].concat();
            let path = [b"/?t=", bytes.as_slice()].concat();
            let cookie = [b"c=", bytes.as_slice()].concat();
            for (name, value) in [("h", header), (":path", path), ("cookie", cookie)] {
                let block = HeaderBlock::from_pairs([(name, value)]);
                let request = Request { headers: &block, facts: Facts::new(&NoProperties, engine.sources()) };
                let outcome = engine.decide(&request, NOW, &Toy::default(), &mut engine.cache());
                assert!(outcome.decision.refuses(), "round {round}: {bytes:?}");
            }
        }
    }
}
