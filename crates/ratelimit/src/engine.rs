//! Decides requests: local limits first, then what the rate limit services say.

use std::collections::BTreeMap;

use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::RuleRef;
use sailcloth_core::facts::Sources;
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::request::Request;
use sailcloth_resources::Config;
use sailcloth_resources::rate_limit::{Breaker, Cost};

use crate::ask::{Asking, Call, CallKey, Failure, Question};
use crate::index::Index;
use crate::outcome::{After, Ledger, Outcome, Standing};
use crate::rls::{self, Code};
use crate::rule::{Bound, Fallback, Rule, Verdict, response_cost};
use crate::tier::{Attempt, Tier, Took};
use crate::{Moment, Reasons, Settings, Store, StoreError, Worker, compile};

/// A compiled configuration.
#[derive(Debug)]
pub struct Engine {
    pub(crate) rules: Vec<Rule>,
    pub(crate) index: Index,
    pub(crate) services: Vec<Service>,
    pub(crate) sources: Sources,
    pub(crate) settings: Settings,
    pub(crate) resources: usize,
}

/// A rate limit service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its Envoy cluster.
    pub cluster: String,
    pub(crate) breaker: Breaker,
}

/// What comes of a request at first.
#[derive(Debug)]
pub struct Step<'e> {
    /// The decision, where it does not depend on a rate limit service.
    pub outcome: Option<Outcome<'e>>,
    /// What must be asked before there is a decision.
    pub asking: Option<Asking>,
    /// What rules in shadow mode ask; nothing waits for it.
    pub shadows: Vec<Asking>,
}

impl Engine {
    /// Compiles a configuration from the JSON text that Envoy hands over.
    ///
    /// # Errors
    /// All problems, when at least one refuses the configuration.
    pub fn load(text: &[u8]) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Config::load(text, Settings::read, compile::engine)
    }

    /// [`Self::load`] from a tree that was parsed elsewhere.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_node(node: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Config::load_node(node, Settings::read, compile::engine)
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

    /// Whether any rule looks at request headers.
    #[must_use]
    pub fn reads_headers(&self) -> bool {
        self.rules.iter().any(Rule::reads_headers)
    }

    /// Whether a message is a response of the protocol that says yes or no.
    #[must_use]
    pub fn is_answer(message: &[u8]) -> bool {
        rls::response(message).is_some_and(|response| response.overall.is_some())
    }

    /// The rate limit services; calls name them by their place here.
    #[must_use]
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// Decides one request, or says what must be asked first.
    ///
    /// Local rules that match are asked first; only when none of them refuses is the request taken from their buckets, and
    /// only then are services asked. What was taken is given back when a later rule refuses, so a refused request costs its
    /// client nothing here. A service cannot be told to give back: it is asked last.
    pub fn decide<'e>(
        &'e self,
        request: &Request<'_>,
        moment: Moment,
        store: &mut dyn Store,
        worker: &mut Worker,
    ) -> Step<'e> {
        let mut ledger = Ledger::default();
        let mut attempts = Vec::new();
        let mut questions = Vec::new();
        for id in self.index.candidates(request.path()) {
            let Some(rule) = self.rules.get(id) else { continue };
            match rule.count(request) {
                Ok(None) => {}
                Err(verdict) => ledger.hear(self, id, verdict),
                Ok(Some(counted)) => match &rule.bound {
                    Bound::Local(table) => {
                        let Some((number, tier, claim)) = table.find(&counted, moment) else { continue };
                        match tier.ask(claim, moment, store, &worker.leases) {
                            Ok(attempt) => attempts.push((id, number, attempt)),
                            Err(StoreError(_)) => ledger.hear(self, id, Verdict::Failed(Reasons::STORE)),
                        }
                    }
                    Bound::Global(remote) => {
                        let descriptor = remote.descriptor(&rule.key, &counted);
                        questions.push(Question { rule: id, claim: counted.claim(moment), descriptor });
                    }
                },
            }
        }
        self.take(&mut ledger, attempts, moment, store, worker);
        if ledger.refuses() || questions.is_empty() {
            return self.decided(ledger, moment, store, worker);
        }
        let (shadows, asked): (Vec<Question>, Vec<Question>) = questions
            .into_iter()
            .partition(|question| self.rules.get(question.rule).is_some_and(|rule| rule.shadow));
        let shadows =
            self.calls(shadows).into_iter().map(|call| Asking::of(Ledger::default(), vec![call])).collect();
        if asked.is_empty() {
            let outcome = Some(self.conclude(ledger, moment, store, worker));
            return Step { outcome, asking: None, shadows };
        }
        Step { outcome: None, asking: Some(Asking::of(ledger, self.calls(asked))), shadows }
    }

    fn decided<'e>(
        &'e self,
        ledger: Ledger,
        moment: Moment,
        store: &mut dyn Store,
        worker: &mut Worker,
    ) -> Step<'e> {
        let outcome = Some(self.conclude(ledger, moment, store, worker));
        Step { outcome, asking: None, shadows: Vec::new() }
    }

    /// Takes from all buckets, unless one refuses.
    fn take(
        &self,
        ledger: &mut Ledger,
        attempts: Vec<(usize, usize, Attempt<'_>)>,
        moment: Moment,
        store: &mut dyn Store,
        worker: &mut Worker,
    ) {
        for (id, number, attempt) in &attempts {
            if let Some(took) = attempt.over() {
                self.note(ledger, *id, *number, took);
                attempt.mend(store);
            }
        }
        for (id, number, attempt) in attempts {
            if ledger.refuses() {
                return;
            }
            if attempt.over().is_none() {
                let (took, retries) = attempt.commit(moment, store, &mut worker.leases);
                ledger.retried(id, retries);
                self.note(ledger, id, number, took);
            }
        }
    }

    /// Notes what a local bucket said.
    fn note(&self, ledger: &mut Ledger, id: usize, number: usize, took: Took) {
        if let Took::Admitted { taken, grown, .. } = took {
            ledger.took(id, number, taken, grown);
        }
        let (verdict, tat) = local_verdict(took);
        ledger.hear(self, id, verdict);
        if let Some(tat) = tat {
            ledger.stands(Standing::Local { rule: id, tier: number, tat });
        }
    }

    /// One call for all questions that may go together.
    fn calls(&self, questions: Vec<Question>) -> Vec<Call> {
        let mut groups: BTreeMap<CallKey<'_>, Vec<Question>> = BTreeMap::new();
        for question in questions {
            let rule = self.rules.get(question.rule);
            let Some(Bound::Global(remote)) = rule.map(|rule| &rule.bound) else { continue };
            let key = CallKey {
                service: remote.service,
                domain: &remote.domain,
                timeout: remote.timeout,
                cost: question.claim.cost,
            };
            groups.entry(key).or_default().push(question);
        }
        groups.into_iter().map(|(key, questions)| key.call(questions)).collect()
    }

    /// Whether a call may be made now; a service whose circuit breaker is open is not asked.
    pub fn may_call(&self, call: &Call, now: u64, worker: &mut Worker) -> bool {
        let Some(service) = self.services.get(call.service) else { return false };
        worker.breakers.admits(call.service, &service.breaker, now)
    }

    /// Notes for the circuit breaker whether a call that was made got an answer.
    pub fn note_call(&self, service: usize, answered: bool, now: u64, worker: &mut Worker) {
        if let Some(found) = self.services.get(service) {
            worker.breakers.note(service, &found.breaker, answered, now);
        }
    }

    /// Takes in the answer to one of the calls of `asking`, or that there is none: bytes that are no response are none. An
    /// answer to a call that has one already changes nothing.
    pub fn answer(
        &self,
        asking: &mut Asking,
        call: usize,
        answer: Result<&[u8], Failure>,
        moment: Moment,
        store: &mut dyn Store,
        worker: &mut Worker,
    ) {
        let Some(questions) = asking.resolve(call) else { return };
        let response = answer.ok().and_then(rls::response).filter(|response| response.overall.is_some());
        match response {
            Some(response) => self.hear(asking.ledger_mut(), &questions, response),
            None => {
                for question in questions {
                    self.fall_back(asking.ledger_mut(), &question, moment, store, worker);
                }
            }
        }
    }

    fn hear(&self, ledger: &mut Ledger, questions: &[Question], response: rls::Response) {
        let overall = response.overall.unwrap_or(Code::Over);
        // A service that says nothing about each says the same about all.
        let each = response.statuses.len() == questions.len();
        let mut over = false;
        for (place, question) in questions.iter().enumerate() {
            let status = response.statuses.get(place).filter(|_| each);
            let code = status.and_then(|status| status.code).unwrap_or(overall);
            over |= code == Code::Over;
            self.hear_one(ledger, question.rule, code, status);
        }
        if overall == Code::Over && !over {
            // Over as a whole, though none alone is: the first stands for all.
            if let Some(question) = questions.first() {
                self.hear_one(ledger, question.rule, Code::Over, None);
            }
        }
        ledger.add_headers(response, overall);
    }

    fn hear_one(&self, ledger: &mut Ledger, rule: usize, code: Code, status: Option<&rls::Status>) {
        let reset = status.map_or(0, |status| status.reset);
        if let Some(rls::Status { limit: Some((requests, window)), remaining, reset, .. }) = status {
            let (requests, window, remaining, reset) = (*requests, *window, *remaining, *reset);
            ledger.stands(Standing::Global { rule, requests, window, remaining, reset });
        }
        let verdict = match code {
            Code::Within => Verdict::Within(Reasons::WITHIN),
            Code::Over => Verdict::Over {
                reason: Reasons::GLOBAL,
                retry_after: Some(reset.max(1).saturating_mul(1_000_000_000)),
            },
        };
        ledger.hear(self, rule, verdict);
    }

    fn fall_back(
        &self,
        ledger: &mut Ledger,
        question: &Question,
        moment: Moment,
        store: &mut dyn Store,
        worker: &mut Worker,
    ) {
        let id = question.rule;
        let Some(Bound::Global(remote)) = self.rules.get(id).map(|rule| &rule.bound) else { return };
        match &remote.fallback {
            Fallback::Allow => ledger.hear(self, id, Verdict::Within(Reasons::FALLBACK_ALLOW)),
            Fallback::Deny => ledger.hear(self, id, Verdict::Failed(Reasons::FALLBACK_DENY)),
            Fallback::Local(tier) => {
                let (took, retries) = tier.take(question.claim, moment, store, &mut worker.leases);
                ledger.retried(id, retries);
                if let Took::Admitted { taken, grown, .. } = took {
                    ledger.took(id, 0, taken, grown);
                }
                let (verdict, tat) = local_verdict(took);
                let verdict = match verdict {
                    Verdict::Within(_) => Verdict::Within(Reasons::FALLBACK_WITHIN),
                    Verdict::Over { reason, retry_after } if reason == Reasons::LIMITED => {
                        Verdict::Over { reason: Reasons::FALLBACK_LIMITED, retry_after }
                    }
                    other => other,
                };
                ledger.hear(self, id, verdict);
                if let Some(tat) = tat {
                    ledger.stands(Standing::Local { rule: id, tier: 0, tat });
                }
            }
        }
    }

    /// The decision, once every call is answered or one answer refuses.
    pub fn finish<'e>(
        &'e self,
        asking: &mut Asking,
        moment: Moment,
        store: &mut dyn Store,
        worker: &mut Worker,
    ) -> Option<Outcome<'e>> {
        let ledger = asking.finished()?;
        Some(self.conclude(ledger, moment, store, worker))
    }

    fn conclude<'e>(
        &'e self,
        mut ledger: Ledger,
        moment: Moment,
        store: &mut dyn Store,
        worker: &mut Worker,
    ) -> Outcome<'e> {
        if ledger.refuses() {
            for (rule, number, taken) in ledger.give_back() {
                if let Some(tier) = self.tier(rule, number) {
                    let grown = tier.refund(taken, moment, store, &mut worker.leases);
                    ledger.grew(rule, grown);
                }
            }
        }
        ledger.outcome(self, moment)
    }

    /// Settles what the response of an admitted request decides; by how much the number of slots that rules use has
    /// changed.
    pub fn settle(
        &self,
        after: &After,
        response: &HeaderBlock,
        moment: Moment,
        store: &mut dyn Store,
    ) -> Vec<(RuleRef<'_>, i64)> {
        let status =
            response.first(":status").and_then(|status| std::str::from_utf8(status).ok()?.parse().ok());
        let mut slots = Vec::new();
        for (id, number, taken) in &after.unsettled {
            let Some(rule) = self.rules.get(*id) else { continue };
            let (Cost::Response(cost), Some(tier)) = (&rule.cost, self.tier(*id, *number)) else { continue };
            let name = cost.header.as_deref().unwrap_or_default();
            let values = response.all(name).map(<[u8]>::to_vec);
            let cost = response_cost(cost, status, values, tier.limit.burst);
            let grown = tier.settle(*taken, cost, moment, store);
            slots.extend(self.rule_ref(*id).filter(|_| grown != 0).map(|rule| (rule, grown)));
        }
        slots
    }

    pub(crate) fn tier(&self, rule: usize, number: usize) -> Option<&Tier> {
        match &self.rules.get(rule)?.bound {
            Bound::Local(table) => table.tiers.get(number),
            Bound::Global(remote) => match &remote.fallback {
                Fallback::Local(tier) => Some(tier),
                Fallback::Allow | Fallback::Deny => None,
            },
        }
    }
}

fn local_verdict(took: Took) -> (Verdict, Option<u64>) {
    match took {
        Took::Admitted { tat, crowded, .. } => {
            (Verdict::Within(if crowded { Reasons::SHARED } else { Reasons::WITHIN }), Some(tat))
        }
        Took::Limited { tat, retry_after, crowded } => {
            let reason = if crowded { Reasons::CROWDED } else { Reasons::LIMITED };
            (Verdict::Over { reason, retry_after: Some(retry_after) }, Some(tat))
        }
        Took::TooLarge => (Verdict::Over { reason: Reasons::TOO_LARGE, retry_after: None }, None),
        Took::Contended { tat } => {
            (Verdict::Over { reason: Reasons::CONTENDED, retry_after: Some(1) }, Some(tat))
        }
        Took::Failed => (Verdict::Failed(Reasons::STORE), None),
    }
}
