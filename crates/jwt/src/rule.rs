//! One rule, ready to work.

use std::time::Duration;

use sailcloth_core::config::{Node, Path, Problems, Value};
use sailcloth_core::identity::Claim;
use sailcloth_resources::request_authentication::{self, ClaimHeader, JwtRule, Presence};

use crate::claim_header::header_value;
use crate::claims::bare_audience;
use crate::places::{Place, PlaceId, Places};
use crate::verification::Verified;
use crate::{
    Algorithms, Claims, Environment, IssuerSettings, Jws, KeySet, KeySource, KeyStore, Origin, Refusal, Url,
    Verifier, Want,
};

/// The claims that Istio always splits at spaces.
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// A rule, compiled.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Number of its policy in the engine.
    pub(crate) policy: usize,
    /// Index in its policy.
    pub(crate) index: u32,
    pub(crate) issuer: Option<String>,
    /// In bare form; empty: any.
    audiences: Vec<String>,
    keys: Keys,
    pub(crate) places: Vec<PlaceId>,
    pub(crate) forward: bool,
    pub(crate) required: bool,
    payload_header: Option<String>,
    claim_headers: Vec<ClaimHeader>,
    space_delimited: Vec<String>,
    pub(crate) settings: IssuerSettings,
}

/// The keys of a rule.
#[derive(Debug)]
enum Keys {
    Inline(KeySet),
    /// The number of a source.
    Fetched(usize),
}

/// A token, read but not verified.
pub(crate) struct Parsed<'t> {
    jws: Jws<'t>,
    pub(crate) claims: Claims,
}

impl<'t> Parsed<'t> {
    pub(crate) fn read(token: &'t [u8], max_bytes: usize, algorithms: Algorithms) -> Result<Self, Refusal> {
        if token.len() > max_bytes {
            return Err(Refusal::TooLarge);
        }
        let jws = Jws::parse(token)?;
        if !algorithms.contains(jws.algorithm) {
            return Err(Refusal::AlgNotInBuild);
        }
        let claims = Claims::parse(jws.raw_payload)?;
        Ok(Self { jws, claims })
    }
}

impl Rule {
    /// Compiles a rule; what this version cannot carry out is reported and refuses the configuration.
    pub(crate) fn compile(
        rule: &JwtRule,
        (policy, index): (usize, usize),
        places: &mut Places,
        sources: &mut Vec<KeySource>,
        settings: IssuerSettings,
        environment: &Environment,
        problems: &Problems,
    ) -> Option<Self> {
        let keys = compile_keys(rule, sources, environment, problems)?;
        let mut space_delimited = rule.space_delimited_claims.clone();
        space_delimited.extend(SPACE_DELIMITED.map(str::to_owned));
        Some(Self {
            policy,
            index: u32::try_from(index).unwrap_or(u32::MAX),
            issuer: rule.issuer.clone(),
            audiences: rule.audiences.iter().map(|audience| bare(audience)).collect(),
            keys,
            places: Place::of(rule).into_iter().map(|place| places.number(place)).collect(),
            forward: rule.forward_original_token,
            required: rule.presence == Presence::Required || settings.presence == Presence::Required,
            payload_header: rule.payload_header.clone(),
            claim_headers: rule.claim_headers.clone(),
            space_delimited,
            settings,
        })
    }

    /// Every request header that this rule may write.
    pub(crate) fn output_headers(&self) -> impl Iterator<Item = &str> {
        self.claim_headers.iter().map(|output| output.header.as_str()).chain(self.payload_header.as_deref())
    }

    /// Verifies a token, in Envoy's order: issuer, dates, audience, signature. What the issuer's settings ask for stands
    /// before the dates: a token that lacks `exp` cannot be judged by it.
    /// Keys that are missing are added to `wants`.
    pub(crate) fn verify<W>(
        &self,
        token: &Parsed<'_>,
        now: Duration,
        keys: &KeyStore<W>,
        verifier: &impl Verifier,
        wants: &mut Vec<Want>,
    ) -> Result<(), Refusal> {
        if self.issuer.as_ref().is_some_and(|issuer| token.claims.issuer() != Some(issuer.as_bytes())) {
            return Err(Refusal::UnknownIssuer);
        }
        self.check_settings(token)?;
        token.claims.validity(self.settings.leeway).check(now)?;
        self.check_audience(&token.claims)?;
        match &self.keys {
            Keys::Inline(set) => set.verify(&token.jws, verifier),
            Keys::Fetched(source) => keys.verify(*source, &token.jws, verifier, wants),
        }
    }

    fn check_settings(&self, token: &Parsed<'_>) -> Result<(), Refusal> {
        if self.settings.algorithms.is_some_and(|allowed| !allowed.contains(token.jws.algorithm)) {
            return Err(Refusal::AlgNotAllowed);
        }
        let missing = |claim: &String| matches!(token.claims.at(claim), None | Some(Claim::Null));
        if self.settings.required_claims.iter().any(missing) {
            return Err(Refusal::ClaimMissing);
        }
        let Some(most) = self.settings.max_lifetime else { return Ok(()) };
        match (token.claims.issued, token.claims.expires) {
            (Some(issued), Some(expires)) if expires.saturating_sub(issued) <= most => Ok(()),
            (Some(_), Some(_)) => Err(Refusal::LivesTooLong),
            _ => Err(Refusal::ClaimMissing),
        }
    }

    /// "At least one must be in `aud`": a token without `aud` is refused by a rule with audiences.
    fn check_audience(&self, claims: &Claims) -> Result<(), Refusal> {
        if self.audiences.is_empty() || claims.has_audience(&self.audiences) {
            Ok(())
        } else {
            Err(Refusal::WrongAudience)
        }
    }

    /// What a verified token hands on.
    pub(crate) fn identity<W>(
        &self,
        number: usize,
        place: PlaceId,
        token: &Parsed<'_>,
        keys: &KeyStore<W>,
    ) -> Verified {
        let is_list = |key: &[u8]| self.space_delimited.iter().any(|name| name.as_bytes() == key);
        let identity = token.claims.token.with_lists(is_list);
        Verified {
            rule: number,
            place,
            keys: match &self.keys {
                Keys::Inline(_) => None,
                Keys::Fetched(source) => Some((*source, keys.version(*source))),
            },
            validity: token.claims.validity(self.settings.leeway),
            principal: identity.principal(),
            outputs: self.outputs(token),
            token: Some(identity),
        }
    }

    fn outputs(&self, token: &Parsed<'_>) -> Vec<(String, Vec<u8>)> {
        let claims = self.claim_headers.iter().filter_map(|output| {
            let value = header_value(token.claims.at(&output.claim)?)?;
            Some((output.header.clone(), value))
        });
        let payload = self.payload_header.iter();
        claims.chain(payload.map(|header| (header.clone(), token.jws.raw_payload.to_vec()))).collect()
    }
}

fn compile_keys(
    rule: &JwtRule,
    sources: &mut Vec<KeySource>,
    environment: &Environment,
    problems: &Problems,
) -> Option<Keys> {
    let nothing = Node::Null;
    let refuse = |path: &Path, why: String| Value::at(&nothing, path.clone(), problems).error(why);
    let source = match &rule.keys {
        request_authentication::KeySource::Inline { jwks, path } => {
            let set =
                KeySet::read(&Value::at(jwks.expose(), path.clone(), problems), Origin::Inline, environment)?;
            return Some(Keys::Inline(set));
        }
        request_authentication::KeySource::Uri { uri, path } => {
            let url = Url::parse(uri).map_err(|why| refuse(path, why.to_owned())).ok()?;
            let issuer = rule.issuer.clone().unwrap_or_else(|| url.to_string());
            KeySource { path: path.to_string(), issuer, url, discovery: false, timeout: rule.timeout }
        }
        request_authentication::KeySource::Discovery => {
            let issuer = rule.issuer.clone()?;
            let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            let url = Url::parse(&url).map_err(|why| {
                refuse(&rule.path, format!("has neither `jwks` nor `jwksUri`, and its `issuer` {why}: keys cannot be discovered there"));
            });
            KeySource {
                path: rule.path.to_string(),
                issuer,
                url: url.ok()?,
                discovery: true,
                timeout: rule.timeout,
            }
        }
    };
    Some(Keys::Fetched(number(source, sources)))
}

/// The number of a source; rules with the same URL share its keys, and the longest timeout.
fn number(source: KeySource, sources: &mut Vec<KeySource>) -> usize {
    let same = |one: &KeySource| {
        one.url == source.url
            && one.discovery == source.discovery
            && (!one.discovery || one.issuer == source.issuer)
    };
    let known = sources.iter().position(same);
    if let Some(one) = known.and_then(|known| sources.get_mut(known)) {
        one.timeout = one.timeout.max(source.timeout);
    }
    known.unwrap_or_else(|| {
        sources.push(source);
        sources.len() - 1
    })
}

/// An audience of the configuration in bare form; what is taken off are whole letters, so that text stays text.
fn bare(audience: &str) -> String {
    String::from_utf8_lossy(bare_audience(audience.as_bytes())).into_owned()
}
