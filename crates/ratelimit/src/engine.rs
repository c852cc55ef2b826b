//! Compiles RateLimit resources and decides requests.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use sailcloth_core::config::{Fields, Node, Problem, Problems, Value};
use sailcloth_core::decision::{Decision, Filter, LocalReply, Mode, Reason, RuleRef, Verdict};
use sailcloth_core::facts::Sources;
use sailcloth_core::key::Part;
use sailcloth_core::operation::OperationMatcher;
use sailcloth_core::request::Request;
use sailcloth_core::siphash::Sip;
use sailcloth_resources::rate_limit::{LimitRule, MissingKey, RateLimit};
use sailcloth_resources::{Config, Loaded};

use crate::gcra::ceil_seconds;
use crate::index::Index;
use crate::row::{Visit, WAYS};
use crate::{Gcra, Moment, Reasons, Row, RowKey, Store, StoreError, Take};

/// Attempts to write a row that other workers keep changing; then the request counts as over the limit.
const ATTEMPTS: u32 = 16;

/// The filter's own settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `slots`: how many clients of one rule have a bucket of their own at a time; the bound of its memory.
    pub slots: u32,
    /// `headers: limited`: whether a refusal carries `x-ratelimit-limit`, `-remaining` and `-reset`.
    pub headers: bool,
}

impl Settings {
    /// Reads the settings.
    #[must_use]
    pub fn read(fields: &Fields<'_>) -> Self {
        let slots = fields.get("slots").and_then(|slots| slots.integer(16, 16_777_216));
        let headers = fields.get("headers").and_then(|value| {
            if value.node().text() == Some("always") {
                value.error("`always` is not supported by this version of the ratelimit filter; expected `limited` or `never`");
                return None;
            }
            value.word(&[("limited", true), ("never", false)])
        });
        Self {
            slots: slots.and_then(|slots| u32::try_from(slots).ok()).unwrap_or(65_536),
            headers: headers.unwrap_or(true),
        }
    }
}

/// A compiled configuration.
#[derive(Debug)]
pub struct Engine {
    rules: Vec<Rule>,
    index: Index,
    sources: Sources,
    settings: Settings,
    resources: usize,
}

#[derive(Debug)]
struct Rule {
    policy: String,
    number: u32,
    written: LimitRule,
    to: Vec<OperationMatcher>,
    gcra: Gcra,
    /// A hash of what makes its buckets: policy, name, match, key, limit, cost and number of rows. An edit elsewhere
    /// leaves it as it is, so it refills nothing.
    identity: u64,
    rows: u32,
}

/// What was decided about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<'e> {
    /// The decision of the rules that act.
    pub enforced: Decision<'e>,
    /// What rules in shadow mode would have decided, where one of them counts the request.
    pub shadow: Option<Decision<'e>>,
    /// The reply, when the decision refuses.
    pub refusal: Option<Refusal<'e>>,
    /// What each rule that counts the request said: for its counters.
    pub said: Vec<Decision<'e>>,
    /// How often a rule had to take again because another worker was faster.
    pub retries: Vec<(RuleRef<'e>, u32)>,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal<'e> {
    /// Status, body, details and the headers of this engine.
    pub reply: LocalReply,
    /// The headers of `deny.headers`.
    pub headers: &'e [(String, String)],
}

/// What a rule says about a request.
#[derive(Debug)]
enum Verdicted {
    Within(Reason),
    Over { reason: Reason, tat: u64, retry_after: u64 },
    Failed(Reason),
}

/// A rule that counts the request, with what its row said.
struct Attempt<'e, V> {
    id: usize,
    rule: &'e Rule,
    row: RowKey,
    tag: u64,
    version: Option<V>,
    visit: Visit,
}

impl Engine {
    /// Compiles a configuration from the JSON text that Envoy hands over.
    ///
    /// # Errors
    /// All problems, when at least one refuses the configuration.
    pub fn load(text: &[u8]) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Config::load(text, Settings::read, Self::compile)
    }

    /// [`Self::load`] from a tree that was parsed elsewhere.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_node(node: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Config::load_node(node, Settings::read, Self::compile)
    }

    /// Resources in force, by kind.
    #[must_use]
    pub fn resources(&self) -> Vec<(&'static str, usize)> {
        vec![("RateLimit", self.resources)]
    }

    /// Where facts are read.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    fn compile(config: Config<RateLimit, Settings>, problems: &Problems) -> Self {
        let applicable = config.applicable();
        refuse_duplicates(&config.resources, problems);
        let mut engine = Self {
            rules: Vec::new(),
            index: Index::default(),
            sources: config.common.sources,
            settings: config.settings.clone(),
            resources: applicable.len(),
        };
        // Every document is compiled, so that a mistake in one that does not apply here is found as well.
        for resource in &config.resources {
            let applies = applicable.iter().any(|other| std::ptr::eq(*other, resource));
            for rule in compile_policy(resource, &config.settings, problems) {
                if applies {
                    engine.index.add(engine.rules.len(), rule.exact_paths());
                    engine.rules.push(rule);
                }
            }
        }
        engine
    }

    /// Decides one request. Rules that match are asked first; only when none of them refuses is the request taken from
    /// their buckets, so a refused request costs its client nothing.
    pub fn decide<'e, S: Store>(
        &'e self,
        request: &Request<'_>,
        moment: Moment,
        store: &mut S,
    ) -> Outcome<'e> {
        let mut voices = Voices::new(self);
        let mut attempts = Vec::new();
        for id in self.index.candidates(request.path()) {
            let Some(rule) = self.rules.get(id) else { continue };
            match rule.ask(id, request, moment, store) {
                Ok(None) => {}
                Ok(Some(attempt)) => attempts.push(attempt),
                Err(verdict) => voices.hear(id, rule, verdict),
            }
        }
        for attempt in &attempts {
            if let Some(over) = attempt.over() {
                voices.hear(attempt.id, attempt.rule, over);
                attempt.mend(store);
            }
        }
        if voices.worst.is_none() {
            for attempt in attempts.into_iter().filter(|attempt| attempt.over().is_none()) {
                let (id, rule) = (attempt.id, attempt.rule);
                let (verdict, retries) = attempt.commit(moment, store);
                voices.retried(id, retries);
                voices.hear(id, rule, verdict);
            }
        }
        voices.outcome(moment)
    }

    fn rule_ref(&self, id: usize) -> Option<RuleRef<'_>> {
        self.rules.get(id).map(|rule| RuleRef { id, policy: &rule.policy, rule: rule.number })
    }
}

impl Rule {
    fn exact_paths(&self) -> Option<Vec<&str>> {
        let paths: Option<Vec<Vec<&str>>> = self.to.iter().map(OperationMatcher::exact_paths).collect();
        paths.map(|paths| paths.concat()).filter(|paths| !paths.is_empty())
    }

    /// `Ok(None)`: it does not match. `Err`: it matches, and what it says needs no bucket.
    fn ask<'e, S: Store>(
        &'e self,
        id: usize,
        request: &Request<'_>,
        moment: Moment,
        store: &mut S,
    ) -> Result<Option<Attempt<'e, S::Version>>, Verdicted> {
        if !self.matches(request)? {
            return Ok(None);
        }
        let tag = self.tag(request, moment)?;
        let row = self.row(tag);
        let stored = store.read(row).map_err(|StoreError(_)| Verdicted::Failed(Reasons::STORE))?;
        let (visit, version) = self.visit(stored, tag, moment);
        Ok(Some(Attempt { id, rule: self, row, tag, version, visit }))
    }

    fn matches(&self, request: &Request<'_>) -> Result<bool, Verdicted> {
        if self.to.is_empty() {
            return Ok(true);
        }
        for operation in &self.to {
            if operation.matches(request).map_err(|_| Verdicted::Failed(Reasons::NO_PORT))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The hash of the request's key; it places the client and is its name in the row.
    fn tag(&self, request: &Request<'_>, moment: Moment) -> Result<u64, Verdicted> {
        let mut hash = Sip::new(moment.seed.0);
        for part in &self.written.key {
            let part = part.read(request).map_err(|unknown| Verdicted::Failed(Reasons::of(unknown)))?;
            if part == Part::Missing && self.written.on_missing_key == MissingKey::Skip {
                return Err(Verdicted::Within(Reasons::SKIPPED));
            }
            part.feed(&mut hash);
        }
        Ok(hash.finish())
    }

    fn row(&self, tag: u64) -> RowKey {
        // The upper half scaled to the number of rows: uniform, and below it by construction.
        let row = ((tag >> 32) * u64::from(self.rows)) >> 32;
        RowKey { rule: self.identity, row: u32::try_from(row).unwrap_or(0) }
    }

    fn visit<V>(&self, stored: Option<(Vec<u8>, V)>, tag: u64, moment: Moment) -> (Visit, Option<V>) {
        let (bytes, version) = stored.map_or((None, None), |(bytes, version)| (Some(bytes), Some(version)));
        let row = Row::parse(bytes.as_deref(), &self.gcra, moment.now);
        (row.visit(tag, &self.gcra, moment.now), version)
    }
}

impl<V: Copy> Attempt<'_, V> {
    fn over(&self) -> Option<Verdicted> {
        match self.visit.take {
            Take::Admitted { .. } => None,
            Take::Limited { retry_after } => {
                let reason = if self.visit.crowded { Reasons::CROWDED } else { Reasons::LIMITED };
                Some(Verdicted::Over { reason, tat: self.visit.tat, retry_after })
            }
        }
    }

    /// Writes back a row that had to be mended, without taking from it. If it cannot be written, the next request
    /// tries again.
    fn mend<S: Store<Version = V>>(&self, store: &mut S) {
        if let Some(row) = &self.visit.write {
            let _ = store.write(self.row, row, self.version);
        }
    }

    /// Takes the request from its bucket; reads again when another worker was faster, and tells how often it was.
    fn commit<S: Store<Version = V>>(mut self, moment: Moment, store: &mut S) -> (Verdicted, u32) {
        for retries in 0..ATTEMPTS {
            if let Some(over) = self.over() {
                return (over, retries);
            }
            let written = match &self.visit.write {
                Some(row) => store.write(self.row, row, self.version),
                None => Ok(false),
            };
            let reason = if self.visit.crowded { Reasons::SHARED } else { Reasons::WITHIN };
            match written {
                Ok(true) => return (Verdicted::Within(reason), retries),
                Ok(false) => {}
                Err(StoreError(_)) => return (Verdicted::Failed(Reasons::STORE), retries),
            }
            let Ok(stored) = store.read(self.row) else {
                return (Verdicted::Failed(Reasons::STORE), retries);
            };
            (self.visit, self.version) = self.rule.visit(stored, self.tag, moment);
        }
        let over = Verdicted::Over { reason: Reasons::CONTENDED, tat: self.visit.tat, retry_after: 1 };
        (over, ATTEMPTS)
    }
}

/// What the rules said, and what comes of it.
struct Voices<'e> {
    engine: &'e Engine,
    said: Vec<Decision<'e>>,
    retries: Vec<(RuleRef<'e>, u32)>,
    /// What refuses the request, with the decision that says so.
    worst: Option<(usize, Verdicted, Decision<'e>)>,
}

impl<'e> Voices<'e> {
    fn new(engine: &'e Engine) -> Self {
        Self { engine, said: Vec::new(), retries: Vec::new(), worst: None }
    }

    fn retried(&mut self, id: usize, retries: u32) {
        if let Some(rule) = self.engine.rule_ref(id).filter(|_| retries > 0) {
            self.retries.push((rule, retries));
        }
    }

    fn hear(&mut self, id: usize, rule: &Rule, verdict: Verdicted) {
        let mode = if rule.written.shadow { Mode::Shadow } else { Mode::Enforce };
        let (word, reason) = match verdict {
            Verdicted::Within(reason) => (Verdict::Allow, reason),
            Verdicted::Over { reason, .. } => (Verdict::Limit, reason),
            Verdicted::Failed(reason) => (Verdict::Deny, reason),
        };
        let by = self.engine.rule_ref(id);
        let decision = Decision { filter: Filter::RateLimit, verdict: word, by, reason, mode };
        let worse = self.worst.as_ref().is_none_or(|(_, worst, _)| verdict.is_worse_than(worst));
        if decision.refuses() && worse {
            self.worst = Some((id, verdict, decision.clone()));
        }
        self.said.push(decision);
    }

    fn outcome(self, moment: Moment) -> Outcome<'e> {
        let Self { engine, said, retries, worst } = self;
        // Of what shadow rules say, a refusal is what is worth knowing.
        let mut shadows = said.iter().filter(|decision| decision.mode == Mode::Shadow);
        let refuses = |decision: &&Decision<'_>| decision.verdict != Verdict::Allow;
        let shadow = shadows.clone().find(refuses).or_else(|| shadows.next()).cloned();
        let refused = worst.and_then(|(id, verdict, decision)| {
            let rule = engine.rules.get(id)?;
            Some((rule.refusal(&decision, &verdict, moment, engine.settings.headers), decision))
        });
        let (refusal, enforced) = match refused {
            Some((refusal, decision)) => (Some(refusal), decision),
            None => (
                None,
                said.iter().find(|decision| decision.mode == Mode::Enforce).cloned().unwrap_or(NOTHING),
            ),
        };
        Outcome { enforced, shadow, refusal, said, retries }
    }
}

/// No rule that acts counts the request.
const NOTHING: Decision<'static> = Decision {
    filter: Filter::RateLimit,
    verdict: Verdict::Allow,
    by: None,
    reason: Reasons::NO_RULE,
    mode: Mode::Enforce,
};

impl Verdicted {
    /// A failure before a limit, and of two limits the one that lasts longer: what the client is told must be enough.
    fn is_worse_than(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Failed(_), Self::Over { .. }) => true,
            (Self::Over { retry_after: this, .. }, Self::Over { retry_after: that, .. }) => this > that,
            _ => false,
        }
    }
}

impl Rule {
    fn refusal(
        &self,
        decision: &Decision<'_>,
        verdict: &Verdicted,
        moment: Moment,
        quota: bool,
    ) -> Refusal<'_> {
        let mut reply = decision.reply();
        let Verdicted::Over { tat, retry_after, .. } = verdict else {
            return Refusal { reply, headers: &[] };
        };
        let deny = &self.written.deny;
        reply.status = deny.status.unwrap_or(reply.status);
        if let Some(body) = &deny.body {
            reply.body = body.clone().into();
        }
        self.add_headers(&mut reply, *tat, *retry_after, moment, quota);
        Refusal { reply, headers: &deny.headers }
    }

    fn add_headers(&self, reply: &mut LocalReply, tat: u64, retry_after: u64, moment: Moment, quota: bool) {
        let written = |name: &str| self.written.deny.headers.iter().any(|(header, _)| header == name);
        let mut add = |name: &'static str, value: String| {
            // A header that the resource writes itself is not sent twice.
            if !written(name) {
                reply.headers.push((name, value.into()));
            }
        };
        add("retry-after", ceil_seconds(retry_after).max(1).to_string());
        add("x-envoy-ratelimited", "true".to_owned());
        if quota {
            add("x-ratelimit-limit", self.quota());
            add("x-ratelimit-remaining", self.gcra.remaining(tat, moment.now).to_string());
            add("x-ratelimit-reset", ceil_seconds(tat.saturating_sub(moment.now)).to_string());
        }
    }

    /// `100, 100;w=60` (draft-ietf-httpapi-ratelimit-headers-03); a window that is no whole number of seconds cannot
    /// be written there and is left out.
    fn quota(&self) -> String {
        let limit = self.written.limit;
        let requests = limit.requests;
        let burst = if limit.burst == requests { String::new() } else { format!(";burst={}", limit.burst) };
        match limit.per.subsec_nanos() {
            0 => format!("{requests}, {requests};w={}{burst}", limit.per.as_secs()),
            _ => requests.to_string(),
        }
    }
}

fn compile_policy(resource: &Loaded<RateLimit>, settings: &Settings, problems: &Problems) -> Vec<Rule> {
    let policy = resource.metadata.id();
    let mut identities = HashSet::new();
    let mut rules = Vec::new();
    for (number, written) in resource.spec.rules.iter().enumerate() {
        let path = resource.path.key("spec").key("rules").index(number);
        let at = Value::at(&Node::Null, path, problems);
        let gcra = match Gcra::new(written.limit, written.cost) {
            Ok(gcra) => gcra,
            Err(why) => {
                Value::at(&Node::Null, at.path().key("limit"), problems).error(why);
                continue;
            }
        };
        let rows = settings.slots.div_ceil(u32::try_from(WAYS).unwrap_or(1));
        let identity = identity(&policy, written, rows);
        if !identities.insert(identity) {
            at.error("is the same as an earlier rule, so it would share its buckets; remove it or give it a `name`");
        }
        let to = written.to.iter().map(sailcloth_resources::operation::Operation::matcher).collect();
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        rules.push(Rule {
            policy: policy.clone(),
            number,
            written: written.clone(),
            to,
            gcra,
            identity,
            rows,
        });
    }
    rules
}

/// How a refusal looks and whether it acts do not belong to a rule's buckets.
fn identity(policy: &str, rule: &LimitRule, rows: u32) -> u64 {
    let mut hash = Sip::new([0, 0]);
    let LimitRule { name, to, key, limit, cost, on_missing_key, shadow: _, deny: _ } = rule;
    (policy, name, to, key, limit, cost, on_missing_key, rows).hash(&mut hash);
    hash.finish()
}

fn refuse_duplicates(resources: &[Loaded<RateLimit>], problems: &Problems) {
    let mut seen = HashSet::new();
    for resource in resources {
        let id = resource.metadata.id();
        if !seen.insert(id.clone()) {
            let at = Value::at(&Node::Null, resource.path.clone(), problems);
            at.error(format!("`{id}` is defined twice; keep one"));
        }
    }
}
