//! CUSTOM, then DENY, then ALLOW; AUDIT beside them.

use std::borrow::Cow;

use sailcloth_core::config::{Node, Problem, Problems, Severity};
use sailcloth_core::decision::{Decision, Filter, LocalReply, Mode, Reason, RuleRef, Verdict};
use sailcloth_core::facts::Sources;
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::request::Request;
use sailcloth_resources::authorization_policy::{Action, AuthorizationPolicy, Rule};
use sailcloth_resources::deny_reply::DenyReply;
use sailcloth_resources::{Config, Loaded};

use crate::caller::Caller;
use crate::face;
use crate::provider::{Provider, Ruling};
use crate::reasons;
use crate::rule::CompiledRule;
use crate::rules::{Found, Rules};
use crate::settings::Settings;
use crate::stage::Stage;

/// What was decided, and what policies in shadow mode would have decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome<'e> {
    /// The decision that acts.
    pub enforced: Decision<'e>,
    /// The decision of the shadow policies alone; none where there are none.
    pub shadow: Option<Decision<'e>>,
    /// The AUDIT policies that matched, each by the first rule of it that did.
    pub audits: Vec<Decision<'e>>,
    /// Where no rule allowed the request: which came nearest, and the condition that failed,
    /// `production/api#0:from[0].principals`.
    pub nearest: Option<String>,
}

/// The policies of one workload, ready to decide.
#[derive(Debug)]
pub struct Engine {
    pub(crate) policies: Vec<Policy>,
    pub(crate) custom: Rules,
    pub(crate) audit: Rules,
    pub(crate) enforced: Acting,
    pub(crate) shadow: Option<Acting>,
    providers: Vec<Provider>,
    /// Those of them that some policy may want asked.
    asked: Vec<usize>,
    decision_header: Option<String>,
    sources: Sources,
}

#[derive(Debug)]
pub(crate) struct Policy {
    /// `namespace/name`.
    pub(crate) id: String,
    pub(crate) action: Action,
    deny: DenyReply,
    stage: Option<Stage>,
    /// Number of the provider that a CUSTOM policy asks.
    provider: usize,
}

/// The rules that decide, of policies that act or of those that would.
#[derive(Debug, Default)]
pub(crate) struct Acting {
    pub(crate) deny: Rules,
    pub(crate) allow: Rules,
    /// Policies by number.
    pub(crate) policies: Vec<usize>,
    /// The ALLOW policies of them: one turns the default to deny even when it has no rule.
    allowing: Vec<usize>,
}

/// A question for an external provider.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'e> {
    /// Whom to ask.
    pub provider: &'e Provider,
    /// Which one of the providers this is; the next question is about those after it.
    pub number: usize,
    /// The rule that wants it asked.
    pub by: RuleRef<'e>,
}

/// How far a request has come with the providers.
pub type Asked<'e> = Result<Option<Ask<'e>>, Decision<'e>>;

/// A refusal, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Status, body, details.
    pub reply: LocalReply,
    /// The headers that the policy and the settings want.
    pub headers: Vec<(String, String)>,
}

impl Engine {
    /// Makes an engine of a filter's configuration text.
    ///
    /// # Errors
    /// Every problem of the configuration.
    pub fn load(text: &[u8]) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Config::load(text, Settings::read, Self::compile)
    }

    /// [`Engine::load`] from a tree that was parsed elsewhere.
    ///
    /// # Errors
    /// Every problem of the configuration.
    pub fn load_node(node: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        Config::load_node(node, Settings::read, Self::compile)
    }

    fn compile(config: Config<AuthorizationPolicy, Settings>, problems: &Problems) -> Self {
        let mut compiler = Compiler::new(&config);
        for loaded in config.applicable() {
            check_identity_source(loaded, &config, problems);
            compiler.add(loaded, problems);
        }
        let Compiler { policies, custom, audit, enforced, shadow, .. } = compiler;
        let Settings { providers, decision_header, .. } = config.settings;
        let asks = |policy: &Policy, number: usize| {
            matches!(policy.action, Action::Custom { .. }) && policy.provider == number
        };
        let asked = |number: &usize| policies.iter().any(|policy| asks(policy, *number));
        let asked = (0..providers.len()).filter(asked).collect();
        Self {
            policies,
            custom: Rules::new(custom),
            audit: Rules::new(audit),
            enforced: enforced.finish(),
            shadow: shadow.map(Collected::finish),
            asked,
            providers,
            decision_header,
            sources: config.common.sources,
        }
    }

    /// Where the facts of a request are read.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Resources in force, by kind.
    #[must_use]
    pub fn resources(&self) -> Vec<(&'static str, usize)> {
        vec![("AuthorizationPolicy", self.policies.len())]
    }

    /// Whether some policy may want a provider asked.
    #[must_use]
    pub fn asks_providers(&self) -> bool {
        !self.custom.is_empty()
    }

    /// The names of request headers that only a provider may write, where a client sent some: they must be removed before
    /// anything is decided by the request, asked about or not.
    #[must_use]
    pub fn forged<'r>(&self, request: &'r HeaderBlock) -> Vec<&'r [u8]> {
        let providers = self.asked.iter().filter_map(|number| self.providers.get(*number));
        providers.flat_map(|provider| provider.forged(request)).collect()
    }

    /// The first provider, from number `from` on, that a CUSTOM rule wants asked about the request. All providers whose
    /// rules match must allow it, in the order of the settings. `now` gives seconds since the Unix epoch.
    ///
    /// # Errors
    /// A refusal, where a rule depends on something that cannot be known.
    pub fn ask(&self, request: Request<'_>, now: &dyn Fn() -> u64, from: usize) -> Asked<'_> {
        let caller = Caller::new(request, now);
        let mut next: Option<(usize, &CompiledRule)> = None;
        let mut doubt = None;
        self.custom.near(&caller, &mut |rule| {
            let number = self.policies.get(rule.policy).map_or(0, |policy| policy.provider);
            if number >= from && next.is_none_or(|(known, _)| number < known) {
                match rule.matches(&caller) {
                    Ok(true) => next = Some((number, rule)),
                    Ok(false) => {}
                    Err(unknown) => doubt = doubt.or(Some((rule, unknown))),
                }
            }
            false
        });
        if let Some((rule, unknown)) = doubt {
            let reason = reasons::unavailable(unknown);
            return Err(self.decision(Verdict::Deny, Some(rule), reason, Mode::Enforce));
        }
        Ok(next.and_then(|(number, rule)| {
            Some(Ask { provider: self.providers.get(number)?, number, by: self.rule_ref(rule) })
        }))
    }

    /// The decision that is in what a provider said; none where it allowed the request, which others then decide.
    #[must_use]
    pub fn ruled<'e>(&self, ruling: &Ruling, by: RuleRef<'e>) -> Option<Decision<'e>> {
        let (verdict, reason) = match ruling {
            Ruling::Allow { .. } => return None,
            Ruling::Refuse { status, .. } => (Verdict::Deny, reasons::external_denied(*status)),
            Ruling::Error { status } => (Verdict::Deny, reasons::external_error(*status)),
            Ruling::Ignored => (Verdict::Allow, reasons::PROVIDER_IGNORED),
        };
        Some(Decision { filter: Filter::Authz, verdict, by: Some(by), reason, mode: Mode::Enforce })
    }

    /// A rule of a CUSTOM policy and its provider, by the number that its [`RuleRef`] carries.
    #[must_use]
    pub fn custom_rule(&self, id: usize) -> Option<(RuleRef<'_>, &Provider)> {
        let rule = self.custom.iter().find(|rule| rule.id == id)?;
        Some((self.rule_ref(rule), self.providers.get(self.policies.get(rule.policy)?.provider)?))
    }

    /// Decides one request by DENY and ALLOW. `now` gives seconds since the Unix epoch; it is asked only where a policy
    /// compares with the present.
    #[must_use]
    pub fn decide(&self, request: Request<'_>, now: &dyn Fn() -> u64) -> Outcome<'_> {
        let caller = Caller::new(request, now);
        let enforced = self.evaluate(&self.enforced, &caller, Mode::Enforce);
        let shadow = self.shadow.as_ref().filter(|rules| {
            rules.policies.iter().any(|policy| self.in_force(*policy, &caller, Mode::Shadow))
        });
        let nearest = (enforced.reason == reasons::NO_RULE_MATCHED).then(|| self.nearest(&caller)).flatten();
        Outcome {
            enforced,
            shadow: shadow.map(|rules| self.evaluate(rules, &caller, Mode::Shadow)),
            audits: self.audits(&caller),
            nearest,
        }
    }

    fn evaluate<'e>(&'e self, rules: &'e Acting, caller: &Caller<'_>, mode: Mode) -> Decision<'e> {
        let decision = |verdict, rule, reason| self.decision(verdict, rule, reason, mode);
        let in_force = |rule: &CompiledRule| self.in_force(rule.policy, caller, mode);
        match rules.deny.first(caller, in_force) {
            Found::Rule(rule) => return decision(Verdict::Deny, Some(rule), reasons::DENIED),
            // What might be denied is denied.
            Found::Doubt(rule, unknown) => {
                return decision(Verdict::Deny, Some(rule), reasons::unavailable(unknown));
            }
            Found::Nothing => {}
        }
        if !rules.allowing.iter().any(|policy| self.in_force(*policy, caller, mode)) {
            return decision(Verdict::Allow, None, reasons::NO_POLICY);
        }
        match rules.allow.first(caller, in_force) {
            Found::Rule(rule) => decision(Verdict::Allow, Some(rule), reasons::ALLOWED),
            Found::Doubt(rule, unknown) => decision(Verdict::Deny, Some(rule), reasons::unavailable(unknown)),
            Found::Nothing => decision(Verdict::Deny, None, reasons::NO_RULE_MATCHED),
        }
    }

    /// Whether a policy counts in this mode: a staged one acts for some callers and is in shadow mode for the others, any
    /// other stands only among those of its mode.
    pub(crate) fn in_force(&self, policy: usize, caller: &Caller<'_>, mode: Mode) -> bool {
        let stage = self.policies.get(policy).and_then(|policy| policy.stage.as_ref());
        stage.is_none_or(|stage| stage.acts(caller) == (mode == Mode::Enforce))
    }

    /// Each AUDIT policy that matches, by its first rule. What may match is told as well, with the reason.
    fn audits(&self, caller: &Caller<'_>) -> Vec<Decision<'_>> {
        let mut audits: Vec<Decision<'_>> = Vec::new();
        let mut last = None;
        self.audit.near(caller, &mut |rule| {
            if last == Some(rule.policy) {
                return false;
            }
            let reason = match rule.matches(caller) {
                Ok(true) => reasons::AUDITED,
                Ok(false) => return false,
                Err(unknown) => reasons::unavailable(unknown),
            };
            last = Some(rule.policy);
            audits.push(self.decision(Verdict::Allow, Some(rule), reason, Mode::Audit));
            false
        });
        audits
    }

    /// Of the rules that would have allowed the request, the one that came nearest, and its first condition that failed.
    fn nearest(&self, caller: &Caller<'_>) -> Option<String> {
        // Enough to tell which rule was meant; a refusal must not cost more than a decision.
        const TRIED: usize = 32;
        let in_force = |rule: &&CompiledRule| self.in_force(rule.policy, caller, Mode::Enforce);
        let mut tried: Vec<&CompiledRule> = Vec::new();
        self.enforced.allow.near(caller, &mut |rule| {
            tried.push(rule);
            tried.len() >= TRIED
        });
        if tried.is_empty() {
            tried.extend(self.enforced.allow.iter().take(TRIED));
        }
        let mut best: Option<(usize, &CompiledRule)> = None;
        for rule in tried.into_iter().filter(in_force) {
            let progress = rule.progress(caller);
            if best.is_none_or(|(known, _)| progress > known) {
                best = Some((progress, rule));
            }
        }
        let (_, rule) = best?;
        let mut condition = None;
        rule.failures(caller, &mut |failure| condition = condition.take().or(Some(failure.place())));
        Some(format!("{}:{}", explain_rule(self.rule_ref(rule)), condition?))
    }

    fn decision<'e>(
        &'e self,
        verdict: Verdict,
        rule: Option<&'e CompiledRule>,
        reason: Reason,
        mode: Mode,
    ) -> Decision<'e> {
        Decision { filter: Filter::Authz, verdict, by: rule.map(|rule| self.rule_ref(rule)), reason, mode }
    }

    pub(crate) fn rule_ref(&self, rule: &CompiledRule) -> RuleRef<'_> {
        let policy = self.policies.get(rule.policy).map_or("", |policy| policy.id.as_str());
        RuleRef { id: rule.id, policy, rule: rule.index }
    }

    /// The answer to a refused request: the policy's own, and where no rule matched that of the first ALLOW policy which
    /// has one.
    #[must_use]
    pub fn refusal(&self, outcome: &Outcome<'_>, request: &Request<'_>) -> Refusal {
        let decision = &outcome.enforced;
        let mut reply = decision.reply();
        reply.details = outcome.details();
        let mut headers = self.decision_headers(&reply.details);
        let Some(deny) = self.face(decision) else { return Refusal { reply, headers } };
        if let Some(status) = deny.status {
            reply.status = status;
            reply.grpc_status = reasons::grpc_status(status);
            // Who hides behind 404 does not want Istio's words below it.
            if status != decision.reason.status {
                reply.body = Cow::Borrowed("");
            }
        }
        let facts = face::Facts {
            policy: decision.by.map_or("none", |by| by.policy),
            rule: decision.by.map_or(Cow::Borrowed("none"), |by| by.rule.to_string().into()),
            reason: decision.reason.code,
            condition: outcome.nearest.as_deref().unwrap_or("none"),
            status: reply.status,
        };
        if let Some(body) = face::fill(deny, &facts, request) {
            reply.body = body.into();
        }
        headers.extend(deny.headers.iter().cloned());
        Refusal { reply, headers }
    }

    /// What the settings add to every refusal.
    #[must_use]
    pub fn decision_headers(&self, details: &str) -> Vec<(String, String)> {
        self.decision_header.iter().map(|name| (name.clone(), details.to_owned())).collect()
    }

    fn face(&self, decision: &Decision<'_>) -> Option<&DenyReply> {
        let own = |policy: &Policy| decision.by.is_some_and(|by| by.policy == policy.id);
        let by = decision.by.is_some();
        let of_rule = self.policies.iter().find(|policy| by && own(policy));
        let of_default = || {
            let allowing = self.enforced.allowing.iter().filter_map(|number| self.policies.get(*number));
            allowing.into_iter().find(|policy| policy.deny != DenyReply::default())
        };
        if by { of_rule.map(|policy| &policy.deny) } else { of_default().map(|policy| &policy.deny) }
    }
}

impl<'e> Outcome<'e> {
    /// An outcome of one decision alone.
    #[must_use]
    pub fn of(enforced: Decision<'e>) -> Self {
        Self { enforced, shadow: None, audits: Vec::new(), nearest: None }
    }

    /// Response code details: `sailcloth_authz_denied[production/deny-admin#0]`, and behind it what came nearest where no
    /// rule matched: `sailcloth_authz_no_rule_matched[none](production/api#0:from[0].principals)`.
    #[must_use]
    pub fn details(&self) -> String {
        let nearest = self.nearest.as_ref().map(|nearest| format!("({nearest})"));
        self.enforced.details() + nearest.as_deref().unwrap_or_default()
    }

    /// What the access log shows (filter state `sailcloth.authz`).
    #[must_use]
    pub fn state(&self) -> String {
        let nearest = self.nearest.as_ref().map(|nearest| format!(" {nearest}"));
        self.enforced.state() + nearest.as_deref().unwrap_or_default()
    }
}

pub(crate) fn explain_rule(by: RuleRef<'_>) -> String {
    format!("{}#{}", by.policy, by.rule)
}

/// The policies on their way into an engine.
struct Compiler<'c> {
    trust_domains: Vec<String>,
    providers: &'c [Provider],
    policies: Vec<Policy>,
    ids: usize,
    custom: Vec<CompiledRule>,
    audit: Vec<CompiledRule>,
    enforced: Collected,
    shadow: Option<Collected>,
}

#[derive(Default)]
struct Collected {
    deny: Vec<CompiledRule>,
    allow: Vec<CompiledRule>,
    policies: Vec<usize>,
    allowing: Vec<usize>,
}

impl Collected {
    fn add(&mut self, action: &Action, policy: usize, rules: Vec<CompiledRule>) {
        self.policies.push(policy);
        if *action == Action::Deny {
            self.deny.extend(rules);
        } else {
            self.allowing.push(policy);
            self.allow.extend(rules);
        }
    }

    fn finish(self) -> Acting {
        let Self { deny, allow, policies, allowing } = self;
        Acting { deny: Rules::new(deny), allow: Rules::new(allow), policies, allowing }
    }
}

impl<'c> Compiler<'c> {
    fn new(config: &'c Config<AuthorizationPolicy, Settings>) -> Self {
        let domain = config.workload.as_ref().map_or("cluster.local", |workload| &workload.trust_domain);
        let aliases = config.settings.trust_domain_aliases.iter().cloned();
        Self {
            trust_domains: std::iter::once(domain.to_owned()).chain(aliases).collect(),
            providers: &config.settings.providers,
            policies: Vec::new(),
            ids: 0,
            custom: Vec::new(),
            audit: Vec::new(),
            enforced: Collected::default(),
            shadow: None,
        }
    }

    fn add(&mut self, loaded: &Loaded<AuthorizationPolicy>, problems: &Problems) {
        let spec = &loaded.spec;
        let number = self.policies.len();
        let id = loaded.metadata.id();
        face::check(&spec.deny, &loaded.path.to_string(), problems);
        let mut rules = self.compile(&spec.rules, number);
        match &spec.action {
            Action::Custom { .. } => self.custom.append(&mut rules),
            Action::Audit => self.audit.append(&mut rules),
            action @ (Action::Deny | Action::Allow) if spec.staged.is_some() => {
                let again = self.compile(&spec.rules, number);
                self.shadow.get_or_insert_default().add(action, number, again);
                self.enforced.add(action, number, rules);
            }
            action if spec.shadow => self.shadow.get_or_insert_default().add(action, number, rules),
            action => self.enforced.add(action, number, rules),
        }
        self.policies.push(Policy {
            stage: spec.staged.as_ref().map(|staged| Stage::new(staged, &id)),
            id,
            action: spec.action.clone(),
            deny: spec.deny.clone(),
            provider: self.provider(loaded, problems),
        });
    }

    fn compile(&mut self, rules: &[Rule], policy: usize) -> Vec<CompiledRule> {
        let first = self.ids;
        self.ids += rules.len();
        let numbered = (0..).zip(first..).zip(rules);
        numbered
            .map(|((index, id), rule)| CompiledRule::new(rule, &self.trust_domains, id, policy, index))
            .collect()
    }

    fn provider(&self, loaded: &Loaded<AuthorizationPolicy>, problems: &Problems) -> usize {
        let Action::Custom { provider } = &loaded.spec.action else { return 0 };
        let found = self.providers.iter().position(|known| known.name == *provider);
        if found.is_none() {
            let known: Vec<String> = self.providers.iter().map(|known| format!("`{}`", known.name)).collect();
            problems.report(Problem {
                severity: Severity::Error,
                path: loaded.path.key("spec").key("provider").key("name").to_string(),
                message: format!(
                    "`settings.extensionProviders` has no provider `{provider}`; it has {}",
                    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                ),
            });
        }
        found.unwrap_or_default()
    }
}

/// On a gateway or waypoint TLS may have ended elsewhere: "no identity here" would then make `notPrincipals` match
/// everybody. So a policy that asks for identities must be told where they are.
fn check_identity_source(
    loaded: &Loaded<AuthorizationPolicy>,
    config: &Config<AuthorizationPolicy, Settings>,
    problems: &Problems,
) {
    let on_gateway = config.workload.as_ref().is_some_and(sailcloth_resources::Workload::is_gateway);
    if on_gateway
        && !config.common.peer_identity_stated
        && loaded.spec.rules.iter().any(Rule::asks_for_peer_identity)
    {
        problems.report(Problem {
            severity: Severity::Error,
            path: loaded.path.to_string(),
            message: "asks for the peer's identity on a gateway or waypoint; say where it is by `settings.peerIdentity`: \
                      `certificate` (TLS ends at this proxy) or `peerPrincipal` (it ended before)"
                .to_owned(),
        });
    }
}
