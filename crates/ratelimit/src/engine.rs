//! Compiles RateLimit resources and decides requests.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};

use sailcloth_core::config::{Fields, Node, Problem, Problems, Value};
use sailcloth_core::decision::{Decision, Filter, LocalReply, Mode, Reason, RuleRef, Verdict};
use sailcloth_core::facts::Sources;
use sailcloth_core::operation::OperationMatcher;
use sailcloth_core::request::Request;
use sailcloth_resources::rate_limit::{LimitRule, MissingKey, RateLimit};
use sailcloth_resources::{Config, Loaded};

use crate::gcra::ceil_seconds;
use crate::index::Index;
use crate::key::{self, Part};
use crate::row::{Visit, WAYS};
use crate::siphash::Sip;
use crate::{Gcra, Moment, Reasons, Row, RowKey, Store, StoreError, Take};

/// Attempts to write a row that other workers keep changing; then the request counts as over the limit.
const ATTEMPTS: usize = 16;

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
        let slots = fields.get("slots").and_then(|slots| slots.integer(8, 16_777_216));
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
    /// The decision.
    pub decision: Decision<'e>,
    /// The reply, when the decision refuses.
    pub refusal: Option<Refusal<'e>>,
    /// What to count.
    pub counts: Vec<Count<'e>>,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal<'e> {
    /// Status, body, details and the headers of this engine.
    pub reply: LocalReply,
    /// The headers of `deny.headers`.
    pub headers: &'e [(String, String)],
}

/// One step of a rule's counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count<'e> {
    /// The rule.
    pub rule: RuleRef<'e>,
    /// What the rule did.
    pub tally: Tally,
    /// Code of the reason.
    pub reason: &'static str,
}

/// What a rule did with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tally {
    /// Within the limit.
    Allow,
    /// Over the limit, refused.
    Limit,
    /// Over the limit of a rule in shadow mode.
    ShadowLimit,
    /// Not counted: the key is missing.
    Skip,
    /// It could not be decided, and the request is refused.
    Error,
    /// It could not be decided by a rule in shadow mode.
    ShadowError,
    /// Another worker wrote first; tried again.
    Retry,
}

impl Tally {
    /// The value of the label `outcome`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Limit => "limit",
            Self::ShadowLimit => "shadow_limit",
            Self::Skip => "skip",
            Self::Error => "error",
            Self::ShadowError => "shadow_error",
            Self::Retry => "retry",
        }
    }
}

/// What a rule says about a request.
#[derive(Debug)]
enum Verdicted {
    Within { crowded: bool },
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
        let mut tallies = Tallies::new(self);
        let mut attempts = Vec::new();
        for id in self.index.candidates(request.path()) {
            let Some(rule) = self.rules.get(id) else { continue };
            match rule.ask(id, request, moment, store) {
                Ok(None) => {}
                Ok(Some(attempt)) => attempts.push(attempt),
                Err(Verdicted::Within { .. }) => tallies.skip(id),
                Err(failed) => tallies.note(id, rule, failed),
            }
        }
        for attempt in &attempts {
            if let Some(over) = attempt.over() {
                tallies.note(attempt.id, attempt.rule, over);
                attempt.mend(store);
            }
        }
        if !tallies.refuses() {
            for attempt in attempts.into_iter().filter(|attempt| attempt.over().is_none()) {
                let (id, rule) = (attempt.id, attempt.rule);
                let verdict = attempt.commit(moment, store, || tallies.retry(id));
                tallies.note(id, rule, verdict);
            }
        }
        tallies.finish(moment)
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

    /// `Ok(None)`: it does not match. `Err(Within)`: it matches and skips the request.
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
            let part = key::read(part, request).map_err(Verdicted::Failed)?;
            if part == Part::Missing && self.written.on_missing_key == MissingKey::Skip {
                return Err(Verdicted::Within { crowded: false });
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

    /// Takes the request from its bucket; reads again when another worker was faster.
    fn commit<S: Store<Version = V>>(
        mut self,
        moment: Moment,
        store: &mut S,
        mut retried: impl FnMut(),
    ) -> Verdicted {
        for _ in 0..ATTEMPTS {
            if let Some(over) = self.over() {
                return over;
            }
            let Some(row) = &self.visit.write else { break };
            match store.write(self.row, row, self.version) {
                Ok(true) => return Verdicted::Within { crowded: self.visit.crowded },
                Ok(false) => retried(),
                Err(StoreError(_)) => return Verdicted::Failed(Reasons::STORE),
            }
            let Ok(stored) = store.read(self.row) else { return Verdicted::Failed(Reasons::STORE) };
            (self.visit, self.version) = self.rule.visit(stored, self.tag, moment);
        }
        Verdicted::Over { reason: Reasons::CONTENDED, tat: self.visit.tat, retry_after: 1 }
    }
}

/// What the rules said, and the worst of it.
struct Tallies<'e> {
    engine: &'e Engine,
    counts: Vec<Count<'e>>,
    first: Option<RuleRef<'e>>,
    skipped: bool,
    worst: Option<(usize, Verdicted)>,
    shadow: Option<(usize, Reason)>,
}

impl<'e> Tallies<'e> {
    fn new(engine: &'e Engine) -> Self {
        Self { engine, counts: Vec::new(), first: None, skipped: false, worst: None, shadow: None }
    }

    fn count(&mut self, id: usize, tally: Tally, reason: &'static str) {
        if let Some(rule) = self.engine.rule_ref(id) {
            self.counts.push(Count { rule, tally, reason });
        }
    }

    fn skip(&mut self, id: usize) {
        self.skipped = true;
        self.count(id, Tally::Skip, Reasons::SKIPPED.code);
    }

    fn retry(&mut self, id: usize) {
        self.count(id, Tally::Retry, Reasons::CONTENDED.code);
    }

    fn note(&mut self, id: usize, rule: &Rule, verdict: Verdicted) {
        let shadow = rule.written.shadow;
        let (tally, reason) = match &verdict {
            Verdicted::Within { crowded } => {
                let reason = if *crowded { Reasons::CROWDED.code } else { Reasons::WITHIN.code };
                self.count(id, Tally::Allow, reason);
                self.first = self.first.or(self.engine.rule_ref(id));
                return;
            }
            Verdicted::Over { reason, .. } if shadow => (Tally::ShadowLimit, *reason),
            Verdicted::Over { reason, .. } => (Tally::Limit, *reason),
            Verdicted::Failed(reason) if shadow => (Tally::ShadowError, *reason),
            Verdicted::Failed(reason) => (Tally::Error, *reason),
        };
        self.count(id, tally, reason.code);
        if shadow {
            self.shadow = self.shadow.or(Some((id, reason)));
        } else if self.worst.as_ref().is_none_or(|(_, worst)| verdict.is_worse_than(worst)) {
            self.worst = Some((id, verdict));
        }
    }

    fn refuses(&self) -> bool {
        self.worst.is_some()
    }

    fn finish(self, moment: Moment) -> Outcome<'e> {
        let engine = self.engine;
        let refused = self.worst.and_then(|(id, verdict)| Some((id, engine.rules.get(id)?, verdict)));
        if let Some((id, rule, verdict)) = refused {
            return rule.refuse(engine.rule_ref(id), &verdict, moment, engine.settings.headers, self.counts);
        }
        let (by, reason, mode) = match self.shadow {
            Some((id, reason)) => (engine.rule_ref(id), reason, Mode::Shadow),
            None if self.first.is_some() => (self.first, Reasons::WITHIN, Mode::Enforce),
            None if self.skipped => (None, Reasons::SKIPPED, Mode::Enforce),
            None => (None, Reasons::NO_RULE, Mode::Enforce),
        };
        let verdict = if mode == Mode::Shadow { verdict_of(reason) } else { Verdict::Allow };
        let decision = Decision { filter: Filter::RateLimit, verdict, by, reason, mode };
        Outcome { decision, refusal: None, counts: self.counts }
    }
}

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
    fn refuse<'e>(
        &'e self,
        by: Option<RuleRef<'e>>,
        verdict: &Verdicted,
        moment: Moment,
        headers: bool,
        counts: Vec<Count<'e>>,
    ) -> Outcome<'e> {
        let reason = match verdict {
            Verdicted::Over { reason, .. } | Verdicted::Failed(reason) => *reason,
            Verdicted::Within { .. } => Reasons::WITHIN,
        };
        let decision = Decision {
            filter: Filter::RateLimit,
            verdict: verdict_of(reason),
            by,
            reason,
            mode: Mode::Enforce,
        };
        let mut reply = decision.reply();
        let mut more: &[(String, String)] = &[];
        if let Verdicted::Over { tat, retry_after, .. } = verdict {
            let deny = &self.written.deny;
            reply.status = deny.status.unwrap_or(reply.status);
            if let Some(body) = &deny.body {
                reply.body = body.clone().into();
            }
            more = &deny.headers;
            self.add_headers(&mut reply, *tat, *retry_after, moment, headers);
        }
        Outcome { decision, refusal: Some(Refusal { reply, headers: more }), counts }
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

fn verdict_of(reason: Reason) -> Verdict {
    if reason.grpc_status == Reasons::LIMITED.grpc_status { Verdict::Limit } else { Verdict::Deny }
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
