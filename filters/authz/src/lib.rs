//! AuthorizationPolicy as a proxy-wasm filter: builds the request view, asks the engine, carries out its decision.

use sailcloth_authz::{Answer, Ask, Engine, Outcome, Ruling};
use sailcloth_core::config::{Node, Problem};
use sailcloth_core::decision::{Decision, Filter};
use sailcloth_core::facts::Facts;
use sailcloth_core::headers::HeaderBlock;
use sailcloth_core::request::Request;
use sailcloth_host::callout::{self, Token};
use sailcloth_host::metrics::DecisionCounters;
use sailcloth_host::{Action, Http, Plugin, Status, StreamId, Streams, clock};

/// Filter state that the guard at the end of the chain asks for, and that access logs show.
const STATE: &str = "sailcloth.authz";
/// Filter state with the decision of policies in shadow mode, for access logs.
const SHADOW_STATE: &str = "sailcloth.authz.shadow";

struct AuthzFilter {
    engine: Engine,
    decisions: DecisionCounters,
    /// Requests that wait for a provider. Bounded by the callouts under way, each of which is answered once.
    waiting: Vec<(Token, Waiting)>,
}

/// A request that waits for a provider.
#[derive(Clone, Copy)]
struct Waiting {
    stream: StreamId,
    /// Number of the rule that wants the provider asked.
    rule: usize,
    /// Number of the provider.
    provider: usize,
}

impl Plugin for AuthzFilter {
    const FILTER: Filter = Filter::Authz;
    type Stream = ();

    fn configure(configuration: &Node) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let (engine, warnings) = Engine::load_node(configuration)?;
        let filter = Self { engine, decisions: DecisionCounters::default(), waiting: Vec::new() };
        Ok((filter, warnings))
    }

    fn resources(&self) -> Vec<(&'static str, usize)> {
        self.engine.resources()
    }

    fn request_headers(&mut self, (): &mut (), http: Http) -> Action {
        if self.engine.asks_providers()
            && let Err(status) = self.remove_forged(http)
        {
            return http.fail_closed("headers that only a provider may write", status);
        }
        self.proceed(http, 0)
    }

    fn callout(
        &mut self,
        streams: &mut Streams<'_, Self>,
        _: Option<StreamId>,
        token: Token,
        answer: callout::Answer,
    ) {
        let Some(at) = self.waiting.iter().position(|(known, _)| *known == token) else { return };
        let (_, waiting) = self.waiting.swap_remove(at);
        // The client may have gone meanwhile.
        let Some(((), http)) = streams.get(waiting.stream) else { return };
        let ruling = match self.engine.custom_rule(waiting.rule) {
            Some((_, provider)) => match &answer {
                callout::Answer::Response { status, headers, body } => {
                    provider.rule(Answer::Response { status: *status, headers, body })
                }
                callout::Answer::TooLarge | callout::Answer::Failed => provider.rule(Answer::Failed),
            },
            None => return,
        };
        if self.carry_out(&ruling, waiting, http) == Action::Continue
            && let Err(status) = http.continue_request()
        {
            http.fail_closed("the request could not go on", status);
        }
    }
}

impl AuthzFilter {
    /// What a client wrote under the names of a provider's headers never passes for the provider's word.
    fn remove_forged(&self, http: Http) -> Result<(), Status> {
        let headers = http.request_headers()?;
        let forged = self.engine.forged(&headers);
        forged.iter().try_for_each(|name| http.remove_request_header(&String::from_utf8_lossy(name)))
    }

    /// Asks the next provider, from number `from` on, or decides.
    fn proceed(&mut self, http: Http, from: usize) -> Action {
        let headers = match http.request_headers() {
            Ok(headers) => headers,
            Err(status) => return http.fail_closed("request headers", status),
        };
        let request = Request { headers: &headers, facts: Facts::new(&http, self.engine.sources()) };
        if self.engine.asks_providers() {
            match self.engine.ask(request, &now, from) {
                Ok(None) => {}
                Ok(Some(ask)) => {
                    let (rule, provider) = (ask.by.id, ask.number);
                    let sent = send(&ask, &headers);
                    return self.wait(sent, Waiting { stream: http.stream(), rule, provider }, http);
                }
                Err(refusal) => {
                    self.decisions.count(&refusal);
                    return refuse(&self.engine, &Outcome::of(refusal), &request, http);
                }
            }
        }
        let outcome = self.engine.decide(request, &now);
        self.decisions.count(&outcome.enforced);
        outcome.shadow.iter().chain(&outcome.audits).for_each(|decision| self.decisions.count(decision));
        if let Some(shadow) = &outcome.shadow {
            tell(SHADOW_STATE, &shadow.state(), http);
        }
        if outcome.enforced.refuses() {
            return refuse(&self.engine, &outcome, &request, http);
        }
        match http.set_state(STATE, outcome.state().as_bytes()) {
            Ok(()) => Action::Continue,
            Err(status) => http.fail_closed("filter state", status),
        }
    }

    fn wait(&mut self, sent: Result<Token, Status>, waiting: Waiting, http: Http) -> Action {
        match sent {
            Ok(token) => {
                self.waiting.push((token, waiting));
                Action::Stop
            }
            // No answer will come: the cluster is unknown, or has no endpoints.
            Err(_) => {
                let ruling =
                    self.engine.custom_rule(waiting.rule).map(|(_, provider)| provider.rule(Answer::Failed));
                match ruling {
                    Some(ruling) => self.carry_out(&ruling, waiting, http),
                    None => Action::Stop,
                }
            }
        }
    }

    /// Does what a provider said: edits the request and goes on, or refuses.
    fn carry_out(&mut self, ruling: &Ruling, waiting: Waiting, http: Http) -> Action {
        let Some((by, _)) = self.engine.custom_rule(waiting.rule) else { return Action::Stop };
        if let Some(decision) = self.engine.ruled(ruling, by) {
            self.decisions.count(&decision);
            if decision.refuses() {
                return refuse_externally(&self.engine, ruling, &decision, http);
            }
        }
        if let Ruling::Allow { set, remove } = ruling {
            let removed = remove.iter().try_for_each(|name| http.remove_request_header(name));
            let edited = removed
                .and_then(|()| set.iter().try_for_each(|(name, value)| http.set_request_header(name, value)));
            if let Err(status) = edited {
                return http.fail_closed("the provider's headers could not be set", status);
            }
        }
        self.proceed(http, waiting.provider + 1)
    }
}

/// Seconds since the Unix epoch. Where the host has no clock, the end of time: what expires has expired.
fn now() -> u64 {
    clock::system_time().map_or(u64::MAX, |time| time.as_secs())
}

fn send(ask: &Ask<'_>, headers: &HeaderBlock) -> Result<Token, Status> {
    let question = ask.provider.question(headers);
    let pairs: Vec<(&str, &[u8])> =
        question.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
    callout::send(&ask.provider.cluster, &pairs, &[], ask.provider.timeout)
}

fn refuse(engine: &Engine, outcome: &Outcome<'_>, request: &Request<'_>, http: Http) -> Action {
    let refusal = engine.refusal(outcome, request);
    tell(STATE, &outcome.state(), http);
    http.reply_with(&refusal.reply, &refusal.headers)
}

fn refuse_externally(engine: &Engine, ruling: &Ruling, decision: &Decision<'_>, http: Http) -> Action {
    tell(STATE, &decision.state(), http);
    let reply = decision.reply();
    let ours = engine.decision_headers(&reply.details);
    let mut headers: Vec<(&str, &[u8])> =
        ours.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let mut content: &[u8] = &[];
    if let Ruling::Refuse { headers: theirs, body, .. } = ruling {
        headers.extend(theirs.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
        content = body;
    }
    http.answer(reply.status, reply.grpc_status, &headers, content, &reply.details)
}

/// For the access log; a refusal that cannot be written there is a refusal all the same.
fn tell(name: &str, state: &str, http: Http) {
    let _ = http.set_state(name, state.as_bytes());
}

sailcloth_host::export!(AuthzFilter: request_headers, callout);
