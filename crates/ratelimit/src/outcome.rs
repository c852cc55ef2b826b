//! What the rules said about a request, and what comes of it.

use sailcloth_core::decision::{Decision, Filter, LocalReply, Mode, RuleRef, Verdict as Word};
use sailcloth_resources::rate_limit::Cost;

use crate::rls::{self, Code};
use crate::rule::Verdict;
use crate::settings::Told;
use crate::tier::Taken;
use crate::{Engine, Moment, Reasons, answer};

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
    /// By how much the number of slots that a rule uses has changed.
    pub slots: Vec<(RuleRef<'e>, i64)>,
    /// Request headers that a rate limit service sets.
    pub upstream: Vec<(String, Vec<u8>)>,
    /// What is left to do with the response of an admitted request.
    pub after: After,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal<'e> {
    /// Status, body, details and the headers of this engine.
    pub reply: LocalReply,
    /// The headers of `deny.headers`.
    pub headers: &'e [(String, String)],
    /// The headers of the rate limit service.
    pub service: Vec<(String, Vec<u8>)>,
}

/// What is left to do with the response of an admitted request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct After {
    /// Headers to set.
    pub headers: Vec<(String, Vec<u8>)>,
    /// What is taken by rules whose cost the response decides: rule, number of the limit, and what.
    pub(crate) unsettled: Vec<(usize, usize, Taken)>,
}

impl After {
    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.unsettled.is_empty()
    }

    /// Whether [`Engine::settle`] has something to do.
    #[must_use]
    pub fn settles(&self) -> bool {
        !self.unsettled.is_empty()
    }
}

/// Where a client stands with a rule, for the headers that say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Local {
        rule: usize,
        tier: usize,
        tat: u64,
    },
    /// `window` and `reset` in seconds.
    Global {
        rule: usize,
        requests: u32,
        window: Option<u32>,
        remaining: u32,
        reset: u64,
    },
}

impl Standing {
    pub(crate) fn rule(&self) -> usize {
        match self {
            Self::Local { rule, .. } | Self::Global { rule, .. } => *rule,
        }
    }
}

/// What has been said and taken so far; it outlives the callback in which it began.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    said: Vec<(usize, Verdict)>,
    /// What refuses the request: its place in `said`.
    worst: Option<usize>,
    taken: Vec<(usize, usize, Taken)>,
    standings: Vec<Standing>,
    retries: Vec<(usize, u32)>,
    slots: Vec<(usize, i64)>,
    upstream: Vec<(String, Vec<u8>)>,
    response: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Ledger {
    /// Whether a rule that acts has refused the request.
    pub(crate) fn refuses(&self) -> bool {
        self.worst.is_some()
    }

    pub(crate) fn hear(&mut self, engine: &Engine, rule: usize, verdict: Verdict) {
        let acts = engine.rules.get(rule).is_some_and(|rule| !rule.shadow);
        let worst = self.worst.and_then(|place| self.said.get(place));
        let worse = worst.is_none_or(|(_, worst)| verdict.is_worse_than(worst));
        if acts && worse && !matches!(verdict, Verdict::Within(_)) {
            self.worst = Some(self.said.len());
        }
        self.said.push((rule, verdict));
    }

    pub(crate) fn took(&mut self, rule: usize, tier: usize, taken: Taken, grown: i64) {
        self.taken.push((rule, tier, taken));
        self.grew(rule, grown);
    }

    pub(crate) fn grew(&mut self, rule: usize, grown: i64) {
        if grown != 0 {
            self.slots.push((rule, grown));
        }
    }

    pub(crate) fn retried(&mut self, rule: usize, retries: u32) {
        if retries > 0 {
            self.retries.push((rule, retries));
        }
    }

    pub(crate) fn stands(&mut self, standing: Standing) {
        self.standings.push(standing);
    }

    /// What a service wants to be set: on the reply when it refuses, else on the request and on its response.
    pub(crate) fn add_headers(&mut self, response: rls::Response, overall: Code) {
        self.response.extend(response.response_headers);
        match overall {
            Code::Within => self.upstream.extend(response.request_headers),
            Code::Over => self.body = response.body,
        }
    }

    /// Everything taken, when a refusal follows: nothing remains counted but the refusals.
    pub(crate) fn give_back(&mut self) -> Vec<(usize, usize, Taken)> {
        std::mem::take(&mut self.taken)
    }

    pub(crate) fn outcome<'e>(self, engine: &'e Engine, moment: Moment) -> Outcome<'e> {
        let refused = self.refuses();
        let heard = |(rule, verdict): &(usize, Verdict)| Some((*verdict, decision(engine, *rule, *verdict)?));
        let worst = self.worst.and_then(|place| self.said.get(place)).and_then(|said| {
            let (verdict, decision) = heard(said)?;
            Some((said.0, verdict, decision))
        });
        // Where one rule refuses, nothing was taken for the others, and nothing is counted.
        let counts = |said: &&(usize, Verdict)| {
            !refused || said.1 == Verdict::Within(Reasons::SKIPPED) || !matches!(said.1, Verdict::Within(_))
        };
        let said: Vec<Decision<'e>> =
            self.said.iter().filter(counts).filter_map(|said| Some(heard(said)?.1)).collect();
        // Of what shadow rules say, a refusal is what is worth knowing.
        let mut shadows = said.iter().filter(|decision| decision.mode == Mode::Shadow);
        let refuses = |decision: &&Decision<'_>| decision.verdict != Word::Allow;
        let shadow = shadows.clone().find(refuses).or_else(|| shadows.next()).cloned();
        let named = |id: usize| engine.rule_ref(id);
        let retries = self.retries.iter().filter_map(|(id, times)| Some((named(*id)?, *times))).collect();
        let slots = self.slots.iter().filter_map(|(id, change)| Some((named(*id)?, *change))).collect();
        let Some((id, verdict, enforced)) = worst else {
            let enforced = said.iter().find(|decision| decision.mode == Mode::Enforce).cloned();
            let enforced = enforced.unwrap_or(NOTHING);
            let (after, upstream) = self.admitted(engine, moment);
            return Outcome { enforced, shadow, refusal: None, said, retries, slots, upstream, after };
        };
        let refusal = engine.rules.get(id).map(|rule| {
            let standing = self.standings.iter().find(|standing| standing.rule() == id);
            let reply = answer::refusal(engine, rule, &enforced, verdict, standing, moment, &self.body);
            Refusal { reply, headers: &rule.deny.headers, service: self.response }
        });
        Outcome {
            enforced,
            shadow,
            refusal,
            said,
            retries,
            slots,
            upstream: Vec::new(),
            after: After::default(),
        }
    }

    fn admitted(self, engine: &Engine, moment: Moment) -> (After, Vec<(String, Vec<u8>)>) {
        let mut headers = self.response;
        if engine.settings.headers == Told::Always {
            headers.extend(answer::standing_headers(engine, &self.standings, moment));
        }
        let unsettled = self.taken.into_iter().filter(|(rule, ..)| engine.settles_later(*rule)).collect();
        (After { headers, unsettled }, self.upstream)
    }
}

impl Verdict {
    /// A failure before a limit, and of two limits the one that lasts longer: what the client is told must be enough.
    fn is_worse_than(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Failed(_), Self::Over { .. }) => true,
            (Self::Over { retry_after: this, .. }, Self::Over { retry_after: that, .. }) => {
                match (this, that) {
                    (None, Some(_)) => true,
                    (Some(this), Some(that)) => this > that,
                    (_, None) => false,
                }
            }
            _ => false,
        }
    }
}

/// No rule that acts counts the request.
const NOTHING: Decision<'static> = Decision {
    filter: Filter::RateLimit,
    verdict: Word::Allow,
    by: None,
    reason: Reasons::NO_RULE,
    mode: Mode::Enforce,
};

fn decision(engine: &Engine, rule: usize, verdict: Verdict) -> Option<Decision<'_>> {
    let mode = if engine.rules.get(rule)?.shadow { Mode::Shadow } else { Mode::Enforce };
    let (word, reason) = match verdict {
        Verdict::Within(reason) => (Word::Allow, reason),
        Verdict::Over { reason, .. } => (Word::Limit, reason),
        Verdict::Failed(reason) => (Word::Deny, reason),
    };
    Some(Decision { filter: Filter::RateLimit, verdict: word, by: engine.rule_ref(rule), reason, mode })
}

impl Engine {
    pub(crate) fn rule_ref(&self, id: usize) -> Option<RuleRef<'_>> {
        self.rules.get(id).map(|rule| RuleRef { id, policy: &rule.policy, rule: rule.number })
    }

    fn settles_later(&self, rule: usize) -> bool {
        self.rules.get(rule).is_some_and(|rule| matches!(rule.cost, Cost::Response(_)))
    }
}
